"""fsspec's filesystem of a URL: its class and what it is made of, checked at opening as far as that is certain."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any
from urllib.parse import unquote, urlsplit

from fsspec.config import apply_config
from fsspec.dircache import DirCache

from accountstore.backends.base import ConfigError
from accountstore.backends.file_servers import client_for
from accountstore.backends.kinds import FLAG, NUMBER, TEXT, WHOLE, Kinds
from accountstore.backends.options import check_kinds, check_names
from accountstore.validation import did_you_mean

_MISSPELT = 0.85
"""How alike two names are, of 1, where one is hardly the name of something else."""
_USUAL = ("abfs", "az", "file", "ftp", "gs", "memory", "s3", "sftp", "smb", "webdav")
"""Schemes that are offered to whoever names none: fsspec's others are hardly meant."""
_WEB = frozenset({"http", "https"})
_FTP, _PARAMIKO, _SSHFS = "fsspec.implementations.ftp", "fsspec.implementations.sftp", "sshfs.spec"
_KINDS: Mapping[str, Kinds] = {
    _FTP: {
        **dict.fromkeys(("host", "username", "password", "acct", "encoding"), TEXT),
        "port": (*WHOLE, *TEXT),
        "timeout": NUMBER,
        "tls": (*FLAG, *TEXT),
    },
    _PARAMIKO: {
        **dict.fromkeys(("host", "username"), TEXT),
        "port": (*WHOLE, *TEXT),
        **dict.fromkeys(("timeout", "banner_timeout", "auth_timeout", "channel_timeout"), NUMBER),
        **dict.fromkeys(("allow_agent", "look_for_keys", "compress", "gss_auth", "gss_kex"), FLAG),
    },
    _SSHFS: {**dict.fromkeys(("host", "username"), TEXT), "port": (*WHOLE, *TEXT), "timeout": NUMBER},
}
"""By the module of the class: what its client fails for if it is of another kind, or takes for true."""
_CHOICES = ((_FTP, "tls", "SECURITY_PROTOCOL_MAP"), (_PARAMIKO, "host_key_policy", "HOST_KEY_POLICIES"))
"""Options whose texts are known, and where."""
_LAYERS: Mapping[str, tuple[str, ...]] = {
    **{f"fsspec.implementations.{name}": ("fs", "target_protocol") for name in ("asyn_wrapper", "cached", "dask")},
    **{f"fsspec.implementations.{name}": ("fo",) for name in ("libarchive", "tar", "zip")},
    "fsspec.implementations.dirfs": ("path", "fo", "fs", "target_protocol"),  # that of a path alone is the local one
}
"""What stands on another storage, and the options of which one names it."""
_IMPORTED_LATER = {"fsspec.implementations.arrow": "pyarrow.fs"}


def filesystem_of(url: str, options: Mapping[str, object], /) -> tuple[Callable[[], Any], str, bool]:
    """What makes the filesystem that fsspec has for the URL's protocol, the path there, and whether many threads may
    call it. A filesystem connects when it is made.

    Raises:
        ConfigError: fsspec does not know the protocol, a package is missing, URLs are chained, or no filesystem can be
            made of the options.
    """
    if "::" in re.sub(r"\[[^]/]*]", "", url):  # those of an address of IPv6 chain nothing
        raise ConfigError("chained URLs are not supported: what a cache shows may be older than what was written")
    if "://" not in url:
        url = f"file://{os.path.abspath(os.path.expanduser(url))}"
    protocol = url.partition("://")[0].lower()
    kind = _class_of(protocol)
    _check_options(kind, options)
    made, more = client_for(kind, options)
    try:
        parts = _decoded(url, made._get_kwargs_from_urls(url))  # noqa: SLF001 -- the only way that fsspec offers
        place = urlsplit(url)
        reachable = protocol not in _WEB or (place.hostname and place.port != 0)
    except ValueError:
        raise ConfigError(
            "url: has no host or port that can be one; in user and password, such as @, /, [ and % are percent-encoded"
        ) from None
    if not reachable:
        raise ConfigError("url: has no host, or the port 0")
    if protocol in _WEB:
        more = import_module("accountstore.backends.http").confined(more)
    _check_complete(kind, protocol, {**parts, **options})
    port = _port(kind, {**parts, **options})
    connect = partial(made, **{**parts, **more, **port}, skip_instance_cache=True)
    return connect, made._strip_protocol(url), made.async_impl  # noqa: SLF001 -- as above


def _class_of(protocol: str, /) -> Any:
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    try:
        kind: Any = get_filesystem_class(protocol)
        if later := _IMPORTED_LATER.get(kind.__module__):
            import_module(later)
    except ImportError:
        hint = str(known_implementations.get(protocol, {}).get("err", "install the package that provides it"))
        raise ConfigError(f"the protocol {protocol!r} needs a package that is not installed: {hint}") from None
    except ValueError:
        raise ConfigError(f"unknown scheme {protocol!r}{did_you_mean(protocol, _USUAL)}") from None
    return kind


def _check_options(kind: Any, options: Mapping[str, object], /) -> None:
    """Raise `ConfigError` for an option that a filesystem drops or fails for later: one that it surely does not know,
    or, where it may pass on what it likes, a misspelt one; and a value that it surely cannot use.
    """
    module, parameters = kind.__module__, signature(kind.__init__).parameters
    known = {*parameters, *signature(DirCache.__init__).parameters} - {"self", "kwargs", "storage_options"}
    below = None if "get_client" in options else _names_below(kind)
    strict = below is not None or not any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
    known |= below or set()
    check_names([name for name in options if strict or get_close_matches(name, known, 1, _MISSPELT)], known)
    check_kinds(options, _KINDS.get(module, {}))
    for where, name, texts in _CHOICES:
        words: Mapping[str, object] | None = getattr(import_module(where), texts, None) if where == module else None
        if words is not None and isinstance(value := options.get(name), str) and value not in words:
            raise ConfigError(f"options: {name!r} has a text that is none of {', '.join(sorted(words))}")


def _names_below(kind: Any, /) -> set[str] | None:
    """What a filesystem takes beside its own parameters, all of which it passes to one client; None: who knows."""
    match kind.__module__:
        case "fsspec.implementations.ftp":
            return set()
        case "fsspec.implementations.sftp":
            client: Any = import_module("paramiko").SSHClient.connect
            return {*signature(client).parameters, "temppath", "host_key_policy"} - {"self", "hostname"}
        case "sshfs.spec":
            ssh: Any = import_module("asyncssh")
            names = (*signature(ssh.connect).parameters, *signature(ssh.SSHClientConnectionOptions.prepare).parameters)
            return {*names, "timeout", "max_sessions"} - {"self", "kwargs"}
        case "fsspec.implementations.http":
            session: Any = import_module("aiohttp").ClientSession
            return {*signature(session._request).parameters} - {"self", "method", "str_or_url"}  # noqa: SLF001
        case _:
            return None


def _check_complete(kind: Any, protocol: str, given: Mapping[str, object], /) -> None:
    """Raise `ConfigError` where a filesystem cannot be made for want of something."""
    given = apply_config(kind, given)
    if kind.__module__ == "fsspec.implementations.data":
        raise ConfigError(f"the protocol {protocol!r} stores nothing")
    for name, parameter in list(signature(kind.__init__).parameters.items())[1:]:
        named = parameter.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
        missing = name not in given or (name == "host" and not given[name])
        if named and parameter.default is Parameter.empty and missing:
            raise ConfigError("url: has no host" if name == "host" else f"options: {name!r} is missing")
    layer = _LAYERS.get(kind.__module__, ())
    if layer and not any(given.get(name) for name in layer):
        needed = " or ".join(map(repr, layer))
        raise ConfigError(f"options: {needed} is missing: {protocol!r} stands on another storage")


def _port(kind: Any, given: Mapping[str, object], /) -> dict[str, int]:
    """The port as a number where options, or fsspec's configuration, have it as text, as a variable is."""
    port = apply_config(kind, given).get("port")
    if not isinstance(port, str) or "port" not in _KINDS.get(kind.__module__, {}):
        return {}
    if not re.fullmatch("[0-9]{1,5}", port):
        raise ConfigError("options: 'port' must be a whole number")
    return {"port": int(port)}


def _decoded(url: str, parts: Mapping[str, Any], /) -> dict[str, Any]:
    """What fsspec takes from a URL, with user and password decoded where it took them as they stand (RFC 3986)."""
    user = urlsplit(url)
    return {
        name: unquote(part) if part in (user.username, user.password) and part else part for name, part in parts.items()
    }
