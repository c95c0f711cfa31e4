"""The demonstration: it holds, leaves nothing behind, and fails where the store does not keep a promise."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from running import HUNG, PYTHON

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

from accountstore import AccountStore, ConflictError, Location, Version
from accountstore.cli.commands import app
from accountstore.cli.demo import run_demo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accountstore import Account, MultiAccount, Stored

STEPS = [
    *("Save an account", "Save a multi account", "List the folder", "Read the account", "Read the multi account"),
    *("Update from many tasks at once", "Refuse a wrong extension", "Refuse the loser of a race", "Clean up"),
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
    command = [*PYTHON, "-m", "accountstore.cli", "demo"]
    env = os.environ | {"HOME": str(home), "TMPDIR": str(tmp_path), "ACCOUNTSTORE_CONFIG": "nope.toml"}
    done = subprocess.run(command, cwd=scratch, env=env, capture_output=True, check=False, timeout=HUNG)
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


_save, _save_multi = AccountStore.save, AccountStore.save_multi


async def _save_anything(store: AccountStore, location: Location, account: Account, /, *, mode: Any = None) -> Version:
    if location.file_name == "email.txt":
        return Version("")
    return await _save(store, location, account if mode else replace(account, port=1))


async def _save_half(store: AccountStore, location: Location, account: MultiAccount, /) -> Version:
    return await _save_multi(store, location, replace(account, send_account=None))


UPDATE = "Update from many tasks at once"


@pytest.mark.parametrize(
    ("method", "broken", "failed", "seen"),
    [
        ("save", _save_anything, "Save an account", "the file holds something else"),
        ("save", _save_anything, "Read the account", "it is not the account that was saved"),
        ("save", _save_anything, "Refuse a wrong extension", "it was saved"),
        ("save", _save_anything, "Refuse the loser of a race", "the winner's document is overwritten"),
        ("save_multi", _save_half, "Save a multi account", "the file holds something else"),
        ("save_multi", _save_half, "Read the multi account", "it is not the multi account that was saved"),
        ("list", MagicMock(), "List the folder", "the listing has other documents"),
        ("get", AccountStore.get_multi, "Read the account", "ExtensionError: "),
        ("update", _update_without_swap, UPDATE, "of 40 updates are lost"),
        ("update", AsyncMock(side_effect=ConflictError("lost")), UPDATE, ", ".join(["ConflictError: lost"] * 8)),
    ],
)
def test_a_store_that_breaks_a_promise_fails_the_demo(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, method: str, broken: object, failed: str, seen: str
) -> None:
    """The control: with a store that keeps no promise the step says what it saw, and the exit code is 1."""
    monkeypatch.setattr(AccountStore, method, broken)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    (row,) = (line for line in result.stdout.splitlines() if failed in line)
    assert "FAILED" in row
    assert seen in row
    assert "did not go as promised." in result.stdout
    assert os.listdir(temporary) == []


def test_a_folder_that_cannot_swap_races_in_memory(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system whose folders do not compare and swap, the races run on a memory storage and all holds."""
    monkeypatch.setattr("accountstore.registry._BUILTIN", {"file": "fsspec", "memory": "memory"})
    outcomes = run_demo()
    assert [outcome for outcome in outcomes if not outcome.held] == []
    assert os.listdir(temporary) == []
