"""The README: its length, its code blocks, its links."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from markdown import ROOT, anchors, at_home, blocks, links, on_path, run, run_blocks
from msgspec.structs import replace
from samples import ACCOUNT, RICH

from accountstore import AccountStore, Location, OAuthCredentials
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks("README.md")
SHELL, PYTHON_BLOCKS, TOML = (
    [block.text for block in BLOCKS if block.language == name] for name in ("sh", "python", "toml")
)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The names of all Python blocks, run in an empty home."""
    at_home(tmp_path, monkeypatch)
    return run_blocks("README.md")


def test_it_is_short() -> None:
    """Three screens decide: at most 1,200 words, and no block over 25 lines."""
    assert len(TEXT.split()) <= 1200
    assert max(len(block.text.splitlines()) for block in BLOCKS) <= 25


def test_each_block_is_run_here() -> None:
    """The README has as many blocks of each language as the tests below run; the drawing is no code."""
    assert (len(SHELL), len(PYTHON_BLOCKS), len(TOML)) == (3, 2, 1)
    assert {block.language for block in BLOCKS} == {"sh", "python", "toml", "text"}


def test_each_link_leads_somewhere() -> None:
    """Links are files of this repository, with their headings; all pages of the documentation can be reached so."""
    found = links("README.md")
    assert len(found) > 15
    for link in found:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).is_file(), link
        assert not anchor or anchor in anchors(ROOT / path), link


def test_links_are_whole_on_a_package_index() -> None:
    """What an index shows has the repository's address before each link, for it has no files beside the README."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = tables["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    (rule,) = hook["substitutions"]
    shown = re.sub(rule["pattern"], rule["replacement"], TEXT)
    found = re.findall(r"\]\(([^)\s]+)\)", shown)
    source = tables["project"]["urls"]["Source"]
    assert found == [f"{source}/blob/main/{link}" for link in links("README.md")]


def test_ten_lines_save_and_print_without_the_password(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first example prints the account, and not its password."""
    anyio.run(names["main"])
    out = capsys.readouterr().out
    assert "imap.example.com" in out
    assert "**********" in out
    assert "correct horse" not in out


async def _refreshed(names: dict[str, Any]) -> str:
    store = store_over({"m": MemoryBackend()})
    ends = datetime.now(UTC) + timedelta(hours=1)
    credentials = OAuthCredentials(login="me", refresh_token="r", access_token="a", expires_at=ends)
    await store.save(Location("x.account"), replace(ACCOUNT, credentials=credentials))
    return str(await names["access_token"](store, Location("x.account")))


def test_access_token_example_returns_a_valid_one(names: dict[str, Any]) -> None:
    """The example asks nobody for a token that is valid."""
    pytest.importorskip("httpx2")
    assert anyio.run(_refreshed, names) == "a"


def test_encryption_example_seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in the text makes a key file, and the configuration seals by it."""
    pytest.importorskip("typer")
    at_home(tmp_path, monkeypatch)
    (command,) = re.findall(r"`(accountstore keys [^`]*)`", TEXT)
    run(["bash", "-ec", command], tmp_path, **on_path(tmp_path))
    config = tmp_path / "accountstore.toml"
    config.write_text(TOML[0].replace("s3://bucket/mail", str(tmp_path)))

    async def save() -> bytes:
        async with AccountStore.open(config) as store:
            await store.save_json(Location("email.account"), RICH)
            return (await store.read_json(Location("email.account"))).document

    assert anyio.run(save) == RICH
    assert b"discriminator" not in (tmp_path / "email.account").read_bytes()


def test_first_command_line_ends_in_the_demo_and_the_second_is_what_ci_runs() -> None:
    """The two command lines are those that the `demo` session and CI run whole."""
    demo, tests, *_ = SHELL
    assert demo.strip().split(" && ")[-1] == ".venv/bin/accountstore demo"
    assert f"\n{tests.strip()}\n" in (ROOT / ".ci" / "run").read_text()


def test_the_migration_runs(tmp_path: Path) -> None:
    """The three commands copy a document and find both ends the same."""
    pytest.importorskip("typer")
    (tmp_path / "accountstore.toml").write_text('[storages.Old]\nurl = "old"\n[storages.New]\nurl = "new"\n')
    (tmp_path / "old" / "mail").mkdir(parents=True)
    (tmp_path / "old" / "mail" / "me.account").write_bytes(RICH)
    text = (tmp_path / "accountstore.toml").read_text()
    (tmp_path / "accountstore.toml").write_text(f'default = "Old"\n{text}')
    run(["bash", "-ec", SHELL[2]], tmp_path, **on_path(tmp_path))
    assert (tmp_path / "new" / "mail" / "me.account").read_bytes() == RICH
