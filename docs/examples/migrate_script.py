"""A migration with a policy of its own, between two storages of the configuration:

    ACCOUNTSTORE_CONFIG=accountstore.toml python migrate_script.py OLD NEW

Prints what was copied and each problem; run again, it goes on where it was. The exit code is 0 if all is well.
"""

from __future__ import annotations

import sys

import anyio

from accountstore import AccountStore, AccountStoreError
from accountstore.migration import PROBLEMS, Options, migrate, verify

OPTIONS = Options(exclude=("test-*",), concurrency=16)


async def main(source: str, target: str) -> bool:
    """Copy what is in the folder `mail`, then compare both ends."""
    async with AccountStore.open() as store:
        run = migrate(store, f"{source}:mail", f"{target}:mail", journal="mail.journal", options=OPTIONS)
        async for outcome in run:
            if outcome.outcome in PROBLEMS:
                print("problem:", outcome.outcome, outcome.source)
        for word, total in sorted(run.report.totals.items()):
            print(f"{word}: {total.documents}")
        compared = await verify(store, f"{source}:mail", f"{target}:mail", journal="mail.journal", options=OPTIONS)
        print("both ends are the same" if compared.ok else f"problems: {compared.problems}")
        return run.report.ok and compared.ok


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: [ACCOUNTSTORE_CONFIG=FILE] python migrate_script.py OLD NEW")
    try:
        done = anyio.run(main, sys.argv[1], sys.argv[2])
    except AccountStoreError as error:  # such as a configuration without `default`
        sys.exit(str(error))
    sys.exit(not done)
