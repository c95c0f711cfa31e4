"""The results of cloud-peers as a bar chart: SVG, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ("chart", "speeds")

_CASE = "cloud-peers"
_OURS = "accountstore"
_TITLE = "Accounts a second on S3, 64 operations in flight"

_WIDTH = 820
_MARGIN = 24
_LABELS = 250
_BARS = 440
"""The longest bar; its value stands behind it."""
_ROW = 30
_THICK = 18
_TEXT = "#1f2937"
_FAINT = "#6b7280"
_COLOURS = {True: "#2563eb", False: "#9ca3af"}
_STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:14px}"
    ".title{font-size:18px;font-weight:600}.group{font-weight:600}.small{font-size:11px}"
)


def speeds(rows: Sequence[Mapping[str, Any]], /) -> dict[str, dict[str, float]]:
    """Operations a second of each contender, by the title of the round."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["kind"] == "result" and row["case"] == _CASE:
            group = groups.setdefault(row["title"], {})
            group[row["ours"]] = 1e6 / row["ours_us"]
            group[row["other"]] = 1e6 / row["other_us"]
    return {title: dict(sorted(group.items(), key=_place)) for title, group in groups.items()}


def _place(contender: tuple[str, float], /) -> tuple[bool, float]:
    """The library first, then the fastest."""
    name, speed = contender
    return not name.startswith(_OURS), -speed


def chart(rows: Sequence[Mapping[str, Any]], /) -> str:
    """The chart of these results, with the machine that they are from in small print.

    Raises:
        ValueError: there are no results of cloud-peers.
    """
    groups = speeds(rows)
    if not groups:
        raise ValueError(f"there are no results of {_CASE}")
    bottom = _MARGIN + 46
    most = max(speed for group in groups.values() for speed in group.values())
    shapes: list[str] = []
    for title, group in groups.items():
        shapes += _group(title.split()[1], group, most, bottom)
        bottom += 30 + _ROW * len(group) + 14
    small = _small_print(rows)
    height = bottom + 16 * len(small) + _MARGIN - 12
    shapes += [_text(_MARGIN, bottom + 8 + 16 * i, line, "small", _FAINT) for i, line in enumerate(small)]
    size = f'width="{_WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<title>{escape(_TITLE)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect {size} rx="8" fill="#ffffff"/>',
            _text(_MARGIN, _MARGIN + 16, _TITLE, "title"),
            *shapes,
            "</svg>\n",
        ]
    )


def _group(name: str, group: Mapping[str, float], most: float, top: int, /) -> Iterator[str]:
    yield _text(_MARGIN, top + 14, name, "group")
    for i, (contender, speed) in enumerate(group.items()):
        middle = top + 30 + _ROW * i + _ROW // 2
        length = max(1.0, _BARS * speed / most)
        colour = _COLOURS[contender.startswith(_OURS)]
        yield (
            f'<rect class="bar" x="{_MARGIN + _LABELS}" y="{middle - _THICK // 2}" width="{length:.1f}" '
            f'height="{_THICK}" rx="2" fill="{colour}"><title>{escape(contender)}, {name}</title></rect>'
        )
        yield _text(_MARGIN + _LABELS - 10, middle + 5, contender, "label", end=True)
        yield _text(_MARGIN + _LABELS + length + 8, middle + 5, f"{speed:,.0f}", "value")


def _text(x: float, y: float, words: str, kind: str, colour: str = _TEXT, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" fill="{colour}"{anchor}>{escape(words)}</text>'


def _small_print(rows: Sequence[Mapping[str, Any]], /) -> list[str]:
    machine = next((row for row in rows if row["kind"] == "machine"), None)
    if machine is None:
        return []
    versions = [f"{name} {version}" for name, version in machine["packages"].items() if version]
    half = (len(versions) + 1) // 2
    cores = f"{machine['cores']} cores shared with the server"
    return [
        ", ".join((machine["processor"], cores, machine["system"], machine["python"], machine["loop"])),
        *(", ".join(part) for part in (versions[:half], versions[half:]) if part),
        "Server: a stub of S3 in memory on loopback, in a process of its own; contenders take turns; medians.",
        *(["Made with --quick: too little work to tell anything."] if machine["quick"] else ()),
    ]
