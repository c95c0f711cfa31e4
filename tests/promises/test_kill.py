"""Processes that save through the library are killed at random moments: nothing torn, lost, left behind or readable.

A server process imports the library once. Then, again and again, it forks a child that saves, updates, creates and
deletes documents and notes each change before and after it; kills the child in the midst of that; and compares every
document with what the child had noted. `ACCOUNTSTORE_KILLS` says how often.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import pytest
from running import HUNG, PYTHON

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.once

KILLS = int(os.environ.get("ACCOUNTSTORE_KILLS", "60"))
SERVERS = 2
FEWEST_FOR_CONTROL = 40

SERVER = r"""
import json, os, random, signal, stat, sys, time, traceback
from collections import Counter

import anyio, trio
from fsspec.implementations.local import LocalFileSystem

import accountstore.backends.local.backend, accountstore.storages
from accountstore import *
from accountstore.backends.base import digest
from accountstore.backends.local.files import Files
from accountstore.codecs import JSON
from accountstore.validation import RESERVED_PREFIX

above, kills, seed, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
LIMIT = 1_000_000
ROUNDS_ON_ONE_ROOT = 100
LINES = 60
LONGEST = 300.0
random.seed(seed)
digest(b"")
for loop in ("asyncio", "trio"):
    anyio.run(anyio.sleep, 0, backend=loop)

def text(number):
    # A document shows by itself whether it is whole. Every seventh is large.
    return f"{number}." * (7000 if number % 7 == 0 else 20)

def account(number):
    return Account(host="h", port=number, credentials=PasswordCredentials(login=text(number), password="p"))

def note(pipe, mark, key, number):
    os.write(pipe, f"{mark} {key} {number}\n".encode())

async def noted(pipe, location, number, call):
    note(pipe, ">", location, number)
    result = await call
    note(pipe, "=", location, number)
    return result

async def save(store, pipe, number, end):
    location = Location("hot.account")
    while time.monotonic() < end:
        number += 1
        await noted(pipe, location, number, store.save(location, account(number)))

async def update(store, pipe, end):
    location = Location("cas.account", folder="mail")

    def change(before):
        note(pipe, ">", location, before.port + 1)
        return account(before.port + 1)

    while time.monotonic() < end:
        after = await store.update(location, change)
        note(pipe, "=", location, after.document.port)

async def make_and_remove(store, pipe, number, end):
    while time.monotonic() < end:
        for folder in ("mail", f"new/{random.randrange(1000)}/folder"):
            location = Location(f"brief{number % 7}.account", folder=folder)
            number += 1
            await noted(pipe, location, None, store.delete(location))
            version = await noted(pipe, location, number, store.save(location, account(number), mode="create"))
            await noted(pipe, location, None, store.delete(location, version=version))

async def save_many(store, pipe, number, end):
    while time.monotonic() < end:
        documents = {}
        for i in range(4):
            number += 1
            location = Location(f"{i}.account", folder=f"many{i % 2}")
            documents[location] = account(number)
            note(pipe, ">", location, number)
        async for location, result in store.save_many(documents.items()):
            if isinstance(result, AccountStoreError):
                raise result
            note(pipe, "=", location, documents[location].port)

async def through_the_store(root, pipe, number, end):
    config = StoreConfig(storages={"disk": StorageConfig(root)})
    async with AccountStore.open(config) as store, anyio.create_task_group() as tasks:
        os.write(pipe, b"ready\n")
        tasks.start_soon(save, store, pipe, number, end)
        tasks.start_soon(update, store, pipe, end)
        tasks.start_soon(make_and_remove, store, pipe, number, end)
        tasks.start_soon(save_many, store, pipe, number, end)

def through_fsspec(root, pipe, number, end):
    files = LocalFileSystem(auto_mkdir=True)
    os.write(pipe, b"ready\n")
    while time.monotonic() < end:
        number += 1
        note(pipe, ">", "hot.account", number)
        files.pipe_file(f"{root}/hot.account", JSON.encode(account(number)))
        note(pipe, "=", "hot.account", number)

def run_and_kill(root, number):
    # What the child noted until it was killed, and how it ended. Sometimes it is killed while it opens the store; else
    # when it has noted a number of lines, so that how much it gets done does not depend on how fast the machine is.
    noted, pipe = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(noted)
            end = time.monotonic() + LONGEST
            if kind == "fsspec":
                through_fsspec(root, pipe, number, end)
            else:
                anyio.run(through_the_store, root, pipe, number, end, backend=random.choice(("asyncio", "trio")))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    os.close(pipe)
    lines = b""
    if random.random() < 0.9:
        wanted = 1 + random.randrange(LINES)
        while lines.count(b"\n") < wanted and (more := os.read(noted, 65536)):
            lines += more
        time.sleep(random.uniform(0, 0.002))
    else:
        time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(noted, "rb") as rest:
        lines += rest.read()
    return lines.decode().removeprefix("ready\n").splitlines(), os.waitstatus_to_exitcode(status)

def content(files, key):
    # The number of the document at the key, None, or "torn".
    try:
        found = JSON.decode(files.read(key, limit=LIMIT).data, Account)
    except FileNotFoundError:
        return "None"
    except AccountStoreError:
        return "torn"
    return str(found.port) if found.credentials.login == text(found.port) else "torn"

def leftovers(root):
    return sum(name.startswith(RESERVED_PREFIX) for _, _, names in os.walk(root) for name in names)

def too_open(root):
    paths = [(f"{folder}/{name}", mode) for folder, folders, names in os.walk(root)
             for mode, below in ((0o700, folders), (0o600, names)) for name in below]
    return sum(stat.S_IMODE(os.stat(path).st_mode) != mode for path, mode in paths)

totals = Counter(kills=0)
for kill in range(kills):
    if kill % ROUNDS_ON_ONE_ROOT == 0:
        root = f"{above}/{seed}-{kill}"
        Files(root).make_root()
        Files(root).write("mail/cas.account", JSON.encode(account(1)), "create")
        allowed = {"mail/cas.account": {"1"}}
    lines, code = run_and_kill(root, 10_000 * (kill + 1))
    totals["kills"] += code == -signal.SIGKILL
    totals["ended"] += code != -signal.SIGKILL
    for line in lines:
        mark, key, number = line.split(" ")
        if mark == ">":
            allowed.setdefault(key, {"None"}).add(number)
        else:
            allowed[key] = {number}
            totals["acknowledged"] += 1
    totals["exposed"] += too_open(root)
    totals["leftovers"] += leftovers(root)
    files = Files(root)
    listed = {found.key for page in files.scan("", recursive=True) for found in page}
    totals["unswept"] += leftovers(root)
    for key, numbers in allowed.items():
        totals["under way"] += len(numbers) > 1
        found = content(files, key)
        totals["torn"] += found == "torn"
        totals["lost"] += found not in numbers | {"torn"}
        totals["misplaced"] += (key in listed) != (found != "None")
        allowed[key] = {found}
    totals["misplaced"] += len(listed - set(allowed))
json.dump(totals, sys.stdout)
"""


def _kill_many(folder: Path, kills: int, kind: Literal["store", "fsspec"], /) -> Counter[str]:
    """Kill so many children, by several servers at once; what was found in all."""

    def serve(seed: int) -> Counter[str]:
        share = str(kills // SERVERS + (seed < kills % SERVERS))
        command = [*PYTHON, "-W", "error", "-c", SERVER, str(folder), share, str(seed), kind]
        run = subprocess.run(command, capture_output=True, text=True, timeout=HUNG + kills, check=False)
        assert (run.returncode, run.stderr) == (0, "")
        return Counter(json.loads(run.stdout))

    with ThreadPoolExecutor(SERVERS) as threads:
        totals = sum(threads.map(serve, range(SERVERS)), Counter[str]())
    print(", ".join(f"{count} {name}" for name, count in totals.items()))
    return totals


def test_killed_writers_leave_whole_documents(tmp_path: Path) -> None:
    """After SIGKILL at any moment no document is torn, no acknowledged change lost, and a listing sweeps the rest."""
    totals = _kill_many(tmp_path, KILLS, "store")
    assert totals["kills"] == KILLS
    assert totals["acknowledged"] > KILLS / 4
    assert totals["under way"] > KILLS / 4
    wrong = ("ended", "torn", "lost", "unswept", "misplaced", "exposed")
    assert not any(totals[name] for name in wrong), totals
    # The kills of a long run must have hit writes in the middle.
    assert totals["leftovers"] > 0 or KILLS < 500


def test_control_killed_plain_writers_leave_damage(tmp_path: Path) -> None:
    """Control: the same harness finds torn documents, readable by others, where children write as fsspec does."""
    totals = _kill_many(tmp_path, FEWEST_FOR_CONTROL, "fsspec")
    assert totals["kills"] == FEWEST_FOR_CONTROL
    assert totals["torn"] > 0
    assert totals["exposed"] > 0
