"""Accounts over HTTP with Litestar: `uvicorn litestar_service:app --no-access-log`, as that log has names of documents.

`ETAG_KEY` in the environment is a secret of all its processes.
Bodies are bytes for `from_json`, which refuses a mask in a secret's place, a misspelt field and a key that is there
twice: of an `Account` in a signature Litestar would take all three.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from litestar import Litestar, MediaType, Request, Response, get, put
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import ValidationException
from litestar.params import Parameter

from accountstore import (
    AccountStore,
    AccountStoreError,
    ConflictError,
    EncodeError,
    ExistsError,
    FullError,
    Location,
    LocationError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UncertainError,
    Version,
    from_json,
    to_json,
)

ETAG_KEY = os.environ["ETAG_KEY"].encode()
STATUS = {
    AccountStoreError: 500,
    NotFoundError: 404,
    LocationError: 404,  # a name that no document has, an extension too
    ConflictError: 412,
    ExistsError: 412,
    TooLargeError: 413,
    EncodeError: 422,
    UnavailableError: 503,
    UncertainError: 504,  # the document is the old one or the new one
    FullError: 507,
}


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncGenerator[None]:
    """One store for the whole service, opened on its event loop."""
    async with AccountStore.open() as app.state.store:
        yield


def answer(_: Request[None, None, State], error: AccountStoreError) -> Response[dict[str, str]]:
    """An error is the status of its nearest class; its message names the location and the field, and no value."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    headers = {"Retry-After": "1"} if error.temporary else None
    return Response({"detail": str(error)}, status_code=status, headers=headers)


def refuse(_: Request[None, None, State], error: ValidationException) -> Response[dict[str, str]]:
    """A request that lacks its tenant."""
    return Response({"detail": error.detail}, status_code=422)


async def tenant(state: State, x_tenant: Annotated[str, Parameter(header="X-Tenant")]) -> AccountStore:
    """The store narrowed to the tenant's folder: names outside it cannot be written."""
    store: AccountStore = state.store
    return store.scoped(f"tenants/{x_tenant}")


def etag(version: Version) -> str:
    """What a client may know of a version: the same in every process, and nothing about the document."""
    return f'"{hmac.digest(ETAG_KEY, version.token.encode(), "sha256").hex()}"'


@get("/accounts/{path:path}")
async def read(path: str, store: AccountStore) -> Response[bytes]:
    """The account, with masked secrets."""
    stored = await store.read(Location.parse(path.lstrip("/")))
    headers = {"ETag": etag(stored.version)}
    return Response(to_json(stored.document), media_type=MediaType.JSON, headers=headers)


@put("/accounts/{path:path}")
async def write(
    path: str,
    body: bytes,
    store: AccountStore,
    if_match: Annotated[str | None, Parameter(header="If-Match")] = None,
    if_none_match: Annotated[str | None, Parameter(header="If-None-Match")] = None,
) -> Response[dict[str, str]] | Response[bytes]:
    """Create the account (`If-None-Match: *`), or replace the one that the client has seen (`If-Match`)."""
    location, account = Location.parse(path.lstrip("/")), from_json(body)
    if if_none_match == "*":
        created = await store.save(location, account, mode="create")
        return Response(b"", status_code=201, headers={"ETag": etag(created)})
    if if_match is None:
        return Response({"detail": "say which version you replace: If-Match, or If-None-Match: *"}, status_code=428)
    version = (await store.read(location)).version  # by one read here, a `refresh` under way keeps its lease
    if if_match != etag(version):
        raise ConflictError("somebody else has changed it", location=location)
    return Response(b"", status_code=204, headers={"ETag": etag(await store.save(location, account, mode=version))})


@get("/ready")
async def ready(state: State) -> dict[str, str]:
    """Whether the storage answers: 503 if not, by the table above."""
    await state.store.exists(Location("ready.account"))
    return {"status": "ready"}


app = Litestar(
    [read, write, ready],
    lifespan=[lifespan],
    dependencies={"store": Provide(tenant)},
    exception_handlers={AccountStoreError: answer, ValidationException: refuse},
)
