"""Keys in the transit engine of OpenBao or Vault (extra `transit`). The service wraps; its key never leaves it.

    keys = { provider = "transit", url = "https://bao.example.org:8200", key = "mail", token = "${BAO_TOKEN}" }

The key is a derived one (`bao write -f transit/keys/mail derived=true`): the document's place is its context. The token
needs `update` on `transit/encrypt/mail`, `transit/decrypt/mail` and `transit/rewrap/mail`, and `read` on
`transit/keys/mail`. After `bao write -f transit/keys/mail/rotate`, `accountstore keys rotate` re-wraps on the server;
then `min_decryption_version` proves that nothing needs the versions before.
"""

from __future__ import annotations

import os
import re
import ssl
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import httpx2
import msgspec
from anyio import to_thread
from msgspec import Struct, field

from accountstore.backends.logs import quiet
from accountstore.backends.options import check_url
from accountstore.errors import ConfigError, KeyDeniedError, KeyProviderError, SealError, WrongKeyError
from accountstore.files import read_file
from accountstore.sealing.envelope import KEY_ID_RULE, WrappedKey, is_key_id, require_cryptography
from accountstore.secrets import Secret, SecretBytes, without_frames
from accountstore.validation import check_header, did_you_mean

_MAX_ANSWER = 16 * 1024 * 1024
_MAX_TOKEN = 10_000
_OK, _FORBIDDEN = 200, 403
_TEMPORARY = {412, 429}
"""A standby that lags behind, and too many requests; beside redirects to another node and errors of the server."""
_NONSENSE = "the key service answered what makes no sense"


class _Options(Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of the table in the configuration."""

    url: str
    key: str
    token: str = ""
    token_file: str = ""
    mount: str = "transit"
    namespace: str = ""
    verify: bool | str = True
    """The path of a file with the certificates of the authorities, or false for none."""


class _Item(Struct):
    ciphertext: str = ""
    plaintext: str = ""
    error: str = ""


class _Data(Struct):
    batch_results: list[_Item] = []
    derived: bool = False
    latest_version: int = 0


class _Answer(Struct):
    data: _Data | None = field(default_factory=_Data)


_decode = msgspec.json.Decoder(_Answer).decode


@without_frames
def open_keys(options: Mapping[str, object], /) -> TransitKeys:
    """The provider of a table in the configuration. Raises `ConfigError`."""
    known = _Options.__struct_fields__
    for name in options:
        if name not in known:
            raise ConfigError(f"transit: unknown key {name!r}{did_you_mean(name, known)}")
    try:
        return TransitKeys(**msgspec.structs.asdict(msgspec.convert(options, _Options)))
    except msgspec.ValidationError as error:
        raise ConfigError(f"transit: {error}") from None


@final
class TransitKeys:
    """One derived key of a transit engine. The ids of its versions are `MOUNT/KEY/v1` and so on.

    Raises:
        ConfigError: the URL is none, or has a user, a query or a fragment; the service can have no such key or mount;
            there is no token, its file or that of the authorities cannot be read, or no header can have the token or
            the namespace.
    """

    algorithm = "acs-transit"
    binds_context = True
    remote = True

    @without_frames
    def __init__(
        self,
        url: str,
        key: str,
        *,
        token: str | Secret = "",
        token_file: str = "",
        mount: str = "transit",
        namespace: str = "",
        verify: bool | str = True,
    ) -> None:
        require_cryptography("transit")
        check_url({"url": url}, "url", "transit")
        if not (token or token_file):
            raise ConfigError("transit: token: must be given, or token_file")
        self._token = Secret(token)
        check_header("transit: token", self._token.reveal())
        check_header("transit: namespace", namespace)
        self._token_file = os.path.expanduser(token_file)
        self._prefix = f"{mount}/{key}/v"
        if not is_key_id(f"{self._prefix}{2**63}"):
            raise ConfigError(f"transit: mount and key: their id {KEY_ID_RULE}")
        if not re.fullmatch(r"\w([\w.-]*\w)?", key, re.ASCII):
            raise ConfigError("transit: key: must be a name of ASCII letters, digits, and _, - and . between them")
        if re.search(r"[?#%]|(\A|/)\.{0,2}(/|\Z)", mount):
            raise ConfigError("transit: mount: must be a path such as transit or team/transit, without ?, # and %")
        self._paths = {name: f"/v1/{mount}/{name}/{key}" for name in ("encrypt", "decrypt", "rewrap", "keys")}
        self._is_derived = False
        if token_file:
            self._read_token()
        self._headers = {"X-Vault-Request": "true"} | ({"X-Vault-Namespace": namespace} if namespace else {})
        self._url = url
        try:
            self._trusted = _authorities(verify) if isinstance(verify, str) else verify
            self._client = self._new_client()
        except (OSError, ValueError, httpx2.InvalidURL) as error:
            raise ConfigError(f"transit: url or verify: cannot be used ({type(error).__name__})") from None

    def __repr__(self) -> str:
        return f"TransitKeys({self._prefix[:-2]!r})"

    def _new_client(self) -> httpx2.AsyncClient:
        # No time limit of its own: the operation has one. No proxy and no netrc: the token goes to this host alone.
        return httpx2.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            verify=self._trusted,
            timeout=None,
            trust_env=False,
            follow_redirects=False,
        )

    @without_frames
    def _read_token(self) -> None:
        try:
            token = Secret(read_file(self._token_file, limit=_MAX_TOKEN).decode("ascii").strip())
        except (OSError, ValueError) as error:
            raise ConfigError(f"transit: token_file: cannot be read ({type(error).__name__})") from None
        check_header("transit: token_file", token.reveal())
        self._token = token

    def key_ids(self) -> Sequence[str]:
        return (f"{self._prefix}*",)

    def holds(self, key_id: str, /) -> bool:
        return key_id.startswith(self._prefix) and key_id[len(self._prefix) :].isdecimal()

    async def current(self) -> str:
        found = await self._ask("keys", None)
        if not found.derived:
            raise KeyDeniedError("the key of the service is not a derived one, and would not bind documents to places")
        self._is_derived = True
        return f"{self._prefix}{found.latest_version}"

    async def wrap(self, keys: Sequence[bytes], contexts: Sequence[str], /) -> Sequence[WrappedKey]:
        if not self._is_derived:
            await self.current()
        items = [{"plaintext": _text(key), "context": _text(c.encode())} for key, c in zip(keys, contexts, strict=True)]
        answers = (await self._ask("encrypt", items)).batch_results
        return [self._wrapped(answer) for answer in answers]

    async def unwrap(self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /) -> Sequence[bytes | Exception]:
        answers = await self._send_wrapped("decrypt", wrapped, contexts)
        return [
            _plain(answer, each) if self._is_named(each) else _renamed(each)
            for answer, each in zip(answers, wrapped, strict=True)
        ]

    async def rewrap(
        self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /
    ) -> Sequence[WrappedKey | Exception]:
        """Each key under the latest version, by the server. Raises `KeyDeniedError`, `KeyProviderError`."""
        answers = await self._send_wrapped("rewrap", wrapped, contexts)
        return [
            _renamed(each)
            if not self._is_named(each)
            else WrongKeyError("the key service refused it", key_id=each.key_id)
            if answer.error
            else self._wrapped(answer)
            for answer, each in zip(answers, wrapped, strict=True)
        ]

    def _is_named(self, wrapped: WrappedKey, /) -> bool:
        """Whether a document names the version of the key that its content key was wrapped by: the server looks at the
        ciphertext alone, and what is written beside it would say which versions are needed.
        """
        scheme, _, rest = wrapped.data.partition(b":v")
        version = wrapped.key_id.removeprefix(self._prefix).encode()
        return bool(scheme) and rest.startswith(version + b":")

    async def _send_wrapped(
        self, path: Literal["decrypt", "rewrap"], wrapped: Sequence[WrappedKey], contexts: Sequence[str], /
    ) -> Sequence[_Item]:
        items = [
            {"ciphertext": each.data.decode("ascii", "replace"), "context": _text(context.encode())}
            for each, context in zip(wrapped, contexts, strict=True)
        ]
        answers = (await self._ask(path, items)).batch_results
        if len(answers) != len(items):
            raise KeyProviderError(_NONSENSE)
        return answers

    def _wrapped(self, answer: _Item, /) -> WrappedKey:
        scheme, _, rest = answer.ciphertext.partition(":v")
        version = rest.partition(":")[0]
        if not (scheme and version.isdecimal() and answer.ciphertext.isascii()):
            raise KeyProviderError(_NONSENSE)
        return WrappedKey(self.algorithm, f"{self._prefix}{version}", answer.ciphertext.encode("ascii"))

    async def _ask(self, path: Literal["encrypt", "decrypt", "rewrap", "keys"], items: Any, /) -> _Data:
        status, data = await self._send(path, items)
        if status == _FORBIDDEN and self._token_file:  # an agent may have renewed it
            await to_thread.run_sync(self._read_token)
            status, data = await self._send(path, items)
        try:
            answer = _decode(data).data
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            answer = None
        if status == _OK or (answer is not None and answer.batch_results):
            if answer is None:
                raise KeyProviderError(_NONSENSE)
            return answer
        raise _refusal(status)

    async def _send(self, path: str, items: Any, /) -> tuple[int, SecretBytes]:
        content = None if items is None else SecretBytes(msgspec.json.encode({"batch_input": items}))
        chunks: list[bytes] = []
        size = 0
        method = "GET" if content is None else "POST"
        try:
            with quiet():
                async with self._client.stream(
                    method, self._paths[path], content=content, headers={"X-Vault-Token": self._token.reveal()}
                ) as answer:
                    async for chunk in answer.aiter_bytes():
                        chunks.append(SecretBytes(chunk))
                        size += len(chunk)
                        if size > _MAX_ANSWER:
                            break
                    else:
                        return answer.status_code, SecretBytes(b"".join(chunks))
            failure = KeyProviderError(_NONSENSE)
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            failure = KeyProviderError(f"the key service cannot be reached ({type(error).__name__})")
        raise failure

    async def aclose(self) -> None:
        # Another storage, or the next store of the same configuration, may have been given it too.
        client, self._client = self._client, await to_thread.run_sync(self._new_client)
        await client.aclose()


def _authorities(path: str, /) -> ssl.SSLContext:
    """Of a file, or of a folder whose files OpenSSL finds by their hashes. Raises `OSError`, `ValueError`."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return ssl.create_default_context(capath=path)
    text = read_file(path).decode("ascii", "ignore")  # comments need not be ASCII
    if "-----BEGIN" not in text:  # without one the system's own would be trusted
        raise ValueError("no certificate")
    return ssl.create_default_context(cadata=text)


def _refusal(status: int, /) -> SealError:
    if status in _TEMPORARY or not 400 <= status < 500:
        return KeyProviderError(f"the key service does not serve (status {status})")
    return KeyDeniedError(f"the key service refused access to the key (status {status})")


def _plain(answer: _Item, wrapped: WrappedKey, /) -> bytes | Exception:
    if answer.error:
        return WrongKeyError("the key service refused it", key_id=wrapped.key_id)
    try:
        return SecretBytes(b64decode(answer.plaintext, validate=True))
    except ValueError:
        return KeyProviderError(_NONSENSE)


def _renamed(wrapped: WrappedKey, /) -> WrongKeyError:
    return WrongKeyError("it names another version of the key than it was wrapped by", key_id=wrapped.key_id)


def _text(data: bytes, /) -> str:
    return b64encode(data).decode("ascii")
