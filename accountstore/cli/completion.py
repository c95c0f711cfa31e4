"""What a shell offers for an argument: storages, folders, documents. It takes a bounded time and says nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import chain
from typing import Literal

import anyio
import typer  # noqa: TC002 -- typer looks at the annotations
from msgspec.structs import replace

from accountstore import AccountStore, AccountStoreError, Entry, ProtocolType, SecurityOptions, StoreConfig
from accountstore.config_file import load_config

__all__ = (
    "complete_file",
    "complete_folder",
    "complete_location",
    "complete_protocol",
    "complete_security",
    "complete_storage",
)

_PATIENCE = 2.0
"""Seconds that a storage has to list a folder."""
_MOST = 500
"""Names beyond these are not offered."""


def complete_location(ctx: typer.Context, incomplete: str) -> list[str]:
    """Storages, and the folders and documents in the folder that was begun."""
    return _offered(ctx, incomplete, "documents")


def complete_folder(ctx: typer.Context, incomplete: str) -> list[str]:
    """Storages, and the folders in the folder that was begun."""
    return _offered(ctx, incomplete, "folders")


def complete_storage(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the storages."""
    return [name for name in _config(ctx).storages if name.startswith(incomplete) and name.isprintable()]


def complete_file(ctx: typer.Context, incomplete: str) -> list[str]:
    """Files of this machine."""
    folder, slash, _ = incomplete.rpartition("/")
    with suppress(OSError), os.scandir(os.path.expanduser(folder + slash) or ".") as found:
        names = [f"{folder}{slash}{file.name}{'/' * file.is_dir()}" for file in found]
        return sorted(name for name in names if name.startswith(incomplete) and name.isprintable())[:_MOST]
    return []


def complete_protocol(incomplete: str) -> list[str]:
    """The protocols."""
    return [word for word in ProtocolType if word.startswith(incomplete)]


def complete_security(incomplete: str) -> list[str]:
    """The ways of security."""
    return [word for word in SecurityOptions if word.startswith(incomplete)]


def _config(ctx: typer.Context, /) -> StoreConfig:
    return load_config(ctx.find_root().params.get("config"))


def _offered(ctx: typer.Context, incomplete: str, kind: Literal["documents", "folders"], /) -> list[str]:
    config = _config(ctx)
    storage, colon, path = incomplete.rpartition(":")
    found: list[str] = []
    with suppress(AccountStoreError):
        found += anyio.run(_list, config, storage if colon else None, path.rpartition("/")[0], kind)
    storages = () if colon else (f"{name}:" for name in config.storages)
    # A name that could steer the terminal is left to be typed.
    return [name for name in chain(storages, found) if name.startswith(incomplete) and name.isprintable()]


async def _list(config: StoreConfig, storage: str | None, folder: str, kind: str, /) -> list[str]:
    """What is in a folder. Nothing but its storage is opened, to read, and it is asked once."""
    name = config.default_name() if storage is None else storage
    if name not in config.storages:
        return []
    only = replace(config.storages[name], attempts=1, timeout=_PATIENCE)
    found: list[str] = []
    async with AccountStore.open(StoreConfig(storages={name: only}), read_only=True) as store:
        async for item in store.list(folder, storage=storage, folders=True, skipped=_say_nothing):
            if isinstance(item, Entry) and kind == "documents":
                found.append(str(item.location))
            elif not isinstance(item, Entry):
                found.append(str(item))
            if len(found) == _MOST:
                break
    return sorted(found)


def _say_nothing(_: object, /) -> None:
    """A name that no location can have is not offered."""
