"""The documentation site in a browser: each page, wide and narrow, light and dark; and its search.

`nox -s docs` builds the site and runs this. It needs the package playwright and a Chromium of the system.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

import pytest
from cloudservers import Missing, or_skip

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from playwright.sync_api import Browser, Page

SITE = Path(os.environ.get("ACCOUNTSTORE_SITE", "none"))
PAGES = sorted(str(file.relative_to(SITE)) for file in SITE.glob("*.html") if file.name != "search.html")
FAULTS = Path(__file__).with_name("faults.js").read_text(encoding="utf-8").partition("\n")[2]
LEAST = "4.5"
"""The least contrast of text, as WCAG 2 has it (1.4.3, level AA)."""
WINDOWS: tuple[tuple[int, Literal["light", "dark"]], ...] = ((1280, "light"), (390, "dark"))
"""How each page is looked at: colours do not depend on the width, nor the other way round."""
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]

pytestmark = pytest.mark.once


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
        """Not even to the terminal."""


@contextmanager
def _served(folder: Path) -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _opened() -> Generator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Missing("could not import 'playwright'") from None
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise Missing("no Chromium: install the package of your distribution")
    with sync_playwright() as playwright:
        # Its own sandbox is not to be had as root.
        browser = playwright.chromium.launch(executable_path=program, args=QUIET, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, where there is a site to look at."""
    if "ACCOUNTSTORE_SITE" not in os.environ:
        pytest.skip("no site: ACCOUNTSTORE_SITE names none")
    with or_skip(_opened) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of its own."""
    with browser.new_page() as page:
        yield page


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of the site that was built."""
    with _served(SITE) as address:
        yield address


def faults(page: Page, address: str, name: str) -> list[str]:
    """What is wrong with a page, wide and light, narrow and dark: also in the console, and with what it asks for."""
    found: list[str] = []
    page.on("console", lambda message: found.append(f"{message.type} in the console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"error of a script: {error}"))
    page.on("request", lambda asked: found.append(f"asks {asked.url}") if not asked.url.startswith(address) else None)
    page.on("response", lambda got: found.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    page.goto(address + name)
    for width, scheme in WINDOWS:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        found += (f"{width}, {scheme}: {fault}" for fault in page.evaluate(FAULTS.replace("LEAST", LEAST)))
    return found


@pytest.mark.parametrize("name", PAGES or ["none"])
def test_a_page_has_no_fault(name: str, page: Page, site: str) -> None:
    """It fits its window, can be read, has names for what can be used, and asks nobody else for anything."""
    assert faults(page, site, name) == []


@pytest.mark.parametrize(
    ("text", "where"), [("save", "store.html"), ("UncertainError", "errors.html"), ("migrate", "migration.html")]
)
def test_the_search_finds(text: str, where: str, page: Page, site: str) -> None:
    """The search lists the page that is about a word; the control: and nothing for a word that is on none."""
    page.goto(f"{site}search.html?q={text}")
    page.locator(f"#search-results a[href^='{where}']").first.wait_for()
    page.goto(f"{site}search.html?q=xyzzyxyzzy")
    page.get_by_text("did not match any documents").wait_for()
    assert page.locator("#search-results li").count() == 0


def text_of(file: Path) -> str:
    """The text of a page of the site."""
    main = file.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    return unescape(re.sub("<[^>]+>", "", main))


def mangled(text: str) -> list[str]:
    """What a builder has made of typed text: other dashes and quotes than a shell or Python reads, half a sentence for
    a type.
    """
    return re.findall(r"^.*[\u2018-\u201d].*$|^.*\u2013[a-z].*$|^Type:$", text, re.MULTILINE)


def test_no_page_changes_what_was_typed() -> None:
    """Options have two dashes and quotes are straight, also in what comes from docstrings and from the command line's
    help; no beginning of an attribute's description is taken for its type. The control: each of these is seen.
    """
    if "ACCOUNTSTORE_SITE" not in os.environ:
        pytest.skip("no site: ACCOUNTSTORE_SITE names none")
    assert len(PAGES) > 20
    assert {name: found for name in PAGES if (found := mangled(text_of(SITE / name)))} == {}
    for bad in ("check \u2013all", "check \u201cFirst Storage\u201d", "it\u2019s", "1: else.\n\nType:\n0"):
        assert mangled(bad)
    assert mangled("1 \u2013 2 --all: 'Type: 0'") == []


def test_the_page_of_the_commands_has_each_example_as_code() -> None:
    """Each command's examples are lines of code on the page, a remark behind one is a comment, and each command of a
    list has its whole sentence.
    """
    if "ACCOUNTSTORE_SITE" not in os.environ:
        pytest.skip("no site: ACCOUNTSTORE_SITE names none")
    pytest.importorskip("typer")
    from typer.main import get_command

    from accountstore.cli.commands import app

    def below(group: Any) -> Iterator[Any]:
        for command in getattr(group, "commands", {}).values():
            yield command
            yield from below(command)

    commands = list(below(get_command(app)))
    assert len(commands) > 25
    file = SITE / "commands.html"
    code = re.findall("<pre>(.*?)</pre>", file.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in code for line in unescape(re.sub("<[^>]+>", "", block)).splitlines()]
    words = " ".join(text_of(file).split())
    for command in commands:
        for example in (command.epilog or "").splitlines():
            assert re.sub(r"   \((.*)\)$", r"   # \1", example) in lines
        sentence = " ".join(command.help.partition("\n\n")[0].replace("`", "").split())
        assert f"{command.name}: {sentence}" in words


BAD = """<!doctype html><title> </title><body><main><h1>One</h1><h1>Two</h1><h4 id=x>Deep</h4>
<p id=x style="color: #888">Grey</p><div style="width: 2000px">wide</div><a href="#nowhere">there</a>
<button></button><input><img src="/none.png"><img src="http://127.0.0.1:9/x.png" alt="x"></main>
<script>console.warn("careful"); nothing()</script>"""
TOLD = """
1280, light: is 20; 390, dark: is 20; says no language; has no title; has 2 first headings;
has a heading 4 below a heading 1; the id x twice; #nowhere, which is not there; nameless BUTTON;
nameless INPUT; image without a text; shows no; contrast 3.5; warning in the console: careful;
nothing is not defined; asks http://127.0.0.1:9/; 404: """
GOOD = """<!doctype html><html lang="en"><link rel=icon href="data:,"><title>A page</title><main><h1>One</h1>
<p>Black on white</p></main>"""


def test_faults_are_seen(page: Page, tmp_path: Path) -> None:
    """The control: of a page with each fault all are told; of one without, none."""
    (tmp_path / "bad.html").write_text(BAD)
    (tmp_path / "good.html").write_text(GOOD)
    with _served(tmp_path) as address:
        assert faults(page, address, "good.html") == []
        told = "\n".join(faults(page, address, "bad.html"))
    assert [fault for fault in TOLD.replace("\n", " ").strip().split("; ") if fault not in told] == []
