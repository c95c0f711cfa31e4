"""The demonstration: it holds, leaves nothing behind, and fails where the store does not keep a promise."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from anyio.lowlevel import checkpoint
from running import HUNG, PYTHON

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

from accountstore import AccountStore, Location, Version
from accountstore.cli.commands import app
from accountstore.cli.demo import run_demo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accountstore import Account, Stored

STEPS = [
    "Save an account",
    "Save a multi account",
    "List the folder",
    "Read the account",
    "Read the multi account",
    "Update from many tasks at once",
    "Refuse a wrong extension",
    "Refuse the loser of a race",
    "Clean up",
]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are made, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_demo_holds_and_leaves_nothing_behind(temporary: Path) -> None:
    """Every step goes as promised; the errors shown are the typed ones; the folder is gone."""
    outcomes = run_demo()
    assert [outcome.what for outcome in outcomes] == STEPS
    assert [outcome for outcome in outcomes if not outcome.held] == []
    seen = {outcome.what: outcome.seen for outcome in outcomes}
    assert seen["Update from many tasks at once"] == "8 tasks x 5 updates: port 465 became 505, none lost"
    assert seen["Refuse a wrong extension"].startswith("ExtensionError: email.txt: ")
    assert seen["Refuse the loser of a race"].startswith("ConflictError: race.account: ")
    assert os.listdir(temporary) == []


def test_the_command_ends_with_zero_on_a_fresh_machine(tmp_path: Path) -> None:
    """As a program, with an empty home and a broken configuration about, it prints the table and ends with 0."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    (scratch / "accountstore.toml").write_text("broken", encoding="utf-8")
    done = subprocess.run(
        [*PYTHON, "-m", "accountstore.cli", "demo"],
        cwd=scratch,
        env=os.environ | {"HOME": str(home), "TMPDIR": str(tmp_path), "ACCOUNTSTORE_CONFIG": "nope.toml"},
        capture_output=True,
        check=False,
        timeout=HUNG,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert all(step in text for step in STEPS)
    assert "Everything went as promised." in text
    assert "FAILED" not in text
    assert sorted(os.listdir(tmp_path)) == ["home", "scratch"]
    assert os.listdir(home) == []


async def _update_without_swap(
    store: AccountStore, location: Location, change: Callable[[Account], Account]
) -> Stored[Account]:
    read = await store.read(location)
    await checkpoint()
    await store.save(location, change(read.document))
    return read


_save = AccountStore.save


async def _save_anything(store: AccountStore, location: Location, account: Account, /, *, mode: Any = None) -> Version:
    if location.file_name == "email.txt":
        return Version("")
    return await _save(store, location, account)


@pytest.mark.parametrize(
    ("method", "broken", "failed"),
    [
        ("update", _update_without_swap, "Update from many tasks at once"),
        ("save", _save_anything, "Refuse a wrong extension"),
        ("save", _save_anything, "Refuse the loser of a race"),
        ("get", AccountStore.get_multi, "Read the account"),
        ("get_multi", AccountStore.get, "Read the multi account"),
    ],
)
def test_a_store_that_breaks_a_promise_fails_the_demo(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, method: str, broken: object, failed: str
) -> None:
    """The control: with a store that loses updates, or takes what it must refuse, the step fails and the code is 1."""
    monkeypatch.setattr(AccountStore, method, broken)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    rows = [line for line in result.stdout.splitlines() if failed in line]
    assert len(rows) == 1
    assert "FAILED" in rows[0]
    assert "did not go as promised." in result.stdout
    assert os.listdir(temporary) == []


def test_lost_updates_are_counted(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the updaters: without compare-and-swap they lose updates, and the demo says how many."""
    monkeypatch.setattr(AccountStore, "update", _update_without_swap)
    seen = {outcome.what: outcome.seen for outcome in run_demo()}["Update from many tasks at once"]
    assert seen.endswith("of 40 updates are lost")


def test_a_folder_that_cannot_swap_races_in_memory(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system whose folders do not compare and swap, the races run on a memory storage and all holds."""
    generic = {
        "file": "accountstore.backends.fsspec:open_backend",
        "memory": "accountstore.backends.memory:open_backend",
    }
    monkeypatch.setattr("accountstore.registry._BUILTIN", generic)
    outcomes = run_demo()
    assert [outcome for outcome in outcomes if not outcome.held] == []
    assert os.listdir(temporary) == []
