"""Where the tests of the command line run."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory that has a configuration and nothing else."""
    from commandline import COMMAND, CONFIG, configure

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    outside = {"ACCOUNTSTORE_CONFIG", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "PYTHONUNBUFFERED"}
    for name in outside | {"EDITOR", "VISUAL", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"}:
        monkeypatch.delenv(name, raising=False)
    # The runner would build all commands anew for each call, which takes longer than most of them.
    monkeypatch.setattr("typer.testing._get_command", Mock(return_value=COMMAND), raising=False)
    configure(CONFIG)


@pytest.fixture
def saved() -> None:
    """With a document at `a.account`."""
    from commandline import SINGLE, run

    run("save", "a.account", stdin=SINGLE)


@pytest.fixture
def tree() -> None:
    """Documents in folders of two storages, and a file that is none."""
    from commandline import SINGLE, run

    data = json.dumps(SINGLE).encode()
    for name in ("a.account", "b.multi.account", "mail/c.account", "mail/team a/d.account", "note.txt"):
        Path("first", name).parent.mkdir(parents=True, exist_ok=True)
        Path("first", name).write_bytes(data)
    run("save", "Archive:old/e.account", stdin=SINGLE)
