"""Migrations are killed at random moments and run again: nothing missing, nothing newer overwritten, the journal true.

A server process imports the library once. Then, again and again, it forks a child that migrates, kills it, looks at
both ends and at the journal, lets another writer change a document at the target, and runs the migration to its end.
`ACCOUNTSTORE_MIGRATION_KILLS` says how often.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Literal

import pytest
from running import HUNG, PYTHON

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.once

KILLS = int(os.environ.get("ACCOUNTSTORE_MIGRATION_KILLS", "6"))
FEWEST_FOR_CONTROL = 4

SERVER = r"""
import json, os, random, signal, sys, time, traceback
from collections import Counter

import anyio, trio

import accountstore.backends.local.backend, accountstore.storages
from accountstore import *
from accountstore.migration import *
from accountstore.migration import runners
from accountstore.migration.journal import Journal
from accountstore.migration.records import Done
from accountstore.migration.work import Worker

above, kills, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
DOCUMENTS, BATCH = 120, 20
runners.MOST = BATCH
random.seed(kills)
for loop in ("asyncio", "trio"):
    anyio.run(anyio.sleep, 0, backend=loop)

def account(word):
    return Account(host=word, port=1, credentials=PasswordCredentials(login="l", password="p"))

def at(storage, number):
    return Location(f"{number:04}.account", folder=f"mail/f{number % 3}", storage=storage)

def config(root):
    return StoreConfig(default="Old", storages={
        "Old": StorageConfig(f"{root}/old"), "New": StorageConfig(f"{root}/new", codec="msgpack")})

def migration(store, root):
    return migrate(store, "Old:mail", "New:mail", journal=f"{root}/journal", key_file=f"{root}/key")

async def fill(root):
    async with AccountStore.open(config(root)) as store:
        async for _, result in store.save_many((at("Old", n), account("first")) for n in range(DOCUMENTS)):
            assert isinstance(result, Version)

async def run_to_the_end(root, pipe):
    async with AccountStore.open(config(root)) as store:
        async for outcome in migration(store, root):
            os.write(pipe, b".")
    os.write(pipe, b"!")

async def change(root, numbers, storage, word):
    async with AccountStore.open(config(root)) as store:
        for number in numbers:
            await store.save(at(storage, number), account(word))

async def at_target(root):
    async with AccountStore.open(config(root)) as store:
        found = {}
        async for location, result in store.get_many([at("New", n) for n in range(DOCUMENTS)]):
            if not isinstance(result, AccountStoreError):
                found[int(location.file_name[:4])] = result.document.host
        return found

def journaling_first():
    # Control: what is going to be copied is journaled as copied, and then copied.
    work = Worker.work
    record = Journal.record
    journals = []
    Journal.begin_run = lambda self, meaning, begin=Journal.begin_run: (journals.append(self), begin(self, meaning))[1]

    async def first(self, items):
        from accountstore.backends.base import Version, digest
        from accountstore.codecs import JSON
        done = [Done(item.name, "copied", self._marks.of("source", digest(JSON.encode(account("first")))),
                     self._marks.of("target", Version("x"))) for item in items if item.row is None]
        record(journals[-1], [(one, None) for one in done])
        time.sleep(0.01)
        return await work(self, items)

    Worker.work = first

def run_and_kill(root):
    told, pipe = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(told)
            if kind == "control":
                journaling_first()
            anyio.run(run_to_the_end, root, pipe, backend=random.choice(("asyncio", "trio")))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    os.close(pipe)
    wanted, seen = random.randrange(DOCUMENTS), 0
    while seen < wanted and (more := os.read(told, 65536)):
        seen += len(more)
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(told)
    return os.waitstatus_to_exitcode(status)

def in_journal(root):
    if not os.path.exists(f"{root}/journal"):
        return {}
    journal = Journal.open(f"{root}/journal", {})
    rows = {int(row.name[-12:-8]): row.outcome for row in journal.rows("", 10**6)}
    journal.close()
    return rows

totals = Counter()
for kill in range(kills):
    root = f"{above}/{kind}{kill}"
    os.makedirs(root)
    anyio.run(fill, root)
    for _ in range(3):
        code = run_and_kill(root)
        totals["kills"] += code == -signal.SIGKILL
        totals["finished"] += code == 0
        totals["broken"] += code not in {0, -signal.SIGKILL}
        rows, there = in_journal(root), anyio.run(at_target, root)
        totals["untrue"] += len(rows.keys() - there.keys())
        totals["sent again"] += len(there.keys() - rows.keys())
        totals["too many"] += len(there.keys() - rows.keys()) > BATCH
        totals["in the middle"] += 0 < len(there) < DOCUMENTS
    newer = random.sample(sorted(there), min(3, len(there)))
    anyio.run(change, root, newer, "New", "newer")
    changed = [n for n in random.sample(sorted(rows), min(3, len(rows))) if n not in newer]
    anyio.run(change, root, changed, "Old", "second")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    anyio.run(run_to_the_end, root, nowhere)
    os.close(nowhere)
    there = anyio.run(at_target, root)
    totals["missing"] += DOCUMENTS - len(there)
    totals["overwritten"] += sum(there.get(n) != "newer" for n in newer)
    totals["stale"] += sum(there.get(n) != "second" for n in changed)
json.dump(totals, sys.stdout)
"""


def kill_many(folder: Path, kills: int, kind: Literal["true", "control"], /) -> Counter[str]:
    """What was found in all."""
    command = [*PYTHON, "-W", "error", "-c", SERVER, str(folder), str(kills), kind]
    run = subprocess.run(command, capture_output=True, text=True, timeout=HUNG + 10 * kills, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    totals = Counter[str](json.loads(run.stdout))
    print(", ".join(f"{count} {name}" for name, count in totals.items()))
    return totals


def test_killed_migrations_go_on(tmp_path: Path) -> None:
    """After SIGKILL at any moment, also of what was killed before, the journal says of no document that it is there
    which is not; at most one batch is met again; and the next run leaves nothing missing or stale, nothing overwritten.
    """
    totals = kill_many(tmp_path, KILLS, "true")
    assert totals["kills"] > KILLS
    assert totals["in the middle"] > 0
    wrong = ("broken", "untrue", "too many", "missing", "overwritten", "stale")
    assert not any(totals[name] for name in wrong), totals


def test_control_a_journal_that_runs_ahead(tmp_path: Path) -> None:
    """Control: the same harness finds documents missing that a journal written before the copy vouches for."""
    totals = kill_many(tmp_path, FEWEST_FOR_CONTROL, "control")
    assert totals["untrue"] > 0
    assert totals["missing"] > 0
