"""Which operation a request is, and whether its client may call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from accountstore import FullError
from accountstore.gateway import accounts, files, pages
from accountstore.gateway.conditions import conditions_of
from accountstore.gateway.front import note
from accountstore.gateway.operations import OPERATIONS
from accountstore.gateway.problems import Problem
from accountstore.gateway.service import Call, Handler, Operation, Service

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ("CONDITIONAL", "HANDLERS", "OPEN", "Routes")

_VERSION = "/v4.0"
HANDLERS: Mapping[str, Handler] = {
    "client_account.get": accounts.get,
    "client_account.get_multi": accounts.get_multi,
    "client_account.save": accounts.save,
    "client_account.save_multi": accounts.save_multi,
    "file.copy_file": files.copy_file,
    "file.delete_file": files.delete_file,
    "file.download_file": files.download_file,
    "file.move_file": files.move_file,
    "file.upload_file": files.upload_file,
    "folder.create_folder": files.create_folder,
    "folder.delete_folder": files.delete_folder,
    "folder.get_files_list": files.get_files_list,
    "storage.exists": files.exists,
    "storage.get_disc_usage": files.get_disc_usage,
    "storage.get_file_versions": files.get_file_versions,
    "storage.object_exists": files.object_exists,
}
"""What serves which operation of the API."""
CONDITIONAL = frozenset(
    {
        *(f"client_account.{name}" for name in ("get", "get_multi", "save", "save_multi")),
        *(f"file.{name}_file" for name in ("delete", "download", "upload")),
    }
)
"""What takes `If-Match` and `If-None-Match`."""
OPEN: Mapping[str, tuple[str, Handler]] = {
    "/connect/token": ("POST", pages.token),
    "/docs": ("GET", pages.docs),
    "/health/live": ("GET", pages.live),
    "/health/ready": ("GET", pages.ready),
    "/metrics": ("GET", pages.metrics),
    "/openapi.json": ("GET", pages.openapi),
}
"""What needs no token."""


class Routes:
    """All paths, as an ASGI application: those without parameters are looked up, the others tried one after another."""

    def __init__(self, service: Callable[[], Service | None], without: frozenset[str], /) -> None:
        """`service` says what there is to work with. Of what needs no token, the paths `without` are not served."""
        self._exact: dict[str, Endpoint] = {}
        routes: list[Route] = []
        for (path, alone), operations in _by_path(without).items():
            endpoint = Endpoint(service, operations)
            if "{" not in path:
                self._exact[path] = endpoint
            else:
                routes.append(Route(path, endpoint, methods=list(operations) if alone else None))
        # One client does not follow redirections.
        self._others = Router(routes, redirect_slashes=False, default=_refuse)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.endswith("\n"):  # which a pattern of Starlette's takes for the end
            await _refuse(scope, receive, send)
        await self._exact.get(path, self._others)(scope, receive, send)


def _by_path(without: frozenset[str], /) -> Mapping[tuple[str, bool], dict[str, Operation]]:
    """The operations by path and method. A path that is marked is another's too, for other methods."""
    found: dict[tuple[str, bool], dict[str, Operation]] = {}
    for method, path, name in OPERATIONS:
        access: Literal["read", "write"] = "read" if method == "GET" else "write"
        # What copies and moves a file or folder may itself be the path of one.
        alone = path.endswith(("copy/{path}", "move/{path}"))
        key = _VERSION + path.replace("{path}", "{path:path}"), alone
        found.setdefault(key, {})[method] = Operation(name, access, HANDLERS.get(name))
    for path, (method, handler) in OPEN.items():
        if path not in without:
            found[path, False] = {method: Operation(handler.__name__, "open", handler)}
    return found


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    raise Problem(404, "notFound", "there is no such operation")


class Endpoint:
    """The operations of one path, as an ASGI application."""

    def __init__(self, service: Callable[[], Service | None], operations: Mapping[str, Operation], /) -> None:
        self._service = service
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = self._operations.get(method)
        if operation is not None:
            note(scope, operation=operation.name)
            response = await self._serve(operation, Request(scope, receive))
        else:
            also = {"OPTIONS", "HEAD"} if "GET" in self._operations else {"OPTIONS"}
            allow = {"allow": ", ".join(sorted({*self._operations, *also}))}
            if method != "OPTIONS":
                raise Problem(405, "methodNotAllowed", f"the method must be one of {allow['allow']}", headers=allow)
            response = Response(None, 204, allow)
        await response(scope, receive, send)

    async def _serve(self, operation: Operation, request: Request, /) -> Response:
        service = self._service()
        if service is None:
            raise Problem(503, "unavailable", "the gateway is starting or shutting down: try again")
        if operation.handler is None:
            raise Problem(501, "notImplemented", f"{operation.name} is not served here")
        if operation.access == "open":
            return await operation.handler(Call(operation.name, request, service, service.store))
        access = await service.authorize(request)
        if access is None:
            advice = "" if service.clients is None else ": ask /connect/token for one"
            raise Problem(401, "unauthorized", f"there is no valid token{advice}")
        note(request.scope, client=access.name)
        with access.quota or nullcontext():
            if operation.access == "write" and not access.writes:
                raise Problem(403, "readOnly", "this client may read only")
            if operation.name not in CONDITIONAL and conditions_of(request):
                raise Problem(400, "badRequest", f"{operation.name} takes neither If-Match nor If-None-Match")
            try:
                return await operation.handler(Call(operation.name, request, service, access.store))
            except FullError as error:
                service.health.suspect((error.location and error.location.storage) or access.store.storages[0])
                raise
