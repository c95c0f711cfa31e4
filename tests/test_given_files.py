"""Files that a configuration or a command names: regular ones only, for which nobody waits, and of a bounded size."""

from __future__ import annotations

import errno
import os
import signal
import stat
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from doubles import raises

from accountstore import AccountStoreError, ConfigError
from accountstore.files import FileTooLargeError, NotRegularFileError, read_file, take_over, written_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


@dataclass
class Kernel:
    """System calls of a user who may give the open file 2 to some owners and groups alone; 1 is what it replaces."""

    files: dict[int, tuple[int, int, int]]
    may: frozenset[int]
    acls: dict[int, bytes] = field(default_factory=dict[int, bytes])
    takes_acls: bool = True
    refusal: int = errno.EPERM
    synced: bool = True

    def fstat(self, fd: int, /) -> os.stat_result:
        owner, group, mode = self.files[fd]
        return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, group, 0, 0, 0, 0))

    def fchown(self, fd: int, owner: int, group: int, /) -> None:
        if not {owner, group} <= self.may | {-1, *self.files[fd][:2]}:
            raise OSError(self.refusal, os.strerror(self.refusal))
        self.files[fd] = (self.files[fd][0] if owner == -1 else owner, group, self.files[fd][2])
        self.synced = False

    def fchmod(self, fd: int, mode: int, /) -> None:
        self.files[fd] = (*self.files[fd][:2], mode)
        self.synced = False

    def fsync(self, fd: int, /) -> None:
        self.synced = True

    def getxattr(self, fd: int, _: str, /) -> bytes:
        if fd not in self.acls:
            raise OSError(errno.ENODATA, "No data available")
        return self.acls[fd]

    def setxattr(self, fd: int, _: str, acl: bytes, /) -> None:
        if not self.takes_acls:
            raise OSError(errno.ENOTSUP, "Operation not supported")
        self.acls[fd] = acl

    def removexattr(self, fd: int, _: str, /) -> None:
        del self.acls[fd]


OLD = (0, 3000, 0o640)
NEW = (1001, 100, 0o600)


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EINVAL], ids=["not allowed", "not mapped"])
@pytest.mark.parametrize(
    ("old", "may", "taken"),
    [
        (OLD, {0, 3000}, OLD),
        (OLD, {3000}, (1001, 3000, 0o640)),
        (OLD, set[int](), (1001, 100, 0o600)),
        ((0, 100, 0o664), set[int](), (1001, 100, 0o664)),
        ((1001, 3000, 0o664), set[int](), (1001, 100, 0o604)),
    ],
)
def test_what_takes_a_files_place_is_open_to_nobody_else(
    old: tuple[int, int, int], may: set[int], taken: tuple[int, int, int], refusal: int
) -> None:
    """A new file has the owner of the old one if it may be given away, else its group; where it has another group, that
    is given nothing. It is on the disk as such. So it is where a user namespace does not map the owner.
    """
    kernel = Kernel({1: old, 2: NEW}, frozenset(may), refusal=refusal)
    take_over(2, 1, kernel)
    assert kernel.files == {1: old, 2: taken}
    assert kernel.synced


@pytest.mark.skipif(not hasattr(os, "getxattr"), reason="this system has no POSIX ACLs")
@pytest.mark.parametrize(
    ("new", "acls", "takes_acls", "taken", "left"),
    [
        (NEW, {1: b"old"}, True, OLD, b"old"),
        (OLD, {1: b"old"}, True, OLD, b"old"),
        (OLD, {1: b"old", 2: b"old"}, False, OLD, b"old"),
        (NEW, {1: b"old"}, False, (0, 3000, 0o600), None),
        (NEW, {2: b"the folder's"}, True, OLD, None),
        (OLD, {2: b"the folder's"}, True, OLD, None),
    ],
)
def test_what_takes_a_files_place_has_its_acl(
    new: tuple[int, int, int], acls: dict[int, bytes], takes_acls: bool, taken: tuple[int, int, int], left: bytes | None
) -> None:
    """A new file has the POSIX ACL of the old one, or none; where it cannot, the group's bits, which are the mask of an
    ACL and would be the group's own without it, are not set.
    """
    kernel = Kernel({1: OLD, 2: new}, frozenset({0, 3000}), acls, takes_acls)
    take_over(2, 1, kernel)
    assert kernel.files[2] == taken
    assert kernel.acls.get(2) == left
    assert kernel.synced


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_configuration_that_another_of_the_group_changes_stays_the_groups() -> None:
    """It keeps group and mode, though its owner changes: nobody of the other user's own group can read it."""
    groups = os.getgroups()
    with TemporaryDirectory(prefix="accountstore-test-") as folder:
        path = Path(folder, "accountstore.toml")
        path.write_bytes(b"1")
        path.chmod(0o640)
        os.chown(path, 0, 3000)
        os.chmod(folder, 0o777)
        if not all(above.stat().st_mode & stat.S_IXOTH for above in path.parents):
            pytest.skip("the folder for temporary files is not open to other users")
        try:
            os.setgroups([3000])
            os.setegid(100)
            os.seteuid(1001)
            with written_beside(str(path), b"2") as temporary:
                os.replace(temporary, path)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1001, 3000, 0o640)
        assert path.read_bytes() == b"2"
