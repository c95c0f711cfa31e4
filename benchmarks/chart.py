"""The results of cloud-peers as a bar chart, by matplotlib."""

from __future__ import annotations

import sys
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def draw(path: str, rows: Sequence[Mapping[str, Any]], /) -> None:
    """Draw operations a second of each contender as SVG, with the machine in small print."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("case") == "cloud-peers" and row["kind"] == "result":
            group = groups.setdefault(row["title"], {})
            group |= {row["ours"]: 1e6 / row["ours_us"], row["other"]: 1e6 / row["other_us"]}
    if not groups:
        sys.exit("no chart: there are no results of cloud-peers")
    figure = Figure(figsize=(8.5, 6.5), layout="constrained")
    figure.suptitle("Accounts a second on S3, 64 operations in flight")
    for (title, group), axes in zip(groups.items(), figure.subplots(len(groups), sharex=True), strict=True):
        names = sorted(group, key=group.__getitem__, reverse=True)
        colours = ["tab:blue" if name.startswith("accountstore") else "tab:gray" for name in names]
        bars = axes.barh(names, [group[name] for name in names], color=colours)
        axes.bar_label(bars, fmt="{:,.0f}", padding=4)
        axes.set_title(title.split()[1], loc="left")
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.set_frame_on(False)
    machine = rows[0]
    versions = [f"{name} {version}" for name, version in machine["packages"].items() if version]
    small = (
        f"{machine['processor']}, {machine['cores']} cores shared with the server, {machine['system']}",
        *wrap(", ".join((machine["python"], machine["loop"], *versions)), 120),
        "Server: a stub of S3 in memory on loopback, in a process of its own; contenders take turns; medians.",
        *(["Made with --quick: too little work to tell anything."] if machine["quick"] else []),
    )
    figure.supxlabel("\n".join(small), fontsize=8)
    # Text stays text, and the same figures give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "accountstore"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
