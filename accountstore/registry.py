"""Which backend serves which URL scheme: names until used, then imported.

Other packages add backends by an entry point of the group `accountstore.backends`, named after the scheme:

    [project.entry-points."accountstore.backends"]
    s3x = "package.module:open_backend"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, cast

from accountstore.backends.base import BackendFactory
from accountstore.errors import ConfigError

_GENERIC = "fsspec"
# Elsewhere a folder is reached through fsspec, which promises less and whose capabilities say so.
_LOCAL = "local.backend" if os.name == "posix" else _GENERIC
_BUILTIN: Mapping[str, str] = {
    **dict.fromkeys(("file", "local"), _LOCAL),
    "memory": "memory",
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
}
"""The modules in `accountstore.backends` by the schemes that they serve."""
_EXTRAS: Mapping[str, str] = {"s3": "s3", "gcs": "gcs", "azure": "azure", "obstore.backend": "fast"}


def find_backend(
    scheme: str, engine: str = "fsspec", timeout: float = 30.0, read_only: bool = False, /
) -> BackendFactory:
    """The factory for a URL scheme and an engine. It imports, so call it in a thread. `timeout`, that of an operation
    in seconds, bounds what the engine obstore may take to connect. With `read_only` opening a folder writes nothing.

    Raises:
        ConfigError: two packages provide the scheme, the one that does cannot be imported, or the engine does not serve
            the scheme.
    """
    if engine == "obstore":
        if _BUILTIN.get(scheme) not in {"s3", "gcs", "azure"}:
            raise ConfigError(f"the engine 'obstore' serves s3, gs and az URLs, not {scheme!r}")
        return cast("BackendFactory", partial(cast("Any", _load("obstore.backend")), seconds=timeout))
    from importlib.metadata import entry_points

    found = list(entry_points(group="accountstore.backends", name=scheme))
    names = [point.dist.name if point.dist else point.value for point in found]
    names += ["accountstore"] * (scheme in _BUILTIN)
    if len(names) > 1:
        raise ConfigError(f"several packages provide the scheme {scheme!r}: {', '.join(sorted(names))}")
    if found:
        try:
            return cast("BackendFactory", found[0].load())
        except Exception as error:  # noqa: BLE001 -- whatever a package does when it is imported
            reason = str(error) if isinstance(error, ImportError) else type(error).__name__
            raise ConfigError(f"the backend for {scheme!r} of {names[0]} cannot be loaded ({reason})") from None
    module = _BUILTIN.get(scheme, _GENERIC)
    factory: Any = _load(module)
    return partial(factory, read_only=True) if read_only and module == "local.backend" else factory


def _load(module: str, /) -> BackendFactory:
    try:
        return cast("BackendFactory", import_module(f"accountstore.backends.{module}").open_backend)
    except ImportError as error:
        if module not in _EXTRAS:
            raise
        missing = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
        raise ConfigError(f"{missing}; install it with: pip install 'accountstore[{_EXTRAS[module]}]'") from None
