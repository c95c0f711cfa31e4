"""Which backend serves which URL scheme: names until used, then imported.

Other packages add backends by an entry point of the group `accountstore.backends`, named after the scheme:

    [project.entry-points."accountstore.backends"]
    s3x = "package.module:open_backend"
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, cast

from accountstore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accountstore.backends.base import BackendFactory

__all__ = ("find_backend",)

_GENERIC = "accountstore.backends.fsspec:open_backend"
# Elsewhere a folder is reached through fsspec, which promises less and whose capabilities say so.
_LOCAL = "accountstore.backends.local:open_backend" if os.name == "posix" else _GENERIC

_BUILTIN: Mapping[str, str] = {
    "file": _LOCAL,
    "local": _LOCAL,
    "memory": "accountstore.backends.memory:open_backend",
}


def find_backend(scheme: str, /) -> BackendFactory:
    """The factory for a URL scheme. It imports, so call it in a thread.

    Raises:
        ConfigError: two packages provide the scheme, or the one that does cannot be imported.
    """
    from importlib.metadata import entry_points

    found = list(entry_points(group="accountstore.backends", name=scheme))
    names = [point.dist.name if point.dist else point.value for point in found]
    if len(found) > 1 or (found and scheme in _BUILTIN):
        names += ["accountstore"] * (scheme in _BUILTIN)
        raise ConfigError(f"several packages provide the scheme {scheme!r}: {', '.join(sorted(names))}")
    if found:
        try:
            return cast("BackendFactory", found[0].load())
        except Exception as error:  # noqa: BLE001 -- whatever a package does when it is imported
            reason = str(error) if isinstance(error, ImportError) else type(error).__name__
            raise ConfigError(f"the backend for {scheme!r} of {names[0]} cannot be loaded ({reason})") from None
    module, _, name = _BUILTIN.get(scheme, _GENERIC).partition(":")
    return cast("BackendFactory", getattr(import_module(module), name))
