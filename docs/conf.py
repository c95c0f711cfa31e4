"""The documentation site: `nox -s docs`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.ext.napoleon import GoogleDocstring
from typer.cli import get_docs_for_click
from typer.main import get_command

from accountstore import __version__
from accountstore.cli.commands import app

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "accountstore"
author = "The accountstore maintainers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["examples", "commands.in.md"]
myst_heading_anchors = 3
default_role = "code"
smartquotes = False  # it would make `--json` and quotes of help and docstrings something that no shell reads
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "groupwise"
autodoc_preserve_defaults = True
copybutton_prompt_text = "$ "
html_theme = "furo"
html_title = f"accountstore {__version__}"
html_static_path = ["static"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_show_copyright = False
# The names of these stand for other things in several modules; which one is meant is clear to a reader.
suppress_warnings = ["ref.python"]


def prepare(command: Any) -> None:
    """Give a command's line in a list its whole sentence, and its examples as code that a shell takes."""
    command.short_help = " ".join(command.help.partition("\n\n")[0].split())
    if command.epilog:
        examples = re.sub(r"   \((.*)\)$", r"   # \1", command.epilog, flags=re.MULTILINE)
        command.epilog = f"**Examples**:\n\n```sh\n{examples}\n```"
    for below in getattr(command, "commands", {}).values():
        prepare(below)


def write_commands(_: Sphinx) -> None:
    """Write the reference of the command line from the command line itself."""
    from click import Context

    command = get_command(app)
    prepare(command)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="accountstore", title="Every command")
    Path(__file__).with_name("commands.md").write_text(text, encoding="utf-8")


def read_raises(_: Sphinx, what: str, __: str, ___: object, ____: object, lines: list[str]) -> None:
    """Read `Raises:` of a docstring. An attribute has none: napoleon would take what is before a colon for its type."""
    if what not in {"attribute", "data", "property"}:
        lines[:] = GoogleDocstring(lines).lines()


def read_as_written(_: Sphinx, page: nodes.document) -> None:
    """Put the colon back that Sphinx makes two dashes between an error and when it is raised."""
    for text in [text for text in page.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text("" if text.parent.astext().endswith(" -- ") else ": "))


def setup(sphinx: Sphinx) -> None:
    """Register what is done before pages are read."""
    sphinx.connect("builder-inited", write_commands)
    sphinx.connect("autodoc-process-docstring", read_raises)
    sphinx.connect("doctree-read", read_as_written)
