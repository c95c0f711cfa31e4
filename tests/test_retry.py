"""Retry: what a refusal says where the client below repeats requests, and a document knows its write's token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from accountstore import (
    Account,
    ConflictError,
    ExistsError,
    Location,
    NotFoundError,
    PasswordCredentials,
    UnavailableError,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore import AccountStore
    from accountstore.backends.base import Capabilities, Stat

pytestmark = pytest.mark.anyio

TOKENS: Mapping[str, Any] = {"marks": True}
"""What a backend declares that keeps the token of each write."""
TOKEN = "mark"
"""The parameter of `write`, and the field of `Stat`, that has it."""

AT = Location("email.account", folder="team")
ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
OTHER = replace(ACCOUNT, port=143)


class Repeating(MemoryBackend):
    """A backend over a client that repeats requests: the answer to the last one is all that is seen.

    `answers` are given one after another instead of what a write returns; each write is done before, unless it is to be
    refused (`lands` is false).
    """

    def __init__(self, *answers: Exception, lands: bool = True) -> None:
        super().__init__()
        self.answers = list(answers)
        self.lands = lands
        self.tokens: dict[str, str] = {}
        self.writes = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, **TOKENS)

    async def write(self, key: str, data: bytes, /, **options: Any) -> Stat:
        answer = None
        if options["mode"] != "overwrite":
            self.writes += 1
            answer = self.answers.pop(0) if self.answers else None
        if answer is not None and not self.lands:
            raise answer
        stat = await super().write(key, data, **options)
        self.tokens[key] = options.get(TOKEN, "")
        if answer is not None:
            raise answer
        return stat

    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), **{TOKEN: self.tokens.get(key)})


async def swap(store: AccountStore, version: Version, /) -> object:
    return await store.save(AT, OTHER, mode=version)


CALLS: Mapping[str, tuple[Callable[[AccountStore, Version], Awaitable[object]], Exception]] = {
    "swap refused": (swap, ConflictError("the document has changed")),
    "swap not found": (swap, NotFoundError("there is no such document")),
    "update not found": (
        lambda store, _: store.update(AT, lambda _: OTHER),
        NotFoundError("there is no such document"),
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("attempts", [1, 4])
async def test_a_refused_swap_that_finds_its_own_document_has_succeeded(name: str, attempts: int) -> None:
    """The first request of a swap was made and its answer lost; the client's second one is refused, or told that there
    is no such document: the document has the swap's own token, so it succeeded.
    """
    call, answer = CALLS[name]
    backend = Repeating(answer)
    store = store_over({"main": backend}, attempts=attempts)
    version = await store.save(AT, ACCOUNT)
    await call(store, version)
    assert backend.writes == 1
    assert await store.get(AT) == OTHER


async def test_a_refused_create_that_finds_its_own_document_has_succeeded() -> None:
    """Likewise a create, which then finds a document: its own."""
    backend = Repeating(ExistsError("there is a document already"))
    store = store_over({"main": backend})
    version = await store.save(AT, ACCOUNT, mode="create")
    assert backend.writes == 1
    assert (await store.read(AT)).version == version


@pytest.mark.parametrize("error", [ConflictError("the document has changed"), NotFoundError("no such document")])
async def test_control_a_refused_swap_that_finds_another_document_has_lost(error: Exception) -> None:
    """The control: where the document is another's, the refusal is the answer, and the other document stays."""
    backend = Repeating(error, lands=False)
    store = store_over({"main": backend}, attempts=4)
    version = await store.save(AT, ACCOUNT)
    await store.save(AT, replace(ACCOUNT, port=1))
    with pytest.raises(type(error)):
        await swap(store, version)
    assert backend.writes == 1
    assert (await store.get(AT)).port == 1


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("mode", ["create", "swap"])
async def test_a_refusal_with_nothing_in_the_way_is_temporary(mode: str, attempts: int) -> None:
    """Whoever stood in the way of a create or a swap is gone: it is tried again, or fails for a while."""
    backend = Repeating(
        ExistsError("there is a document already") if mode == "create" else ConflictError("it has changed"), lands=False
    )
    store = store_over({"main": backend}, attempts=attempts)

    async def change() -> None:
        if mode == "create":
            await store.save(AT, OTHER, mode="create")
        else:
            await swap(store, await store.save(AT, ACCOUNT))

    if attempts == 1:
        with pytest.raises(UnavailableError) as caught:
            await change()
        assert caught.value.temporary
        assert await store.exists(AT) == (mode == "swap")
    else:
        await change()
        assert await store.get(AT) == OTHER
    assert backend.writes == attempts
