"""Keys in AWS KMS (extra `aws-kms`). The service wraps; its key never leaves it.

    keys = { provider = "aws-kms", key = "arn:aws:kms:eu-central-1:111122223333:key/...", region_name = "eu-central-1" }

The document's place is the encryption context `acs`: it shows in CloudTrail, and key policies may name it. `old` lists
keys that still open; `accountstore keys rotate` moves documents from them to `key` on the server (ReEncrypt). A key is
named by its ARN or id, for an alias may point at another one tomorrow. Credentials are those that AWS's tools find, or
`aws_access_key_id`, `aws_secret_access_key` and `aws_session_token`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, TypeVar, final

import msgspec
from anyio import CapacityLimiter, create_task_group, to_thread
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError
from botocore.session import get_session
from msgspec import Struct
from msgspec.structs import asdict

from accountstore.aio.threads import Lazy
from accountstore.backends.logs import quietly
from accountstore.errors import ConfigError, KeyDeniedError, KeyProviderError, SealError, WrongKeyError
from accountstore.sealing.envelope import KEY_ID_RULE, WrappedKey, is_key_id, require_cryptography
from accountstore.secrets import SecretBytes, without_frames
from accountstore.validation import check_header, did_you_mean

T = TypeVar("T")

_AT_ONCE = 16
_WRONG = {"InvalidCiphertextException", "IncorrectKeyException"}
_DENIED = {
    *("AccessDeniedException", "NotFoundException", "DisabledException", "KMSInvalidStateException"),
    *("InvalidKeyUsageException", "UnrecognizedClientException", "ExpiredTokenException", "InvalidGrantTokenException"),
    *("ValidationException", "InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidSignatureException"),
}
_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


class _Options(Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of the table in the configuration."""

    key: str
    old: list[str] = []
    region_name: str | None = None
    endpoint_url: str | None = None
    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = None
    aws_session_token: str | None = None
    timeout: float = 10.0
    """Seconds for one request."""


@without_frames
def open_keys(options: Mapping[str, object], /) -> AwsKmsKeys:
    """The provider of a table in the configuration. Raises `ConfigError`."""
    known = _Options.__struct_fields__
    for name in options:
        if name not in known:
            raise ConfigError(f"aws-kms: unknown key {name!r}{did_you_mean(name, known)}")
    try:
        return AwsKmsKeys(**asdict(msgspec.convert(options, _Options)))
    except msgspec.ValidationError as error:
        raise ConfigError(f"aws-kms: {error}") from None


@final
class AwsKmsKeys:
    """Symmetric keys of AWS KMS: `key` wraps, it and `old` unwrap.

    Raises:
        ConfigError: a key is named by an alias or by what is no key id, there is no region, or what is given of an
            access key, its secret and a session token cannot be used.
    """

    algorithm = "acs-aws-kms"
    binds_context = True
    remote = True

    @without_frames
    def __init__(self, key: str, *, old: Sequence[str] = (), timeout: float = 10.0, **options: str | None) -> None:
        require_cryptography("aws-kms")
        self._keys = (key, *old)
        for each in self._keys:
            if not is_key_id(each):
                raise ConfigError(f"aws-kms: key: give its ARN or id, which {KEY_ID_RULE}")
            if "alias/" in each:
                raise ConfigError("aws-kms: key: give its ARN or id, for an alias may point at another one tomorrow")
        if not 0 < timeout < inf:
            raise ConfigError("aws-kms: timeout: must be more than 0 seconds, and finite")
        _check_credentials(options)
        # The store repeats what may be repeated.
        retries = {"total_max_attempts": 1}
        once: Any = {"retries": retries, "connect_timeout": timeout, "read_timeout": timeout}
        session: Any = get_session()
        config = Config(max_pool_connections=_AT_ONCE, **once)
        try:
            session.register_component("credential_provider", _Later(session.get_component("credential_provider")))
            self._client: Any = quietly(lambda: session.create_client("kms", config=config, **options))
        except NoRegionError:
            raise ConfigError("aws-kms: region_name is missing, and AWS's own tools name no region") from None
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"aws-kms: no client can be made ({type(error).__name__})") from None
        self._threads = CapacityLimiter(_AT_ONCE)

    def __repr__(self) -> str:
        return f"AwsKmsKeys({', '.join(map(repr, self._keys))})"

    def key_ids(self) -> Sequence[str]:
        return self._keys

    def holds(self, key_id: str, /) -> bool:
        return key_id in self._keys

    async def current(self) -> str:
        return self._keys[0]

    async def wrap(self, keys: Sequence[bytes], contexts: Sequence[str], /) -> Sequence[WrappedKey]:
        calls = [partial(self._wrap, key, context) for key, context in zip(keys, contexts, strict=True)]
        wrapped: list[WrappedKey] = []
        for result in await self._each(calls):
            if isinstance(result, SealError):
                raise result
            wrapped.append(result)
        return wrapped

    def _wrap(self, key: bytes, context: str, /) -> WrappedKey:
        answer = self._client.encrypt(KeyId=self._keys[0], Plaintext=bytes(key), EncryptionContext={"acs": context})
        return WrappedKey(self.algorithm, self._keys[0], answer["CiphertextBlob"])

    async def unwrap(self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /) -> Sequence[bytes | Exception]:
        return await self._each([partial(self._unwrap, *each) for each in zip(wrapped, contexts, strict=True)])

    def _unwrap(self, wrapped: WrappedKey, context: str, /) -> bytes:
        answer = self._client.decrypt(
            KeyId=wrapped.key_id, CiphertextBlob=wrapped.data, EncryptionContext={"acs": context}
        )
        return SecretBytes(answer["Plaintext"])

    async def rewrap(
        self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /
    ) -> Sequence[WrappedKey | Exception]:
        """Each key under `key`, by the server."""
        return await self._each([partial(self._rewrap, *each) for each in zip(wrapped, contexts, strict=True)])

    def _rewrap(self, wrapped: WrappedKey, context: str, /) -> WrappedKey:
        answer = self._client.re_encrypt(
            CiphertextBlob=wrapped.data,
            SourceKeyId=wrapped.key_id,
            SourceEncryptionContext={"acs": context},
            DestinationKeyId=self._keys[0],
            DestinationEncryptionContext={"acs": context},
        )
        return WrappedKey(self.algorithm, self._keys[0], answer["CiphertextBlob"])

    async def _each(self, calls: Sequence[Callable[[], T]], /) -> list[T | SealError]:
        """What each call returns, or its error; some at a time."""
        results: dict[int, T | SealError] = {}

        async def run(place: int, call: Callable[[], T]) -> None:
            results[place] = await to_thread.run_sync(_outcome, call, abandon_on_cancel=True, limiter=self._threads)

        async with create_task_group() as tasks:
            for place, call in enumerate(calls):
                tasks.start_soon(run, place, call)
        return [results[place] for place in range(len(calls))]

    async def aclose(self) -> None:
        await to_thread.run_sync(self._client.close)


def _check_credentials(options: Mapping[str, str | None], /) -> None:
    """Raise `ConfigError` for a half, which AWS's client would take others for, and for what it cannot send."""
    given = [name for name in _CREDENTIALS if options.get(name)]
    missing = [name for name in _CREDENTIALS[:2] if name not in given]
    if given and missing:
        raise ConfigError(f"aws-kms: {' and '.join(missing)}: missing, but {given[-1]} is given")
    for name in given:
        check_header(f"aws-kms: {name}", options[name] or "")


class _Later(Credentials):
    """The credentials that AWS's tools find, looked for by the first request: a process may be run for them."""

    def __init__(self, resolver: Any, /) -> None:
        super().__init__("", "", method="later")
        self._found: Lazy[Any] = Lazy(resolver.load_credentials)

    def load_credentials(self) -> Credentials:
        """These, as the resolver of a session, which looks at opening."""
        return self

    def get_frozen_credentials(self) -> Any:
        try:
            found = self._found.get()
            if found is not None:
                return found.get_frozen_credentials()
            reason = "none"
        except Exception as error:  # noqa: BLE001 -- whatever a process answers
            reason = type(error).__name__
        raise KeyProviderError(f"AWS's tools find no credentials for the key service ({reason})")


def _outcome(call: Callable[[], T], /) -> T | SealError:
    try:
        return quietly(call)  # botocore logs requests and answers, keys included
    except ClientError as error:
        code = re.sub(r"\W.*", "", str(error.response.get("Error", {}).get("Code", "")))
    except KeyProviderError as error:
        return error.with_traceback(None)
    except (BotoCoreError, OSError) as error:
        return KeyProviderError(f"the key service cannot be reached ({type(error).__name__})")
    except (KeyError, TypeError):
        return KeyProviderError("the key service answered what makes no sense")
    if code in _WRONG:
        return WrongKeyError("the key service refused it")
    return (KeyDeniedError if code in _DENIED else KeyProviderError)(f"the key service refused the request ({code})")
