"""From a folder through S3, Google, Azure and SFTP back to a folder: equal at the end, by a comparison of its own.

`ACCOUNTSTORE_MIGRATION_DOCUMENTS` says how many documents.
"""

from __future__ import annotations

import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cloudtargets import TARGETS, on_asyncio
from migrating import files

from accountstore import AccountStore, StorageConfig, StoreConfig
from accountstore.migration import Options, migrate, verify

if TYPE_CHECKING:
    from cloudstub import Stub
    from fileservers import FileServer

pytestmark = [pytest.mark.anyio, pytest.mark.once]
pytest_plugins = ["fileservers"]

DOCUMENTS = int(os.environ.get("ACCOUNTSTORE_MIGRATION_DOCUMENTS", "200"))
WORDS = (
    "plain",
    "Zo\u00eb",
    "\u6f22\u5b57",
    "with space",
    "a+b=c&d",
    "%41",
    "'quoted'",
    "x" * 150,
    "-dash",
    "~tilde",
    "\U0001f511",
)
_SINGLE = {"discriminator": "EmailClientAccountPasswordCredentials", "login": "me", "password": "p\u00e4ss \U0001f511"}
_OAUTH = {
    "discriminator": "EmailClientAccountOauthCredentials", "login": "me", "clientId": "i", "clientSecret": "s",
    "refreshToken": "r", "accessToken": "a", "expiresAt": "2031-05-06T07:08:09Z",
    "hint": [1, 2.5, None, {"deep": True}],
}  # fmt: skip


def document(chance: random.Random, /) -> dict[str, Any]:
    """An account with fields of all kinds, some of which the model does not know."""
    account: dict[str, Any] = {"host": f"{chance.randrange(10**9)}.example.org", "port": chance.randrange(1, 65536)}
    account["credentials"] = chance.choice([_SINGLE, _OAUTH])
    if chance.random() < 0.5:
        account |= {"securityOptions": "SSLAuto", "protocolType": chance.choice(["IMAP", "POP3", "SMTP"])}
    if chance.random() < 0.5:
        account |= {"label": chance.choice(WORDS), "limits": {"daily": 2**40, "rate": 0.1}, "tags": [], "none": None}
    return account


def make(folder: Path, /) -> None:
    """Write the documents, past the library."""
    chance = random.Random(5)
    for number in range(DOCUMENTS):
        multi = number % 10 == 0
        value: dict[str, Any] = document(chance)
        if multi:
            value = {
                "receiveAccounts": [document(chance), value],
                "sendAccount": document(chance),
                "team": chance.choice(WORDS),
            }
        depth = [chance.choice(WORDS) for _ in range(number % 4)]
        path = folder.joinpath(*depth, f"{chance.choice(WORDS)} {number}{'.multi' if multi else ''}.account")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, ensure_ascii=number % 2 == 0, indent=number % 3 or None), encoding="utf-8")


def read(folder: Path, /) -> dict[str, Any]:
    """The documents by their paths, past the library."""
    return {
        str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


@on_asyncio
async def test_there_and_back(stub: Stub, sftp_server: FileServer, tmp_path: Path) -> None:
    """Mixed documents, unknown fields and odd names included, in JSON and MessagePack in turn: at the end those of the
    start, and nothing else; each step is verified, and a second pass finds all the same.
    """
    storages: dict[str, StorageConfig] = {"first": StorageConfig(str(tmp_path / "first"))}
    for number, target in enumerate(TARGETS[:3]):
        codec = ("msgpack", "json", "msgpack")[number]
        storages[target.service] = target.config(stub.url, codec=codec).storages["cloud"]
    options = sftp_server.options | {"look_for_keys": False, "allow_agent": False}
    storages["sftp"] = StorageConfig(f"sftp://127.0.0.1/{tmp_path.name}", options=options)
    storages["last"] = StorageConfig(str(tmp_path / "last"))
    (sftp_server.folder / tmp_path.name).mkdir()
    await anyio.to_thread.run_sync(make, tmp_path / "first" / "mail")
    names = [*storages]
    async with AccountStore.open(StoreConfig(storages=storages, default="first")) as store:
        for old, new in pairwise(names):
            ends = f"{old}:mail", f"{new}:mail"
            (tmp_path / new).mkdir(exist_ok=True)
            kept = files(tmp_path / new)
            chosen = Options(writes="blind" if new == "sftp" else "conditional")
            first = await migrate(store, *ends, options=chosen, **kept)
            assert {word: total.documents for word, total in first.totals.items()} == {"copied": DOCUMENTS}
            again = await migrate(store, *ends, options=chosen, **kept)
            assert {word: total.documents for word, total in again.totals.items()} == {"same": DOCUMENTS}
        assert (await verify(store, "first:mail", "last:mail")).ok
    before, after = [await anyio.to_thread.run_sync(read, tmp_path / end / "mail") for end in ("first", "last")]
    assert len(before) == DOCUMENTS
    assert before == after
