"""The gateway's file, and `accountstore gateway add-client` that writes it."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import socket
import stat
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from gateways import HASH, KEY

pytest.importorskip("typer")

from argon2 import PasswordHasher
from typer.testing import CliRunner

from accountstore import ConfigError, Secret
from accountstore.cli.commands import app
from accountstore.gateway import Client, GatewayConfig, Limits, adding, load_gateway_config
from accountstore.gateway.adding import add_to_file
from accountstore.gateway.config import config_of, find_gateway_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD = f"""
keys = ["{KEY}"]
metrics = true
[clients.a]
secrets = ["{HASH}"]
folder = "t"
rate = 5
[limits]
in_flight = 7
"""


@pytest.fixture(autouse=True)
def _private() -> Iterator[None]:
    """Files that are made here are their owner's alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_file_is_read(tmp_path: Path) -> None:
    """Every table of the file has its place."""
    file = tmp_path / "g.toml"
    file.write_text(GOOD)
    config = load_gateway_config(str(file))
    assert config == GatewayConfig(
        keys=(Secret(KEY),),
        clients={"a": Client(secrets=(HASH,), folder="t", rate=5)},
        limits=Limits(in_flight=7),
        metrics=True,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys = 1", "keys: must be a list of text"),
        ("keys = [1]", "keys: must be a list of text"),
        ("keys = []", "keys: none"),
        ("keyz = []", "`keyz`; did you mean 'keys'"),
        (f'keys = ["{KEY}"]\n[client.me]\nfolder = ""', "`client`; did you mean 'clients'"),
        (f'keys = ["{KEY}"]\n[xyzzy]', "`xyzzy`$"),
        (f'keys = ["{KEY}"]\n[limits]\n{KEY} = 1', r"an unknown field - at `\$\.limits`"),
        (f'keys = ["{KEY}"]\n[limits]\n"a`b {KEY}" = 1', r"an unknown field - at `\$\.limits`"),
        (f'keys = ["{KEY}"]\n[clients.a]\nsecrets = ["{HASH}"]', "folder"),
        (f'keys = ["{KEY}"]\n[clients.a]\nsecrets = ["x"]\nfolder = ""', r"clients\.a\.secrets"),
        (f'keys = ["{KEY}"]\n[clients.a]\nsecrets = ["{HASH}"]\nfolder = ""\nrights = "all"', "rights"),
        (f'keys = ["{KEY}"]\n[limits]\nin_flight = "x"', r"limits\.in_flight"),
        ("=", r"Invalid .*line 1"),
        (f'keys = ["{KEY}"]\n[limits]\nin_flight = 1{"0" * 5000}', "digits"),
        (f'keys = ["{KEY}"]\n[x]\ny = {"[" * 3000}{"]" * 3000}', "nested too deep"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The refusal names the file and the key, and quotes no value."""
    file = tmp_path / "g.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_gateway_config(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert KEY not in str(caught.value)
    assert caught.value.__context__ is None or KEY not in repr(caught.value.__context__)


@pytest.mark.skipif(os.name != "posix", reason="the modes of POSIX")
@pytest.mark.parametrize(
    ("keys", "mode"), [(True, 0o644), (True, 0o640), (True, 0o602), (False, 0o664), (False, 0o602)]
)
def test_a_file_that_others_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: bool, mode: int
) -> None:
    """Keys that others can read, which sign tokens, and clients that others can write, are taken by nobody; clients
    alone, with the keys in the environment, may be read.
    """
    file = tmp_path / "g.toml"
    file.write_text(GOOD if keys else GOOD.replace(f'keys = ["{KEY}"]', ""))
    monkeypatch.setenv("ACCOUNTSTORE_GATEWAY_KEYS", KEY)
    file.chmod(mode)
    refusal = rf"g\.toml: others may read or write it \({mode:04o}\): chmod 600"
    with pytest.raises(ConfigError, match=refusal):
        load_gateway_config(str(file))
    with pytest.raises(ConfigError, match=refusal):
        add_to_file(str(file), "b", Client(secrets=(), folder="b"))
    assert stat.S_IMODE(file.stat().st_mode) == mode
    file.chmod(0o600 if keys else 0o644)
    assert load_gateway_config(str(file)).clients


def test_a_missing_file_says_how_it_is_made(tmp_path: Path) -> None:
    """Without a file the refusal names the command."""
    with pytest.raises(ConfigError, match="add-client NAME"):
        load_gateway_config(str(tmp_path / "no.toml"))


def test_keys_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable takes the place of the file's keys, in its order; blanks around the commas are no part of them."""
    file = tmp_path / "g.toml"
    file.write_text(GOOD)
    for text in (f"{'n' * 43},{KEY}", f" {'n' * 43} ,\t{KEY}\n"):
        monkeypatch.setenv("ACCOUNTSTORE_GATEWAY_KEYS", text)
        assert load_gateway_config(str(file)).keys == (Secret("n" * 43), Secret(KEY))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{KEY},", "ACCOUNTSTORE_GATEWAY_KEYS: one key is empty"),
        (f"{KEY}, ,{'n' * 43}", "ACCOUNTSTORE_GATEWAY_KEYS: one key is empty"),
        (" ", "ACCOUNTSTORE_GATEWAY_KEYS: one key is empty"),
        (f"{KEY}\udce9", "keys: one is not UTF-8; look at ACCOUNTSTORE_GATEWAY_KEYS"),
    ],
    ids=["end", "middle", "blank", "latin-1"],
)
def test_keys_of_the_environment_that_are_none_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """An empty key, and one that is not UTF-8, are told, and no key is shown."""
    file = tmp_path / "g.toml"
    file.write_text(GOOD)
    monkeypatch.setenv("ACCOUNTSTORE_GATEWAY_KEYS", text)
    with pytest.raises(ConfigError) as caught:
        load_gateway_config(str(file))
    assert str(caught.value) == f"{file}: {message}"


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path given, the variable's, the working directory's, the user's: in this order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ACCOUNTSTORE_GATEWAY", raising=False)
    assert find_gateway_config().endswith("accountstore-gateway.toml")
    assert find_gateway_config() != "accountstore-gateway.toml"
    (tmp_path / "accountstore-gateway.toml").touch()
    assert find_gateway_config() == "accountstore-gateway.toml"
    monkeypatch.setenv("ACCOUNTSTORE_GATEWAY", "x.toml")
    assert find_gateway_config() == "x.toml"
    assert find_gateway_config("y.toml") == "y.toml"


# --- add-client ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def added(file: Path, *arguments: str) -> tuple[str, str]:
    """Id and secret that the command prints."""
    result = run("gateway", "add-client", "--gateway", str(file), *arguments)
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    return first.split()[-1], second.split()[-1]


def test_clients_are_added_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first makes the file with a key, for its owner alone; each prints a secret once, whose hash is kept."""
    (tmp_path / "store.toml").write_text("[storages.'Fir\"st\u00e9']\nurl = 'memory://'\n", encoding="utf-8")
    monkeypatch.setenv("ACCOUNTSTORE_CONFIG", str(tmp_path / "store.toml"))
    file = tmp_path / "new" / "g.toml"
    name, secret = added(file, "team-a")
    assert name == "team-a"
    assert len(secret) == 43
    if sys.platform != "win32":
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert secret not in file.read_text()
    keys = tomllib.loads(file.read_text())["keys"]
    file.write_text(file.read_text() + "# a remark\n")
    added(file, "reports", "--folder", "mail/\U0001f4ec", "--storage", 'Fir"st\u00e9:', "--read-only")
    added(file, "root.1", "--everything")
    config = load_gateway_config(str(file))
    assert tomllib.loads(file.read_text())["keys"] == keys
    assert "# a remark" in file.read_text()
    assert PasswordHasher().verify(config.clients["team-a"].secrets[0], secret)
    assert {name: (one.folder, one.storage, one.rights) for name, one in config.clients.items()} == {
        "team-a": ("tenants/team-a", None, "write"),
        "reports": ("mail/\U0001f4ec", 'Fir"st\u00e9', "read"),
        "root.1": ("", None, "write"),
    }
    assert os.listdir(file.parent) == ["g.toml"]


def test_link_and_owner_of_the_file_stay(tmp_path: Path) -> None:
    """A link to the file is followed, and a service can still read what root has changed."""
    (tmp_path / "etc").mkdir()
    file, link = tmp_path / "etc" / "g.toml", tmp_path / "g.toml"
    link.symlink_to(file)
    added(link, "one")
    owner = 12345 if os.getuid() == 0 else os.getuid()
    os.chown(file, owner, -1)
    added(link, "two")
    assert link.is_symlink()
    assert [*load_gateway_config(str(file)).clients] == ["one", "two"]
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (owner, 0o600)


def test_a_client_is_added_where_no_file_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no `fcntl`: the client is added without a lock."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delitem(sys.modules, "accountstore.gateway.adding")
    import_module("accountstore.gateway.adding").add_to_file(
        str(tmp_path / "g.toml"), "new", Client(secrets=(), folder="x")
    )
    assert list(load_gateway_config(str(tmp_path / "g.toml")).clients) == ["new"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a b"], 2, "letters, digits and -._~"),
        (["a+b"], 2, "letters, digits and -._~"),
        (["."], 2, "is not . or .."),
        ([".."], 2, "is not . or .."),
        (["x.account"], 1, "ends in .account"),
        (["new", "--folder", "../x"], 1, "a segment is '.' or '..'"),
        (["new", "--folder", "/x"], 1, "a segment is empty"),
        (["new", "--folder", "x" * 300], 1, "longer than 255 bytes"),
        (["new", "--storage", "nowhere"], 1, "the storage 'nowhere' is not configured; known: "),
        (["there"], 1, "there is a client 'there' already"),
        (["new", "--everything", "--folder", "x"], 2, "--everything goes without"),
    ],
)
def test_a_client_that_cannot_be_added_is_told(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    """A wrong or taken id, and a client that `serve` would not start with, are refused, and the file stays as it is."""
    file = tmp_path / "g.toml"
    added(file, "there")
    before = file.read_text()
    result = run("gateway", "add-client", "--gateway", str(file), *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", r"Invalid .*line 1"),
        (f'keys = ["{KEY}"]\n[limits]\nin_flight = 1{"0" * 5000}', "digits"),
        (f'keys = ["{KEY}"]\n[x]\ny = {"[" * 3000}{"]" * 3000}', "nested too deep"),
        ("keys = []", "keys: none"),
        (f'keys = ["{KEY}"]\n[clients]\na = {{secrets = ["{HASH}"], folder = "/"}}', r"clients\.a: folder"),
        (f'keys = ["{KEY}"]\nclients = {{}}', "add the client by hand"),
    ],
)
def test_a_file_that_is_none_is_not_extended(tmp_path: Path, text: str, message: str) -> None:
    """What a gateway would not start with, before or after, stays as it is; no frame of the refusal holds a key."""
    file = tmp_path / "g.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        add_to_file(str(file), "new", Client(secrets=(), folder=""))
    assert str(caught.value).startswith(f"{file}: ")
    assert file.read_text() == text
    frames = [frame.frame.f_locals for frame in inspect.getinnerframes(caught.tb)]
    assert KEY not in repr(frames[1:])


def test_clients_that_are_added_at_once_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who add to one file wait for one another, be it new or not: no client is lost, and there is one key."""
    file = str(tmp_path / "g.toml")
    all_there = threading.Barrier(8)

    def together(_: Secret) -> str:
        all_there.wait()
        return HASH

    monkeypatch.setattr(adding, "hash_secret", together)

    def slow(tree: Any) -> GatewayConfig:
        time.sleep(0.01)
        return config_of(tree)

    monkeypatch.setattr(adding, "config_of", slow)

    def add(number: int) -> Secret:
        return add_to_file(file, f"c{number}", Client(secrets=(), folder=""))

    with ThreadPoolExecutor(8) as threads:
        for secret in threads.map(add, range(8)):
            assert len(secret.reveal()) == 43
    config = load_gateway_config(file)
    assert {*config.clients} == {f"c{n}" for n in range(8)}
    assert len(config.keys) == 1
    assert os.listdir(tmp_path) == ["g.toml"]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """No file is left half written, and the refusal names the file."""
    (tmp_path / "g.toml").mkdir()
    with pytest.raises(ConfigError, match=r"g\.toml: cannot be read \(IsADirectoryError\)"):
        add_to_file(str(tmp_path / "g.toml"), "a", Client(secrets=(), folder=""))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be (read|written) \("):
        add_to_file(str(tmp_path / "file" / "g.toml"), "a", Client(secrets=(), folder=""))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "0.0.0.0"], 1, "--plain-http"),
        (["--tls-key", "x"], 2, "belong together"),
        (["--port", "70000"], 2, "65535"),
        (["--refresh", "gogle"], 2, "--refresh takes an https URL"),
        (["--refresh", "http://127.0.0.1/token"], 2, "(--insecure-http for tests)"),
        (["--refresh", "http://127.0.0.1/token", "--insecure-http", "--gateway", "no.toml"], 1, "add-client NAME"),
        (["--gateway", "no.toml"], 1, "add-client NAME"),
    ],
)
def test_serve_refuses_what_is_not_safe(arguments: list[str], code: int, message: str) -> None:
    """Beyond loopback it wants TLS, or an explicit word, as for a token endpoint without; and a configuration."""
    result = run("serve", *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())


def test_serve_tells_a_port_that_is_taken_in_one_line(tmp_path: Path) -> None:
    """It names the port, and the option for another."""
    add_to_file(str(tmp_path / "g.toml"), "a", Client(secrets=(), folder=""))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("serve", "--gateway", str(tmp_path / "g.toml"), "--port", port)
    assert result.exit_code == 1
    assert re.fullmatch(rf"accountstore: cannot listen on port {port} of .*: --port names another\n", result.stderr)


def test_the_help_of_serve_tells_its_defaults() -> None:
    """Where it listens without options."""
    text = " ".join(run("serve", "--help").stdout.split())
    assert "127.0.0.1 without it" in text
    assert "8080 without it" in text


@pytest.mark.parametrize("package", ["argon2", "starlette"])
def test_what_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Without the extra, a refusal says how to install it, and nothing is written."""
    for name in [name for name in sys.modules if name.startswith("accountstore.gateway")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    if package == "starlette":
        with pytest.raises(ImportError, match=r"accountstore\.gateway needs .* pip install 'accountstore\[gateway\]'"):
            importlib.import_module("accountstore.gateway")
    result = run("gateway", "add-client", "--gateway", str(tmp_path / "g.toml"), "x")
    assert result.exit_code == 1
    assert "pip install 'accountstore[gateway]'" in result.stderr
    assert not list(tmp_path.iterdir())
