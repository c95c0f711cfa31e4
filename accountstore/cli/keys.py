"""The commands about keys: `accountstore keys new | list | rotate | verify | reseal`."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from shlex import join
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from accountstore import AccountStore, AccountStoreError, ConfigError, Location, NotSealedError
from accountstore.cli.app import StorageArgument, in_store
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Command, Group
from accountstore.cli.listing import check_documents
from accountstore.cli.show import console, on_terminal, printable
from accountstore.config_file import load_config
from accountstore.sealing.keys import add_key
from accountstore.sealing.sources import promote, same_source
from accountstore.store import parts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from accountstore import Skipped, StoreConfig
    from accountstore.rotation import Rotated, Sealing

    _Results: TypeAlias = AsyncIterator[tuple[Location, Rotated | AccountStoreError]]
    _Documents: TypeAlias = Callable[[AccountStore, Callable[[Skipped], object]], _Results]

__all__ = ("keys",)

keys: typer.Typer = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Make keys, and move a storage's documents to another one.",
)

_File = Annotated[str, typer.Argument(metavar="FILE", help="A key file, a JWK Set.", show_default=False)]
_Folder = Annotated[str, typer.Option("--folder", metavar="FOLDER", help="Only this folder, and those below it.")]
_EVERY = 1000
_STARTED = (
    "Programs started before `rotate --to` still use the old key. Restart them, then run rotate and verify again;"
    " remove the old key last."
)
_WAY_OUT = ": to seal it, set required = false, rotate, then require it"


@keys.command(
    cls=Command, epilog="accountstore keys new keys.jwks\naccountstore keys new keys.jwks --id 2027-01 --primary"
)
def new(
    file: _File,
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The key's id; without it, today's date and a random part.")
    ] = None,
    primary: Annotated[bool, typer.Option("--primary", help="Let it seal at once.")] = False,
) -> None:
    """Add a key to a key file, which is made (mode 0600) where there is none.

    A new key opens, and does not seal, unless it is the first: give it to all machines, then "accountstore keys rotate
    --to ID". Prints the key's id. Keep a copy of the file: without it what it seals is lost.
    """
    with exit_codes():
        try:
            made = add_key(file, key_id, primary=primary)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error.message}") from None
        sys.stdout.write(f"{printable(made)}\n")


@keys.command("list", cls=Command, epilog="accountstore keys list")
def show(context: typer.Context) -> None:
    """List the storages and the ids of their keys, the one that seals first."""
    from accountstore.rotation import sealing

    with exit_codes():

        async def work(store: AccountStore) -> None:
            for name in store.storages:
                found = sealing(store, name)
                told = "not sealed"
                if found is not None:
                    told = f"{found.mode}, id {found.id!r}: {', '.join(found.key_ids)}"
                console().print(printable(f"{name}: {told}"), soft_wrap=True)

        in_store(context, work)


@keys.command(
    cls=Command, epilog='accountstore keys rotate\naccountstore keys rotate "First Storage" --to 2026-11-27-1f0c99'
)
def rotate(
    context: typer.Context,
    storage: StorageArgument = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="ID", help="Let this key of the storage's key file seal from now on.", show_default=False
        ),
    ] = None,
    folder: _Folder = "",
) -> None:
    """Wrap each document's content key by the current key; contents stay as they are.

    Seals what is plain; or, where the configuration says `seal = false`, makes plain what is sealed. What others change
    meanwhile is not lost. Begun again, it goes on with what is left. Exits with 1 if a document could not be done.
    """
    from accountstore.rotation import rewrap, sealing

    async def check(store: AccountStore) -> None:
        await _check_folder(store, folder, storage)
        found, prefix = parts_of(store)[0].folder(folder, storage)
        await found.client.require("update", prefix, found.client.deadline())

    with exit_codes():
        config = load_config(context.obj)
        if to is not None:
            name = storage or config.default_name()
            if name in config.storages:  # else the store refuses it
                if config.storages[name].read_only:
                    raise ConfigError(f"storages.{name}: is read_only, and what would be sealed anew is not written")
                in_store(context, check)
                promote(config.storages[name].encryption, to)

        def documents(store: AccountStore, skipped: Callable[[Skipped], object]) -> _Results:
            found = sealing(store, storage)
            if to is not None and found is not None and found.key_ids[0] != to:
                raise ConfigError(f"somebody has let another key seal meanwhile ({found.key_ids[0]!r})")
            if to is not None:
                _tell_of_old_keys(found)
            return rewrap(store, folder, storage=storage, skipped=skipped)

        _run(context, documents, folder, storage)


@keys.command(cls=Command, epilog="accountstore keys verify")
def verify(context: typer.Context, storage: StorageArgument = None, folder: _Folder = "") -> None:
    """Prove that no document needs another key than the current one. Opens each, writes nothing.

    Exits with 1 if one needs another key, is plain, or does not open; or if one has a name that no LOCATION can have.
    Then take the old key out of the key file, if all storages with the file are verified, and all programs that write
    there were started again after "rotate --to".
    """
    from accountstore.rotation import sealing
    from accountstore.rotation import verify as verified

    with exit_codes():
        config = load_config(context.obj)

        def documents(store: AccountStore, skipped: Callable[[Skipped], object]) -> _Results:
            found = sealing(store, storage)
            if found is not None and len(found.key_ids) > 1:
                for other in _with_the_same_keys(config, storage):
                    print_error(f"the storage {other!r} has the same keys: verify it, too, before one is taken out")
            _tell_of_old_keys(found)
            return verified(store, folder, storage=storage, skipped=skipped)

        _run(context, documents, folder, storage)


def _tell_of_old_keys(found: Sealing | None, /) -> None:
    """Say who may still seal by another key than the current one, where there is one and anything is sealed."""
    if found is not None and found.mode != "unsealing" and len(found.key_ids) > 1:
        print_error(_STARTED)


def _with_the_same_keys(config: StoreConfig, storage: str | None, /) -> list[str]:
    """The other storages that have a source of keys of this one's."""
    name = storage or config.default_name()
    sealed = {name: each.encryption.sources() for name, each in config.storages.items() if each.encryption is not None}
    mine = sealed.pop(name, [])
    return [other for other, theirs in sealed.items() if any(same_source(one, each) for one in mine for each in theirs)]


@keys.command(cls=Command, epilog="accountstore keys reseal\naccountstore keys reseal --before 2026-11-27T05:30:00Z")
def reseal(
    context: typer.Context,
    storage: StorageArgument = None,
    folder: _Folder = "",
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="TIME", help="Go on with a run that was killed: the time that it has told."),
    ] = None,
) -> None:
    """Encrypt each document anew, with a new content key: for a key that leaked.

    "rotate" is not enough then: who had the key may have unwrapped the content keys. Change the passwords, too, if
    anybody may have read the files. Tells the time, by the storage's clock, with which --before goes on with the run;
    do not "rotate" in between.
    """
    from accountstore.rotation import reseal as resealed
    from accountstore.rotation import resume_time

    since = None if before is None else _time(before)

    async def documents(store: AccountStore, skipped: Callable[[Skipped], object]) -> _Results:
        results = resealed(store, folder, storage=storage, before=since, skipped=skipped)
        if start := since or await resume_time(store, folder, storage=storage):
            words = [*_given("--config", context.obj), "keys", "reseal", *filter(None, [storage])]
            time = f"{start.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
            again = join(["accountstore", *words, *_given("--folder", folder), "--before", time])
            print_error(f"If this is interrupted: {again}")
        else:
            print_error("the storage dates no documents: a run that is killed is begun anew")
        async for result in results:
            yield result

    with exit_codes():
        _run(context, documents, folder, storage)


def _given(option: str, value: str | None, /) -> list[str]:
    return [option, value] if value else []


def _time(text: str, /) -> datetime:
    """The time that a text says, in UTC where it names no zone."""
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter("--before takes a time such as 2026-11-27T05:30:00Z") from None


async def _check_folder(store: AccountStore, folder: str, storage: str | None, /) -> None:
    """Refuse a folder without any document, whose name may be misspelt, before anything is written in it."""
    if folder:
        await check_documents(store, Location("any.account", folder=folder, storage=storage))


def _run(context: typer.Context, documents: _Documents, folder: str, storage: str | None, /) -> None:
    """Go through documents, with progress on a terminal; tell what is wrong as it comes, and at the end the numbers."""
    counts = Counter[str]()

    def skipped(one: Skipped) -> None:
        counts["skipped"] += 1
        print_error(f"{one.path!r} was not looked at: {one.reason}")

    async def work(store: AccountStore) -> None:
        results = documents(store, skipped)
        await _check_folder(store, folder, storage)
        async for location, result in results:
            if isinstance(result, AccountStoreError):
                way = _WAY_OUT if isinstance(result, NotSealedError) else ""
                print_error(f"{result}{way}")
                counts["failed"] += 1
            else:
                if result.outcome == "stale":
                    ids = ", ".join(result.key_ids)
                    print_error(f"{location}: {f'is sealed with the key {ids}' if ids else 'is plaintext'}")
                counts[result.outcome] += 1
            if on_terminal() and not counts.total() % _EVERY:
                console(stderr=True).print(f"{counts.total():,} documents", end="\r")

    in_store(context, work)
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
    sys.stdout.write(f"{told or 'no documents'}\n")
    if counts["failed"] + counts["stale"] + counts["skipped"]:
        raise typer.Exit(1)
