"""What a migration refuses before it begins."""

from __future__ import annotations

from accountstore.errors import LocationError, UnsupportedError
from accountstore.migration.work import Job
from accountstore.store import AccountStore, parts_of


def check_places(store: AccountStore, job: Job, /) -> None:
    """Refuse what cannot be meant, or cannot be done."""
    resolver, _ = parts_of(store)
    (source, at), (target, to) = (resolver.folder(place.folder, place.storage) for place in (job.source, job.target))
    urls = [f"{storage.url.rstrip('/')}/{key}".rstrip("/") + "/" for storage, key in ((source, at), (target, to))]
    if source.options == target.options and (urls[0].startswith(urls[1]) or urls[1].startswith(urls[0])):
        raise LocationError(f"{job.source} and {job.target} are one place, or one lies in the other")
    if job.action != "migrate":
        return
    able, options = store.capabilities(job.target.storage), job.options
    if options.writes == "conditional" and not (able.create and able.update):
        raise UnsupportedError(
            f"storage {target.name!r} has no conditional writes, so a document that changes there meanwhile could be"
            " overwritten: writes='blind' does so"
        )
    if options.lease is not None and not store.capabilities(job.source.storage).update:
        raise UnsupportedError(f"storage {source.name!r} cannot compare and swap, which a lease needs")
    if options.delete_source and not store.capabilities(job.source.storage).update:
        raise UnsupportedError(f"storage {source.name!r} cannot delete on a condition, which delete_source needs")
    if options.mirror_deletes and not able.update:
        raise UnsupportedError(f"storage {target.name!r} cannot delete on a condition, which mirror_deletes needs")
