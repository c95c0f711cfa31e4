"""Files that a configuration or a command names: regular ones only, for which nobody waits, and of a bounded size."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from doubles import raises

from accountstore import AccountStoreError, ConfigError
from accountstore.files import FileTooLargeError, NotRegularFileError, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    """Whoever waits at a pipe after all is interrupted."""
    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _interrupt(*_: object) -> None:
    raise TimeoutError


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    """What a file holds comes back whole, and masked in a traceback; one byte more than the limit is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_file(path, limit=10) == b"0123456789"
    assert "0123" not in repr(read_file(path))
    with pytest.raises(FileTooLargeError, match="more than 9 bytes"):
        read_file(path, limit=9)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A pipe without a writer, a device without an end, a folder, a path that is none: an `OSError` at once."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with raises(NotRegularFileError):
            read_file(path)
    with raises(IsADirectoryError):
        read_file(tmp_path)
    with raises(FileNotFoundError):
        read_file("a\0b")


def _configuration(path: str) -> object:
    from accountstore.config_file import load_config

    return load_config(path)


def _keys(path: str) -> object:
    from accountstore.sealing import read_keys

    return read_keys(path)


def _edited_keys(path: str) -> object:
    from accountstore.sealing import add_key

    return add_key(path)


def _token_file(path: str) -> object:
    from accountstore.sealing.transit import TransitKeys

    return TransitKeys("https://bao.invalid", "mail", token_file=path)


def _authorities(path: str) -> object:
    from accountstore.sealing.transit import TransitKeys

    return TransitKeys("https://bao.invalid", "mail", token="t", verify=path)


def _gateway(path: str) -> object:
    from accountstore.gateway.config import load_gateway_config

    return load_gateway_config(path)


def _gateway_client(path: str) -> object:
    from accountstore.gateway.adding import add_to_file
    from accountstore.gateway.config import Client

    return add_to_file(path, "client", Client(secrets=("x",), folder="mail"))


def _storage(path: str) -> object:
    from accountstore.cli.configfile import add_storage

    add_storage(path, "Mail", {"url": "mail"}, given=True, default=False)
    return None


def _import(path: str) -> object:
    from accountstore.cli.importing import _parsed  # pyright: ignore[reportPrivateUsage]

    return _parsed("himalaya", path, None, None, "ask")


def _names(path: str) -> object:
    from accountstore.cli.names import read_names

    return read_names(path)


def _marks(path: str) -> object:
    from accountstore.migration.marks import read_key

    return read_key(path)


def _certificates(path: str) -> object:
    from accountstore.backends.obstore.surroundings import certificates

    return certificates(path, "SSL_CERT_FILE")


def _google(path: str) -> object:
    from accountstore.backends.gcs_credentials import credentials_of

    os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = path
    return credentials_of({})


READERS: tuple[Callable[[str], object], ...] = (
    *(_configuration, _keys, _edited_keys, _token_file, _authorities, _gateway, _gateway_client),
    *(_storage, _import, _names, _marks, _certificates, _google),
)


@pytest.mark.parametrize("text", ["", "\n", "# ours", "\u00e4"])
def test_authorities_without_a_certificate_are_refused(tmp_path: Path, text: str) -> None:
    """A file that names no authority trusts none, and not those of the system; a folder of them is taken."""
    pytest.importorskip("httpx2")
    pytest.importorskip("cryptography")
    path = tmp_path / "ca.pem"
    path.write_text(text, encoding="utf-8")
    with raises(ConfigError):
        _authorities(str(path))
    assert _authorities(str(tmp_path))


@pytest.mark.parametrize("reader", READERS)
def test_whoever_reads_a_file_refuses_a_pipe(
    reader: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a user says which file is read, a pipe that nobody writes to is refused at once, by a typed error."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    try:
        with raises(AccountStoreError):
            reader(str(pipe))
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]
