"""Configuration: where it is looked for, what is wrong with it and under which key, and that it keeps its secrets."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock, Mock, call, patch

import anyio
import fsspec
import pytest
from doubles import Recording
from fsspec import AbstractFileSystem
from fsspec.config import conf
from fsspec.implementations.memory import MemoryFileSystem
from samples import ACCOUNT, AT

from accountstore import (
    AccountStore,
    AccountStoreError,
    BackendError,
    ConfigError,
    StorageConfig,
    StoreConfig,
    UnavailableError,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.config_file import load_config
from accountstore.storages import open_storages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accountstore.backends.base import Stat
    from accountstore.client import StorageClient

CANARY = "canary-1c7e"
MEMORY = '[storages.%s]\nurl = "memory://"\n'
A, B = MEMORY % "a", MEMORY % "b"
STORAGE = StorageConfig("memory://")
LINE_ENDS = ("\n", "\r\n", "\r", "\v", "\x85", "\u2028")


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, user folders and working directory of the test's own, with nothing in them."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("ACCOUNTSTORE_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(home))
    for kind in ("config", "data"):
        monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", str(home / kind))
        if sys.platform != "linux":  # where platformdirs does not read these
            folder = str(home / kind / "accountstore")
            monkeypatch.setattr(f"platformdirs.user_{kind}_dir", Mock(return_value=folder))


def write(text: str | bytes, path: str | Path = "c.toml") -> Path:
    """Write a configuration into the test's own folder."""
    path = Path.cwd().parent / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def opened(config: Any = None) -> tuple[str, ...]:
    """The names of the storages of a store that opens."""

    async def open_store() -> tuple[str, ...]:
        async with AccountStore.open(config) as store:
            return store.storages

    return anyio.run(open_store)


def failure(config: Any) -> ConfigError:
    """The error of opening a store with a configuration."""
    with pytest.raises(ConfigError) as caught:
        opened(config)
    return caught.value


def lone(url: str = "memory://", options: dict[str, Any] | None = None, **fields: Any) -> StoreConfig:
    """A configuration of one storage `a`."""
    return StoreConfig(storages={"a": StorageConfig(url, options or {}, **fields)})


def shown(error: BaseException) -> str:
    """Everything that a traceback with local variables shows of an error and those in its chain."""
    text = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(text.format(chain=True)) + repr(vars(error)) + repr(error.__context__)


def test_the_first_configuration_found_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is: the argument, the environment variable, the working directory, the user's folder, the default."""
    assert opened() == ("default",)
    monkeypatch.setenv("ACCOUNTSTORE_CONFIG", "")
    assert opened() == ("default",)
    assert (tmp_path / "home" / "data" / "accountstore" / "accounts").is_dir()
    write(MEMORY % "user", tmp_path / "home" / "config" / "accountstore" / "accountstore.toml")
    assert opened() == ("user",)
    write(MEMORY % "here", tmp_path / "work" / "accountstore.toml")
    assert opened() == ("here",)
    monkeypatch.setenv("ACCOUNTSTORE_CONFIG", str(write(MEMORY % "named", tmp_path / "named.toml")))
    assert opened() == ("named",)
    path = write(MEMORY % "given", tmp_path / "given.toml")
    assert opened(path) == ("given",)
    assert opened(str(path)) == ("given",)
    assert opened(lone()) == ("a",)


@pytest.mark.anyio
async def test_the_default_storage_is_a_folder_in_the_users_data(tmp_path: Path) -> None:
    """Without any configuration documents go to a folder `accounts` in the user's data folder."""
    async with AccountStore.open() as store:
        await store.save(AT, ACCOUNT)
    root = tmp_path / "home" / "data" / "accountstore" / "accounts"
    assert (root / AT.path).is_file()
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_default_folder_that_cannot_be_made_is_told_whole(tmp_path: Path) -> None:
    """Where no configuration was found, the message says where documents go, and what names another place."""
    (tmp_path / "home" / "data").write_bytes(b"")
    said = str(failure(None))
    assert [part for part in (str(tmp_path), "XDG_DATA_HOME", "ACCOUNTSTORE_CONFIG") if part not in said] == []


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file that is missing, or no file, is a `ConfigError` with its path; nothing else is taken instead."""
    write(MEMORY % "here", tmp_path / "work" / "accountstore.toml")
    assert str(tmp_path / "no.toml") in str(failure(tmp_path / "no.toml"))
    assert str(tmp_path) in str(failure(tmp_path))
    monkeypatch.setenv("ACCOUNTSTORE_CONFIG", "no-such.toml")
    assert "no-such.toml" in str(failure(None))
    (tmp_path / "work" / "accountstore.toml").unlink()
    (tmp_path / "work" / "accountstore.toml").mkdir()
    monkeypatch.delenv("ACCOUNTSTORE_CONFIG")
    assert "accountstore.toml" in str(failure(None))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read_is_an_error() -> None:
    """A file without permission is a `ConfigError` with its path."""
    path = write(MEMORY % "a")
    path.chmod(0)
    assert str(path) in str(failure(path))


def test_a_byte_order_mark_is_passed_over() -> None:
    """A file that an editor saved with a byte order mark is read; other encodings than UTF-8 are an error."""
    text = MEMORY % '"caf\u00e9"'
    assert opened(write(text.encode("utf-8-sig"))) == ("caf\u00e9",)
    for encoding in ("utf-16", "latin-1"):
        assert "c.toml" in str(failure(write(text.encode(encoding))))


def test_a_lone_storage_is_the_default() -> None:
    """`default` may be left out with one storage, and not with two."""
    assert opened(write(MEMORY % "only")) == ("only",)
    message = str(failure(write(A + B)))
    assert "default" in message
    assert "a, b" in message


def test_a_relative_folder_is_in_the_files_own(tmp_path: Path) -> None:
    """A folder without a scheme is relative to the file that names it; one in Python to the working directory."""
    opened(write('[storages.a]\nurl = "accounts"\n', tmp_path / "etc" / "c.toml"))
    assert (tmp_path / "etc" / "accounts").is_dir()
    os.chdir(tmp_path / "etc")
    opened(write('[storages.a]\nurl = "./other/deep"\n', tmp_path / "etc" / "c.toml").name)
    assert (tmp_path / "etc" / "other" / "deep").is_dir()
    opened(lone("third"))
    assert (tmp_path / "etc" / "third").is_dir()


@pytest.mark.parametrize("url", ["~/accounts", "file://~/accounts"])
def test_a_tilde_is_the_users_home(tmp_path: Path, url: str) -> None:
    """`~` in a folder is the user's home, in a file and in Python."""
    opened(write(f'[storages.a]\nurl = "{url}"\n'))
    assert (tmp_path / "home" / "accounts").is_dir()
    (tmp_path / "home" / "accounts").rmdir()
    opened(lone(url))
    assert (tmp_path / "home" / "accounts").is_dir()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("url", ["", "file:/srv/accounts", "memory:", "s3:bucket", "local:x", "file://srv/accounts"])
def test_what_looks_like_a_url_is_no_folder(tmp_path: Path, url: str) -> None:
    """A URL that lost its slashes, an empty one, and one with a host before the folder make no folder: an error."""
    for config in (lone(url), write(f'[storages.a]\nurl = "{url}"\n')):
        assert "storages.a.url: " in str(failure(config))
    assert list((tmp_path / "work").iterdir()) == []


def test_options_take_values_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`${NAME}` is replaced in any text, at any depth of tables and lists, more than once, and `$${` is `${`; other
    values stay.
    """
    monkeypatch.setenv("USER_NAME", "me")
    monkeypatch.setenv("PASS", CANARY)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("TRICK", "${PASS}")
    monkeypatch.setenv("NAMED", "a")
    monkeypatch.setenv("ON", "on")
    path = write(
        """
        default = "${NAMED}"
        [storages.a]
        url = "memory://${PASS}"
        codec = "js${ON}"
        [storages.a.options]
        literal = "ab$${c}d$${${USER_NAME}"
        plain = "$PASS {PASS} $ ${"
        number = 5
        flag = true
        whole = "${PASS}"
        parts = "<${USER_NAME}:${PASS}${EMPTY}>"
        once = "${TRICK}"
        list = ["${USER_NAME}", { deep = ["${PASS}"] }, 1]
        [storages.a.options.table.below]
        key = "${USER_NAME}"
        """
    )
    config = load_config(path)
    storage = config.storages["a"]
    assert (config.default, storage.url, storage.codec) == ("a", f"memory://{CANARY}", "json")
    assert storage.options == {
        "literal": "ab${c}d${me",
        "plain": "$PASS {PASS} $ ${",
        "number": 5,
        "flag": True,
        "whole": CANARY,
        "parts": f"<me:{CANARY}>",
        "once": "${PASS}",
        "list": ["me", {"deep": [CANARY]}, 1],
        "table": {"below": {"key": "me"}},
    }


KEYS = "attempts, codec, concurrency, conditions, encryption, engine, options, read_only, timeout, url"
NOT_SET = "the environment variable NO is not set"
HEADER_IN_TEXT = "options = { note = '''\n[storages.a]\n''' }\n"
FAULTS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "a key of the file": ('defualt = "a"\n' + A, "", ("unknown key 'defualt'", "default")),
    "the table of storages": ('[storage.a]\nurl = "memory://"\n', "", ("unknown key 'storage'", "storages")),
    "a key of a storage": (A + 'cdec = "json"\n', "storages.a: ", ("'cdec'", "'codec'")),
    "a key of the second storage": (A + B + "optoins = {}\n", "storages.b: ", ("'options'",)),
    "an option beside the url": (A + 'key = "x"\n', "storages.a: ", ("unknown key 'key'", "in storages.a.options")),
    "a key like none": (A + "xyzzy = 1\n", "storages.a: ", ("xyzzy", KEYS)),
    "a quoted name": (MEMORY % '"First Storage"' + "ulr = 1\n", 'storages."First Storage": ', ()),
    "a name with a dot": (MEMORY % '"a.b"' + "ulr = 1\n", 'storages."a.b": ', ("'ulr'", "'url'")),
    "an inline table": ('[storages]\na = { url = "memory://", ulr = 1 }\n', "storages.a: ", ("'ulr'", "'url'")),
    "dotted keys": ('storages.a.url = "memory://"\nstorages.a.ulr = 1\n', "storages.a: ", ("'ulr'", "'url'")),
    "a header in a text": (B + HEADER_IN_TEXT + A + 'codec = "xml"\n', "storages.a.codec: ", ("json, msgpack",)),
    "a type of the file": ("default = 5\n" + A, "default: ", ("str", "int")),
    "a type of a limit": ('max_bytes = "5"\n' + A, "max_bytes: ", ("int", "str")),
    "a limit below one": ("max_bytes = 0\n" + A, "max_bytes: ", ()),
    "a type of a storage": ("[storages.a]\nurl = 5\n", "storages.a.url: ", ("str", "int")),
    "a type of options": (A + 'options = "x"\n', "storages.a.options: ", ("object", "str")),
    "storages that are no table": ("storages = 5\n", "storages: ", ("table",)),
    "a storage that is no table": ('[storages]\na = "memory://"\n', "storages.a: ", ("table",)),
    "a list of storages": ('[[storages.a]]\nurl = "memory://"\n', "storages.a: ", ("table",)),
    "no url": ('[storages.a]\ncodec = "json"\n', "storages.a: ", ("url",)),
    "an unknown codec": (A + 'codec = "jsn"\n', "storages.a.codec: ", ("'json'",)),
    "a codec like none": (A + 'codec = "yaml"\n', "storages.a.codec: ", ("json, msgpack",)),
    "a codec's type": (A + "codec = 5\n", "storages.a.codec: ", ("str", "int")),
    "an unknown engine": (A + 'engine = "obstor"\n', "storages.a.engine: ", ("'obstore'",)),
    "an engine half like one": (A + 'engine = "boto"\n', "storages.a.engine: ", ("fsspec, obstore",)),
    "an engine like none": (A + 'engine = "xyzzy"\n', "storages.a.engine: ", ("fsspec, obstore",)),
    "a type of a switch": (A + 'read_only = "yes"\n', "storages.a.read_only: ", ("bool", "str")),
    "no time": (A + "timeout = 0\n", "storages.a.timeout: ", ("more than 0",)),
    "time before": (A + "timeout = -1.5\n", "storages.a.timeout: ", ("more than 0",)),
    "time without end": (A + "timeout = inf\n", "storages.a.timeout: ", ("finite",)),
    "no number": (A + "timeout = nan\n", "storages.a.timeout: ", ()),
    "a type of a timeout": (A + 'timeout = "5 s"\n', "storages.a.timeout: ", ("float", "str")),
    "no attempt": (B + A + "attempts = 0\n", "storages.a.attempts: ", ("at least 1",)),
    "half an attempt": (A + "attempts = 1.5\n", "storages.a.attempts: ", ("int", "float")),
    "unknown conditions": (A + 'conditions = "prob"\n', "storages.a.conditions: ", ("'probe'",)),
    "conditions like none": (A + 'conditions = "xyzzy"\n', "storages.a.conditions: ", ("probe, trust",)),
    "no operation at once": (A + "concurrency = 0\n", "storages.a.concurrency: ", ("at least 1",)),
    "an unknown scheme": ('[storages.a]\nurl = "s4://bucket"\n', "storages.a: ", ("'s4'; did you mean 's3'?",)),
    "an unknown option": (
        '[storages.a]\nurl = "x"\noptions = { fil_mode = 1 }\n',
        "storages.a.options: ",
        ("'file_mode'",),
    ),
    "an engine for clouds": (A + 'engine = "obstore"\n', "storages.a.engine: ", ("'memory'",)),
    "a variable in a url": ('[storages.a]\nurl = "${NO}/x"\n', "storages.a.url: ", (NOT_SET, "$${")),
    "a variable in a word": (A + 'codec = "${NO}"\n', "storages.a.codec: ", (NOT_SET,)),
    "a variable without end": ('[storages.a]\nurl = "${NO/x"\n', "storages.a.url: ", ("${NO", "${NAME}")),
    "a literal in a url": ('[storages.a]\nurl = "$${NO}/x"\n', "storages.a.url: ", ("${NO}",)),
    "no name of a variable": (A + 'options = { p = "a${b!c}d" }\n', "storages.a.options.p: ", ("$${",)),
    "a url with a NUL": ('[storages.a]\nurl = "a\\u0000b"\n', "storages.a.url: ", ("NUL",)),
    "a user like none": ('[storages.a]\nurl = "~nobody-here/x"\n', "storages.a.url: ", ("'nobody-here'",)),
    "a missing variable": (A + 'options = { p = "${NO}" }\n', "storages.a.options.p: ", (NOT_SET,)),
    "a missing variable below": (A + 'options.deep.list = ["${NO}"]\n', "storages.a.options.deep.list: ", (NOT_SET,)),
    "a storage's name": (A + MEMORY % '"a/b"', 'storages."a/b": ', ("storage",)),
    "an empty name": ('default = ""\n' + MEMORY % '""', 'storages."": ', ("storage",)),
    "arrays that are nested too deep": ("x = " + "[" * 5000 + "]" * 5000, "is nested too deep", ()),
    "keys that are nested too deep": ("a." * 5000 + "b = 1", "is nested too deep", ()),
    "a number that is too long": ("max_bytes = " + "9" * 5000, "Exceeds the limit", ()),
    "an unknown default": ('default = "mian"\n' + MEMORY % "main", "default: ", ("'main'",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_file_and_key(name: str) -> None:
    """A wrong key, value or name is a `ConfigError` with file, exact key and, where there is one, the near miss."""
    text, key, parts = FAULTS[name]
    path = write(text)
    message = str(failure(path))
    assert message.startswith(f"{path}: {key}")
    assert sorted(os.listdir()) == []  # no folder was made of what was meant otherwise
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    ("config", "name"),
    [
        *((StorageConfig("s3://bucket"), name) for name in ("url", "options", "timeout", "attempts", "codec")),
        (StoreConfig(storages={}), "default"),
    ],
)
def test_a_configuration_cannot_be_changed(config: Any, name: str) -> None:
    """No field can be assigned: stores that share a configuration do not change one another's."""
    before = getattr(config, name)
    with pytest.raises(AttributeError):
        setattr(config, name, None)
    assert getattr(config, name) == before


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[storages.a]\nurl = \n", 2),
        (A + A, 3),
        (A + 'url = "memory://"\n', 3),
        ("\n\n[storages.a\n", 3),
        ("\n\n\nnonsense", 4),
    ],
    ids=["no value", "a storage twice", "a key twice", "no bracket", "nonsense"],
)
def test_a_fault_of_syntax_has_its_line(text: str, line: int) -> None:
    """What is no TOML is a `ConfigError` with file and line."""
    path = write(text)
    message = str(failure(path))
    assert message.startswith(str(path))
    assert f"line {line}," in message or f"{path}:{line}" in message or "end of document" in message


@pytest.mark.parametrize("text", ["", "[storages]\n", "# nothing\n"])
def test_no_storage_is_an_error(text: str) -> None:
    """A file that configures no storage is a `ConfigError` that names the file: which one it was may surprise."""
    path = write(text)
    assert str(path) in str(failure(path))
    assert "no storage" in str(failure(StoreConfig(storages={})))


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        pytest.param(StoreConfig(default="mian", storages={"main": STORAGE}), ("default: ", "'main'"), id="default"),
        pytest.param(StoreConfig(storages={"a": STORAGE, "b": STORAGE}), ("default", "a, b"), id="no default"),
        pytest.param(StoreConfig(storages={"a": STORAGE}, max_bytes=-1), ("max_bytes",), id="limit -1"),
        pytest.param(lone(codec="msgpck"), ("storages.a.codec: ", "'msgpack'"), id="codec"),
        pytest.param(lone("memroy://"), ("storages.a: ", "'memroy'", "'memory'"), id="scheme"),
        pytest.param(lone("s4://bucket"), ("storages.a: ", "'s4'; did you mean 's3'?"), id="short scheme"),
        pytest.param(lone("memory://", {CANARY: 1}), ("storages.a: ", "memory", "no options"), id="memory options"),
        pytest.param(
            lone("accounts", {"fil_mode": CANARY}), ("storages.a.options: ", "'file_mode'"), id="local options"
        ),
        pytest.param(lone("simplecache::file:///tmp"), ("storages.a: ", "chained"), id="chain"),
        pytest.param(lone(f"ftp://u:{CANARY}@h:x/y"), ("storages.a.url: ", "host or port"), id="port"),
        pytest.param(
            lone("ftp://h/x", {"pasword": CANARY}),
            ("storages.a.options: ", "'pasword'; did you mean"),
            id="ftp options",
        ),
        pytest.param(
            lone("zip://h/x", {"compresslevl": CANARY}),
            ("storages.a.options: ", "'compresslevel'"),
            id="misspelt options",
        ),
        pytest.param(lone("${BUCKET}/x"), ("storages.a.url: ", "${BUCKET}"), id="variable"),
        pytest.param(lone("~nobody-here/x"), ("storages.a.url: ", "'nobody-here'"), id="user"),
        pytest.param(lone("memory://", concurrency=0), ("storages.a.concurrency: ", "at least 1"), id="concurrency"),
        pytest.param(lone("memory://", timeout="5"), ("storages.a.timeout: ", "float", "str"), id="type"),
        pytest.param(lone(cast("Any", 5)), ("storages.a.url: ", "str", "int"), id="type of a url"),
        pytest.param(lone("memory://", cast("Any", [CANARY])), ("storages.a.options: ", "dict"), id="type of options"),
        pytest.param(StoreConfig(storages={"a": cast("Any", CANARY)}), ("storages.a: ", "StorageConfig"), id="text"),
        pytest.param(StoreConfig(storages=cast("Any", [STORAGE])), ("storages: ", "dict"), id="list"),
        pytest.param(StoreConfig(storages={cast("Any", 5): STORAGE}), ("storages.5: ", "text"), id="number as name"),
    ],
)
def test_a_fault_in_python_names_the_key(config: StoreConfig, parts: tuple[str, ...]) -> None:
    """The same faults in a `StoreConfig` are a `ConfigError` at open, with the storage's name and the near miss."""
    error = failure(config)
    assert [part for part in parts if part not in str(error)] == []
    assert type(error) is ConfigError
    assert isinstance(error, ValueError)
    assert not error.temporary


def test_a_policy_is_that_of_its_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engine, time, attempts and conditions are each storage's own; another has fsspec, 30 s, four and the probe."""
    own = 'engine = "obstore"\ntimeout = 5\nattempts = 1\nconditions = "trust"\n'
    config = load_config(write('default = "a"\nmax_bytes = 1000\n' + A + B + own))
    b = StorageConfig("memory://", engine="obstore", timeout=5.0, attempts=1, conditions="trust")
    assert config == StoreConfig(default="a", max_bytes=1000, storages={"a": STORAGE, "b": b})
    find = Mock(return_value=AsyncMock(side_effect=[Recording(verify=True), Recording(verify=True)]))

    async def main() -> list[object]:
        storages = await open_storages(config)
        return [await probed(storages.find(name).client) for name in ("a", "b")]

    async def probed(client: StorageClient, /) -> object:
        assert await client.honours("update", "", client.deadline())
        assert isinstance(client.backend, Recording)
        return client.policy.timeout, client.policy.attempts, "write" in client.backend.log

    monkeypatch.setattr("accountstore.storages.find_backend", find)
    assert anyio.run(main) == [(30.0, 4, True), (5.0, 1, False)]
    assert find.call_args_list == [call("memory", "fsspec", 30.0, False), call("memory", "obstore", 5.0, False)]


@pytest.mark.parametrize(
    ("url", "package"), [("git://folder", "pygit2"), ("dvc://folder", "dvc"), ("wandb://folder", "wandbfs")]
)
def test_a_missing_package_is_told_at_open(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol of fsspec's whose package is not installed fails at open and names the package to install."""
    monkeypatch.setitem(sys.modules, package, None)
    message = str(failure(lone(url)))
    assert message.startswith("storages.a: ")
    assert package in message
    assert "nstall" in message


@pytest.mark.parametrize("scheme", ["FILE", "Memory", "nonsense", "https+x"])
def test_an_unknown_scheme_is_told(scheme: str, tmp_path: Path) -> None:
    """A scheme that nobody provides is a `ConfigError` that names it; letter case is no difference."""
    config = lone(f"{scheme}://{tmp_path}/root")
    if scheme.lower() in {"file", "memory"}:
        assert opened(config) == ("a",)
    else:
        assert f"'{scheme}'" in str(failure(config))
    assert sorted(os.listdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A local storage whose folder cannot be made is a `ConfigError` with the reason, at open."""
    (tmp_path / "file").write_text("x")
    error = failure(lone(str(tmp_path / "file" / "root")))
    assert str(error).startswith("storages.a.url: ")
    assert "Not a directory" in str(error)


@pytest.mark.parametrize(
    "storage",
    [
        StorageConfig("memory://", {"password": CANARY}),
        StorageConfig("memory://", {"nested": {"list": [CANARY]}}),
        StorageConfig(f"sftp://me:{CANARY}@example.org/accounts"),
        StorageConfig(f"sftp://{CANARY}@example.org/accounts"),
        StorageConfig(f"sftp://me:p@{CANARY}@example.org/accounts"),
        StorageConfig(f"sftp://me:p/{CANARY}@example.org/accounts"),
        StorageConfig(f"sftp://me:{CANARY}/x@example.org/accounts"),
        StorageConfig(f"https://example.org/accounts?token={CANARY}"),
        StorageConfig(f"https://example.org/accounts#{CANARY}"),
        StorageConfig(f"https://example.org/accounts?token=a@{CANARY}"),
        StorageConfig(f"sftp://me:p#{CANARY}@example.org/accounts"),
        *(StorageConfig(f"sftp://me:{CANARY}{end}@example.org/accounts") for end in LINE_ENDS),
        *(StorageConfig(f"sftp://me:p{end}{CANARY}@example.org/accounts") for end in LINE_ENDS),
        StorageConfig(f"sftp:/me:{CANARY}@example.org/accounts"),
        StorageConfig(f"//me:{CANARY}@example.org/accounts"),
        StorageConfig(f"me:{CANARY}@example.org/accounts"),
        StorageConfig(f"simplecache::sftp://me:{CANARY}@example.org/accounts"),
        StorageConfig(f"abfs://me:{CANARY}@container/p"),
        StorageConfig(f"abfs://{CANARY.upper()}@me:{CANARY}@account.example.org/p"),
        StorageConfig(f"abfs://me@{CANARY}/x:y@account.example.org/p"),
        StorageConfig(f"abfs://me@u:1{CANARY}/2@account.example.org/p"),
        StorageConfig(f"abfs://me@u:123/{CANARY}@account.example.org/p"),
        StorageConfig(f"s3://me:{CANARY}/x@bucket/p"),
        StorageConfig(f"gs://me:p/{CANARY}@bucket/p"),
        StorageConfig(f"s3://bucket/p?token=a@{CANARY}"),
        StorageConfig(f"az://container@account.example.org/p?sig={CANARY}"),
        StorageConfig(f"az://container@account.example.org/p?sig=@{CANARY}"),
    ],
)
def test_a_configuration_does_not_show_its_secrets(storage: StorageConfig) -> None:
    """Options, the user part and the query of a URL are in no `repr`, `str`, format or rich form."""
    for value in (storage, StoreConfig(storages={"a": storage})):
        for shown in (repr(value), str(value), f"{value}", f"{[value]}", repr(getattr(value, "__rich_repr__", list)())):
            assert CANARY not in shown
    assert CANARY not in storage.redacted_url


@pytest.mark.parametrize(
    "config",
    [
        *(StorageConfig("s3://b", cast("Any", odd)) for odd in ([("secret", CANARY)], {CANARY}, (CANARY,), None)),
        StorageConfig("s3://b", cast("Any", {1: CANARY, "a": CANARY})),
        StorageConfig("s3://b", codec=cast("Any", {"secret": CANARY})),
        StoreConfig(storages=cast("Any", {"a": {"url": "s3://b", "options": {"secret": CANARY}}})),
        StoreConfig(storages=cast("Any", [f"sftp://me:{CANARY}@example.org/x"])),
    ],
)
def test_what_is_no_configuration_does_not_show_either(config: StorageConfig | StoreConfig) -> None:
    """What stands where a dict or a `StorageConfig` belongs may be a secret, and is in no `repr` or rich form."""
    assert CANARY not in repr(config) + repr(config.__rich_repr__())


def test_text_in_the_place_of_options_shows_no_letters() -> None:
    """Nor are the letters of a text in its place shown, each as an option."""
    assert "options=[]" in repr(StorageConfig("s3://b", cast("Any", CANARY)))


def test_a_configuration_shows_the_rest() -> None:
    """The control: the rest of the URL, the names of options and the codec are shown."""
    storage = StorageConfig("sftp://me:pw@example.org/mail/home", {"port": 22, "key": CANARY}, "msgpack")
    for part in ("sftp://", "example.org/mail/home", "port", "key", "msgpack"):
        assert part in repr(storage)
    shown = repr(StoreConfig(storages={"a": storage}, default="a"))
    assert f"storages={{'a': {storage!r}}}, default='a', max_bytes=" in shown


def test_a_folder_shows_whole() -> None:
    """The control: a folder with an @ in its name is no user part."""
    assert StorageConfig("/srv/me@example.org/accounts").redacted_url == "/srv/me@example.org/accounts"


@pytest.mark.parametrize("place", ["new@account.dfs.core.windows.net/x", "$web@127.0.0.1:10000/x/y", "c@a"])
def test_a_container_of_azure_shows(place: str) -> None:
    """What stands before the @ of Azure's URLs names the container: two of them in one account are told apart."""
    for scheme in ("az", "abfs", "abfss"):
        assert StorageConfig(f"{scheme}://{place}").redacted_url == f"{scheme}://{place}"
        assert StorageConfig(f"{scheme}://{place}?sig=x").redacted_url == f"{scheme}://{place}"
    assert StorageConfig(f"s3://{place}").redacted_url == f"s3://{place.partition('@')[2]}"


@pytest.mark.parametrize(
    "url",
    [
        *(f"{scheme}://bucket/team@example.org/x" for scheme in ("s3", "s3a", "gs", "gcs", "az", "abfs")),
        "s3://bucket/a:b@c:9/d",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mail/team@example.org",
        "abfs://c@account.dfs.core.windows.net/team@example.org/x",
    ],
)
def test_a_prefix_of_a_bucket_shows_whole(url: str) -> None:
    """A bucket has no user: an @ further on belongs to a folder, and the storage is not shown as another one."""
    assert StorageConfig(url).redacted_url == url
    assert StorageConfig(f"{url}?x=1").redacted_url == url


@pytest.mark.anyio
async def test_a_wrong_url_in_python_shows_no_password() -> None:
    """An error of a `StoreConfig` shows nothing of a URL's user part, in no frame either."""
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(lone(f"sftp://me:{CANARY}@host/x", timeout=0))
    assert CANARY not in shown(caught.value)


SECRET_FAULTS: Mapping[str, str] = {
    "a wrong key": '[storages.a]\nurl = "memory://"\nulr = 1\noptions = {{ p = "{0}" }}\n',
    "a wrong type": '[storages.a]\nurl = 5\noptions = {{ p = "{0}" }}\n',
    "a missing variable": '[storages.a]\nurl = "memory://"\noptions = {{ p = "{0}", q = "${{NO_SUCH}}" }}\n',
    "a variable and none": '[storages.a]\nurl = "memory://"\noptions = {{ p = "${{SECRET}}", q = "${{NO}}" }}\n',
    "no TOML": '[storages.a]\nurl = "memory://"\noptions = {{ p = "{0}" }}\n[\n',
    "no TOML in the secret": "[storages.a]\npassword = {0}\n",
    "a key twice": '[storages.a]\nurl = "memory://{0}"\nurl = "memory://{0}"\n',
    "options that the backend refuses": '[storages.a]\nurl = "memory://"\noptions = {{ p = "{0}" }}\n',
    "an unknown scheme": '[storages.a]\nurl = "nonsense://me:{0}@example.org/"\noptions = {{ p = "{0}" }}\n',
    "an unknown codec": '[storages.a]\nurl = "memory://"\ncodec = "x"\noptions = {{ p = "{0}" }}\n',
    **{
        f"a secret as {name}": f'[storages.a]\nurl = "memory://"\n{name} = "${{{{SECRET}}}}"\n'
        for name in ("codec", "engine", "conditions")
    },
    "a secret as default": 'default = "${{SECRET}}"\n[storages.a]\nurl = "memory://"\n',
    "no default": '[storages.a]\nurl = "memory://"\noptions = {{ p = "{0}" }}\n[storages.b]\nurl = "memory://"\n',
    "an unknown default": 'default = "c"\n[storages.a]\nurl = "memory://"\noptions = {{ p = "{0}" }}\n',
}


@pytest.mark.parametrize("name", SECRET_FAULTS)
def test_no_error_of_a_configuration_shows_its_secrets(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Message, attributes, chain and a traceback with local variables hold nothing of the options."""
    monkeypatch.setenv("SECRET", CANARY)
    path = write(SECRET_FAULTS[name].format(CANARY))
    assert CANARY not in shown(failure(path))


def test_a_traceback_with_locals_shows_what_is_in_frames() -> None:
    """The control: the search above finds a secret in a frame that the error passed."""

    def leak(secret: str) -> None:
        raise ConfigError("x")

    with pytest.raises(ConfigError) as caught:
        leak(CANARY)
    assert CANARY in shown(caught.value)


class Greeting(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A filesystem with a protocol of its own."""

    protocol = "greeting"


@pytest.mark.anyio
async def test_fsspecs_own_configuration_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults in fsspec's configuration reach a filesystem; options of the storage go before them."""
    monkeypatch.setitem(conf, "greeting", {"word": "hello", "tone": "low"})
    fsspec.register_implementation("greeting", Greeting, clobber=True)
    async with AccountStore.open(lone("greeting://x", {"tone": "high"})) as store:
        await store.save(AT, ACCOUNT)
        assert await store.get(AT) == ACCOUNT
        filesystem, _ = await store.filesystem()
    assert (filesystem.storage_options["word"], filesystem.storage_options["tone"]) == ("hello", "high")


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["sftp", "webhdfs"])
async def test_user_and_password_of_a_url_are_decoded(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user or password with characters that a URL cannot have is percent-encoded there, and reaches fsspec plain."""
    pytest.importorskip({"sftp": "paramiko", "webhdfs": "requests"}[scheme])
    kind: Any = fsspec.get_filesystem_class(scheme)
    made = Mock(side_effect=OSError)
    monkeypatch.setattr(kind, "__init__", made)
    monkeypatch.setattr(kind, "cachable", False)
    async with AccountStore.open(lone(f"{scheme}://m%40e:p%2Fw%25%23d@host/x", attempts=1)) as store:
        with pytest.raises(AccountStoreError):
            await store.get(AT)
    given = made.call_args.kwargs
    assert given.get("username", given.get("user")) == "m@e"
    assert given.get("password", "p/w%#d") == "p/w%#d"
    # The control: fsspec leaves them as they stand in the URL.
    left = kind._get_kwargs_from_urls(f"{scheme}://m%40e:p%2Fw%25%23d@host/x")
    assert left.get("username", left.get("user")) == "m%40e"


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["temppath", "host_key_policy"])
async def test_what_fsspec_takes_from_the_options_of_sftp_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither fsspec's signature nor that of the client below has these."""
    kind = pytest.importorskip("fsspec.implementations.sftp", exc_type=ImportError).SFTPFileSystem
    monkeypatch.setattr("fsspec.get_filesystem_class", {"sftp": kind}.__getitem__)
    async with AccountStore.open(lone("sftp://h/x", {name: "reject"})) as store:
        assert store.storages == ("a",)


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["ftp://[::1]/x", "ftp://me:p@[fe80::1]:21/x"])
async def test_an_address_of_ipv6_chains_nothing(url: str) -> None:
    """Its colons are those of a host."""
    async with AccountStore.open(lone(url)) as store:
        assert store.storages == ("a",)


class _Picky(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Passes on what it does not know, as filesystems do whose clients have the options."""

    protocol = "picky"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.connect(**options)

    @staticmethod
    def connect(*, user: str = "") -> None:
        """Make a connection."""


@pytest.mark.anyio
async def test_an_option_that_a_client_refuses_later_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the client below knows the options, the first call names the one that it does not know."""
    monkeypatch.setattr("fsspec.get_filesystem_class", {"picky": _Picky}.__getitem__)
    async with AccountStore.open(lone("picky://h/x", {"frobnicate": CANARY})) as store:
        with pytest.raises(BackendError, match="options: unknown 'frobnicate'") as caught:
            await store.get(AT)
    assert CANARY not in str(caught.value)


@pytest.mark.anyio
async def test_a_system_without_threads_is_told() -> None:
    """Opening needs a thread: where the system has none, that is the error, and it may pass."""
    with (
        patch("anyio.to_thread.run_sync", Mock(side_effect=RuntimeError("can't start new thread"))),
        pytest.raises(UnavailableError, match="no thread"),
    ):
        await AccountStore.open(lone("memory://"))


@pytest.mark.parametrize(
    ("config", "said"),
    [("memory://", "url"), ("sftp://me:canary-1c7e@host/x", "url"), (".", "StorageConfig"), ("no.toml", "no.toml")],
)
def test_what_is_no_file_is_told_apart(config: str, said: str) -> None:
    """A URL or a folder in the place of the configuration file is a `ConfigError` that says where it belongs."""
    assert said in str(failure(config))
    assert CANARY not in str(failure(config))


@pytest.mark.parametrize("config", [STORAGE, {"storages": {}}, 5, [STORAGE]])
def test_what_is_no_configuration_is_refused_at_once(config: Any) -> None:
    """Anything else is a `TypeError` of the call itself, which says what to write."""
    with pytest.raises(TypeError, match=r"AccountStore\.open\(StoreConfig\("):
        AccountStore.open(config)


@pytest.mark.parametrize(("concurrency", "together"), [(3, 3), (None, 8)])
@pytest.mark.anyio
async def test_operations_in_flight_are_bounded(
    concurrency: int | None, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`concurrency` bounds the operations of a storage that are in flight. Control: without it eight are, at once."""
    seen: list[int] = []

    class Counting(MemoryBackend):
        under_way = 0

        async def stat(self, key: str, /) -> Stat:
            self.under_way += 1
            seen.append(self.under_way)
            await anyio.sleep(0.01)
            self.under_way -= 1
            return await super().stat(key)

    monkeypatch.setattr("accountstore.storages.find_backend", Mock(return_value=AsyncMock(return_value=Counting())))
    async with AccountStore.open(lone(concurrency=concurrency)) as store, anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(store.exists, AT)
    assert max(seen) == together


def test_a_file_in_another_encoding_is_told() -> None:
    """A file in UTF-16, as some shells write it, is a `ConfigError` that says to save it as UTF-8."""
    assert "UTF-8" in str(failure(write((MEMORY % "a").encode("utf-16"))))
