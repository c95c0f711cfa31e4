"""A read that is cut off while its answer comes shows nothing of it, nor of the storage's options, on any engine."""

from __future__ import annotations

import gc
import threading
import traceback
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import anyio
import pytest
from cancelling import by_timeout, on_asyncio
from cloudtargets import AT, CANARY, Target, on_each_target
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT

from accountstore import AccountStore, AccountStoreError, PasswordCredentials
from accountstore.client import StorageClient
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    Way: TypeAlias = Callable[[AccountStore, "Stalling"], Awaitable[BaseException]]

pytestmark = [pytest.mark.anyio, pytest.mark.once]

BODY = JSON.encode(replace(ACCOUNT, credentials=PasswordCredentials(login="me", password=CANARY)))
HEADERS = {
    "Content-Length": str(len(BODY)),
    "Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}",
    "Content-Type": "application/octet-stream",
    "ETag": '"e"',
    "Last-Modified": "Wed, 25 Nov 2026 10:00:00 GMT",
    "x-goog-generation": "1",
    "x-ms-blob-type": "BlockBlob",
}


class Stalling(ThreadingHTTPServer):
    """Answers a read but for its last byte, and then waits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.under_way = threading.Event()
        self.go_on = threading.Event()


class Answer(BaseHTTPRequestHandler):
    """To one request."""

    def do_GET(self) -> None:
        """A document, as each service has it."""
        stalling = cast("Stalling", self.server)
        self.send_response(206 if "x-ms-version" in self.headers else 200)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(BODY[:-1])
        stalling.under_way.set()
        stalling.go_on.wait(HUNG)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as the base class names it
        """Nothing is logged."""


@contextmanager
def stalling() -> Generator[tuple[Stalling, str]]:
    with Stalling() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()


async def cut_off(target: Target, way: Way, timeouts: Sequence[float] = (HUNG,)) -> str:
    """The traceback of a read that is cut off, with the local variables of all frames. On a busy machine the answer may
    not be on its way when the first time is up.
    """
    for timeout in timeouts:
        with stalling() as (server, url):
            options = target.options(url, CANARY)
            config = target.config_of(f"{target.scheme}://bucket", options, timeout=timeout, attempts=1)
            async with AccountStore.open(config) as store:
                error = await way(store, server)
                server.go_on.set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a client's response that was cut off, collected late
            gc.collect()
        if server.under_way.is_set():
            return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    pytest.fail("the answer was not under way")


async def until_under_way(server: Stalling) -> None:
    with anyio.fail_after(HUNG):
        while not server.under_way.is_set():
            await anyio.sleep(0.01)
        await anyio.sleep(0.1)


async def by_scope(store: AccountStore, server: Stalling) -> BaseException:
    """A time limit of anyio's around the read."""
    errors: list[BaseException] = []
    async with anyio.create_task_group() as tasks:
        try:
            with anyio.fail_after(HUNG) as scope:

                async def expire() -> None:
                    await until_under_way(server)
                    scope.deadline = anyio.current_time()

                tasks.start_soon(expire)
                await store.get(AT)
        except TimeoutError as error:
            errors.append(error)
    return errors[0]


async def by_deadline(store: AccountStore, _: Stalling) -> BaseException:
    """The store's own."""
    with pytest.raises(AccountStoreError) as caught:
        await store.get(AT)
    return caught.value


async def by_the_task(store: AccountStore, server: Stalling) -> BaseException:
    """asyncio's own, which cancels the task."""
    errors: list[BaseException] = []

    async def read() -> None:
        try:
            await store.get(AT)
        except BaseException as error:
            errors.append(error)
            raise

    async with anyio.create_task_group() as tasks:

        def begin(expire: Callable[[], object]) -> None:
            async def later() -> None:
                await until_under_way(server)
                expire()

            tasks.start_soon(later)

        assert await by_timeout(read, begin)
    return errors[0]


@on_each_target
@pytest.mark.parametrize("way", [by_scope, by_deadline])
async def test_a_read_that_is_cut_off_shows_nothing(target: Target, way: Way) -> None:
    """Neither the document that was on its way nor a secret among the options stands in any frame of the error."""
    assert CANARY not in await cut_off(target, way, (1, 5, 25) if way is by_deadline else (HUNG,))


@on_each_target
@on_asyncio
async def test_a_read_whose_task_is_cancelled_shows_nothing(target: Target) -> None:
    """The same for a cancellation that no scope knows."""
    assert CANARY not in await cut_off(target, by_the_task)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_control_what_is_not_cut_shows_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the frames of the clients below, the traceback shows the password."""

    async def attempt(_: StorageClient, call: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await call(*args, **kwargs)

    monkeypatch.setattr(StorageClient, "attempt", attempt)
    assert CANARY in await cut_off(Target("s3", "fsspec"), by_scope)
