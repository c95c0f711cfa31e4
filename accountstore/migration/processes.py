"""The same work in several processes of this machine: each has a store of its own and takes batches from a pipe.

`python -m accountstore.migration.processes` is one of them.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct, msgpack
from msgspec.structs import replace

from accountstore import errors
from accountstore.config import StoreConfig
from accountstore.errors import AccountStoreError, BackendError, UnsupportedError
from accountstore.migration.identity import check_storages
from accountstore.migration.marks import Marks
from accountstore.migration.merge import Item
from accountstore.migration.records import Done
from accountstore.migration.runners import MOST, Batch, Task, told_by_worker
from accountstore.migration.work import Job, Worker
from accountstore.store import AccountStore

if TYPE_CHECKING:
    from anyio.abc import Process
    from anyio.streams.memory import MemoryObjectSendStream

T = TypeVar("T")

_COMMAND = ("-m", "accountstore.migration.processes")
_BEGINNING = b"\0accountstore\0"
"""What a process writes first: what comes before is a word of whatever Python loads by itself."""
_DEPTH = 2
"""Batches that a process has at a time: one that it does, and the next."""
_LENGTH = 4
_FAREWELL = 5.0


class Setup(Struct, frozen=True):
    """What a process is told first."""

    config: StoreConfig | str
    job: Job
    key: bytes
    storages: dict[str, str]
    """Keyed marks of both ends' storages, which those that it opens have to be."""


class Reply(Struct, frozen=True):
    """What a process says of a batch; or why it has ended."""

    done: list[Done]
    error: str = ""
    reason: str = ""


class _Child:
    """A process, and the batches that it was given."""

    def __init__(self, process: Process, /) -> None:
        self.process = process
        self.given: deque[Task] = deque()
        self.ended = False
        """Whether it was ended here: no document is to blame for that."""
        self._received = bytearray()
        self._began = False

    async def send(self, frame: bytes, /) -> None:
        if self.process.stdin is None:
            raise anyio.BrokenResourceError
        await self.process.stdin.send(len(frame).to_bytes(_LENGTH, "big") + frame)

    async def receive(self) -> Reply:
        """The next reply. After a cancellation it goes on where it was. Raises `anyio.EndOfStream`."""
        while not self._began:
            await self._receive()
            _, found, rest = self._received.partition(_BEGINNING)
            if found:
                self._began, self._received = True, rest
        while len(self._received) < (size := self._size()):
            await self._receive()
        frame = bytes(self._received[_LENGTH:size])
        del self._received[:size]
        return msgpack.decode(frame, type=Reply)

    async def _receive(self) -> None:
        if self.process.stdout is None:
            raise anyio.EndOfStream
        self._received += await self.process.stdout.receive()

    def _size(self) -> int:
        """Of the next frame, with its length."""
        known = len(self._received) >= _LENGTH
        return _LENGTH + (int.from_bytes(self._received[:_LENGTH], "big") if known else 0)

    async def aclose(self) -> None:
        """Let it end; or end it."""
        with suppress(OSError, anyio.BrokenResourceError, ProcessLookupError):
            if not self.given and self.process.stdin is not None:
                await self.process.stdin.aclose()
                with anyio.move_on_after(_FAREWELL):
                    await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
        await self.process.aclose()


class Processes:
    """Does batches in so many processes. One that dies is replaced, and its batch done again, in the end in halves."""

    own_store = False

    def __init__(
        self, count: int, config: StoreConfig | str, job: Job, marks: Marks, storages: dict[str, str], /
    ) -> None:
        options = job.options
        rate = options.requests_per_second
        share = replace(
            options,
            concurrency=max(1, options.concurrency // count),
            requests_per_second=None if rate is None else rate / count,
            names=None,
        )
        try:
            self._setup = msgpack.encode(Setup(config, replace(job, options=share), marks.key, storages))
        except UnicodeEncodeError:
            raise UnsupportedError(
                "a path of the configuration is not UTF-8, and cannot be given to another process: give the path of a"
                " file, which each reads"
            ) from None
        except (TypeError, ValueError, msgspec.MsgspecError):
            raise UnsupportedError(
                "an option of the configuration cannot be given to another process: give the path of a file"
            ) from None
        self._count = count
        self._job = job
        self._children: list[_Child] = []
        self._queue: deque[Task] = deque()
        self._replies: deque[tuple[_Child, Reply | None]] = deque()
        """None: of a process that has died. They stay where whoever waited for them was cancelled."""
        self._ready: deque[Batch] = deque()
        weakref.finalize(self, _kill, self._children)

    @property
    def room(self) -> int:
        """Two batches a process, less those that it has."""
        return self._count * _DEPTH - self._outstanding()

    @property
    def size(self) -> int:
        """Of a batch."""
        return MOST

    @property
    def busy(self) -> bool:
        """Whether a batch is not done."""
        return self._outstanding() > 0

    def _outstanding(self) -> int:
        return len(self._queue) + len(self._ready) + sum(len(child.given) for child in self._children)

    def submit(self, items: Sequence[Item], /) -> None:
        """Take a batch."""
        self._queue.append(Task(items))

    async def next(self) -> Batch:
        """A batch that is done, of whichever process."""
        while not self._ready:
            while self._replies:
                await self._take(*self._replies.popleft())
            while len(self._children) < self._count:
                await self._start()
            for child in [*self._children]:
                await self._give(child)
            await self._wait()
        return self._ready.popleft()

    async def _start(self) -> None:
        command = await to_thread.run_sync(_command)
        child = _Child(await anyio.open_process(command, stderr=None))
        self._children.append(child)
        await self._send(child, self._setup)

    async def _give(self, child: _Child, /) -> None:
        while len(child.given) < _DEPTH and self._queue:
            child.given.append(self._queue.popleft())
            await self._send(child, msgpack.encode(child.given[-1].items))

    async def _send(self, child: _Child, frame: bytes, /) -> None:
        """Send it whole. A process that got a part of it, as whoever waited was cancelled, is ended."""
        try:
            await child.send(frame)
        except anyio.BrokenResourceError:
            pass  # it has died, which `_wait` finds
        except BaseException:
            child.ended = True
            child.process.kill()
            raise

    async def _wait(self) -> None:
        """Wait until a process has done a batch, or has died."""
        async with anyio.create_task_group() as tasks:
            for child in self._children:
                if child.given:
                    tasks.start_soon(_receive, child, self._replies, tasks.cancel_scope)

    async def _take(self, child: _Child, reply: Reply | None, /) -> None:
        if reply is None:
            await self._bury(child)
        elif reply.error:
            raise getattr(errors, reply.error, BackendError)(reply.reason)
        else:
            self._ready.append(told_by_worker(child.given.popleft().items, reply.done, self._job))

    async def _bury(self, child: _Child, /) -> None:
        """A process has died with its first batch: that one is to blame, the other is not."""
        self._children.remove(child)
        died, *rest = child.given
        child.given.clear()
        self._queue.extendleft(reversed(rest))
        after = (died,) if child.ended else died.after_death()
        if isinstance(after, Batch):
            self._ready.append(after)
        else:
            self._queue.extendleft(reversed(after))
        with anyio.CancelScope(shield=True):  # it has ended
            await child.aclose()

    async def aclose(self) -> None:
        """End the processes."""
        with anyio.CancelScope(shield=True):
            for child in self._children:
                await child.aclose()
        self._children.clear()


def _kill(children: list[_Child], /) -> None:
    """End them at once: the run was dropped, and nobody records what they do."""
    for child in children:
        with suppress(ProcessLookupError):
            child.process.kill()


def _command() -> tuple[str, ...]:
    """What starts a process, which looks for modules in the current folder only where this one does."""
    with suppress(FileNotFoundError):  # the current folder has been removed
        here = os.getcwd()
        if any(os.path.abspath(folder) == here for folder in sys.path):
            return sys.executable, *_COMMAND
    return sys.executable, "-P", *_COMMAND


async def _receive(child: _Child, replies: deque[tuple[_Child, Reply | None]], scope: anyio.CancelScope, /) -> None:
    try:
        replies.append((child, await child.receive()))
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        replies.append((child, None))
    scope.cancel()


# --- in the process ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Do batches from standard input until it ends.

    Both streams are taken away from whatever else reads or prints here, such as a package or a credential helper: it
    finds an empty input, and prints on stderr.
    """
    given, taken = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere if sys.stderr is None else 2, 1)
    os.close(nowhere)
    try:
        taken.write(_BEGINNING)
        taken.flush()
        anyio.run(_serve, given, taken)
    except* BrokenPipeError:  # whoever asked is gone
        with suppress(BrokenPipeError):
            taken.close()


async def _serve(given: BinaryIO, taken: BinaryIO, /) -> None:
    setup = await to_thread.run_sync(_read, given, Setup)
    if setup is None:
        return
    try:
        async with AccountStore.open(setup.config) as store:
            check_storages(store, setup.job, Marks(setup.key), setup.storages)
            await _work(Worker(store, setup.job, Marks(setup.key)), given, taken)
    except AccountStoreError as error:
        await to_thread.run_sync(_write, taken, _failed(error))


async def _work(worker: Worker, given: BinaryIO, taken: BinaryIO, /) -> None:
    """Take batches as they come: whoever sends one need not wait until the one before is done.

    The end of the input stops it: nobody would hear of a batch that is not done then.
    """
    send, receive = anyio.create_memory_object_stream[list[Item]](_DEPTH)
    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(_take, given, send, tasks.cancel_scope)
        async for items in receive:
            try:
                reply = Reply(await worker.work(items))
            except Exception as error:  # noqa: BLE001 -- a run that does not hear of it would wait for ever
                reply = _failed(error)
            await to_thread.run_sync(_write, taken, reply)


def _failed(error: Exception, /) -> Reply:
    """What ends the run; of an error that is not the library's, its class alone."""
    kind = type(error).__name__
    return Reply([], kind, str(error) if isinstance(error, AccountStoreError) else f"a process failed ({kind})")


async def _take(given: BinaryIO, send: MemoryObjectSendStream[list[Item]], scope: anyio.CancelScope, /) -> None:
    async with send:
        while (items := await to_thread.run_sync(_read, given, list[Item])) is not None:
            await send.send(items)
    scope.cancel()


def _read(given: BinaryIO, kind: type[T], /) -> T | None:
    """The next frame; None at the end, also within one."""
    size = int.from_bytes(given.read(_LENGTH), "big")
    frame = given.read(size)
    return msgpack.decode(frame, type=kind) if frame and len(frame) == size else None


def _write(taken: BinaryIO, reply: Reply, /) -> None:
    frame = msgpack.encode(reply)
    taken.write(len(frame).to_bytes(_LENGTH, "big") + frame)
    taken.flush()


if __name__ == "__main__":
    main()
