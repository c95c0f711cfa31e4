"""The documentation site: `nox -s docs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typer.cli import get_docs_for_click
from typer.main import get_command

from accountstore import __version__
from accountstore.cli.commands import app

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "accountstore"
author = "The accountstore maintainers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["examples", "commands.in.md"]
myst_heading_anchors = 3
default_role = "code"
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


def write_commands(_: Sphinx) -> None:
    """Write the reference of the command line from the command line itself."""
    from click import Context

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="accountstore")
    Path(__file__).with_name("commands.md").write_text(text, encoding="utf-8")


def setup(sphinx: Sphinx) -> None:
    """Register what is done before pages are read."""
    sphinx.connect("builder-inited", write_commands)
