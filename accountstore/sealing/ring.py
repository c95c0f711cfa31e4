"""KeyRing: the key providers of a storage, asked within a deadline, and the keys that they have unwrapped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import combinations
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import anyio

from accountstore.aio.deadlines import Deadline
from accountstore.aio.shield import InFlight, is_failure
from accountstore.errors import ClosedError, ConfigError, KeyProviderError, MissingKeyError, SealError, WrongKeyError
from accountstore.retry import RetryPolicy, backoff
from accountstore.sealing.envelope import KEY_BYTES, MAX_WRAPPED, WrappedKey, is_key_id
from accountstore.sealing.providers import KeyProvider, Rewrapper, StaticKeys
from accountstore.secrets import SecretBytes

T = TypeVar("T")
P = ParamSpec("P")

ALGORITHMS = ("A256KW", "acs-transit", "acs-aws-kms")
"""What may wrap a key, beside the algorithms of a storage's own providers."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class KeyCache:
    """Unwrapped keys: at most `size`, each for `seconds`; 0 of either keeps none."""

    __slots__ = ("_keys", "_seconds", "_size")

    def __init__(self, size: int, seconds: float, /) -> None:
        self._size = size if seconds > 0 else 0
        self._seconds = seconds
        self._keys: OrderedDict[tuple[WrappedKey, str], tuple[float, SecretBytes]] = OrderedDict()

    def get(self, wrapped: WrappedKey, context: str, /) -> SecretBytes | None:
        """What was unwrapped not long ago. Whatever was longer ago is dropped."""
        now = monotonic()
        while self._keys and next(iter(self._keys.values()))[0] < now:
            self._keys.popitem(last=False)
        return self._keys.get((wrapped, context), (0.0, None))[1]

    def add(self, wrapped: WrappedKey, context: str, key: SecretBytes, /) -> None:
        """Keep a key, and drop the oldest one where there are too many."""
        if not self._size:
            return
        self._keys[wrapped, context] = monotonic() + self._seconds, key
        self._keys.move_to_end((wrapped, context))
        while len(self._keys) > self._size:
            self._keys.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._keys.clear()


class KeyRing:
    """The providers of one storage: the first seals, all of them open."""

    def __init__(
        self, providers: Sequence[KeyProvider], policy: RetryPolicy, calls: InFlight, cache: KeyCache, /
    ) -> None:
        """Calls are repeated as `policy` says, and are among `calls`, which closing the storage ends.

        Raises `ConfigError`: two of the providers have a key of one id that may not be the same.
        """
        _check_ids(providers)
        self.providers: Sequence[KeyProvider] = providers
        self.algorithms: frozenset[str] = frozenset((*ALGORITHMS, *(each.algorithm for each in providers)))
        self.remote: bool = any(each.remote for each in providers)
        self._primary = providers[0]
        self._policy = policy
        self._calls = calls
        self._cache = cache

    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys of all providers, the primary one first. Raises `SealError`."""
        return tuple(key_id for provider in self.providers for key_id in _typed(provider.key_ids))

    def find(self, keys: Sequence[WrappedKey], /) -> tuple[KeyProvider, WrappedKey]:
        """The first of a document's wrapped keys that a provider can unwrap. Raises `MissingKeyError`."""
        for key in keys:
            for provider in self.providers:
                if provider.algorithm == key.algorithm and _typed(provider.holds, key.key_id):
                    return provider, key
        raise MissingKeyError("it is sealed by a key that the storage's key ring does not have", key_id=keys[0].key_id)

    def deadline(self) -> float:
        """When a call of a provider that begins now must have ended, as a moment of `time.monotonic()`."""
        return monotonic() + self._policy.timeout

    async def current(self, by: float, /) -> tuple[str, str]:
        """Algorithm and id of the key that seals now."""
        found = await self._ask(self._primary, self._primary.current, by)
        if not is_key_id(found):
            raise KeyProviderError("the key provider returned no key id")
        return self._primary.algorithm, found

    async def wrap(self, keys: Sequence[SecretBytes], places: Sequence[str], by: float, /) -> Sequence[WrappedKey]:
        """Each content key, wrapped for its document's place."""
        provider = self._primary
        if isinstance(provider, StaticKeys):  # which waits for nothing, and does not fail
            return await provider.wrap(keys, places)
        answer = await self._ask(provider, partial(_all, provider.wrap, keys, places), by)
        wrapped = [_checked(each, provider) for each in answer]
        for place, key, each in zip(places, keys, wrapped, strict=True):
            self._keep(provider, each, place, key)
        return wrapped

    async def unwrap(
        self, provider: KeyProvider, wrapped: Sequence[WrappedKey], places: Sequence[str], by: float, /
    ) -> list[SecretBytes | SealError]:
        """Each content key of one provider's, or what is wrong with it."""
        if isinstance(provider, StaticKeys):
            return list(map(_content_key, await provider.unwrap(wrapped, places), wrapped))
        found = [self._cache.get(each, place) for each, place in zip(wrapped, places, strict=True)]
        missing = [i for i, key in enumerate(found) if key is None]
        results: list[SecretBytes | SealError] = [key or SecretBytes() for key in found]
        if missing:
            answer = await self.unwrap_anew(provider, [wrapped[i] for i in missing], [places[i] for i in missing], by)
            for i, key in zip(missing, answer, strict=True):
                results[i] = key
                if isinstance(key, SecretBytes):
                    self._keep(provider, wrapped[i], places[i], key)
        return results

    async def unwrap_anew(
        self, provider: KeyProvider, wrapped: Sequence[WrappedKey], places: Sequence[str], by: float, /
    ) -> list[SecretBytes | SealError]:
        """As `unwrap`, whatever is kept in memory."""
        return list(map(_content_key, await self._ask_each(provider, provider.unwrap, wrapped, places, by), wrapped))

    def _keep(self, provider: KeyProvider, wrapped: WrappedKey, place: str, key: SecretBytes, /) -> None:
        if provider.remote:
            self._cache.add(wrapped, place, key)

    async def rewrap(
        self, provider: KeyProvider, wrapped: Sequence[WrappedKey], places: Sequence[str], by: float, /
    ) -> list[WrappedKey | SealError]:
        """Each key of one provider's, wrapped by the key that seals now; on the server, where it can do that."""
        if provider is self._primary and isinstance(provider, Rewrapper):
            answer = await self._ask_each(provider, provider.rewrap, wrapped, places, by)
            return [_failure(each) if isinstance(each, Exception) else _checked(each, provider) for each in answer]
        keys = await self.unwrap(provider, wrapped, places, by)
        good = [(key, place) for key, place in zip(keys, places, strict=True) if isinstance(key, SecretBytes)]
        again = iter(await self.wrap([key for key, _ in good], [place for _, place in good], by) if good else ())
        return [next(again) if isinstance(key, SecretBytes) else key for key in keys]

    async def _ask_each(
        self,
        provider: KeyProvider,
        call: Callable[[Sequence[WrappedKey], Sequence[str]], Awaitable[Sequence[Any]]],
        wrapped: Sequence[WrappedKey],
        places: Sequence[str],
        by: float,
        /,
    ) -> list[Any]:
        """What a provider answers for each key; those alone that fail for a while are asked for again."""
        answers = await self._ask(provider, partial(_all, call, wrapped, places), by)
        for attempt in range(1, self._policy.attempts if provider.remote else 1):
            again = [i for i, each in enumerate(answers) if isinstance(each, Exception) and _failure(each).temporary]
            if not again:
                break
            with suppress(TimeoutError), Deadline(self._calls.deadlines, by):
                await backoff(attempt, _FIRST_PAUSE, _LONGEST_PAUSE)
            rest = partial(_all, call, [wrapped[i] for i in again], [places[i] for i in again])
            with suppress(SealError):  # the others' answers are there
                for i, each in zip(again, await self._ask(provider, rest, by), strict=True):
                    answers[i] = each
        return answers

    async def _ask(self, provider: KeyProvider, call: Callable[[], Awaitable[T]], by: float, /) -> T:
        """What a provider answers, tried again while it fails for a while. No frame of it gets out."""
        attempts = self._policy.attempts if provider.remote else 1
        with suppress(TimeoutError), Deadline(self._calls.deadlines, by):
            for attempt in range(1, attempts + 1):
                if self._calls.closed or monotonic() >= by:  # whoever was cut short for it has said something else
                    break
                try:
                    return await call()
                except BaseException as error:  # noqa: BLE001 -- whatever a provider raises
                    if not is_failure(error):  # a cancellation goes on, without the frames below
                        error.__context__ = error.__cause__ = None
                        raise error.with_traceback(None)  # noqa: B904 -- it is the same one
                    failure = _failure(error)
                if not failure.temporary or attempt == attempts:
                    raise failure
                await backoff(attempt, _FIRST_PAUSE, _LONGEST_PAUSE)
        if self._calls.closed:
            raise ClosedError("the store is closed")
        raise KeyProviderError("the key provider did not answer in time")

    async def aclose(self) -> None:
        """Forget the keys and close the providers, each in time, whatever one of them raises."""
        self._cache.clear()
        for provider in self.providers:
            with anyio.move_on_after(self._policy.timeout, shield=True):
                try:
                    await provider.aclose()
                except BaseException as error:
                    if not is_failure(error):
                        raise


def _check_ids(providers: Sequence[KeyProvider], /) -> None:
    """Refuse two that share an id: a document names its key by the id alone, and the first that has it is asked."""
    ids = [_ids(provider) for provider in providers]
    for (one, mine), (other, theirs) in combinations(zip(providers, ids, strict=True), 2):
        if one is other:
            continue
        if isinstance(one, StaticKeys) and isinstance(other, StaticKeys):
            shared = one.conflicts(other)
        else:
            shared = [key_id for _, key_id in mine & theirs]
        if shared:
            raise ConfigError(
                f"keys: two sources have a key with the id {min(shared, key=str)!r}, and not the same one: what it"
                " seals would open by one of them only; leave one out, or make its key anew under another id"
            )


def _ids(provider: KeyProvider, /) -> set[tuple[str, str]]:
    """Algorithm and id of each key."""
    try:
        return {(provider.algorithm, key_id) for key_id in provider.key_ids()}
    except Exception as error:  # noqa: BLE001 -- whatever a provider raises
        failure = ConfigError(f"keys: a provider does not say which keys it has ({type(error).__name__})")
    raise failure


async def _all(
    call: Callable[[Sequence[T], Sequence[str]], Awaitable[Sequence[Any]]], keys: Sequence[T], places: Sequence[str], /
) -> list[Any]:
    """What a provider returns, if it is as many as it was given."""
    found = [*await call(keys, places)]
    if len(found) != len(keys):
        raise KeyProviderError("the key provider returned another number of keys than it was given")
    return found


def _checked(wrapped: Any, provider: KeyProvider, /) -> WrappedKey:
    if (
        isinstance(wrapped, WrappedKey)
        and wrapped.algorithm == provider.algorithm
        and is_key_id(wrapped.key_id)
        and type(wrapped.data) is bytes
        and KEY_BYTES <= len(wrapped.data) <= MAX_WRAPPED
    ):
        return wrapped
    raise KeyProviderError("the key provider returned no wrapped key")


def _typed(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What a provider returns at once. No frame of it gets out."""
    try:
        return call(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 -- whatever a provider raises
        failure = _failure(error)
    raise failure


def _content_key(key: object, wrapped: WrappedKey, /) -> SecretBytes | SealError:
    if isinstance(key, Exception):
        return _failure(key)
    if isinstance(key, bytes) and len(key) == KEY_BYTES:
        return key if isinstance(key, SecretBytes) else SecretBytes(key)
    return WrongKeyError("what is unwrapped is no content key", key_id=wrapped.key_id)


def _failure(error: BaseException, /) -> SealError:
    """The error of ours for what a provider raised, without its traceback, its context and its text."""
    if isinstance(error, SealError):
        failure = copy(error)
        failure.__traceback__ = failure.__context__ = failure.__cause__ = None
        return failure
    return KeyProviderError(f"the key provider failed ({type(error).__name__})")
