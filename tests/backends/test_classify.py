"""What the errors of clients of SFTP, FTP, WebDAV and HTTP mean."""

from __future__ import annotations

import errno
import ftplib
from typing import TYPE_CHECKING, Any

import pytest

from accountstore import errors
from accountstore.backends.base import classify_error
from accountstore.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fileservers import Remote

asyncssh: Any = pytest.importorskip("asyncssh")
httpx: Any = pytest.importorskip("httpx")
paramiko: Any = pytest.importorskip("paramiko")

pytest_plugins = ["fileservers"]


def _of_webdav(name: str, status: int = 0) -> Exception:
    """An error as the client of WebDAV has it, which is no package of the tests."""
    error: Exception = type(name, (Exception,), {"__module__": "webdav4.client"})("text")
    if status:
        error.response = httpx.Response(status)  # type: ignore[attr-defined]
    return error


CLIENTS: Mapping[type[BackendError], tuple[Exception, ...]] = {
    errors.UnavailableError: (
        paramiko.ssh_exception.NoValidConnectionsError({("127.0.0.1", 22): OSError(errno.ECONNREFUSED, "text")}),
        paramiko.SSHException("Error reading SSH protocol banner"),
        OSError("Socket is closed"),
        asyncssh.ConnectionLost("text"),
        asyncssh.SFTPNoConnection("text"),
        ftplib.error_temp("421 Too many connections"),
        httpx.ConnectError("text"),
        httpx.ReadTimeout("text"),
        _of_webdav("HTTPError", 503),
        _of_webdav("ResourceLocked"),
    ),
    errors.DeniedError: (
        paramiko.AuthenticationException("Authentication failed."),
        paramiko.BadAuthenticationType("text", ["publickey"]),
        paramiko.SSHException("No authentication methods available"),
        asyncssh.PermissionDenied("text"),
        ftplib.error_perm("530 Login incorrect"),
        httpx.HTTPStatusError("text", request=httpx.Request("GET", "http://h"), response=httpx.Response(401)),
        _of_webdav("HTTPError", 403),
        _of_webdav("ForbiddenOperation"),
    ),
    errors.FullError: (
        ftplib.error_temp("452 Insufficient storage"),
        ftplib.error_perm("552 Exceeded storage allocation"),
        _of_webdav("InsufficientStorage"),
    ),
    errors.BackendError: (
        paramiko.BadHostKeyException("h", None, None),
        paramiko.SSHException("Server 'h' not found in known_hosts"),
        ftplib.error_perm("553 Name not allowed"),
        httpx.UnsupportedProtocol("text"),
        _of_webdav("HTTPError", 405),
        OSError("text"),
    ),
}


@pytest.mark.parametrize("kind", CLIENTS)
def test_errors_of_clients_mean_what_an_operator_expects(kind: type[BackendError]) -> None:
    """Of SFTP, FTP and WebDAV too: a server that is stopped is not one that refuses a password, or has no space."""
    assert [(repr(error), classify_error(error)) for error in CLIENTS[kind]] == [
        (repr(error), kind) for error in CLIENTS[kind]
    ]


@pytest.mark.once
@pytest.mark.anyio
async def test_refused_password_is_no_failure_of_the_storage(remote: Remote) -> None:
    """A server of SFTP or FTP that takes another password only has refused access, by each client."""
    backend = await remote.open(password="wrong")
    with pytest.raises(Exception) as caught:
        await backend.read("a.account", limit=100)
    assert classify_error(caught.value) is errors.DeniedError
    await backend.aclose()
