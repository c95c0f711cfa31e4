"""`accountstore.oauth`: the exchange of RFC 6749 section 6, against the real provider and against a hostile one."""

from __future__ import annotations

import base64
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote_plus

import anyio
import pytest
from cloudservers import or_skip
from doubles import raises, result
from msgspec.structs import replace
from providers import CLIENTS, Provider, real_provider

pytest.importorskip("httpx2")

from accountstore import (
    Account,
    ConfigError,
    ExchangeError,
    NoAnswerError,
    OAuthCredentials,
    RefusedError,
    Secret,
    TokenGrant,
)
from accountstore.oauth import GOOGLE, MICROSOFT, TokenEndpoint, microsoft

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

pytestmark = pytest.mark.anyio

CANARY = "zQ7kzQ7kzQ7k"
CREDENTIALS = OAuthCredentials(
    login="me", client_id="the client", client_secret=f"{CANARY} &s=1", refresh_token=f"{CANARY}rt"
)
GOOD = {"access_token": "A1", "token_type": "Bearer", "expires_in": 3599, "refresh_token": "R1", "scope": "mail"}


def answer(body: bytes | object, status: str = "200 OK", *headers: str) -> bytes:
    """The bytes of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Endpoint:
    """A server that sends these bytes to each request, and keeps what it was asked."""

    def __init__(self, *chunks: bytes, again: bool = False, hang: bool = False) -> None:
        self.chunks: Sequence[bytes] = chunks
        self.again = again
        self.hang = hang
        self.asked: list[bytes] = []
        self.sent = 0
        self.url = ""

    async def _serve(self, stream: anyio.abc.SocketStream, /) -> None:
        async with stream:
            request = b""
            while b"grant_type" not in request:
                try:
                    request += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
            self.asked.append(request)
            try:
                for chunk in self.chunks:
                    await stream.send(chunk)
                while self.again:
                    await stream.send(self.chunks[-1])
                    self.sent += len(self.chunks[-1])
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            if self.hang:
                await anyio.sleep_forever()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Endpoint]:
        """Serve while the block lasts."""
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, self._serve)
            self.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/token"
            yield self
            group.cancel_scope.cancel()

    def form(self) -> dict[str, str]:
        """The form of the last request."""
        body = self.asked[-1].partition(b"\r\n\r\n")[2].decode()
        return {name: values[0] for name, values in parse_qs(body).items()}

    def headers(self) -> dict[str, str]:
        """Its headers, by their names in small letters."""
        lines = self.asked[-1].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def ask(endpoint: Endpoint, credentials: OAuthCredentials = CREDENTIALS, /, **options: Any) -> TokenGrant:
    """What the exchange makes of an endpoint."""
    async with endpoint.listening():
        outcome = await result(TokenEndpoint(endpoint.url, insecure_http=True, **options)(credentials))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


# --- what is asked ---------------------------------------------------------------------------------------------------


async def test_basic_authentication_encodes_id_and_secret() -> None:
    """By default the client shows its secret in the header, both parts form-encoded as the RFC says."""
    endpoint = Endpoint(answer(GOOD))
    grant = await ask(endpoint)
    assert endpoint.form() == {"grant_type": "refresh_token", "refresh_token": f"{CANARY}rt"}
    name, _, secret = (
        base64.b64decode(endpoint.headers()["authorization"].removeprefix("Basic ")).decode().partition(":")
    )
    assert (unquote_plus(name), unquote_plus(secret)) == ("the client", f"{CANARY} &s=1")
    assert endpoint.headers()["accept"] == "application/json"
    assert grant == TokenGrant(access_token="A1", expires_in=3599, refresh_token="R1", scope="mail")


async def test_post_authentication_puts_both_into_the_body() -> None:
    """With "post" there is no header."""
    endpoint = Endpoint(answer(GOOD))
    await ask(endpoint, authentication="post")
    form = endpoint.form()
    assert (form["client_id"], form["client_secret"]) == ("the client", f"{CANARY} &s=1")
    assert "authorization" not in endpoint.headers()


@pytest.mark.parametrize("authentication", ["basic", "post"])
async def test_a_public_client_sends_its_id_alone(authentication: str) -> None:
    """Without a secret, whatever the way of authentication."""
    endpoint = Endpoint(answer(GOOD))
    public = OAuthCredentials(login="me", client_id="public", refresh_token="rt")
    await ask(endpoint, public, authentication=authentication)
    assert endpoint.form() == {"grant_type": "refresh_token", "refresh_token": "rt", "client_id": "public"}
    assert "authorization" not in endpoint.headers()


async def test_the_documents_own_endpoint_is_asked_if_none_is_given() -> None:
    """`requestUrl` is where a document's token is refreshed; an endpoint that is given comes first."""
    async with Endpoint(answer(GOOD)).listening() as theirs, Endpoint(answer(GOOD)).listening() as given:
        credentials = OAuthCredentials(login="me", refresh_token="rt", request_url=theirs.url)
        await TokenEndpoint(insecure_http=True)(credentials)
        await TokenEndpoint(given.url, insecure_http=True)(credentials)
        assert (len(theirs.asked), len(given.asked)) == (1, 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/token",
        "ftp://x/",
        "//x/",
        "rt",
        "",
        f"https://u:{CANARY}@x/",
        "https://x/#f",
        "https://[/",
        "https:///x",
        "https://x:99999/",
        "https://x/\n",
        "https://\u00e4/",
    ],
)
async def test_what_is_no_https_url_is_not_asked(url: str) -> None:
    """Not as an endpoint, nor as a document's `requestUrl`, where some programs put a token: it is not quoted."""
    with raises(ConfigError, match=r"must be an https URL.*; accountstore\.oauth has GOOGLE"):
        TokenEndpoint(url)
    with raises(ExchangeError, match=r"^\$\.credentials\.requestUrl: must be an https URL, without user") as caught:
        await TokenEndpoint()(OAuthCredentials(login="me", refresh_token="rt", request_url=url))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("endpoint", [3, b"https://x/token", OAuthCredentials])
async def test_an_endpoint_that_is_no_text_is_refused(endpoint: Any) -> None:
    """At once, and by its type."""
    with pytest.raises(TypeError, match="the endpoint must be a URL, as text"):
        TokenEndpoint(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "request_url", "is_refused"),
    [
        (GOOGLE, MICROSOFT, True),
        (MICROSOFT, GOOGLE, True),
        (GOOGLE, "https://mail.example.com/token", True),
        (GOOGLE, "https://accounts.google.com/o/oauth2/token", False),
        (microsoft("contoso.com"), MICROSOFT, False),
        (MICROSOFT, "https://login.live.com/oauth20_token.srf", False),
        (GOOGLE, "https://OAUTH2.googleapis.com:443/token", False),
        *((GOOGLE, text, False) for text in (None, "", "refresh_token", "https://[", "//")),
    ],
)
async def test_no_provider_is_sent_the_tokens_of_another(
    endpoint: str, request_url: str | None, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a document's `requestUrl` names another provider than the endpoint that was given, nothing is sent."""
    asked: list[str] = []

    async def post(_: object, url: str, __: object) -> tuple[int, bytes]:
        asked.append(url)
        return 200, b'{"access_token": "A"}'

    monkeypatch.setattr(TokenEndpoint, "_post", post)
    credentials = OAuthCredentials(login="me", refresh_token="rt", request_url=request_url)
    if is_refused:
        with raises(ExchangeError, match=r"^\$\.credentials\.requestUrl: names another host"):
            await TokenEndpoint(endpoint)(credentials)
    else:
        await TokenEndpoint(endpoint)(credentials)
    assert asked == ([] if is_refused else [endpoint])


async def test_without_any_endpoint() -> None:
    """A document without `requestUrl` needs one that is given."""
    with raises(ExchangeError, match="no endpoint was given"):
        await TokenEndpoint()(CREDENTIALS)


def test_presets() -> None:
    """The endpoints of the two large providers; a tenant of Microsoft's has its own."""
    for endpoint in (GOOGLE, MICROSOFT, microsoft("contoso.com")):
        assert "TokenEndpoint" in repr(TokenEndpoint(endpoint))
    assert microsoft("contoso.com") == "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token"
    with pytest.raises(ValueError, match="tenant"):
        microsoft("a/b")
    with pytest.raises(ValueError, match="authentication"):
        TokenEndpoint(GOOGLE, authentication="none")  # type: ignore[arg-type]  # that it is none is what is tested


async def test_proxies_of_the_environment_are_not_used_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request goes to the endpoint itself; with `trust_env`, to the proxy."""
    async with Endpoint(answer(GOOD)).listening() as proxy, Endpoint(answer(GOOD)).listening() as endpoint:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/token"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        await TokenEndpoint(endpoint.url, insecure_http=True)(CREDENTIALS)
        assert (len(proxy.asked), len(endpoint.asked)) == (0, 1)
        await TokenEndpoint(endpoint.url, insecure_http=True, trust_env=True)(CREDENTIALS)
        assert (len(proxy.asked), len(endpoint.asked)) == (1, 1)


# --- a real provider -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """It runs once for all tests."""
    with or_skip(real_provider) as started:
        yield started


@pytest.mark.once
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_real_provider_takes_each_authentication(client: str, provider: Provider) -> None:
    """Basic, post and none, each for a client that is registered so: the tokens rotate, the access tokens are good."""
    credentials = await anyio.to_thread.run_sync(provider.credentials, client)
    ask = TokenEndpoint(authentication="post" if client == "mail-post" else "basic", insecure_http=True)
    spent = {credentials.refresh_token}
    for _ in range(3):
        grant = await ask(credentials)
        assert grant.refresh_token is not None
        credentials = replace(credentials, access_token=grant.access_token, refresh_token=grant.refresh_token)
        spent.add(grant.refresh_token)
        account = Account(host="h", port=1, credentials=credentials)
        assert await anyio.to_thread.run_sync(provider.honours, account)
        assert 3500 < grant.expires_in <= 3600
    assert len(spent) == 4


@pytest.mark.once
async def test_a_real_provider_refuses(provider: Provider) -> None:
    """A token that was spent, one that never was, a wrong secret: each with its code."""
    credentials = await anyio.to_thread.run_sync(provider.credentials, "mail-post")
    ask = TokenEndpoint(authentication="post", insecure_http=True)
    await ask(credentials)
    with raises(RefusedError, code="invalid_grant"):
        await ask(credentials)
    with raises(RefusedError, code="invalid_grant"):
        await ask(replace(credentials, refresh_token=Secret("none")))
    with raises(RefusedError, code="invalid_client"):
        await ask(replace(credentials, client_secret=Secret("wrong")))


# --- what is answered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "lifetime"),
    [
        *(("3599", 3599), (10.5, 10.5), (1e300, 1e300)),
        *((odd, 3600) for odd in (0, -1, "0", "-1", 10**400, "9" * 400, None, True, [60], "soon", "nan", "inf", "")),
    ],
)
async def test_lifetimes(given: object, lifetime: float) -> None:
    """A number or a string of one; what says nothing, or no time above zero, is taken for `lifetime`."""
    assert (await ask(Endpoint(answer(GOOD | {"expires_in": given})))).expires_in == lifetime


async def test_a_provider_that_keeps_the_refresh_token() -> None:
    """No refresh token in the answer: the old one stays."""
    assert (await ask(Endpoint(answer({"access_token": "A", "expires_in": 5})))).refresh_token is None


@pytest.mark.parametrize(
    "body",
    [
        *(json.dumps(GOOD | {"scope": odd}).encode() for odd in (["mail"], 5, None)),
        *(json.dumps(GOOD | {"error": odd}).encode() for odd in (False, "", None, "invalid_grant", {"code": 1})),
        json.dumps(GOOD | {"account_name": "\ud83d"}).encode(),
        json.dumps(GOOD | {"scope": "\ud83d", "error_description": "\ude00"}).encode(),
        json.dumps(GOOD).encode().replace(b"3599", b"1e400"),
        json.dumps(GOOD).encode().replace(b"3599", b"9" * 5000),
        json.dumps(GOOD).encode().replace(b'"mail"', b'"\xff"'),
        json.dumps(GOOD).encode().replace(b'"mail"', b'"a\nb"'),
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    ],
)
async def test_nothing_else_in_an_answer_loses_the_tokens(body: bytes) -> None:
    """A provider that has granted an access token may have spent the refresh token: its successor is taken, whatever
    else the answer has.
    """
    grant = await ask(Endpoint(answer(body)))
    assert (grant.access_token, grant.refresh_token) == (Secret("A1"), Secret("R1"))


@pytest.mark.parametrize("odd", ["\n", "", 5, None, ["R1"], "R1\ud83d"])
async def test_what_cannot_be_a_refresh_token_is_none(odd: object) -> None:
    """The access token is good all the same."""
    grant = await ask(Endpoint(answer(GOOD | {"refresh_token": odd})))
    assert (grant.access_token, grant.refresh_token) == (Secret("A1"), None)


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf"), 10**400, "5", True], ids=type)
@pytest.mark.parametrize("name", ["timeout", "lifetime"])
def test_times_are_positive_numbers(name: str, number: Any) -> None:
    """What is none is refused before anything is asked."""
    with pytest.raises((TypeError, ValueError), match=name):
        TokenEndpoint(GOOGLE, **{name: number})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        *(({"error": code}, "400 Bad Request", code) for code in sorted(RefusedError.CODES)),
        ({"error": "invalid_client", "error_description": CANARY}, "401 Unauthorized", "invalid_client"),
        ({"error": f"{CANARY}"}, "400 Bad Request", "other"),
        ({"error": "invalid_grant", "error_description": f"{CANARY} \ud83d"}, "400 Bad Request", "invalid_grant"),
        ({"error": "\ud83d"}, "400 Bad Request", "other"),
        ({"error": "invalid_grant"}, "200 OK", "invalid_grant"),
    ],
)
async def test_refusals(body: object, status: str, code: str) -> None:
    """Each error of RFC 6749 section 5.2 is a `RefusedError` with its code, and nothing else of the answer."""
    with raises(RefusedError, code=code) as caught:
        await ask(Endpoint(answer(body, status)))
    assert CANARY not in repr(caught.value) + str(vars(caught.value))


HOSTILE: dict[str, tuple[Endpoint, type[ExchangeError], str]] = {
    "a redirect": (
        Endpoint(answer(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:1/")),
        ExchangeError,
        "307",
    ),
    "a page": (Endpoint(answer(b"<html>sign in</html>")), NoAnswerError, "no JSON object"),
    "a page of an error": (Endpoint(answer(b"<html>", "404 Not Found")), ExchangeError, "404"),
    "nothing": (Endpoint(answer(b"")), NoAnswerError, "no JSON object"),
    "a list": (Endpoint(answer([1])), NoAnswerError, "no JSON object"),
    "depth": (Endpoint(answer(b"[" * 60_000)), NoAnswerError, "no JSON object"),
    "a number for a token": (Endpoint(answer(GOOD | {"access_token": 5})), NoAnswerError, "no access_token"),
    "an empty token": (Endpoint(answer(GOOD | {"access_token": ""})), NoAnswerError, "no access_token"),
    "no token": (Endpoint(answer({"expires_in": 5})), NoAnswerError, "no access_token"),
    "a token with a line end": (Endpoint(answer(GOOD | {"access_token": "A\r\nB"})), NoAnswerError, "no access_token"),
    "not UTF-8": (Endpoint(answer(b'{"access_token": "\xff"}')), NoAnswerError, "no access_token"),
    "a failure": (Endpoint(answer({"error": "server_error"}, "503 Service Unavailable")), NoAnswerError, "503"),
    "no end": (
        Endpoint(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b" " * 4096 + b"\r\n", again=True
        ),
        NoAnswerError,
        "larger than",
    ),
    "headers without end": (
        Endpoint(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 4096 + b"\r\n", again=True),
        NoAnswerError,
        "come",
    ),
    "no HTTP": (Endpoint(b"SSH-2.0-OpenSSH\r\n"), NoAnswerError, "did not come"),
    "half of it": (Endpoint(answer(GOOD)[:-5]), NoAnswerError, "did not come"),
    "a bomb": (
        Endpoint(answer(b"\x1f\x8b" + b"\0" * 100, "200 OK", "Content-Encoding: gzip")),
        NoAnswerError,
        "no JSON object",
    ),
    "no answer": (Endpoint(hang=True), NoAnswerError, "did not answer within"),
    "a slow one": (Endpoint(answer(GOOD)[:50], hang=True), NoAnswerError, "did not answer within"),
    "a closed connection": (Endpoint(), NoAnswerError, "did not come"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_endpoint_gives_typed_errors_only(name: str) -> None:
    """Whatever an endpoint answers, it is a typed error, in time and without much of it in memory."""
    endpoint, kind, match = HOSTILE[name]
    with raises(kind, match=match) as caught:
        await ask(endpoint, timeout=0.5 if endpoint.hang else 20)
    assert type(caught.value) is kind
    assert endpoint.sent < 10_000_000


async def test_nobody_listens() -> None:
    """A connection that is refused is an answer that did not come, and a request that was not sent. The host is named,
    and neither path nor query.
    """
    async with Endpoint().listening() as endpoint:
        pass
    match = r"^the endpoint at 127\.0\.0\.1 cannot be reached \(ConnectError\)$"
    with raises(NoAnswerError, match=match, sent=False, temporary=True):
        await TokenEndpoint(f"{endpoint.url}?{CANARY}", insecure_http=True)(CREDENTIALS)


async def test_no_log_shows_what_was_sent_or_answered(caplog: pytest.LogCaptureFixture) -> None:
    """Neither httpx2's records at DEBUG and INFO, nor an error: a server may echo a token where it likes."""
    caplog.set_level(logging.DEBUG)
    echo = Endpoint(answer({"error": CANARY, "error_description": CANARY}, f"400 {CANARY}", f"X-Echo: {CANARY}"))
    async with echo.listening():
        with raises(RefusedError):
            await TokenEndpoint(f"{echo.url}?key={CANARY}", insecure_http=True)(CREDENTIALS)
    assert CANARY not in caplog.text
    assert CANARY not in repr([vars(record) for record in caplog.records])


async def test_control_httpx_alone_would_log_it(caplog: pytest.LogCaptureFixture) -> None:
    """The control: the same request by httpx2 alone shows the echo and the URL."""
    import httpx2

    caplog.set_level(logging.DEBUG)
    echo = Endpoint(answer({}, f"400 {CANARY}", f"X-Echo: {CANARY}"))
    async with echo.listening(), httpx2.AsyncClient(trust_env=False) as client:
        await client.post(echo.url, data={"grant_type": "refresh_token"})
    assert CANARY in caplog.text
