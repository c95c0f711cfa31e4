"""fsspec's other protocols at opening: what surely fails later is refused there by its name, and nothing else is."""

from __future__ import annotations

import ssl
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from accountstore import (
    Account,
    AccountStore,
    ConfigError,
    Location,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
)
from accountstore.backends.filesystems import filesystem_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.once]

CANARY = "canary-5b1d"
WEB = "http://127.0.0.1:1/x"
FTP = "ftp://127.0.0.1:1/x"
SSH = "sftp://127.0.0.1:1/x"
KNOWN_TLS = "SECURITY_PROTOCOL_MAP"


def need(url: str) -> None:
    """Skip the test where fsspec has no filesystem for a URL here."""
    try:
        fsspec.get_filesystem_class(url.partition("://")[0])
    except (ImportError, ValueError):
        pytest.skip("the package is not installed, or this release does not know the protocol")


async def refusal(url: str, options: dict[str, Any]) -> str:
    """Why a store on a URL does not open; nothing of a value is told."""
    need(url)
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(StoreConfig(storages={"s": StorageConfig(url, options)}))
    assert CANARY not in str(caught.value)
    return str(caught.value).removeprefix("storages.s").lstrip(".: ")


UNKNOWN = [
    (WEB, {"bogus": CANARY}, "options: unknown 'bogus'"),
    (WEB, {"hedaers": {}}, "options: unknown 'hedaers'; did you mean 'headers'?"),
    (WEB, {"username": CANARY}, "options: unknown 'username'; here it is a part of the url: //user:password@host"),
    (WEB, {"method": CANARY}, "options: unknown 'method'"),
    (FTP, {"bogus": CANARY}, "options: unknown 'bogus'"),
    (SSH, {"bogus": CANARY}, "options: unknown 'bogus'"),
]
WRONG = [
    (WEB, {"ssl": CANARY}, "options: 'ssl' must be true or false"),
    (WEB, {"headers": CANARY}, "options: 'headers' must be a table"),
    (WEB, {"timeout": "5"}, "options: 'timeout' must be a number"),
    (WEB, {"auth": CANARY}, "options: 'auth' must be BasicAuth"),
    (WEB, {"allow_redirects": "false"}, "options: 'allow_redirects' must be true or false"),
    (WEB, {"client_kwargs": {"timeout": 5}}, "options.client_kwargs: 'timeout' must be ClientTimeout"),
    (WEB, {"client_kwargs": {"headers": CANARY}}, "options.client_kwargs: 'headers' must be a table"),
    (FTP, {"username": 5}, "options: 'username' must be a string"),
    (FTP, {"password": 5}, "options: 'password' must be a string"),
    (FTP, {"timeout": "5"}, "options: 'timeout' must be a number"),
    (FTP, {"tls": 5}, "options: 'tls' must be true or false or a string"),
    (FTP, {"tls": "false"}, "options: 'tls' has a text that is none of "),
    (SSH, {"username": 5}, "options: 'username' must be a string"),
    (SSH, {"timeout": "5"}, "options: 'timeout' must be a number"),
    *(
        (url, {"port": text}, "options: 'port' must be a whole number")
        for url in (FTP, SSH)
        for text in ("", CANARY, "-1", "2.5", " 21", "0x15", "\u0662\u0661", "210000")
    ),
]
MISSING = [
    ("http:///x", {}, "url: has no host"),
    ("https://:1/x", {}, "url: has no host"),
    ("ftp:///x", {}, "url: has no host"),
    ("sftp:///x", {}, "url: has no host"),
    ("webhdfs:///x", {}, "url: has no host"),
    *((f"{scheme}://u@/x", {}, "url: has no host") for scheme in ("http", "ftp", "sftp")),
    *((f"https://h:{port}/x", {}, "url: has no host or port that can be one") for port in ("canary-5b1d", "99999")),
    ("https://h:0/x", {}, "url: has no host, or the port 0"),
    ("github://x", {}, "options: 'org' is missing"),
    ("github://x", {"org": "x"}, "options: 'repo' is missing"),
    ("dbfs://x/y", {"instance": "x"}, "options: 'token' is missing"),
    ("jupyter://127.0.0.1:1/x", {}, "options: 'url' is missing"),
    ("reference://x", {}, "options: 'fo' is missing"),
    *(
        (f"{scheme}://x/y", {}, f"options: 'fs' or 'target_protocol' is missing: '{scheme}' stands on another storage")
        for scheme in ("blockcache", "filecache", "simplecache", "asyncwrapper", "dask")
    ),
    ("dir://x/y", {}, "options: 'path' or 'fo' or 'fs' or 'target_protocol' is missing: 'dir' stands on another"),
    *((f"{scheme}://x/y", {}, "options: 'fo' is missing") for scheme in ("zip", "tar")),
    ("data://x/y", {}, "the protocol 'data' stores nothing"),
]


@pytest.mark.parametrize(("url", "options", "said"), [*UNKNOWN, *WRONG, *MISSING], ids=repr)
async def test_what_would_fail_at_the_first_call_is_refused_at_opening(
    url: str, options: dict[str, Any], said: str
) -> None:
    """An option that the filesystem surely does not know or cannot use, one that it needs and has not, and a URL
    without its host are told by their names when the store is opened.
    """
    if options.get("tls") == "false" and not hasattr(import_module("fsspec.implementations.ftp"), KNOWN_TLS):
        pytest.skip("this release has no texts for it")
    assert (await refusal(url, options)).startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bogus": CANARY}, "options: unknown 'bogus'"),
        ({"port": CANARY}, "options: 'port' must be a whole number"),
        ({"allow_agent": "false"}, "options: 'allow_agent' must be true or false"),
        (
            {"host_key_policy": CANARY},
            "options: 'host_key_policy' has a text that is none of auto_add, reject, warning",
        ),
    ],
    ids=str,
)
async def test_sftp_by_paramiko(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str) -> None:
    """The same by fsspec's own filesystem, which the package sshfs takes the place of where it is installed."""
    kind = pytest.importorskip("fsspec.implementations.sftp", exc_type=ImportError)
    monkeypatch.setattr("fsspec.get_filesystem_class", {"sftp": kind.SFTPFileSystem}.__getitem__)
    if "host_key_policy" in options and not hasattr(kind, "HOST_KEY_POLICIES"):
        pytest.skip("this release has no policies")
    assert (await refusal(SSH, options)).startswith(said)


async def test_a_package_that_is_imported_late_is_missed_at_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem whose package is imported when it connects does not open without it."""
    monkeypatch.setitem(import_module("sys").modules, "pyarrow.fs", None)
    for scheme in ("hdfs", "arrow_hdfs"):
        assert "needs a package that is not installed: pyarrow" in await refusal(f"{scheme}://h/x", {})


def basic() -> dict[str, Any]:
    """What only Python can say."""
    aiohttp = pytest.importorskip("aiohttp")
    timeout = aiohttp.ClientTimeout(total=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        auth = aiohttp.BasicAuth("me", CANARY)
    return {"auth": auth, "timeout": timeout, "ssl": ssl.create_default_context(), "client_kwargs": {"auth": auth}}


USABLE: list[tuple[str, Callable[[], dict[str, Any]]]] = [
    (WEB, lambda: {"headers": {"a": "b"}, "timeout": 5.5, "ssl": False, "simple_links": False, "max_paths": 5}),
    (WEB, lambda: {"headers": [("a", "b")], "ssl": None, "block_size": 0, "proxy": "http://127.0.0.1:1"}),
    (WEB, basic),
    (FTP, lambda: {"username": "me", "password": CANARY, "port": "21", "tls": True, "timeout": 5}),
    (FTP, lambda: {"username": None, "tls": "tls", "use_listings_cache": False}),
    ("ftp:///x", lambda: {"host": "127.0.0.1"}),
    ("https://[::1]:8443/x", dict),
    ("https://h:/x", dict),
    (SSH, lambda: {"username": "me", "port": 22, "timeout": 5}),
    (SSH, lambda: {"port": "2222"}),
    ("github://o:r@main/x", dict),
    ("github://x", lambda: {"org": "o", "repo": "r"}),
    ("dir://x", lambda: {"target_protocol": "memory", "path": "/"}),
    ("simplecache://x", lambda: {"target_protocol": "memory"}),
]


@pytest.mark.parametrize(("url", "options"), USABLE, ids=lambda value: value if isinstance(value, str) else "")
async def test_control_what_may_work_opens(url: str, options: Callable[[], dict[str, Any]]) -> None:
    """The control: options of the right name and kind, None for the default, and what Python alone can say."""
    need(url)
    async with AccountStore.open(StoreConfig(storages={"s": StorageConfig(url, options())})) as store:
        assert store.storages == ("s",)


PORTS = [
    (FTP, "fsspec.implementations.ftp", "FTPFileSystem"),
    (SSH, "fsspec.implementations.sftp", "SFTPFileSystem"),
    (SSH, "sshfs", "SSHFileSystem"),
]


@pytest.mark.parametrize(("url", "module", "name"), PORTS)
@pytest.mark.parametrize("by", ["options", "configuration"])
def test_a_port_as_text_is_the_number(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, name: str, by: str
) -> None:
    """The clients of file servers are told a number where the options, or fsspec's own configuration, have the text of
    one, as a variable of the environment is; any other is told as it is given.
    """
    kind: Any = getattr(pytest.importorskip(module, exc_type=ImportError), name)
    scheme = url.partition("://")[0]
    monkeypatch.setattr("fsspec.get_filesystem_class", {scheme: kind}.__getitem__)
    options: dict[str, object] = {"port": "2121"}
    if by == "configuration":
        url = url.replace(":1/", "/")
        monkeypatch.setitem(import_module("fsspec.config").conf, scheme, options)
        options = {}
    connect: Any = filesystem_of(url, options)[0]
    assert connect.keywords["port"] == 2121
    connect = filesystem_of(FTP if scheme == "ftp" else SSH, {"port": 22})[0]
    assert connect.keywords["port"] == 22


async def test_a_folder_by_its_path_alone_is_a_local_one(tmp_path: Path) -> None:
    """What `dir://` stands on is the local file system where nothing else is named, as fsspec has it."""
    config = StorageConfig("dir://", {"path": str(tmp_path)})
    account = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
    async with AccountStore.open(StoreConfig(storages={"s": config})) as store:
        await store.save(Location("a.account"), account)
        assert await store.get(Location("a.account")) == account
    assert [path.name for path in tmp_path.iterdir()] == ["a.account"]


async def test_what_a_session_of_ones_own_takes_is_not_known() -> None:
    """With `get_client` the names of the session's options are not checked; those of the filesystem are as before."""
    need(WEB)

    async def session(**_: object) -> None:
        """Is not called."""

    options: dict[str, Any] = {"get_client": session, "tries": 3, "client_kwargs": {"tries": 3, "timeout": 5}}
    async with AccountStore.open(StoreConfig(storages={"s": StorageConfig(WEB, options)})) as store:
        assert store.storages == ("s",)
    assert await refusal(WEB, {**options, "simple_links": CANARY}) == "options: 'simple_links' must be true or false"
    assert (await refusal(WEB, {**options, "client_kwarg": {}})).startswith("options: unknown 'client_kwarg'; did you")
    for name in ("tries", "client_kwargs"):  # the control: without one of its own
        assert "unknown 'tries'" in await refusal(WEB, {name: options[name]})


async def test_what_is_missing_may_be_in_the_configuration_of_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem takes from there what it is not given."""
    need("github://x")
    configuration: Any = import_module("fsspec.config")
    monkeypatch.setitem(configuration.conf, "github", {"org": "o", "repo": "r"})
    async with AccountStore.open(StoreConfig(storages={"s": StorageConfig("github://x")})) as store:
        assert store.storages == ("s",)


class _Plain(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Takes what it names, and nothing else."""

    protocol = "plain"

    def __init__(self, place: str, *, colour: str = "") -> None:
        super().__init__()


async def test_a_filesystem_that_passes_nothing_on_knows_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a filesystem takes no other options than those that it names, another one does not open."""
    monkeypatch.setattr("fsspec.get_filesystem_class", {"plain": _Plain}.__getitem__)
    with pytest.raises(ConfigError, match="unknown 'frobnicate'"):
        await AccountStore.open(StoreConfig(storages={"s": StorageConfig("plain://x", {"frobnicate": 1})}))
    with pytest.raises(ConfigError, match="'place' is missing"):
        await AccountStore.open(StoreConfig(storages={"s": StorageConfig("plain://x", {"colour": "red"})}))
    options = {"place": "x", "colour": "red"}
    async with AccountStore.open(StoreConfig(storages={"s": StorageConfig("plain://x", options)})) as store:
        assert store.storages == ("s",)
