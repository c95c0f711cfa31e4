"""The class of ours for what a backend raised: an error of the system, or of a client of SFTP, FTP, WebDAV or HTTP."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from accountstore.errors import (
    BackendError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    NotRegularError,
    UnavailableError,
)

__all__ = ("classify_error",)

_BY_ERRNO: Mapping[int, type[BackendError]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FullError),  # the last of a limit of the process
    errno.EROFS: DeniedError,
    errno.ENXIO: NotRegularError,  # a socket
    **dict.fromkeys((errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY), NotRegularError),
    **dict.fromkeys((errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE), UnavailableError),
    **dict.fromkeys((errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH), UnavailableError),
    **dict.fromkeys((errno.ENETDOWN, errno.ENETUNREACH), UnavailableError),
}
_BY_NAME: Mapping[str, type[BackendError]] = {
    **dict.fromkeys(("asyncssh.ChannelOpenError", "asyncssh.ConnectionLost"), UnavailableError),
    **dict.fromkeys(("asyncssh.SFTPConnectionLost", "asyncssh.SFTPNoConnection"), UnavailableError),
    **dict.fromkeys(("asyncssh.PermissionDenied", "asyncssh.SFTPPermissionDenied"), DeniedError),
    "asyncssh.SFTPWriteProtect": DeniedError,
    **dict.fromkeys(("asyncssh.SFTPNoSpaceOnFilesystem", "asyncssh.SFTPQuotaExceeded"), FullError),
    "ftplib.error_temp": UnavailableError,
    **dict.fromkeys(("httpx.InvalidURL", "httpx.UnsupportedProtocol"), BackendError),
    "httpx.TransportError": UnavailableError,
    "paramiko.AuthenticationException": DeniedError,
    **dict.fromkeys(("paramiko.BadHostKeyException", "paramiko.IncompatiblePeer"), BackendError),
    **dict.fromkeys(("paramiko.NoValidConnectionsError", "paramiko.SSHException"), UnavailableError),
    **dict.fromkeys(("requests.ConnectionError", "requests.Timeout"), UnavailableError),
    **dict.fromkeys(("webdav4.BadGatewayError", "webdav4.ResourceLocked"), UnavailableError),
    "webdav4.ForbiddenOperation": DeniedError,
    "webdav4.InsufficientStorage": FullError,
}
"""Errors of clients that need not be installed, by the name of the package, and of the class or of one above it."""
_BY_REPLY: Mapping[str, type[BackendError]] = {
    **dict.fromkeys(("530", "532"), DeniedError),
    **dict.fromkeys(("452", "552"), FullError),
}
"""FTP's (RFC 959 section 4.2), with which the text of an error begins."""
_BY_STATUS: Mapping[int, type[BackendError]] = {
    **dict.fromkeys((401, 403, 407), DeniedError),
    **dict.fromkeys((408, 423, 425, 429), UnavailableError),
    507: FullError,
}
_BY_TEXT: Mapping[str, type[BackendError]] = {
    "No authentication methods": DeniedError,
    "not found in known_hosts": BackendError,
    "private key": DeniedError,
    "Socket is closed": UnavailableError,
}
"""What paramiko says where its class says less."""


def classify_error(error: Exception, /) -> type[BackendError]:
    """The class of ours for what a backend raised: its own, that of an `OSError` by errno and then by type, or that of
    a client's error by its name or the server's answer.
    """
    if isinstance(error, BackendError):
        return type(error)
    if type(error).__name__ == "gaierror":  # of socket, which this module does not need; its numbers are no errnos
        return UnavailableError
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    match error:
        case FileNotFoundError():
            return NotFoundError
        case FileExistsError():
            return ExistsError
        case PermissionError():
            return DeniedError
        case ConnectionError() | TimeoutError() | BlockingIOError() | EOFError():
            return UnavailableError
        case _:
            return _of_client(error)


def _of_client(error: Exception, /) -> type[BackendError]:
    names = [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__]
    if names[0].startswith("ftplib.") and str(error)[:3] in _BY_REPLY:
        return _BY_REPLY[str(error)[:3]]
    if names[0] in {"paramiko.SSHException", "builtins.OSError"}:
        for text, kind in _BY_TEXT.items():
            if text in str(error):
                return kind
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return _BY_STATUS.get(status, UnavailableError if status >= 500 and status not in {501, 505} else BackendError)
    return next((_BY_NAME[name] for name in names if name in _BY_NAME), BackendError)
