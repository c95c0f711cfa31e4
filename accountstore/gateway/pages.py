"""What a gateway serves without a token: tokens themselves, health, metrics, and its own description."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from accountstore.gateway.openapi import description, page
from accountstore.gateway.problems import Problem
from accountstore.gateway.service import Call
from accountstore.gateway.wire import RETRY_SECONDS, json_response, parse_form, read_body

__all__ = ("docs", "live", "metrics", "openapi", "ready", "token")


async def token(call: Call, /) -> Response:
    """A token for a client's id and secret (RFC 6749 section 4.4). Refusals have the form of that RFC."""
    request, clients = call.request, call.service.clients
    if clients is None:
        raise Problem(404, "notFound", "there are no tokens here")
    body = await read_body(request, call.service.config.limits)
    peer = request.client.host if request.client else ""
    try:
        return json_response(await clients.grant(parse_form(body), request.headers.get("authorization", ""), peer))
    except Problem as problem:
        code = "invalid_request" if problem.code == "badRequest" else problem.code
        told = msgspec.json.encode({"error": code, "error_description": problem.message})
        headers = {"retry-after": str(RETRY_SECONDS)} if problem.status == 503 else {}
        return Response(told, problem.status, headers, "application/json")


async def live(call: Call, /) -> Response:
    """Whether the process answers."""
    return json_response({"status": "live"})


async def ready(call: Call, /) -> Response:
    """Whether the storages answer; 503 where one does not."""
    if not call.service.health.ready:
        raise Problem(503, "notReady", "a storage does not answer as it should")
    return json_response({"status": "ready"})


async def metrics(call: Call, /) -> Response:
    """Metrics, as Prometheus reads them."""
    metrics = call.service.metrics
    if metrics is None:
        raise Problem(404, "notFound", "there are no metrics here")
    metrics.ready.set(call.service.health.ready)
    return Response(metrics.text(), 200, None, "text/plain; version=0.0.4")


async def openapi(call: Call, /) -> Response:
    """The description of this API (OpenAPI 3.1)."""
    return json_response(description(with_token=call.service.clients is not None))


async def docs(call: Call, /) -> Response:
    """The description as a page, without anything from elsewhere."""
    text, policy = page(description(with_token=call.service.clients is not None))
    return Response(text, 200, {"content-security-policy": policy}, "text/html; charset=utf-8")
