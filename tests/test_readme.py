"""Every code block of the README runs."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import anyio
import pytest
from running import HUNG, PYTHON

from accountstore import (
    Account,
    AccountStore,
    Location,
    NotFoundError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
)
from accountstore.config import load_config

ROOT = Path(__file__).parent.parent
BLOCKS = [
    (match[1], match[2])
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
]
MEMORY = StoreConfig(storages={"m": StorageConfig("memory://")})


def _blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Run all Python blocks but the test of a backend, in their order, in an empty home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ACCOUNTSTORE_CONFIG", raising=False)
    names: dict[str, Any] = {"__name__": "readme"}
    for block in _blocks("python"):
        if "BackendTests" not in block:
            exec(compile(block, "README.md", "exec"), names)
    return names


def test_each_block_is_of_a_language_that_is_run_here() -> None:
    """The README has shell, Python and TOML blocks, as many as the tests below run."""
    assert [name for name, _ in BLOCKS].count("sh") == 3
    assert [name for name, _ in BLOCKS].count("toml") == 3
    assert {name for name, _ in BLOCKS} == {"sh", "python", "toml"}


def test_ten_lines_save_and_print_without_the_password(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first example prints the account, and not its password."""
    anyio.run(names["main"])
    out = capsys.readouterr().out
    assert "imap.example.com" in out
    assert "**********" in out
    assert "correct horse" not in out


def test_update_example_changes_the_port(names: dict[str, Any]) -> None:
    """The update example sets port 143."""

    async def run() -> int:
        async with AccountStore.open(MEMORY) as store:
            location = Location("x.account")
            await store.save(location, names["account"])
            await names["use_starttls"](store, location)
            return (await store.get(location)).port

    assert anyio.run(run) == 143


def test_error_example_tells_missing_from_broken(names: dict[str, Any]) -> None:
    """The error example gives None for a missing document and the account for one that is there."""

    async def run() -> tuple[Account | None, Account | None]:
        async with AccountStore.open(MEMORY) as store:
            missing = await names["find"](store, "x.account")
            await store.save(Location("x.account"), names["account"])
            with pytest.raises(NotFoundError):
                await store.get(Location("y.account"))
            return missing, await names["find"](store, "x.account")

    assert anyio.run(run) == (None, names["account"])


def test_service_example_prints_its_audit_event(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The embedding example prints the event of its one operation and the answer."""
    anyio.run(names["serve"])
    assert re.fullmatch(r"exists tenants/4711/email\.account ok \d\.\d{3} s\nFalse\n", capsys.readouterr().out)


def test_secret_example_masks(names: dict[str, Any]) -> None:
    """The credentials of the examples are what they say."""
    assert names["credentials"] == PasswordCredentials(login="me@example.com", password="correct horse")


@pytest.mark.once
def test_backend_example_passes_the_suite(tmp_path: Path) -> None:
    """The README's backend passes the conformance suite as the README applies it."""
    shelf, suite = (block for block in _blocks("python") if "ShelfBackend" in block)
    (tmp_path / "test_shelf.py").write_text(f"{shelf}\n\n{suite}")
    run = subprocess.run(
        [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_shelf.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=HUNG,
    )
    assert run.returncode == 0, run.stdout
    assert re.search(r"[3-9]\d+ passed", run.stdout), run.stdout


def test_configuration_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration example is one, with its option from the environment."""
    monkeypatch.setenv("SFTP_PASSWORD", "hidden")
    path = tmp_path / "accountstore.toml"
    path.write_text(_blocks("toml")[1])
    config = load_config(path)
    assert config.default_name() == "First Storage"
    assert config.storages["Archive"].options["password"] == "hidden"
    assert "hidden" not in repr(config)


@pytest.mark.once
@pytest.mark.anyio
async def test_object_store_example_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of an object store opens, with all its options known to either engine."""
    pytest.importorskip("obstore")
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_KEY", "canary")
    monkeypatch.setenv("AWS_SECRET", "canary")
    for engine in ("obstore", "fsspec"):
        path = tmp_path / f"{engine}.toml"
        path.write_text(_blocks("toml")[0].replace('"obstore"', f'"{engine}"'))
        async with AccountStore.open(path) as store:
            assert store.storages == ("Cloud",)
            assert store.capabilities().update


def test_entry_point_example_is_in_the_group_that_the_registry_reads() -> None:
    """The entry point example names the group of the registry's own text."""
    from accountstore import registry

    groups = tomllib.loads(_blocks("toml")[2])["project"]["entry-points"]
    assert groups == {"accountstore.backends": {"shelf": "accountstore_shelf:open_backend"}}
    assert "accountstore.backends" in str(registry.__doc__)


def test_first_command_line_ends_in_the_demo_and_the_second_is_what_ci_runs() -> None:
    """The two command lines are those that the `demo` session and CI run whole."""
    demo, tests, _ = _blocks("sh")
    assert demo.strip().split(" && ")[-1] == ".venv/bin/accountstore demo"
    assert f"\n{tests.strip()}\n" in (ROOT / ".ci" / "run").read_text()


def test_command_line_example_runs(tmp_path: Path) -> None:
    """The command line example runs to its end and shows no password."""
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    environment = os.environ | {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-ec", _blocks("sh")[2]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=HUNG,
    )
    assert run.returncode == 0, run.stderr
    assert "Mail:backup/me.account" in run.stdout or "backup/me.account" in run.stdout
    assert "correct horse" not in run.stdout + run.stderr
    assert not (tmp_path / "accounts/team-a/me.account").exists()
    assert (tmp_path / "accounts/backup/me.account").exists()
