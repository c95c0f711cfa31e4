"""On trio all is as on asyncio: tasks of a nursery share a store, and a cancelled one leaves nothing half written."""

from __future__ import annotations

import trio
from msgspec.structs import replace

from accountstore import Account, AccountStore, Location, PasswordCredentials, StorageConfig, StoreConfig

AT = Location("me.account", folder="mail")


def next_port(account: Account) -> Account:
    """A change that is lost if tasks only read and save."""
    return replace(account, port=account.port + 1)


async def main() -> None:
    """Run the example."""
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")})) as store:
        credentials = PasswordCredentials(login="me", password="correct horse")
        await store.save(AT, Account(host="imap.example.com", port=1000, credentials=credentials))
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(store.update, AT, next_port)
        with trio.move_on_after(0):
            await store.update(AT, next_port)  # given up, whole: the port is 1020 or 1021
        print("changes that were kept:", (await store.get(AT)).port - 1000)


if __name__ == "__main__":
    trio.run(main)
