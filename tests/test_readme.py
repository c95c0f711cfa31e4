"""Every code block of the README runs."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from running import HUNG, PYTHON

from accountstore import AccountStore, Location, OAuthCredentials, StorageConfig, StoreConfig, registry, to_json
from accountstore.backends.memory import MemoryBackend
from accountstore.config import load_config
from accountstore.testing import store_over

ROOT = Path(__file__).parent.parent
BLOCKS = [
    (match[1], match[2])
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
]


def _blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def _run(command: list[str], folder: Path, **environment: str) -> str:
    """The output of a program that ends well, started in a folder."""
    run = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=HUNG
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Run all Python blocks but the test of a backend, in their order, in an empty home."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("ACCOUNTSTORE_CONFIG", raising=False)
    names: dict[str, Any] = {"__name__": "readme"}
    for block in _blocks("python"):
        if "BackendTests" not in block:
            exec(compile(block, "README.md", "exec"), names)
    return names


def test_each_block_is_of_a_language_that_is_run_here() -> None:
    """The README has shell, Python and TOML blocks, as many as the tests below run."""
    assert (len(_blocks("sh")), len(_blocks("toml"))) == (4, 3)
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


def test_update_and_error_examples_do_what_they_say(names: dict[str, Any]) -> None:
    """The update example sets port 143; the error example gives None for a missing document, and one that is there."""

    async def run() -> None:
        store = store_over({"m": MemoryBackend()})
        location = Location("x.account")
        assert await names["find"](store, "x.account") is None
        await store.save(location, names["account"])
        assert await names["find"](store, "x.account") == names["account"]
        await names["use_starttls"](store, location)
        assert (await store.get(location)).port == 143

    anyio.run(run)


def test_body_example_guards_against_a_lost_update(names: dict[str, Any]) -> None:
    """The example of a service refuses a second writer with the same ETag, a client's mistake and a missing account.
    The control: with an ETag that is the same for all versions, both writers win.
    """

    async def both(tag: Any) -> list[int]:
        names["etag"] = tag
        store = store_over({"m": MemoryBackend()})
        location, body = Location("x.account"), to_json(names["account"], reveal=True)
        assert (await names["accept"](store, location, body, "x"))[0] == 404
        await store.save(location, names["account"])
        status, seen, shown = await names["respond"](store, location)
        assert (status, b"correct horse" in shown) == (200, False)
        assert (await names["accept"](store, location, shown, seen))[0] == 422
        bodies = [body.replace(b"993", port) for port in (b"1", b"2")]
        return [(await names["accept"](store, location, given, seen))[0] for given in bodies]

    assert anyio.run(both, names["etag"]) == [204, 412]
    assert anyio.run(both, repr) == [204, 204]


def test_service_example_prints_its_audit_event(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The embedding example prints the event of its one operation and the answer."""
    anyio.run(names["serve"])
    assert re.fullmatch(r"exists tenants/4711/email\.account ok \d\.\d{3} s\nFalse\n", capsys.readouterr().out)


@pytest.mark.once
def test_backend_example_passes_the_suite(tmp_path: Path) -> None:
    """The README's backend passes the conformance suite as the README applies it, and needs no more of the library."""
    shelf, suite = (block for block in _blocks("python") if "ShelfBackend" in block)
    imported = re.findall(r"^(?:from|import) (accountstore\S*)", shelf + suite, re.MULTILINE)
    assert imported == ["accountstore.backends.base", "accountstore.testing"]
    (tmp_path / "test_shelf.py").write_text(f"{shelf}\n\n{suite}")
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_shelf.py"]
    assert re.search(r"[3-9]\d+ passed", _run(command, tmp_path))


def test_configuration_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration example is one, with its option from the environment."""
    monkeypatch.setenv("SFTP_PASSWORD", "hidden")
    path = tmp_path / "accountstore.toml"
    path.write_text(_blocks("toml")[1])
    config = load_config(path)
    options = {"username": "mail", "password": "hidden"}
    archive = StorageConfig("sftp://backup.example.org/srv/accounts", options, "msgpack")
    storages = {"First Storage": StorageConfig("file:///srv/accounts"), "Archive": archive}
    assert config == StoreConfig(default="First Storage", max_bytes=262144, storages=storages)
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


def test_refresh_example_runs(tmp_path: Path) -> None:
    """Three processes and a provider on loopback: one exchange, and a token for each."""
    pytest.importorskip("httpx2")
    output = _run([*PYTHON, str(ROOT / "docs" / "examples" / "refresh.py")], tmp_path)
    assert output.splitlines() == [*["a process has a token: **********"] * 3, "exchanges: 1, refusals: 0"]


async def _refreshed(names: dict[str, Any]) -> str:
    store = store_over({"m": MemoryBackend()})
    location = Location("x.account")
    ends = datetime.now(UTC) + timedelta(hours=1)
    credentials = OAuthCredentials(login="me", refresh_token="r", access_token="a", expires_at=ends)
    await store.save(location, replace(names["account"], credentials=credentials))
    return str(await names["access_token"](store, location))


def test_access_token_example_returns_a_valid_one(names: dict[str, Any]) -> None:
    """The example asks nobody for a token that is valid."""
    pytest.importorskip("httpx2")
    assert anyio.run(_refreshed, names) == "a"


def test_entry_point_example_is_in_the_group_that_the_registry_reads() -> None:
    """The entry point example names the group of the registry's own text."""
    groups = tomllib.loads(_blocks("toml")[2])["project"]["entry-points"]
    assert groups == {"accountstore.backends": {"shelf": "accountstore_shelf:open_backend"}}
    assert "accountstore.backends" in str(registry.__doc__)


def test_first_command_line_ends_in_the_demo_and_the_second_is_what_ci_runs() -> None:
    """The two command lines are those that the `demo` session and CI run whole."""
    demo, tests, *_ = _blocks("sh")
    assert demo.strip().split(" && ")[-1] == ".venv/bin/accountstore demo"
    assert f"\n{tests.strip()}\n" in (ROOT / ".ci" / "run").read_text()


def test_command_line_example_runs(tmp_path: Path) -> None:
    """The command line example runs to its end and shows no password."""
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    output = _run(["bash", "-ec", _blocks("sh")[2]], tmp_path, PATH=path)
    assert "backup/me.account" in output
    assert "correct horse" not in output
    assert not (tmp_path / "accounts/team-a/me.account").exists()
    assert (tmp_path / "accounts/backup/me.account").exists()
