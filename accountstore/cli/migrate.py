"""`accountstore migrate`: its arguments, help, progress and output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from accountstore import AccountStore, AccountStoreError, ConfigError, JournalError, LocationError, UnsupportedError
from accountstore.cli.app import check_lasting, examples, not_a_folder
from accountstore.cli.completion import complete_folder
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Command, RunGroup
from accountstore.cli.listing import check_target
from accountstore.cli.names import read_names
from accountstore.cli.progress import Progress, print_report
from accountstore.cli.show import show_line
from accountstore.migration import Migration, Options, Place, migrate, plan, read_report, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("app",)

_JOURNAL = "accountstore.journal"


app: typer.Typer = typer.Typer(
    cls=RunGroup,
    epilog=examples(
        "accountstore migrate plan Old:mail New:mail",
        "accountstore migrate Old:mail New:mail",
        "accountstore migrate Old:mail New:mail --resume",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="""Migrate all documents of a folder to another, on any storage; services may go on writing at both ends.

    SOURCE and TARGET are [STORAGE:][FOLDER]. Run it again with --resume to copy what has changed since; a document
    that has changed at both ends is a conflict, which is told and left as it is.

    Exit codes: 0 everything is at the target; 3 but for conflicts; 1 not everything, with the reason on stderr; 2 wrong
    usage; 130 interrupted. The options of a run: accountstore migrate run --help.""",
)


_Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="The folder: [STORAGE:][FOLDER].",
        show_default=False,
        autocompletion=complete_folder,
    ),
]
_Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="Its new place: [STORAGE:][FOLDER].",
        show_default=False,
        autocompletion=complete_folder,
    ),
]
_Journal = Annotated[
    str, typer.Option("--journal", metavar="PATH", help=f"The journal; {_JOURNAL} without it. It stays after the run.")
]
_Key = Annotated[
    str | None,
    typer.Option("--key-file", metavar="PATH", help="The key of the journal's marks; else in your data folder."),
]
_Include = Annotated[
    list[str] | None, typer.Option("--include", metavar="PATTERN", help="Only documents like this, as 'team-a/*'.")
]
_Exclude = Annotated[list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="No documents like this.")]
_Names = Annotated[
    str | None,
    typer.Option("--names", metavar="FILE", help="Only these: a name a line, or lines of --json; - is stdin."),
]
_Shard = Annotated[str, typer.Option("--shard", metavar="I/N", help="The I-th of N parts, with a journal of its own.")]
_Json = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each document, then one for the run.")]
_Mirror = Annotated[
    bool,
    typer.Option(
        "--mirror-deletes", help="Remove at the target what was copied and is gone at the source, if that is not empty."
    ),
]
_Conflict = Annotated[
    str,
    typer.Option(
        "--on-conflict",
        metavar="WHAT",
        help="report, or overwrite what has changed at both ends, and copy again what was deleted at the target.",
    ),
]
_Spool = Annotated[bool, typer.Option("--spool", help="Sort the listings on the disk, whatever the storages promise.")]
_Concurrency = Annotated[
    int, typer.Option("--concurrency", metavar="N", min=1, help="Documents under way at most; less where it is busy.")
]
_Rate = Annotated[
    float | None, typer.Option("--requests-per-second", metavar="N", help="No more requests than this, on average.")
]


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore migrate Old:mail New:mail",
        "accountstore migrate Old:mail New:mail --resume",
        "accountstore migrate plan Old:mail New:mail --json > plan.jsonl",
        "accountstore migrate Old: New: --shard 2/8 --journal part2.journal",
    ),
)
def run(
    context: typer.Context,
    source: _Source,
    target: _Target,
    journal: _Journal = _JOURNAL,
    key_file: _Key = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the journal that is there: after a kill, or as a next pass.")
    ] = False,
    include: _Include = None,
    exclude: _Exclude = None,
    names: _Names = None,
    shard: _Shard = "1/1",
    verify: Annotated[
        str,
        typer.Option(
            "--verify",
            metavar="HOW",
            help="read: each copy is read back. write: the storage's own digest, where it has one. none.",
        ),
    ] = "read",
    on_conflict: _Conflict = "report",
    delete_source: Annotated[
        bool,
        typer.Option(
            "--delete-source", help="Remove at the source what the target has, verified; not with --mirror-deletes."
        ),
    ] = False,
    mirror_deletes: _Mirror = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="Write to a target without conditions, where a rival's write can be lost.")
    ] = False,
    lease: Annotated[
        float | None,
        typer.Option(
            "--lease",
            metavar="SECONDS",
            help="Copy a document with OAuth tokens while nobody refreshes them; others wait no longer than this.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As `plan`.")] = False,
    spool: _Spool = False,
    concurrency: _Concurrency = 64,
    requests_per_second: _Rate = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, max=1_000, help="In N processes here.")
    ] = 1,
    dask: Annotated[
        str | None, typer.Option("--dask", metavar="ADDRESS", help="On the workers of a Dask scheduler, tls://...")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Copy what is new or has changed, verified.

    Each document is checked and takes the target's codec; fields that this release does not know come along. What was
    killed goes on with --resume.
    """
    with exit_codes():
        ends = _place(source), _place(target)
        options = _options(
            include, exclude, names, shard, spool,
            verify=verify,
            on_conflict=on_conflict,
            delete_source=delete_source,
            mirror_deletes=mirror_deletes,
            writes="blind" if blind else "conditional",
            concurrency=concurrency,
            requests_per_second=requests_per_second,
            lease=lease,
        )  # fmt: skip
        given: dict[str, Any] = {"journal": journal, "key_file": key_file, "options": options}
        if dry_run:
            _follow(context, plan, ends, given, as_json)
            return
        _check_journal(journal, resume)
        _follow(context, migrate, ends, {**given, "processes": processes, "config": context.obj}, as_json, dask)


@app.command("plan", cls=Command, epilog="accountstore migrate plan Old:mail New:mail")
def plan_command(
    context: typer.Context,
    source: _Source,
    target: _Target,
    journal: _Journal = _JOURNAL,
    key_file: _Key = None,
    include: _Include = None,
    exclude: _Exclude = None,
    names: _Names = None,
    shard: _Shard = "1/1",
    on_conflict: _Conflict = "report",
    mirror_deletes: _Mirror = False,
    spool: _Spool = False,
    concurrency: _Concurrency = 64,
    requests_per_second: _Rate = None,
    as_json: _Json = False,
) -> None:
    """Say what a run would do, with totals, and change nothing."""
    with exit_codes():
        options = _options(
            include, exclude, names, shard, spool,
            on_conflict=on_conflict, mirror_deletes=mirror_deletes,
            concurrency=concurrency, requests_per_second=requests_per_second,
        )  # fmt: skip
        given = {"journal": journal, "key_file": key_file, "options": options}
        _follow(context, plan, (_place(source), _place(target)), given, as_json)


@app.command("verify", cls=Command, epilog="accountstore migrate verify Old:mail New:mail")
def verify_command(
    context: typer.Context,
    source: _Source,
    target: _Target,
    journal: _Journal = _JOURNAL,
    key_file: _Key = None,
    include: _Include = None,
    exclude: _Exclude = None,
    names: _Names = None,
    shard: _Shard = "1/1",
    spool: _Spool = False,
    concurrency: _Concurrency = 64,
    requests_per_second: _Rate = None,
    as_json: _Json = False,
) -> None:
    """Read both ends and compare each document, and change nothing.

    With the journal of the migration it also knows what has changed at the target alone since, or was deleted there.
    """
    with exit_codes():
        options = _options(
            include, exclude, names, shard, spool,
            concurrency=concurrency, requests_per_second=requests_per_second,
        )  # fmt: skip
        given = {"journal": journal, "key_file": key_file, "options": options}
        _follow(context, verify, (_place(source), _place(target)), given, as_json)


@app.command(cls=Command, epilog="accountstore migrate report part1.journal part2.journal --json")
def report(
    journals: Annotated[
        list[str], typer.Argument(metavar="JOURNAL...", help="The journals: of all shards.", show_default=False)
    ],
    as_json: _Json = False,
) -> None:
    """Say what the last runs of journals came to, and name each document that is not at the target."""
    with exit_codes():
        found, why = read_report(*journals), "migrate --resume says why"
        for outcome in found.outcomes:
            if as_json:
                show_line(outcome)
            else:
                about = outcome.reason or outcome.error or why
                print_error(f"{outcome.outcome}: {outcome.source} to {outcome.target} ({about})")
        print_report(found, as_json=as_json)
        if found.exit_code:
            raise typer.Exit(found.exit_code)


def _options(
    include: list[str] | None,
    exclude: list[str] | None,
    names: str | None,
    shard: str,
    spool: bool,
    /,
    **others: Any,
) -> Options:
    """What `run`, `plan` and `verify` are all told, and the `others` of one of them."""
    part, slash, parts = shard.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal()):
        raise typer.BadParameter("--shard is I/N, such as 2/8")
    listed = None if names is None else read_names(names)
    try:
        options = Options(
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            names=listed,
            shard=(int(part), int(parts)),
            listing="spool" if spool else "stream",
            **others,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if listed and not any(map(options.matches, listed)):
        raise ConfigError(f"{names}: no name in it is chosen by {_chosen_by(options)}")
    return options


def _chosen_by(options: Options, /) -> str:
    patterns = (("--include", options.include), ("--exclude", options.exclude))
    return ", ".join(f"{option} {pattern!r}" for option, given in patterns for pattern in given)


def _place(text: str, /) -> Place:
    try:
        return Place.parse(text)
    except LocationError as error:
        raise LocationError(f"{text!r}: {error.message}{not_a_folder(text)}") from None


def _check_journal(journal: str, resume: bool, /) -> None:
    """Refuse to mix two migrations by chance."""
    there = os.path.exists(journal)
    if there and not resume:
        raise JournalError(f"{journal}: there is a journal already: --resume goes on with it, --journal names another")
    if resume and not there:
        raise JournalError(f"{journal}: there is no journal to go on with")


def _follow(
    context: typer.Context,
    call: Callable[..., Migration],
    ends: tuple[Place, Place],
    given: Mapping[str, Any],
    as_json: bool,
    dask: str | None = None,
    /,
) -> None:
    """Do a run to its end, and exit with its code."""
    if call is migrate:
        check_lasting(context, ends[1].storage, moves=given["options"].delete_source)
    is_new = not os.path.exists(given["journal"])

    async def work() -> int:
        async with AccountStore.open(context.obj) as store:
            check_target(store, ends[1].at("any.account"))
            if dask is None:
                return await _show(call(store, *ends, **given), as_json=as_json)
            async with await _client(dask) as client:
                return await _show(call(store, *ends, **given, client=client), as_json=as_json)

    try:
        code = anyio.run(work)
    except KeyboardInterrupt:
        if call is migrate:
            is_begun = os.path.exists(given["journal"])
            print_error(f"interrupted: {'the same command with --resume goes on' if is_begun else 'run it again'}")
        raise
    except AccountStoreError as error:
        if call is not migrate or not is_new or not os.path.exists(given["journal"]):
            raise
        print_error(error)
        print_error("the same command with --resume goes on")
        code = 1
    if code:
        raise typer.Exit(code)


async def _client(address: str, /) -> Any:
    try:
        from dask import config
        from dask.utils import parse_timedelta
        from distributed import Client
    except ImportError:
        raise UnsupportedError("--dask needs the package distributed: pip install 'accountstore[dask]'") from None
    client: Any = None
    try:
        client = Client(address, asynchronous=True)  # type: ignore[no-untyped-call]  # it has no types
        with anyio.fail_after(parse_timedelta(config.get("distributed.comm.timeouts.connect"))):
            return await client
    except (OSError, TypeError, ValueError) as error:
        if client is not None:
            await client.close()  # else the collector of garbage does, which warns
        raise ConfigError(f"--dask {address}: {str(error) or 'no Dask scheduler answers there'}") from None


async def _show(migration: Migration, /, *, as_json: bool) -> int:
    async with migration as told:
        with Progress(told, shown=not as_json) as progress:
            async for outcome in told:
                if as_json:
                    show_line(outcome)
                progress.add(outcome)
    print_report(told.report, as_json=as_json)
    return told.report.exit_code
