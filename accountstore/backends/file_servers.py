"""File servers by fsspec's clients, FTP and SFTP: folders as they are listed, and what the clients' errors mean."""

from __future__ import annotations

import ftplib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from inspect import signature
from socket import SHUT_RDWR, socket
from typing import Any

from fsspec.implementations.ftp import FTPFileSystem

from accountstore.backends.base import (
    BackendError,
    DeniedError,
    FullError,
    UnavailableError,
    UnsupportedError,
    classify_error,
)
from accountstore.backends.object_store import finalizers

_UNKNOWN_COMMAND = frozenset({"500", "501", "502", "504"})
_PERHAPS_MISSING = frozenset({"450", "501", "550"})
_MISSING_OR_FORBIDDEN = "550"
_REFUSED = frozenset({"534", "550", "553"})
"""Codes by which a server refuses what is there: that something is missing is found out before."""
_COLUMNS = 9
_MOST_LISTED = 256 << 20
"""Bytes of a folder's listing that are taken into memory."""
TRIES = 5
"""How often what a server refuses is asked for: others may make and remove it between a request and a look."""
_DENIED_OR_FULL: Mapping[type[BackendError], str] = {
    DeniedError: "access is denied",
    FullError: "the storage is full",
}
_OF_FTP: Mapping[type[BackendError], str] = {
    **_DENIED_OR_FULL,
    UnavailableError: "the FTP server is busy, or has no connection for data",
    BackendError: "the FTP server refused the request",
}
_OF_SSH: Mapping[type[BackendError], str] = {
    **_DENIED_OR_FULL,
    UnavailableError: "the connection to the server is lost",
}
"""What is said of the errors of ftplib, and of those of asyncssh, on which sshfs stands, by the classes of ours."""


class _EndlessError(Exception):
    """A listing has more than `_MOST_LISTED` bytes. Its connection is of no use any more."""


class _Cuttable:
    """Mixed into a client of ftplib: it keeps the connection on which data come and go, to be cut off with its own."""

    data: Any = None
    is_cut = False

    def ntransfercmd(self, *arguments: Any) -> Any:
        """As ftplib has it, for all transfers."""
        found: Any = super().ntransfercmd(*arguments)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
        self.data = found[0]
        if self.is_cut:
            found[0].close()
            raise ConnectionError
        return found


@cache
def _cuttable(kind: Any, /) -> Any:
    return type("_Client", (_Cuttable, kind), {})


class _FtpFileSystem(FTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's own, which takes any refusal, busy servers' too, for an empty folder and a missing file.

    In FTP one code (550) says that something is missing and that it may not be seen. The folder above tells which.
    """

    def __del__(self) -> None:
        close(self)  # also where it could not be made

    def _connect(self) -> None:
        super()._connect()
        self.ftp.__class__ = _cuttable(self.ftp.__class__)  # fsspec takes the class for itself

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """The entries of a folder. Raises `FileNotFoundError` where the folder above does not have it, else what the
        server said. Names that are not of the encoding have surrogates.
        """
        found = self._listed(self._strip_protocol(path))
        return found if detail else sorted(entry["name"] for entry in found)

    def _listed(self, path: str, /) -> list[dict[str, Any]]:
        tries = 0
        while True:
            tries += 1
            try:
                told = (_entry(path, name, facts) for name, facts in self._entries(path) if name not in {".", ".."})
                return [entry for entry in told if entry["type"] not in {"cdir", "pdir"}]
            except ftplib.Error as refusal:
                if path == "/" or _code(refusal) not in _PERHAPS_MISSING:
                    raise
                above = self.info(path)  # raises where that cannot be known
                if above["type"] == "file":
                    return [above]
                if tries == TRIES:  # else it may have come only now
                    raise

    def _entries(self, path: str, /) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Each name in a folder, and what the server says of it."""
        try:
            yield from map(_machine_line, self._lines(f"MLSD {path}"))
        except ftplib.error_perm as refusal:
            if _code(refusal) not in _UNKNOWN_COMMAND:
                raise
            yield from _human_lines(self._lines(f"LIST {path}"))

    def _lines(self, command: str, /) -> list[str]:
        pieces: list[bytes] = []
        left = _MOST_LISTED

        def take(piece: bytes) -> None:
            nonlocal left
            left -= len(piece)
            if left < 0:
                raise _EndlessError
            pieces.append(piece)

        ending = self.ftp.retrbinary(command, take)
        if "failed to open" in ending:  # vsftpd: "226 Transfer done (but failed to open directory)."
            raise ftplib.error_perm("550")  # noqa: S321 -- the client's own
        text = b"".join(pieces).decode(self.encoding, "surrogateescape")
        return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def _machine_line(line: str, /) -> tuple[str, Mapping[str, str]]:
    """A line of MLSD (RFC 3659 section 7)."""
    facts, _, name = line.partition(" ")
    pairs = (fact.partition("=") for fact in facts.split(";") if fact)
    return name, {key.lower(): value for key, _, value in pairs}


def _human_lines(lines: list[str], /) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Lines of LIST, as `ls -l` has them. Raises `BackendError` where none is: the folder would pass for empty."""
    rows = [line.split(maxsplit=_COLUMNS - 1) for line in lines if not re.fullmatch(r"\w+ \d+", line)]  # total 8
    full = [row for row in rows if len(row) == _COLUMNS]
    if rows and not full:
        raise BackendError("the FTP server's listings are not understood: they must be those of MLSD or ls")
    for mode, _, owner, group, size, *moment, name in full:
        shown = name.partition(" -> ")[0] if mode.startswith("l") else name
        facts = {"type": "dir" if mode.startswith("d") else "file", "size": size, "modify": " ".join(moment)}
        yield shown, facts | {"unix.mode": mode, "unix.owner": owner, "unix.group": group}


def _entry(path: str, name: str, facts: Mapping[str, str], /) -> dict[str, Any]:
    """An entry as fsspec has it; its size is None where the server tells none."""
    kind, size = facts.get("type", "").lower(), facts.get("size", "")
    folder = kind == "dir"
    return {
        **facts,
        "name": f"{path.rstrip('/')}/{name.lstrip('/')}",
        "type": "directory" if folder else kind,
        "size": 0 if folder else int(size) if size.isdecimal() else None,
    }


def is_ambiguous(error: Exception, /) -> bool:
    """Whether an FTP server has refused what is there, or was missing: others may have made it only now."""
    return isinstance(error, ftplib.error_perm) and _code(error) == _MISSING_OR_FORBIDDEN


def client_for(kind: Any, options: Mapping[str, object], /) -> tuple[Any, Mapping[str, object]]:
    """The class and the options to take for a class of fsspec's and its options: for FTP the class above; sshfs is to
    tell names that are not UTF-8.
    """
    if kind is FTPFileSystem:
        kind = _FtpFileSystem
    if "sftp_client_kwargs" in signature(kind.__init__).parameters:
        options = {"sftp_client_kwargs": {"path_errors": "surrogateescape"}, **options}
    return kind, options


def entries_of(fs: Any, path: str, /) -> Any:
    """The entries of a folder. Names that are not UTF-8 have surrogates."""
    try:
        return fs.ls(path, detail=True)
    except UnicodeDecodeError:  # by paramiko, which has asked for more than it has read
        if not hasattr(fs, "ssh_kwargs"):
            raise
    close(fs)
    try:
        fs._connect()  # noqa: SLF001 -- it has no other way
    except Exception:  # noqa: BLE001 -- the next call connects as well, and says why
        raise ConnectionError("the connection could not be made anew") from None
    return list(_sftp_entries(fs, path))


def _sftp_entries(fs: Any, path: str, /) -> Iterator[Any]:
    """The entries of a folder as paramiko's own listing has them, which decodes the names for itself."""
    paramiko: Any = import_module("paramiko")
    ask, codes = fs.ftp._request, paramiko.sftp  # noqa: SLF001 -- as above
    handle = ask(codes.CMD_OPENDIR, path.encode())[1].get_string()
    with suppress(EOFError):
        while True:
            answer = ask(codes.CMD_READDIR, handle)[1]
            for _ in range(answer.get_int()):
                name, _ = answer.get_string().decode("utf-8", "surrogateescape"), answer.get_string()
                found = paramiko.SFTPAttributes._from_msg(answer, name, "")  # noqa: SLF001 -- as above
                if name not in {".", ".."}:
                    yield fs._decode_stat(found, path)  # noqa: SLF001 -- as above
    ask(codes.CMD_CLOSE, handle)


def meaning(error: Exception, /) -> Exception:
    """What an error of a client's own means; itself, where it is none."""
    kind = classify_error(error)
    if isinstance(error, _EndlessError):
        return kind(f"the folder's listing has more than {_MOST_LISTED >> 20} MiB")
    if type(error) is NotImplementedError:
        return UnsupportedError("the protocol has no such request")
    if isinstance(error, ftplib.Error):
        code = _code(error)
        kind = DeniedError if code in _REFUSED else kind
        return kind(f"{_OF_FTP[kind]} ({code})")
    if _is_of_asyncssh(error) and kind in _OF_SSH:
        return kind(f"{_OF_SSH[kind]} ({type(error).__name__})")
    return error


def is_lost(error: Exception, /) -> bool:
    """Whether an error of asyncssh's says that its connection is gone, which sshfs keeps all the same."""
    return _is_of_asyncssh(error) and classify_error(error) is UnavailableError


def _is_of_asyncssh(error: Exception, /) -> bool:
    return type(error).__module__.startswith("asyncssh.")


def _code(error: ftplib.Error, /) -> str:
    """The code of an FTP server's answer; nothing of its text."""
    found = re.match("[0-9]{3}", str(error))
    return found[0] if found else "no code"


def shut(fs: Any, /) -> None:
    """Cut off the connections of a blocking filesystem for FTP or SFTP, so that a call under way on them ends, and
    sends nothing more. It does not block.
    """
    client: Any = getattr(fs, "client", None)
    ftp: Any = getattr(fs, "ftp", None)
    if isinstance(ftp, _Cuttable):
        ftp.is_cut = True
    transport = client.get_transport() if hasattr(client, "get_transport") else None
    for sock in (getattr(ftp, "sock", None), getattr(ftp, "data", None), getattr(transport, "sock", None)):
        if isinstance(sock, socket):
            with suppress(OSError):
                socket.shutdown(sock, SHUT_RDWR)  # that of TLS would let what is just sent leave as it stands


def close(fs: Any, /) -> None:
    """Close what a filesystem, if there is one, holds open: fsspec has no method for that.

    An asynchronous one closes its session in a finalizer, which the garbage collector may run on an event loop that is
    not the session's. Of the blocking ones, those for FTP and SFTP have clients; a call that hangs on one ends.
    """
    if fs is not None and fs.async_impl:
        for finalizer in finalizers(fs):
            finalizer()
        return
    shut(fs)  # ftplib's own `close` waits for a call that reads
    for name in ("client", "ftp"):  # paramiko's connection first: its channel's `close` waits for a call that writes
        end = getattr(getattr(fs, name, None), "close", None)
        if end is not None:
            with suppress(Exception):  # it may be closed or broken already
                end()
