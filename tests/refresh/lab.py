"""Processes that refresh one document, at the command of a test.

As a program it is a server that imports the library once and forks a worker whenever its input has a line: the worker
connects to the test's socket, and does what that sends, a line of JSON each. `Lab` is the test's side.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HUNG = 300.0


class Worker:
    """A worker process, as the test sees it."""

    def __init__(self, connection: socket.socket, /) -> None:
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")
        self.pid = int(self.next()["pid"])

    def send(self, **command: Any) -> None:
        """Give it something to do."""
        self._connection.sendall(json.dumps(command).encode() + b"\n")

    def next(self) -> dict[str, Any]:
        """What it tells next: an event of its exchange, or an answer."""
        line = self._lines.readline()
        if not line:
            raise EOFError
        return dict(json.loads(line))

    def answer(self) -> dict[str, Any]:
        """Its answer, after events that are passed over."""
        while "event" in (told := self.next()):
            pass
        return told

    def fileno(self) -> int:
        """For `select`. A line must not be read in part, so there is one at a time."""
        return self._connection.fileno()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Let it end."""
        self._lines.close()
        self._connection.close()


class Lab:
    """Starts workers on one storage, for the time of a `with` block."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, engine: str = "fsspec", /) -> None:
        self._storage = {"url": url, "options": dict(options or {}), "engine": engine}
        self._stack = ExitStack()
        self._server: subprocess.Popen[str]
        self._listener: socket.socket

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            self._listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            self._listener.bind(f"{folder}/lab")
            self._listener.listen(64)
            self._listener.settimeout(HUNG)
            command = [sys.executable, "-P", __file__, f"{folder}/lab", json.dumps(self._storage)]
            self._server = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def worker(self, *, skew: float = 0.0, loop: str = "asyncio") -> Worker:
        """Another worker, whose clocks are set apart by so many seconds."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"skew": skew, "loop": loop}) + "\n")
        self._server.stdin.flush()
        worker = Worker(self._listener.accept()[0])
        self._stack.callback(worker.close)
        return worker

    def workers(self, number: int, /, skews: Sequence[float] = (0.0,)) -> list[Worker]:
        """Several, on either event loop in turn."""
        return [
            self.worker(skew=skews[place % len(skews)], loop=("asyncio", "trio")[place % 2]) for place in range(number)
        ]


# --- the server and its workers --------------------------------------------------------------------------------------


def _serve(path: str, storage: dict[str, Any], /) -> None:
    import anyio
    import trio

    for module in ("accountstore.oauth", "accountstore.refresh", "accountstore.storages", "accountstore.store"):
        import_module(module)
    from accountstore.registry import find_backend

    scheme = storage["url"].partition("://")[0] if "://" in storage["url"] else "file"
    find_backend(scheme, storage["engine"])
    for loop in ("asyncio", "trio"):
        anyio.run(anyio.sleep, 0, backend=loop)
    del trio
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if not os.fork():
            status = 3
            try:
                given = json.loads(line)
                _set_clocks_apart(given["skew"])
                anyio.run(_work, path, storage, backend=given["loop"])
                status = 0
            finally:
                os._exit(status)


def _set_clocks_apart(seconds: float, /) -> None:
    """Let the library's clocks be wrong by so much, and its steady one, which begins anywhere, by any amount."""
    from accountstore import lease, refresh

    class Datetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

        @classmethod
        def fromtimestamp(cls, timestamp: float, tz: Any = None) -> Any:
            return datetime.fromtimestamp(timestamp, tz)

    right = lease.elapsed
    for module in (lease, refresh):
        setattr(module, "elapsed", lambda: right() + 1000 * seconds + os.getpid())  # noqa: B010 -- to a checker, it is final
    setattr(lease, "datetime", Datetime)  # noqa: B010 -- as above


async def _work(path: str, storage: dict[str, Any], /) -> None:
    import anyio

    from accountstore import AccountStore, Event, StorageConfig, StoreConfig

    events: list[Event] = []
    config = StoreConfig(storages={"lab": StorageConfig(**storage, timeout=60)})
    async with AccountStore.open(config, observer=events.append) as store, await anyio.connect_unix(path) as stream:
        await stream.send(json.dumps({"pid": os.getpid()}).encode() + b"\n")
        buffered = b""
        while True:
            while b"\n" not in buffered:
                try:
                    buffered += await stream.receive()
                except anyio.EndOfStream:
                    return
            line, _, buffered = buffered.partition(b"\n")
            events.clear()
            await _Command(store, stream, events, **json.loads(line)).run()


class _Command:
    """Refresh a document, in some tasks at once, and tell what came of it."""

    def __init__(
        self,
        store: Any,
        stream: Any,
        events: list[Any],
        /,
        *,
        at: str,
        how: str = "lease",
        tasks: int = 1,
        terms: Mapping[str, Any] = MappingProxyType({}),
        **tells: bool,
    ) -> None:
        from accountstore import AccountStore, Location
        from accountstore.oauth import TokenEndpoint

        self._stream = stream
        self._observed = events
        self._tells = tells.get("events", False)
        self._endpoint = TokenEndpoint(authentication="post", insecure_http=True)
        call: Any = {"naive": _naive, "swap": _swap, "lease": AccountStore.refresh}[how]
        self._call: Callable[[], Any] = lambda: call(store, Location.parse(at), self._exchange, **terms)
        self._tasks = tasks
        self._outcomes: list[dict[str, Any]] = []
        self._answered: float | None = None
        self._again = 0

    async def _tell(self, **what: Any) -> None:
        await self._stream.send(json.dumps(what).encode() + b"\n")

    async def _exchange(self, credentials: Any, /) -> Any:
        if self._tells:
            await self._tell(event="before")
        grant = await self._endpoint(credentials)
        self._answered = time.monotonic()
        return grant

    async def _ask(self) -> None:
        """Call, again where that may help: on a busy machine an exchange may not end within a short lease."""
        from accountstore import AccountStoreError

        outcome: dict[str, Any] = {}
        for _ in range(5):
            try:
                stored: Any = await self._call()
            except AccountStoreError as error:
                outcome = {"error": type(error).__name__}
                if not error.temporary:
                    break
                self._again += 1
            else:
                outcome = {"token": stored.document.credentials.access_token.reveal()}
                break
        self._outcomes.append(outcome)

    async def run(self) -> None:
        """Do it."""
        import anyio

        started = time.monotonic()
        async with anyio.create_task_group() as group:
            for _ in range(self._tasks):
                group.start_soon(self._ask)
        ended = time.monotonic()
        told = [event for event in self._observed if event.operation == "refresh"]
        await self._tell(
            outcomes=self._outcomes,
            seconds=ended - started,
            again=self._again,
            save=ended - self._answered if self._answered is not None else None,
            polls=sum(event.polls for event in told),
            exchanges=sum(event.exchanges for event in told),
            takeovers=sum(event.takeovers for event in told),
        )


def _granted(credentials: Any, grant: Any, /) -> Any:
    from msgspec.structs import replace

    return replace(
        credentials,
        access_token=grant.access_token,
        refresh_token=grant.refresh_token,
        expires_at=datetime.now().astimezone() + timedelta(hours=1),
    )


async def _naive(store: Any, at: Any, exchange: Any, /) -> Any:
    """Read, exchange, save."""
    from msgspec.structs import replace

    stored = await store.read(at)
    credentials = stored.document.credentials
    if credentials.expires_at is None or credentials.expires_at < datetime.now().astimezone():
        new = _granted(credentials, await exchange(credentials))
        await store.save(at, replace(stored.document, credentials=new))
    return await store.read(at)


async def _swap(store: Any, at: Any, exchange: Any, /) -> Any:
    """Compare and swap, with the exchange within."""
    from msgspec.structs import replace

    async def change(account: Any) -> Any:
        credentials = account.credentials
        if credentials.expires_at is not None and credentials.expires_at > datetime.now().astimezone():
            return account
        return replace(account, credentials=_granted(credentials, await exchange(credentials)))

    return await store.update(at, change)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent)]
    _serve(sys.argv[1], json.loads(sys.argv[2]))
