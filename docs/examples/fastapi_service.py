"""Accounts over HTTP with FastAPI: `uvicorn fastapi_service:app --no-access-log`, as that log has names of documents.

`ETAG_KEY` in the environment is a secret of all its processes.
Each tenant has a folder; which tenant asks, a proxy has proven and says in a header.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse

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
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """One store for the whole service, opened on its event loop."""
    async with AccountStore.open() as app.state.store:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(AccountStoreError)
async def answer(_: Request, error: AccountStoreError) -> JSONResponse:
    """An error is the status of its nearest class; its message names the location and the field, and no value."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return JSONResponse({"detail": str(error)}, status, {"Retry-After": "1"} if error.temporary else None)


def tenant(request: Request, x_tenant: Annotated[str, Header()]) -> AccountStore:
    """The store narrowed to the tenant's folder: names outside it cannot be written."""
    store: AccountStore = request.app.state.store
    return store.scoped(f"tenants/{x_tenant}")


Tenant = Annotated[AccountStore, Depends(tenant)]


def etag(version: Version) -> str:
    """What a client may know of a version: the same in every process, and nothing about the document."""
    return f'"{hmac.digest(ETAG_KEY, version.token.encode(), "sha256").hex()}"'


@app.get("/accounts/{path:path}")
async def read(path: str, store: Tenant) -> Response:
    """The account, with masked secrets."""
    stored = await store.read(Location.parse(path))
    return Response(to_json(stored.document), media_type="application/json", headers={"ETag": etag(stored.version)})


@app.put("/accounts/{path:path}")
async def write(
    path: str,
    request: Request,
    store: Tenant,
    if_match: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Create the account (`If-None-Match: *`), or replace the one that the client has seen (`If-Match`)."""
    location, account = Location.parse(path), from_json(await request.body())
    if if_none_match == "*":
        return Response(status_code=201, headers={"ETag": etag(await store.save(location, account, mode="create"))})
    if if_match is None:
        return JSONResponse({"detail": "say which version you replace: If-Match, or If-None-Match: *"}, 428)
    version = (await store.read(location)).version  # by one read here, a `refresh` under way keeps its lease
    if if_match != etag(version):
        raise ConflictError("somebody else has changed it", location=location)
    return Response(status_code=204, headers={"ETag": etag(await store.save(location, account, mode=version))})


@app.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Whether the storage answers: 503 if not, by the table above."""
    await request.app.state.store.exists(Location("ready.account"))
    return {"status": "ready"}
