"""What the tests of README and pages share: their code blocks and links."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from running import HUNG

if TYPE_CHECKING:
    import pytest

__all__ = ("PAGES", "ROOT", "Block", "anchors", "at_home", "blocks", "links", "on_path", "run", "run_blocks")

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name != "commands.md")
"""The pages of the site; that of the commands is made when it is built."""


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that a reader writes it to: its first line is `# NAME`."""
        named = re.match(r"# ([\w.-]+\.\w+)\n", self.text)
        return named and named[1]


def blocks(path: str, language: str | None = None, /) -> list[Block]:
    """The code blocks of a page in their order, without Sphinx's directives."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = [Block(*match) for match in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    return [block for block in found if block.language[:1] != "{" and language in {None, block.language}]


def links(path: str, /) -> list[str]:
    """Where the links and images of a page lead."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(path: Path, /) -> set[str]:
    """The anchors of a page's headings, as code hosts and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def run(command: list[str], folder: Path, **environment: str) -> str:
    """The output of a program that ends well, started in a folder: both streams, as they are written."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=HUNG,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def on_path(folder: Path, /) -> dict[str, str]:
    """An environment whose first programs are those of this one, with an empty home."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, **dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(folder))}


def at_home(folder: Path, patch: pytest.MonkeyPatch, /) -> None:
    """Work in a folder that is the home too, without a configuration."""
    patch.chdir(folder)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        patch.setenv(name, str(folder))
    patch.delenv("ACCOUNTSTORE_CONFIG", raising=False)


def run_blocks(path: str, /) -> dict[str, Any]:
    """The names of a page's Python blocks, run in their order, but for those that a reader writes to a file."""
    names: dict[str, Any] = {"__name__": path}
    for block in blocks(path, "python"):
        if block.file is None and "BackendTests" not in block.text:
            exec(compile(block.text, path, "exec"), names)
    return names
