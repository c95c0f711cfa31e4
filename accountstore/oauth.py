"""A ready-made exchange for `AccountStore.refresh`: the refresh of RFC 6749 section 6, over HTTP (extra `oauth`).

    await store.refresh(location, TokenEndpoint(GOOGLE))

Nothing is sent unless a `TokenEndpoint` is called, as `refresh` does with the one that it is given.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote_plus, urlencode, urlsplit

import anyio

try:
    # Here, for httpx2 would import it on the event loop, where it reads files.
    import httpcore2  # noqa: F401 # pyright: ignore[reportUnusedImport]
    import httpx2
except ImportError:
    raise ImportError(
        "accountstore.oauth needs the package httpx2: pip install 'accountstore[oauth]'", name="httpx2"
    ) from None
from anyio import to_thread

from accountstore.aio.loops import asyncio_loop
from accountstore.backends.logs import quiet
from accountstore.codecs import without_mark
from accountstore.errors import ConfigError, ExchangeError, NoAnswerError, RefusedError
from accountstore.grant import TokenGrant
from accountstore.model import OAuthCredentials
from accountstore.secrets import Secret, SecretBytes
from accountstore.validation import check_seconds

if TYPE_CHECKING:
    import ssl

__all__ = ("GOOGLE", "MICROSOFT", "TokenEndpoint", "microsoft")

GOOGLE = "https://oauth2.googleapis.com/token"
"""Google's token endpoint."""
MICROSOFT = "https://login.microsoftonline.com/common/oauth2/v2.0/token"
"""Microsoft's, for accounts of any kind: `microsoft(tenant)` is that of one organization."""

_HOSTS = (
    {"oauth2.googleapis.com", "www.googleapis.com", "accounts.google.com"},
    {"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "login.live.com"},
)
"""Those of one provider each, which take the same tokens."""
_LARGEST = 64 * 1024
_DEFAULT_LIFETIME = 3600.0
_IS_TOKEN = re.compile(r"[\x20-\x7e]+")  # RFC 6749 appendix A.12, A.17


def microsoft(tenant: str, /) -> str:
    """Microsoft's token endpoint of a tenant: its id, a domain of it, `organizations` or `consumers`."""
    if not re.fullmatch(r"[A-Za-z0-9.-]+", tenant):
        raise ValueError("a tenant is an id or a domain name")
    return MICROSOFT.replace("common", tenant)


class TokenEndpoint:
    """An exchange that asks a provider's token endpoint for a new access token.

    `endpoint` is its URL; without one, each document's own `requestUrl` is asked, and gets the client's secret: give
    one where others than you write documents. It is then sent nothing of a document whose `requestUrl` is a URL of
    another host: the tokens are another provider's. `authentication` says how a client with a secret shows it: in the
    `Authorization` header (`"basic"`, which RFC 6749 section 2.3.1 has every provider take) or in the body (`"post"`).
    A public client, whose credentials have no secret, sends its id alone. A call takes at most `timeout` seconds and
    reads at most 64 KiB of an answer. No redirect is followed, and no URL but `https` is asked without
    `insecure_http`. Proxies and certificates of the environment (`HTTPS_PROXY`, `SSL_CERT_FILE`) count with
    `trust_env` alone. A token whose lifetime an answer does not tell, or tells as nothing above zero, is
    taken to live for `lifetime` seconds.

    Raises:
        ConfigError: the endpoint is no such URL.
        TypeError, ValueError: `timeout` or `lifetime` is no positive number; the endpoint is no text.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        /,
        *,
        authentication: Literal["basic", "post"] = "basic",
        timeout: float = 10.0,
        lifetime: float = _DEFAULT_LIFETIME,
        insecure_http: bool = False,
        trust_env: bool = False,
    ) -> None:
        if authentication not in {"basic", "post"}:
            raise ValueError("authentication must be 'basic' or 'post'")
        check_seconds("timeout", timeout)
        check_seconds("lifetime", lifetime)
        self._authentication = authentication
        self._timeout = timeout
        self._lifetime = lifetime
        self._schemes = {"https", "http"} if insecure_http else {"https"}
        self._trust_env = trust_env
        self._tls: ssl.SSLContext | None = None
        if not isinstance(endpoint, str | None):
            raise TypeError("the endpoint must be a URL, as text, or None")
        if endpoint is not None and (wrong := self._what_is_wrong_with(endpoint)):
            raise ConfigError(f"the endpoint {wrong}; accountstore.oauth has GOOGLE, MICROSOFT and microsoft(tenant)")
        self._endpoint = endpoint

    async def __call__(self, credentials: OAuthCredentials, /) -> TokenGrant:
        """What the provider grants for the credentials' refresh token.

        Raises:
            RefusedError: the provider refused, with its code of RFC 6749 section 5.2.
            NoAnswerError: no answer in time, or one that does not say what was done.
            ExchangeError: there is no endpoint, or the document is of another provider; or it refused in no way that
                the RFC knows.
        """
        outcome: TokenGrant | ExchangeError
        endpoint = credentials.request_url if self._endpoint is None else self._endpoint
        if endpoint is None:
            outcome = ExchangeError("there is no requestUrl in the credentials, and no endpoint was given")
        elif wrong := self._what_is_wrong_with(endpoint):
            outcome = ExchangeError(f"$.credentials.requestUrl: {wrong}")
        elif not _is_same_provider(endpoint, credentials.request_url):
            outcome = ExchangeError(
                "$.credentials.requestUrl: names another host than the endpoint that was given, which was sent nothing"
            )
        else:
            try:
                outcome = await self._ask(endpoint, credentials)
            except BaseException as ended:  # noqa: BLE001 -- cancellation goes on, without the frames below
                ended.__context__ = ended.__cause__ = None
                raise ended.with_traceback(None)  # noqa: B904 -- it is the same one
        if isinstance(outcome, ExchangeError):
            outcome.in_own_words = True
            raise outcome
        return outcome

    def __repr__(self) -> str:
        return f"<TokenEndpoint {'of each document' if self._endpoint is None else urlsplit(self._endpoint).hostname}>"

    def _what_is_wrong_with(self, endpoint: str, /) -> str | None:
        """What is wrong with a URL, which is not quoted: some programs put a token there."""
        try:
            url = urlsplit(endpoint)
            is_url = bool(url.hostname) and url.port != 0 and endpoint.isascii() and endpoint.isprintable()
        except ValueError:
            is_url = False
        else:
            if is_url and url.scheme in self._schemes and not (url.username or url.password or url.fragment):
                return None
        if len(self._schemes) > 1:
            return "must be a URL, without user or fragment"
        return "must be an https URL, without user or fragment (insecure_http or --insecure-http, for tests)"

    async def _ask(self, endpoint: str, credentials: OAuthCredentials, /) -> TokenGrant | ExchangeError:
        """One request; whatever httpx raises is named by its class, as its text and frames may hold a token."""
        host = urlsplit(endpoint).hostname
        try:
            with anyio.fail_after(self._timeout):
                with quiet():
                    status, body = await self._post(endpoint, credentials)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            return NoAnswerError(f"the endpoint at {host} cannot be reached ({type(error).__name__})", sent=False)
        except TimeoutError:
            return NoAnswerError(f"the endpoint at {host} did not answer within {self._timeout:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError) as error:
            return NoAnswerError(f"the answer of the endpoint at {host} did not come ({type(error).__name__})")
        return (
            NoAnswerError(f"the endpoint's answer is larger than {_LARGEST} bytes")
            if body is None
            else self._read(status, body)
        )

    async def _post(self, endpoint: str, credentials: OAuthCredentials, /) -> tuple[int, SecretBytes | None]:
        """The answer's status and body; None: it is too large."""
        verify: ssl.SSLContext | bool = False
        if urlsplit(endpoint).scheme == "https":  # however it is written
            if self._tls is None:
                self._tls = await to_thread.run_sync(lambda: httpx2.create_ssl_context(trust_env=self._trust_env))
            verify = self._tls
        headers, form = self._request(credentials)
        body = SecretBytes()
        status = 0
        # A body that is too large is left by a cancellation: httpcore2's generators close themselves in no other way.
        with anyio.CancelScope() as scope:
            async with (
                httpx2.AsyncClient(
                    verify=verify, trust_env=self._trust_env, timeout=self._timeout, follow_redirects=False
                ) as client,
                client.stream("POST", endpoint, content=urlencode(form), headers=headers) as response,
            ):
                status = response.status_code
                async for chunk in response.aiter_raw():
                    body = SecretBytes(body + chunk)
                    if len(body) > _LARGEST:
                        scope.cancel()
                        if asyncio_loop() is not None:
                            # Reading on could outrun the cancellation for ever, where data comes fast.
                            await anyio.sleep_forever()
        return status, None if len(body) > _LARGEST else body

    def _request(self, credentials: OAuthCredentials, /) -> tuple[dict[str, str], dict[str, str]]:
        """The headers and the form of RFC 6749 section 6."""
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        form = {"grant_type": "refresh_token", "refresh_token": credentials.refresh_token.reveal()}
        name, secret = credentials.client_id, credentials.client_secret
        if secret is not None and self._authentication == "basic":
            pair = f"{quote_plus(name or '')}:{quote_plus(secret.reveal())}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
            return headers, form
        if name is not None:
            form["client_id"] = name
        if secret is not None:
            form["client_secret"] = secret.reveal()
        return headers, form

    def _read(self, status: int, body: bytes, /) -> TokenGrant | ExchangeError:
        """What an answer says, by RFC 6749 sections 5.1 and 5.2. A token in it that cannot be one is not taken: it may
        end up in a protocol's line. Each member stands by itself: no odd one, such as half of a surrogate pair, takes a
        grant along.

        Beside an access token nothing else counts: the provider has granted it, and may have spent the refresh token.
        """
        if status >= 500:
            return NoAnswerError(f"the endpoint answered {status}")
        if 300 <= status < 400:
            return ExchangeError(f"the endpoint answered {status}: a redirect, which is not followed")
        wrong = "it has no access_token, or none that can be one"
        try:
            answer: Any = json.loads(without_mark(body).decode(errors="replace"), strict=False, parse_int=float)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            answer, wrong = {}, "it is no JSON object"
        if 200 <= status < 300 and (access_token := _token(answer.get("access_token"))) is not None:
            return TokenGrant(
                access_token=access_token,
                expires_in=self._lifetime_of(answer.get("expires_in")),
                refresh_token=_token(answer.get("refresh_token")),
                scope=_text(answer.get("scope")),
            )
        if error := _text(answer.get("error")):
            return RefusedError("the provider refused the exchange", code=error)
        if status >= 300:
            return ExchangeError(f"the endpoint answered {status}, with no error of RFC 6749")
        return NoAnswerError(f"the endpoint's answer is no token response: {wrong}")

    def _lifetime_of(self, given: object, /) -> float:
        """The lifetime of an access token, which some providers write as a string."""
        try:
            seconds = float(given) if isinstance(given, (str, float)) else 0
        except ValueError:
            seconds = 0
        return seconds if isfinite(seconds) and seconds > 0 else self._lifetime


def _is_same_provider(endpoint: str, request_url: str | None, /) -> bool:
    """Whether an endpoint is of the provider that credentials name, if they name one by a URL."""
    try:
        hosts = {urlsplit(endpoint).hostname, urlsplit(request_url or "").hostname or urlsplit(endpoint).hostname}
    except ValueError:  # some programs put a token there
        return True
    return len(hosts) == 1 or any(hosts <= known for known in _HOSTS)


def _text(given: object, /) -> str | None:
    """A member of an answer, if it is text."""
    return given if isinstance(given, str) else None


def _token(given: object, /) -> Secret | None:
    """A token of an answer, if it can be one."""
    return Secret(given) if isinstance(given, str) and _IS_TOKEN.fullmatch(given) else None
