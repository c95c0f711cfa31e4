"""The API's storage calls, on account documents: files by whole paths, folders, and what exists.

Names and extensions have the store's rules. A folder is there while it has documents: creating one checks its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from accountstore import (
    ConflictError,
    DeniedError,
    EncodeError,
    Entry,
    ExistsError,
    Folder,
    KeyDeniedError,
    Location,
    NotFoundError,
    UnsupportedError,
    Version,
    VersionInfo,
    WriteMode,
)
from accountstore.gateway.accounts import Unreadable, reachable, replace
from accountstore.gateway.conditions import Conditions, conditions_of, precondition
from accountstore.gateway.merging import with_leases_of
from accountstore.gateway.problems import Problem, missing
from accountstore.gateway.service import Call
from accountstore.gateway.uploads import uploaded
from accountstore.gateway.wire import folder_of, json_response, location_of, query_of

__all__ = (
    "copy_file",
    "create_folder",
    "delete_file",
    "delete_folder",
    "download_file",
    "exists",
    "get_disc_usage",
    "get_file_versions",
    "get_files_list",
    "move_file",
    "object_exists",
    "upload_file",
)


async def download_file(call: Call, /) -> Response:
    """The JSON of a document, whole, as the store has it."""
    location, etags = _file(call), call.service.etags
    asked = await _asked(call, location)
    try:
        stored = await call.store.read_json(location)
    except EncodeError as error:
        raise Problem(502, "badStored", f"what is stored there {error.message}") from None
    if asked not in {None, stored.version}:
        raise precondition()
    tag = {"etag": etags.of(location.path, stored.version)}
    if conditions_of(call.request).is_known(etags, location, stored.version):
        return Response(None, 304, tag)
    return Response(bytes(stored.document), 200, tag, "application/octet-stream")


async def upload_file(call: Call, /) -> Response:
    """Create or replace a document by its JSON, whole: the first file of a multipart form, or the body itself.

    The leases in it are the stored document's. One that cannot be read has none.
    """
    _refuse_version(call)
    location = _file(call)
    content = await uploaded(call.request, call.service.config.limits)
    conditions = conditions_of(call.request)
    try:
        version = await replace(call, location, conditions, lambda old: (with_leases_of(old, content), False))
    except (Unreadable, DeniedError, KeyDeniedError):  # one who may write need not be one who may read
        version = await _replace_unread(call, location, conditions, with_leases_of(None, content))
    tag = {"etag": call.service.etags.of(location.path, version)}
    return json_response({"uploaded": [location.file_name], "errors": []}, tag)


async def _replace_unread(call: Call, location: Location, conditions: Conditions, content: bytes, /) -> Version:
    mode: WriteMode = "overwrite"
    if conditions:
        mode = await _current(call, location, conditions) or "create"
    try:
        return await call.store.save_json(location, content, mode=mode)
    except (ConflictError, ExistsError, NotFoundError):
        if not conditions:
            raise
        raise precondition() from None


async def delete_file(call: Call, /) -> Response:
    """Remove a document. A missing one is no error, unless a condition asks for one."""
    location, conditions = _file(call), conditions_of(call.request)
    asked = await _asked(call, location)
    version = await _current(call, location, conditions) if conditions else asked
    if asked not in {None, version}:
        raise precondition()
    try:
        if version is not None or not conditions:
            await call.store.delete(location, version=version)
    except ConflictError:
        raise precondition() from None
    return Response(None, 200)


async def _current(call: Call, location: Location, conditions: Conditions, /) -> Version | None:
    """The version of the document that is there, which meets the conditions. Raises `Problem` (412) where it does not,
    `UnsupportedError` where the storage has no versions.
    """
    try:
        version = (await call.store.stat(location)).version
    except NotFoundError:
        version = None
    else:
        if version is None:
            raise UnsupportedError("the storage has no versions", location=location)
    conditions.check(call.service.etags, location, version)
    return version


async def copy_file(call: Call, /) -> Response:
    """Copy a document to a path of the same kind, on any storage; as it is after a `versionId` was found current."""
    source, target = _pair(call)
    await _asked(call, source)
    await call.store.copy(source, target)
    return Response(None, 200)


async def move_file(call: Call, /) -> Response:
    """Move a document to a path of the same kind, on any storage; as it is after a `versionId` was found current."""
    source, target = _pair(call)
    await _asked(call, source)
    await call.store.move(source, target)
    return Response(None, 200)


async def create_folder(call: Call, /) -> Response:
    """Check a folder's name. It is there as soon as a document is in it."""
    folder, storage = _folder(call)
    call.store.scoped(folder, storage=storage)
    return Response(None, 200)


async def delete_folder(call: Call, /) -> Response:
    """Remove the documents below a folder, with `recursive`; without it, a folder that has some is refused."""
    folder, storage = _folder(call)
    recursive = query_of(call.request).get("recursive", "").lower() == "true"
    below = call.store.list(folder, storage=storage, recursive=True)
    if not recursive:
        if await anext(below, None) is not None:
            raise Problem(409, "notEmpty", "the folder has documents: remove it with recursive=true")
        return Response(None, 200)
    async for entry in below:
        await call.store.delete(entry.location)
    return Response(None, 200)


async def get_files_list(call: Call, /) -> Response:
    """The documents and folders in a folder. A missing one is empty."""
    folder, storage = _folder(call)
    limit = call.service.config.limits.entries
    found: list[dict[str, Any]] = []
    async for entry in call.store.list(folder, storage=storage, folders=True):
        if len(found) == limit:
            raise Problem(413, "tooMany", f"the folder has more than {limit} entries")
        found.append(_entry(entry))
    return json_response({"value": sorted(found, key=lambda each: (not each["isFolder"], each["name"]))})


def _entry(entry: Entry | Folder, /) -> dict[str, Any]:
    path = entry.path if isinstance(entry, Folder) else entry.location.path
    told: dict[str, Any] = {"name": path.rpartition("/")[2], "isFolder": isinstance(entry, Folder)}
    if isinstance(entry, Entry):
        told["size"] = entry.size
        if entry.modified is not None:
            told["modifiedDate"] = entry.modified.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**told, "path": f"/{path}"}


async def object_exists(call: Call, /) -> Response:
    """Whether there is a document, or a folder that has some."""
    path, storage = _path(call), _storage(call)
    if path.endswith(".account"):
        return json_response({"exists": await _is_there(call, _location(call, path, storage)), "isFolder": False})
    _refuse_version(call)
    found = await _first(call.store.list(folder_of(path), storage=storage, recursive=True))
    return json_response({"exists": found, "isFolder": found})


async def _is_there(call: Call, location: Location, /) -> bool:
    try:
        return await _asked(call, location) is not None or await call.store.exists(location)
    except NotFoundError:
        return False


async def _first(entries: AsyncIterator[Entry], /) -> bool:
    return await anext(entries, None) is not None


async def exists(call: Call, /) -> Response:
    """Whether there is a storage."""
    return json_response({"exists": call.request.path_params["storageName"] in call.store.storages})


async def get_disc_usage(call: Call, /) -> Response:
    """How full a storage is, where it tells, and the client reaches all of it."""
    usage = await call.store.usage(_storage(call))
    return json_response({"usedSize": usage.used, "totalSize": usage.total})


async def get_file_versions(call: Call, /) -> Response:
    """The versions of a document that its storage keeps, newest first. Only the current one is served."""
    location, limit = _file(call), call.service.config.limits.entries
    versions = await call.store.versions(location)
    if len(versions) > limit:
        raise Problem(413, "tooMany", f"the document has more than {limit} versions")
    return json_response({"value": [_version(call, location, one) for one in versions]})


def _version(call: Call, location: Location, one: VersionInfo, /) -> dict[str, Any]:
    ids = _ids(call, location, one)
    if not ids:
        raise UnsupportedError("the storage has no versions", location=location)
    told = _entry(Entry(location, one.size, one.version, one.modified))
    return {**told, "versionId": ids[0], "isLatest": one.current}


def _ids(call: Call, location: Location, one: VersionInfo, /) -> list[str]:
    """What a version may be called: by the service's own id; without one, as in an ETag, since it may be a digest."""
    if one.id is not None:
        return [one.id]
    return call.service.etags.marks(location.path, one.version) if one.version is not None else []


async def _asked(call: Call, location: Location, /) -> Version | None:
    """The current version of a document, where the request names it by `versionId`; None where it names none.

    Raises `Problem` (501) for any other.
    """
    asked = query_of(call.request).get("versionId")
    if asked is None:
        return None
    for one in await call.store.versions(location):
        if one.current and one.version is not None and asked in _ids(call, location, one):
            return one.version
    raise _not_current(call)


def _refuse_version(call: Call, /) -> None:
    if "versionId" in query_of(call.request):
        raise _not_current(call)


def _not_current(call: Call, /) -> Problem:
    only = "only the current version of a document is: leave versionId out"
    return Problem(501, "notSupported", f"{call.operation} of this version is not served, {only}")


def _path(call: Call, /) -> str:
    path: str = call.request.path_params["path"]
    if "\ufffd" in path:
        raise Problem(400, "badRequest", "the path is not UTF-8")
    return path


def _location(call: Call, path: str, storage: str | None, /) -> Location:
    folder, _, name = path.rpartition("/")
    return reachable(call, location_of(name, folder, storage or ""))


def _storage(call: Call, /) -> str | None:
    name = query_of(call.request).get("storageName", "")
    if name and name not in call.store.storages:
        raise missing()
    return name or None


def _file(call: Call, /) -> Location:
    return _location(call, _path(call), query_of(call.request).get("storageName", ""))


def _folder(call: Call, /) -> tuple[str, str | None]:
    return folder_of(_path(call)), _storage(call)


def _pair(call: Call, /) -> tuple[Location, Location]:
    query = query_of(call.request)
    if not query.get("destPath"):
        raise Problem(400, "badRequest", "destPath: is missing")
    source = _location(call, _path(call), query.get("srcStorageName", ""))
    return source, _location(call, query["destPath"], query.get("destStorageName", ""))
