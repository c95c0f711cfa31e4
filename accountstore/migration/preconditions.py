"""What a migration refuses before it begins."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from anyio import move_on_after

from accountstore.errors import AccountStoreError, ConfigError, LocationError, NotFoundError, UnsupportedError
from accountstore.migration.identity import is_folder, server_of, url_of
from accountstore.migration.model import named
from accountstore.migration.work import Job
from accountstore.storage import Storage
from accountstore.store import AccountStore, parts_of
from accountstore.validation import RESERVED_PREFIX, join

_CLEANUP_SECONDS = 5.0


async def check_apart(store: AccountStore, job: Job, word: str, /) -> None:
    """Refuse two names of one place that no URL tells, such as two endpoints of one bucket, and one in the other: a
    file of the library's own is written at the target and looked for at the source. Three requests.

    It has a word in its name that no other migration has. Where it may not be deleted, the next run writes it again.
    """
    resolver, _ = parts_of(store)
    (source, at), (target, to) = (resolver.folder(place.folder, place.storage) for place in (job.source, job.target))
    outer, inner = _url(source, at), _url(target, to)
    name = f"{RESERVED_PREFIX}{word}.probe"
    looked_for, written = join(at, name), join(to, name)
    if inner.startswith(outer):
        looked_for = join(at, f"{inner[len(outer) :]}{name}")
    elif outer.startswith(inner):
        written = join(to, f"{outer[len(inner) :]}{name}")
    try:
        await target.client.write(written, b"", "overwrite", target.client.deadline())
        with suppress(NotFoundError):
            await source.client.stat(looked_for, source.client.deadline())
            raise LocationError(
                f"{job.source} and {job.target} are one place by two names, or one lies in the other: nothing was"
                " removed"
            )
    finally:
        with move_on_after(_CLEANUP_SECONDS, shield=True), suppress(AccountStoreError):
            await target.client.delete(written, None, target.client.deadline())


def _url(storage: Storage, key: str, /) -> str:
    """The URL of a folder, with a slash at its end."""
    return f"{url_of(storage).rstrip('/')}/{key}".rstrip("/") + "/"


def _is_in(url: str, other: str, /) -> bool:
    """Whether a local folder is another one, or lies in it, whatever they are called, such as by a bind mount."""
    if not (is_folder(url) and is_folder(other) and Path(other).exists()):
        return False
    above = (each for each in (Path(url), *Path(url).parents) if each != each.parent)
    return any(each.exists() and each.samefile(other) for each in above)


def check_journal(store: AccountStore, job: Job, path: str, /) -> None:
    """Refuse a journal among the documents, where a run would list it. Blocking."""
    resolver, _ = parts_of(store)
    for place in (job.source, job.target):
        url = _url(*resolver.folder(place.folder, place.storage))
        if job.action != "verify" and _is_in(os.path.dirname(os.path.abspath(path)), url):
            raise ConfigError(f"{path}: the journal is in {place}, among the documents: keep it in another folder")


def check_places(store: AccountStore, job: Job, /) -> None:
    """Refuse what cannot be meant, or cannot be done. Blocking."""
    resolver, _ = parts_of(store)
    (source, at), (target, to) = (resolver.folder(place.folder, place.storage) for place in (job.source, job.target))
    urls = [_url(source, at), _url(target, to)]
    # Neither a file's mode nor other credentials make two places of one; another server does.
    comparable = server_of(source) == server_of(target) or (is_folder(source.url) and is_folder(target.url))
    are_nested = comparable and (urls[0].startswith(urls[1]) or urls[1].startswith(urls[0]))
    if are_nested or _is_in(urls[0], urls[1]) or _is_in(urls[1], urls[0]):
        raise LocationError(f"{job.source} and {job.target} are one place, or one lies in the other")
    if job.action == "verify":
        return
    able, options = store.capabilities(job.target.storage), job.options
    if able.read_only:
        raise UnsupportedError(f"storage {target.name!r} is opened read-only")
    from_able = store.capabilities(job.source.storage)
    if from_able.read_only and (options.delete_source or options.lease is not None):
        needs = f"{named('delete_source')} would delete there" if options.delete_source else "a lease is written there"
        raise UnsupportedError(f"storage {source.name!r} is opened read-only, and {needs}")
    if options.writes == "conditional" and not (able.create and able.update):
        raise UnsupportedError(
            f"storage {target.name!r} has no conditional writes, so a document that changes there meanwhile could be"
            " overwritten: writes='blind' (`migrate --blind`) does so"
        )
    if options.lease is not None and not from_able.update:
        raise UnsupportedError(f"storage {source.name!r} cannot compare and swap, which a lease needs")
    if options.delete_source and not from_able.update:
        needs = named("delete_source")
        raise UnsupportedError(f"storage {source.name!r} cannot delete on a condition, which {needs} needs")
    if options.delete_source and target.options.get("follow_links"):
        raise UnsupportedError(
            f"storage {target.name!r} follows links, and what it has may be one to the source, which"
            f" {named('delete_source')} would delete: leave follow_links out for the move"
        )
    if options.mirror_deletes and not able.update:
        needs = named("mirror_deletes")
        raise UnsupportedError(f"storage {target.name!r} cannot delete on a condition, which {needs} needs")
