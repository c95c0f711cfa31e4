"""What a terminal sees: tables and views. Text of documents and names is never read as markup."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from datetime import UTC
from operator import itemgetter
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
from msgspec import Raw
from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from accountstore import Entry
from accountstore.validation import kind_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from datetime import datetime

    from accountstore import Capabilities, Check, Encryption, Folder, StorageConfig, StoreConfig
    from accountstore.cli.demo import Outcome
    from accountstore.cli.documents import Shown

__all__ = (
    "Style",
    "check_fields",
    "console",
    "entry_fields",
    "on_terminal",
    "printable",
    "show_check",
    "show_document",
    "show_entries",
    "show_json",
    "show_line",
    "show_outcomes",
    "show_stat",
    "show_storages",
    "storage_fields",
)

Style: TypeAlias = Literal["names", "long", "json"]
"""How a listing shows."""

_ENDLESS = 4096
_LABELS = {
    "host": "host",
    "port": "port",
    "securityOptions": "security",
    "protocolType": "protocol",
    "login": "login",
    "discriminator": "credentials",
    "password": "password",
    "clientId": "client id",
    "clientSecret": "client secret",
    "refreshToken": "refresh token",
    "requestUrl": "request URL",
    "accessToken": "access token",
    "expiresAt": "expires at",
}
_KINDS = {
    "EmailClientAccountPasswordCredentials": "password",
    "EmailClientAccountOauthCredentials": "OAuth",
}


class _Console(Console):
    """A console that leaves a closed pipe to `accountstore.cli.exits`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def on_terminal() -> bool:
    """Whether people read the output, and not a program."""
    return sys.stdout.isatty()


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr. In a pipe, lines are as long as they need to be."""
    width = None if stderr or on_terminal() else _ENDLESS
    if width is None and os.environ.get("COLUMNS") == "0":  # by which nothing would be shown
        width = get_terminal_size().columns
    return _Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def printable(text: str, /) -> str:
    """The text with escapes for characters that could steer a terminal or hide in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _text(text: str, style: str = "", /) -> Text:
    return Text(printable(text), style)


def _mark(value: bool, /) -> Text:
    return Text("yes", "green") if value else Text("no", "dim")


def _condition(declared: bool, can: Capabilities, config: StorageConfig, /) -> Text:
    """What is known of a promise that may be the server's to keep."""
    if can.read_only:
        return Text("read-only", "yellow")
    if declared and can.verify:
        return Text("if the server does", "yellow")
    return Text("trusted", "yellow") if declared and config.conditions == "trust" else _mark(declared)


def show_storages(config: StoreConfig, capabilities: Mapping[str, Capabilities], /) -> None:
    """One line a storage, the default first."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("storage", style="bold", overflow="fold")
    table.add_column("default")
    table.add_column("url", overflow="fold")
    for name in ("create", "update", "atomic", "durable"):
        table.add_column(name)
    is_any_sealed = any(storage.encryption for storage in config.storages.values())
    if is_any_sealed:
        table.add_column("sealed")
    default = config.default_name()
    for name, can in capabilities.items():
        table.add_row(
            _text(name),
            _mark(True) if name == default else "",
            _text(config.storages[name].redacted_url),
            *(_condition(promise, can, config.storages[name]) for promise in (can.create, can.update)),
            *(_mark(promise) for promise in (can.atomic, can.durable)),
            *((_sealed(config.storages[name].encryption),) if is_any_sealed else ()),
        )
    console().print(table)


def storage_fields(config: StoreConfig, name: str, can: Capabilities, /) -> dict[str, object]:
    """A storage for programs. `conditions` says who keeps create and update: the backend (`kept`), the server
    as far as a `probe` shows it, or the server by `trust`.
    """
    storage = config.storages[name]
    return {
        "storage": name,
        "default": name == config.default_name(),
        "url": storage.redacted_url,
        "codec": storage.codec,
        "encryption": sealed_of(storage.encryption),
        "engine": storage.engine,
        "create": can.create,
        "update": can.update,
        "conditions": storage.conditions if can.verify or storage.conditions == "trust" else "kept",
        "atomic": can.atomic,
        "durable": can.durable,
        "read_only": can.read_only,
    }


def check_fields(check: Check, /) -> dict[str, object]:
    """A check for programs; times in seconds."""
    return {
        "storage": check.storage,
        "ok": check.ok,
        "create": check.create,
        "update": check.update,
        "delete": check.delete,
        "versioned": check.versioned,
        "latency": check.latency,
        "steps": check.steps,
        "skipped": [{"path": skipped.path, "reason": skipped.reason} for skipped in check.skipped],
        "complete": check.complete,
        "sealing": None if check.sealing is None else msgspec.structs.asdict(check.sealing),
    }


def sealed_of(encryption: Encryption | None, /) -> str | None:
    """Whether documents are sealed: always (`required`), those written from now on, or no longer; None: never were."""
    if encryption is None:
        return None
    return "required" if encryption.required else "plaintext too" if encryption.seal else "no longer"


def _sealed(encryption: Encryption | None, /) -> Text:
    how = sealed_of(encryption)
    return _mark(how is not None) if how in {None, "required"} else Text(str(how), "yellow")


def show_check(check: Check, /) -> None:
    """The steps of a check and what they prove."""
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title=_text(check.storage, "bold"), title_justify="left"
    )
    table.add_column("step")
    table.add_column("outcome", overflow="fold")
    table.add_column("time", justify="right")
    for step in check.steps:
        outcome = _text(step.problem, "red") if step.problem else Text("ok", "green")
        table.add_row(step.name, outcome, f"{step.seconds * 1000:.1f} ms")
    out = console()
    out.print(table)
    found = (
        ("create has one winner", check.create, check.declared.create),
        ("update loses nothing", check.update, check.declared.update),
        ("delete of a version is conditional", check.delete, check.declared.update),
    )
    why = next((f": {step.unsupported}" for step in check.steps if step.unsupported), "") if check.update else ""
    for name, proven, declared in found:
        if check.declared.read_only:
            untried = Text("not tried, as the storage is read-only", "yellow")
        else:
            untried = Text("could not be tried", "yellow") if declared else Text("not promised by this storage", "dim")
        words = {True: Text("proven", "green"), False: _text(f"NOT KEPT, and refused{why}", "bold red"), None: untried}
        out.print(Text.assemble(f"{name}: ", words[proven]))
    versions = {
        True: Text("yes: old secrets stay there", "yellow"),
        False: Text("no"),
        None: Text("unknown", "dim"),
    }
    out.print(Text.assemble("keeps what was overwritten: ", versions[check.versioned]))
    if (sealing := check.sealing) is not None:
        out.print(Text.assemble(f"sealed ({sealing.mode}), keys: ", _text(", ".join(sealing.key_ids))))
        if check.versioned:
            out.print(Text("plaintext from before the first encryption may be among what is kept", "yellow"))
    if any(not step.problem for step in check.steps):
        out.print(f"median time of a request: {check.latency * 1000:.1f} ms")
    for skipped in check.skipped:
        out.print(Text.assemble("not listed: ", _text(f"{skipped.path!r} ({skipped.reason})", "yellow")))
    if not check.complete:
        out.print(Text("not all names of documents were looked at", "yellow"))


def show_entries(entries: Iterable[Entry | Folder], /, *, first: bool, style: Style = "names") -> None:
    """A part of a listing, sorted: a table on a terminal, else lines.

    The tables of all parts have the same columns; the first one has their names.
    """
    names = {str(entry.location if isinstance(entry, Entry) else entry): entry for entry in entries}
    ordered = sorted(names.items(), key=itemgetter(0))
    if style == "json":
        for name, entry in ordered:
            show_line(entry_fields(name, entry))
    elif on_terminal():
        _show_table(ordered, first=first, long=style == "long")
    else:
        sys.stdout.writelines(f"{_long(entry) if style == 'long' else ''}{name}\n" for name, entry in ordered)
    sys.stdout.flush()


def entry_fields(name: str, entry: Entry | Folder, /) -> dict[str, object]:
    """An entry of a listing for programs; times in UTC."""
    if not isinstance(entry, Entry):
        return {"location": name, "kind": "folder"}
    return {
        "location": name,
        "kind": kind_of(entry.location.file_name),
        "bytes": entry.size,
        "modified": entry.modified,
    }


def _long(entry: Entry | Folder, /) -> str:
    if not isinstance(entry, Entry):
        return "folder\t\t\t"
    modified = "" if entry.modified is None else entry.modified.astimezone(UTC).isoformat(timespec="seconds")
    return f"{kind_of(entry.location.file_name)}\t{entry.size}\t{modified}\t"


def _show_table(entries: Iterable[tuple[str, Entry | Folder]], /, *, first: bool, long: bool) -> None:
    out = console()
    table = Table(
        box=SIMPLE_HEAD if first else None, show_header=first, show_edge=False, pad_edge=False, width=out.width
    )
    table.add_column("location", overflow="fold", ratio=1)
    if long:
        table.add_column("kind", width=7)
    table.add_column("bytes", justify="right", width=9)
    table.add_column("modified", width=25 if long else 16)
    for name, entry in entries:
        kind = (kind_of(entry.location.file_name) if isinstance(entry, Entry) else "folder",) if long else ()
        moment = _time(entry.modified) if isinstance(entry, Entry) else ""
        about = (f"{entry.size:,}", moment if long else moment[:16]) if isinstance(entry, Entry) else ()
        table.add_row(_text(name), *kind, *about)
    out.print(table)


def show_stat(entry: Entry, storage: str, /, *, as_json: bool) -> None:
    """What is known of a document that was not read."""
    fields = entry_fields(str(entry.location), entry) | {"storage": storage}
    if as_json:
        show_line(fields)
        return
    table = Table(box=ROUNDED, show_header=False, title=_text(str(fields.pop("location"))), title_justify="left")
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for name, value in (fields | {"bytes": f"{entry.size:,}", "modified": _time(entry.modified)}).items():
        table.add_row(name, _text(str(value)))
    console().print(table)


def _time(moment: datetime | None, /) -> str:
    """A time in the local zone; in UTC, where the local one has no such year."""
    if moment is None:
        return ""
    with suppress(OverflowError, ValueError, OSError):
        moment = moment.astimezone()
    return moment.isoformat(" ", "seconds")


def show_json(data: bytes, /) -> None:
    """A document's JSON, indented; in colour on a terminal."""
    text = _escaped(msgspec.json.format(data, indent=2).decode())
    if on_terminal():
        console().print(JSONHighlighter()(text), soft_wrap=True)
    else:
        sys.stdout.write(text + "\n")


def show_line(fields: object, /) -> None:
    """Something as JSON, in a line of its own; in a path, what is not UTF-8 is an escape that `json` reads back."""
    try:
        text = msgspec.json.encode(fields).decode()
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(fields), ensure_ascii=False, separators=(",", ":"))
    sys.stdout.write(_escaped(text) + "\n")


def _escaped(text: str, /) -> str:
    """JSON in which every character is printable: only strings hold others, and there an escape means the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def show_document(title: str, shown: Mapping[str, Shown], /, *, masked: bool) -> None:
    """A document as tables, one for each account."""
    out = console()
    out.print(_text(title, "bold"))
    others: dict[str, Shown] = {}
    for name, part in shown.items():
        if isinstance(part, list):
            for i, account in enumerate(part, 1):
                out.print(_account(account, f"receives {i} of {len(part)}"))
        elif name == "sendAccount" and isinstance(part, dict):
            out.print(_account(part, "sends"))
        else:
            others[name] = part
    if others:
        out.print(_account(others, None))
    if masked and on_terminal():
        out.print(Text("Secrets are masked; --reveal shows them.", "dim"))


def _account(account: Mapping[str, Shown], title: str | None, /) -> Table:
    table = Table(box=ROUNDED, show_header=False, title=title, title_justify="left", title_style="italic")
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for name, value in _rows(account):
        table.add_row(_text(name), _text(value))
    return table


def _rows(part: Mapping[str, Shown], within: str = "", /) -> Generator[tuple[str, str], None, None]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _rows(value, "" if name == "credentials" else f"{within}{name}.")
        elif value != Raw(b"null"):
            label = within + name if within else _LABELS.get(name, name)
            yield label, _value(name, value)


def _value(name: str, value: Shown, /) -> str:
    if not isinstance(value, Raw):
        return str(value)
    text = bytes(value).decode()
    if text.startswith('"'):
        text = msgspec.json.decode(value, type=str)
    return _KINDS.get(text, text) if name == "discriminator" else text


def show_outcomes(outcomes: Sequence[Outcome], /) -> None:
    """What a demonstration did, and whether it went as promised."""
    table = Table(box=ROUNDED, expand=on_terminal())
    table.add_column("what was done", overflow="fold")
    table.add_column("outcome")
    table.add_column("what was seen", overflow="fold", ratio=1)
    for outcome in outcomes:
        mark = Text("ok", "bold green") if outcome.held else Text("FAILED", "bold red")
        table.add_row(_text(outcome.what), mark, _text(outcome.seen))
    out = console()
    out.print(table)
    broken = sum(not outcome.held for outcome in outcomes)
    if broken:
        out.print(Text(f"{broken} of {len(outcomes)} did not go as promised.", "bold red"))
    else:
        out.print(Text("Everything went as promised.", "green"))
