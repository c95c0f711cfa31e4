"""What fsspec's filesystems say of a folder's entries, and a walk through folders, which ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from accountstore.backends.base import BackendError, Stat
from accountstore.backends.moments import as_utc
from accountstore.validation import MAX_PATH, join

# The names under which fsspec's filesystems give a modification time.
_TIMES = ("mtime", "last_modified", "LastModified", "modified", "updated", "modify")
_DEEP, _MANY = 16, 500
"""A walk goes round in a circle where more folders than `_MANY` show the same folders, two or more, as each of `_DEEP`
that they are in. One that always shows a single folder ends where no location is as long.
"""


class Rest(NamedTuple):
    """What is left of a walk: folders, each with what those that it is in show; and how many have shown the same."""

    folders: list[tuple[str, tuple[int, ...]]]
    rounds: int = 0


def entries(folder: str, path: str, infos: Iterable[Mapping[str, Any]], /) -> list[tuple[Stat, object]]:
    """What is in a folder; and what tells a folder there from any other, if an FTP server says that."""
    return [(stat, info.get("unique")) for info in infos if (stat := _found(folder, path, info))]


def step(found: list[tuple[Stat, object]], rest: Rest, /) -> tuple[list[Stat], Rest | None]:
    """What is in the last of the folders that are left, and what is left then: those in it, too. Symbolic links to a
    folder above make folders without end.

    Raises:
        BackendError: the walk goes round in a circle.
    """
    *folders, (folder, above) = rest.folders
    page = [stat for stat, _ in found if stat.instead or not stat.key.endswith("/")]
    below = {stat.key[:-1]: unique for stat, unique in found if not stat.instead and stat.key.endswith("/")}
    shown = hash(frozenset((key.removeprefix(folder).strip("/"), unique) for key, unique in below.items()))
    rounds = rest.rounds + (len(below) > 1 and above.count(shown) >= _DEEP)
    if rounds > _MANY:
        raise BackendError("the listing goes round in a circle: folders that are links to one above")
    for key in below:
        if len(key.encode()) < MAX_PATH:
            folders.append((key, (*above, shown)))
        else:
            page.append(Stat(f"{key}/", 0, None, None, instead="a folder whose path is longer than a location's"))
    return page, Rest(folders, rounds) if folders else None


def _found(folder: str, path: str, info: Mapping[str, Any], /) -> Stat | None:
    """What a listing says of an entry; a folder's key ends in a slash. None: it is the folder itself."""
    # With one slash at the end at most: more than that is the name of something else.
    name = info["name"].removesuffix("/").rpartition("/")[2]
    if not name or info["name"].strip("/") == path.strip("/"):
        return None
    key = join(folder, name)
    if info["type"] == "file" and not info["name"].endswith("/"):
        return stat_of(key, info)
    if info["type"] != "directory":
        return Stat(key, 0, None, None, instead="a symbolic link" if info["type"] == "link" else "no regular file")
    odd = re.search("[\ud800-\udfff]", name)  # which cannot be asked for
    return Stat(f"{key}/", 0, None, None, instead="a folder whose name is not UTF-8" if odd else "")


def stat_of(key: str, info: Mapping[str, Any], /) -> Stat:
    """What is said of a file; a size that is not known is 0."""
    modified = None
    with suppress(ValueError, OverflowError, OSError):  # no moment, or one that a calendar does not have
        modified = next(filter(None, map(_moment, map(info.get, _TIMES))), None)
    return Stat(key, int(info["size"] or 0), None, modified)


def _moment(value: object, /) -> datetime | None:
    match value:
        case datetime():
            return as_utc(value)
        case float() | int():
            return datetime.fromtimestamp(value, UTC)
        case str() if value[:14].isdigit() and len(value) >= 14:  # FTP (RFC 3659 section 2.3)
            return datetime.strptime(value[:14] + "Z", "%Y%m%d%H%M%S%z")
        case _:
            return None
