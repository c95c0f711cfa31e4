"""The command line: what each command does, says and returns, in process and as a program of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import warnings
from contextlib import nullcontext
from datetime import UTC, datetime
from getpass import GetPassWarning
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from running import HUNG, PYTHON

for package in ("pty", "typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

from typing import Annotated

import typer
from commandline import (
    CANARIES,
    COMMAND,
    CONFIG,
    MULTI,
    PASSWORD,
    PROGRAM,
    SINGLE,
    Terminal,
    configure,
    document_at,
    files,
    plain,
    python,
    run,
)
from msgspec.structs import replace
from typer.main import get_command

from accountstore import (
    Account,
    AccountStore,
    BackendError,
    Entry,
    Folder,
    Location,
    MultiAccount,
    UnsupportedError,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.check import Check, Step
from accountstore.cli.commands import app
from accountstore.cli.prompts import ask_document
from accountstore.cli.show import show_check, show_entries
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("home")


BELOW = "not listed: 1 folder (-r also lists what is below)"
ARCHIVE = "the storage 'Archive' is listed by: accountstore ls 'Archive:'"


@pytest.mark.parametrize(
    ("name", "document", "other"), [("x.account", SINGLE, MULTI), ("x.multi.account", MULTI, SINGLE)]
)
def test_save_takes_a_document_only_under_the_extension_of_its_kind(
    name: str, document: dict[str, Any], other: dict[str, Any]
) -> None:
    """`save` writes one account to `*.account` and several to `*.multi.account`, and otherwise makes no file."""
    assert run("save", name, stdin=other).refusal.startswith("standard input: ")
    assert files() == []
    answer = run("save", name, stdin=document)
    assert (answer.code, answer.everything) == (0, "")
    assert json.loads(Path("first", name).read_bytes()) == document


@pytest.mark.parametrize("name", [".account", ".multi.account", "x.Account", "x.account.txt", "x"])
def test_every_command_refuses_other_extensions_before_any_io(name: str) -> None:
    """A name that ends in neither extension is refused, and no storage is opened; each but `save` leads to the command
    for folders.
    """
    led = {"get": "ls {}", "rm": "rm -r {}", "cp": "cp -r {} new/", "mv": "mv -r {} new/"}
    for command in ("save {}", "get {}", "get --json {}", "rm {}", "cp {} new/", "mv {} new/"):
        refusal = run(*command.format(name).split(), stdin=SINGLE).refusal
        leads = led.get(command[:2], led.get(command[:3]))
        folders = f"; for folders: accountstore {leads.format(name)}" if leads else ""
        assert refusal == (
            f"{name}: the file name must end in .account or .multi.account, with a name before it{folders}"
        )
        assert not Path("first").exists()


OF_ONE = ("get {}", "get --json {}", "rm {}", "cp {} new/", "mv {} new/")
BAD_NAMES = ("../x.account", "a//x.account", "/x.account", "a\\x.account", "x*.account", ":x.account")
BAD_FOLDERS = (":", "a//b", "../x", "x.account", "a*", "//")


@pytest.mark.parametrize(
    ("commands", "name", "refusal"),
    [
        *((OF_ONE, name, f"{name}: there is no such document") for name in ("x.account", "x.multi.account")),
        *((("save {}", "cp x.account {}", *OF_ONE), name, re.escape(f"{name!r}: ") + ".+") for name in BAD_NAMES),
        *((("ls {}",), name, re.escape(f"{name!r}: ") + ".+") for name in BAD_FOLDERS),
        (("save {}", *OF_ONE), "Nope:x.account", ".*Nope.*is not configured.*"),
        (("ls {}", "cp x.account {}"), "Nope:", ".*Nope.*is not configured.*"),
        (("check {}",), "Nope", ".*Nope.*is not configured.*"),
    ],
)
def test_a_name_that_leads_nowhere_is_reported(commands: tuple[str, ...], name: str, refusal: str) -> None:
    """What is not there, not allowed or not configured ends with exit code 1 and one line that shows the name."""
    for command in commands:
        assert re.fullmatch(refusal, run(*command.format(name).split(), stdin=SINGLE).refusal)
    assert files() == []


@pytest.mark.parametrize(
    "command",
    [
        "ls {}",
        "tree {}",
        "refresh --all {}",
        "cp -r mail {}",
        "mv -r {0}/ post",
        "migrate {} Archive:",
        "migrate mail {}",
    ],
)
def test_a_document_where_a_folder_is_wanted_leads_to_its_commands(command: str) -> None:
    """It is said that a folder is wanted, and which commands take a document."""
    refusal = run(*command.format("Archive:mail/x.account").split()).refusal
    assert refusal.startswith("'Archive:mail/x.account")
    assert refusal.endswith("; a folder is wanted here (accountstore get shows a document, accountstore cp copies one)")


@pytest.mark.parametrize(("name", "document"), [("a.account", SINGLE), ("a.multi.account", MULTI)])
def test_a_pipe_of_two_programs_copies_the_whole_document(name: str, document: dict[str, Any]) -> None:
    """`get --json --reveal A | save B` keeps every byte, fields that this release does not know included."""
    run("save", name, stdin=document)
    got = python(*PROGRAM, "get", "--json", "--reveal", name)
    saved = python(*PROGRAM, "save", f"mail/{name}", stdin=got.raw)
    assert (got.code, got.err, saved.code, saved.everything) == (0, "", 0, "")
    assert (
        Path("first", name).read_bytes() == Path("first", f"mail/{name}").read_bytes() == json.dumps(document).encode()
    )
    assert got.raw == Path("first", name).read_bytes() + b"\n"


def test_a_storage_with_another_codec_takes_and_gives_json() -> None:
    """A MessagePack storage keeps the same document, and `get` shows it as JSON."""
    assert run("save", "Archive:a.account", stdin=SINGLE).code == 0
    assert not Path("archive", "a.account").read_bytes().startswith(b"{")
    assert document_at("Archive:a.account") == SINGLE


def test_get_masks_secrets_in_both_views(saved: None) -> None:
    """Without `--reveal`, secrets, unknown fields and a `requestUrl` that is no address show as asterisks."""
    stars = "**********"
    hidden = ("clientSecret", "refreshToken", "accessToken", "requestUrl", "ofTomorrow")
    credentials = SINGLE["credentials"] | dict.fromkeys(hidden, stars)
    masked = json.loads(run("get", "--json", "a.account").out)
    assert masked == SINGLE | {"credentials": credentials, "alsoOfTomorrow": stars}
    view = run("get", "a.account").out
    assert view.count(stars) == 6
    for shown in ("smtp.example.com", "465", "SSLAuto", "SMTP", "example@example.com", "OAuth", "clientId"):
        assert shown in view


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://login.example.com/token", True),
        ("http://127.0.0.1:8080/", True),
        ("refresh_token", False),
        ("https://user:word@login.example.com/token", False),
        ("https://login.example.com/token?key=1", False),
        ("https://login.example.com/token#1", False),
        ("https:///token", False),
        ("ftp://login.example.com", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_a_request_url_shows_only_as_a_plain_address(url: str, shown: bool) -> None:
    """Some programs put a token into `requestUrl`, so anything but an address is masked."""
    run("save", "a.account", stdin=SINGLE | {"credentials": SINGLE["credentials"] | {"requestUrl": url}})
    masked = json.loads(run("get", "--json", "a.account").out)
    assert (masked["credentials"]["requestUrl"] == url) is shown
    assert document_at("a.account")["credentials"]["requestUrl"] == url


def test_get_shows_every_account_of_a_multi_account() -> None:
    """The view of a multi account has one table for each account, unknown fields of the whole included."""
    run("save", "a.multi.account", stdin=MULTI | {"ofTomorrow": [1, {"x": None}]})
    view = run("get", "a.multi.account").out
    for part in ("receives 1 of 2", "receives 2 of 2", "sends", "imap.example.com", "ofTomorrow"):
        assert part in view
    assert '[1, {"x": null}]' in run("get", "--reveal", "a.multi.account").out


def test_null_fields_do_not_show_in_the_view() -> None:
    """A field that is null, as other programs write it, is not there for people, and is kept for programs."""
    run("save", "a.account", stdin=SINGLE | {"cacheFile": None})
    assert "cacheFile" not in run("get", "a.account").out
    assert json.loads(run("get", "--json", "a.account").out)["cacheFile"] is None


def test_save_refuses_masked_json(saved: None) -> None:
    """Masked JSON is not saved over the secrets that it hides."""
    masked = run("get", "--json", "a.account").raw
    assert run("save", "a.account", stdin=masked).refusal.startswith("standard input: a secret in it is masked")
    assert document_at("a.account") == SINGLE
    multi = MULTI | {"sendAccount": json.loads(masked)}
    assert run("save", "a.multi.account", stdin=multi).code == 1


def wrong(**fields: object) -> bytes:
    return json.dumps(SINGLE | fields).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"host": "CANARY', "is not valid JSON"),
        (b"\xffCANARY", "is not UTF-8"),
        (b"{}", "missing required field `host`"),
        (wrong(port="CANARY"), "$.port: "),
        (wrong(credentials=SINGLE["credentials"] | {"discriminator": "CANARY"}), "$.credentials.discriminator: "),
        (b'{"host": "CANARY", "host": "CANARY"}', "an object has the same key twice"),
        (wrong(deep=json.loads("[" * 40 + "]" * 40)), "is nested deeper than 32 levels"),
        (wrong(long="CANARY" * 5000), "has more than the 20000 bytes allowed"),
    ],
)
def test_save_names_the_field_and_quotes_no_value(data: bytes, reason: str) -> None:
    """What is not a document is refused with its field, without a value of it, and nothing is written."""
    refusal = run("save", "a.account", stdin=data).refusal
    assert refusal.startswith("standard input: ")
    assert reason in refusal
    assert "CANARY" not in refusal
    assert files() == []


def test_characters_that_steer_a_terminal_show_as_escapes() -> None:
    """A host with control or direction characters shows as escapes; the program's output has it as it is."""
    host = "a\x1b[31mb\x9bc\u202ed.example.com"
    run("save", "a.account", stdin=json.dumps(SINGLE | {"host": host}, ensure_ascii=False).encode())
    for answer in (run("get", "a.account"), run("get", "--json", "a.account"), run("get", "--reveal", "a.account")):
        assert not any(mark in answer.out for mark in "\x1b\x9b\u202e")
        assert "\\u202e" in answer.out
    assert json.loads(run("get", "--json", "a.account").out)["host"] == host
    assert document_at("a.account")["host"] == host


@pytest.mark.parametrize(
    ("arguments", "lines", "word"),
    [
        ([], ["a.account", "b.multi.account"], BELOW),
        ([""], ["a.account", "b.multi.account"], BELOW),
        (["/"], ["a.account", "b.multi.account"], BELOW),
        (["-r"], ["a.account", "b.multi.account", "mail/c.account", "mail/team a/d.account"], ""),
        (["mail"], ["mail/c.account"], BELOW),
        (["mail/"], ["mail/c.account"], BELOW),
        (["mail/team a"], ["mail/team a/d.account"], ""),
        (["--recursive", "mail"], ["mail/c.account", "mail/team a/d.account"], ""),
        (["First Storage:"], ["First Storage:a.account", "First Storage:b.multi.account"], BELOW),
        (["First Storage:mail"], ["First Storage:mail/c.account"], BELOW),
        (["-r", "Archive:"], ["Archive:old/e.account"], ""),
        (["Archive:"], [], BELOW),
        (["nowhere"], [], "no documents in 'nowhere/'"),
        (["-r", "Archive:nowhere"], [], "no documents in 'Archive:nowhere/'"),
        (["Archive"], [], f"no documents in 'Archive/'; {ARCHIVE}"),
        (["-r", "archive/old"], [], f"no documents in 'archive/old/'; {ARCHIVE}"),
    ],
)
def test_ls_prints_one_location_a_line_in_a_pipe(tree: None, arguments: list[str], lines: list[str], word: str) -> None:
    """In a pipe `ls` prints locations that every other command takes, and nothing else; on stderr a word of folders
    that it did not look into, and of a folder that is not there, which leads to a storage of that name.
    """
    answer = run("ls", *arguments)
    assert (answer.code, answer.err) == (0, word and f"accountstore: {word}\n")
    assert answer.out.splitlines() == lines
    for line in lines:
        assert str(Location.parse(line)) == line


def list_many(monkeypatch: pytest.MonkeyPatch, count: int, end: Exception | None = None) -> None:
    """Have every listing give this many documents, not quite sorted, and then end or fail."""

    async def entries(*_: object, **__: object) -> AsyncIterator[Entry]:
        for i in range(count):
            yield Entry(Location(f"{i ^ 1:05}.account"), 1, Version("v"), None)
        if end is not None:
            raise end

    monkeypatch.setattr(AccountStore, "list", entries)


@pytest.mark.parametrize(("before", "printed"), [(1700, 1500), (499, 0)])
def test_a_large_listing_prints_before_it_ends(monkeypatch: pytest.MonkeyPatch, before: int, printed: int) -> None:
    """`ls` prints pages as they come: what came before a failure is printed but for the page not yet full."""
    list_many(monkeypatch, before, BackendError("the storage failed"))
    answer = run("ls")
    assert answer.out.splitlines() == [f"{i:05}.account" for i in range(printed)]
    assert (answer.code, answer.err) == (1, "accountstore: the storage failed\n")


@pytest.mark.parametrize("count", [4, 500, 1200])
def test_a_large_listing_is_one_table(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """On a terminal the names of the columns show once, above all pages, and the number of documents below."""
    list_many(monkeypatch, count)
    for module in ("listing", "show"):
        monkeypatch.setattr(f"accountstore.cli.{module}.on_terminal", lambda: True)
    head, rule, *rows, total = run("ls").out.splitlines()
    assert head.split() == ["location", "bytes", "modified"]
    assert set(rule) <= set("─ ")
    assert [row.split() for row in rows] == [[f"{i:05}.account", "1"] for i in range(count)]
    assert total.startswith(f"{count:,} documents")


def test_rm_removes_what_is_there_and_reports_what_is_not(tree: None) -> None:
    """`rm` goes on after a missing document and then ends with exit code 1."""
    answer = run("rm", "a.account", "nope.account", "Archive:old/e.account")
    assert answer.refusal == "nope.account: there is no such document"
    left = ("b.multi.account", "mail/c.account", "mail/team a/d.account", "note.txt")
    assert files() == [f"first/{name}" for name in left]


def test_rm_with_force_takes_a_missing_document_for_removed(tree: None) -> None:
    """With `-f` a missing document is no error."""
    for force in ("-f", "--force"):
        answer = run("rm", force, "nope.account", "a.account")
        assert (answer.code, answer.everything) == (0, "")
    assert not Path("first", "a.account").exists()


@pytest.mark.parametrize("bad", ["x.txt", "../a.account", "Nope:a.account"])
def test_rm_checks_every_name_before_it_removes_anything(tree: None, bad: str) -> None:
    """One wrong name among several leaves all documents where they are."""
    assert run("rm", "a.account", bad).code == 1
    assert Path("first", "a.account").exists()


@pytest.mark.parametrize("command", ["cp", "mv"])
@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        ("mail/z.account", "mail/z.account"),
        ("mail/", "mail/a.account"),
        ("Archive:", "Archive:a.account"),
        ("Archive:new/", "Archive:new/a.account"),
        ("First Storage:z.account", "z.account"),
    ],
)
def test_cp_and_mv_bring_the_whole_document(saved: None, command: str, target: str, arrives: str) -> None:
    """`cp` and `mv` bring every field to another name, folder or storage; `mv` removes the source."""
    assert run(command, "a.account", target).everything == ""
    assert document_at(arrives) == SINGLE
    assert Path("first", "a.account").exists() is (command == "cp")


@pytest.mark.parametrize("command", ["save b.account", "cp a.account b.account", "mv a.account b.account"])
def test_a_document_is_replaced_unless_create_is_given(command: str) -> None:
    """`save`, `cp` and `mv` replace a document; with `--create` both it and the source stay."""
    other = SINGLE | {"host": "other.example.com"}
    run("save", "a.account", stdin=SINGLE)
    assert run("save", "--create", "b.account", stdin=other).code == 0
    answer = run(*command.split(), "--create", stdin=SINGLE)
    assert answer.refusal == "b.account: there is a document already"
    assert (document_at("a.account"), document_at("b.account")) == (SINGLE, other)
    assert run(*command.split(), stdin=SINGLE).code == 0
    assert document_at("b.account") == SINGLE


@pytest.mark.parametrize("command", ["cp", "mv"])
@pytest.mark.parametrize("target", ["a.multi.account", "First Storage:a.account"])
def test_cp_and_mv_refuse_another_kind_and_the_same_place(saved: None, command: str, target: str) -> None:
    """A document does not change its kind by a copy, and is not copied onto itself."""
    assert "source and target " in run(command, "a.account", target).refusal
    assert files() == ["first/a.account"]


def test_storages_shows_each_without_credentials() -> None:
    """`storages` shows name, default, URL and promises; no user, password, query or option."""
    configure(
        CONFIG + '[storages.Far]\nurl = "ftp://CANARY-user:CANARY-word@127.0.0.1:1/mail?CANARY-query"\n'
        'options = { password = "CANARY-option" }\n'
    )
    answer = run("storages")
    assert (answer.code, answer.err) == (0, "")
    rows = [line.split() for line in answer.out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["First", "Archive", "Far"]
    assert rows[0][2:] == ["yes", str(Path("first").absolute()), *["yes"] * 4]
    assert rows[1][1:] == [str(Path("archive").absolute()), *["yes"] * 4]
    assert rows[2][1:] == ["ftp://127.0.0.1:1/mail", *["no"] * 4]
    assert "if the server does" not in answer.out
    assert "CANARY" not in answer.everything


def test_storages_says_what_depends_on_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server must do is no "yes": it is tried before it is relied on, or trusted by the configuration."""
    depending = replace(MemoryBackend().capabilities, verify=True)
    monkeypatch.setattr(MemoryBackend, "capabilities", depending)
    configure('default = "a"\n[storages.a]\nurl = "memory://"\n[storages.b]\nurl = "memory://"\nconditions = "trust"\n')
    first, second = run("storages").out.splitlines()[2:4]
    assert first.split()[2:] == ["memory://", *["if", "the", "server", "does"] * 2, "yes", "no"]
    assert second.split()[1:] == ["memory://", "trusted", "trusted", "yes", "no"]


def test_check_proves_a_storage() -> None:
    """`check` lists its steps, says what they prove and ends with 0; a storage is chosen by name."""
    for arguments, name in (([], "First Storage"), (["Archive"], "Archive")):
        answer = run("check", *arguments)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith(name)
        assert "create has one winner: proven" in answer.out
        assert "update loses nothing: proven" in answer.out
        steps = answer.out.partition("create has one winner")[0].splitlines()[3:]
        assert len(steps) >= 8
        assert all(" ok " in step for step in steps)
    assert files() == []


def test_check_of_a_storage_that_fails_ends_with_one() -> None:
    """A step that fails shows its reason, and the exit code is 1."""
    configure(CONFIG + '[storages.Far]\nurl = "ftp://127.0.0.1:1/mail"\n')
    answer = run("check", "Far")
    assert answer.code == 1
    assert "UnavailableError: " in answer.out
    assert "create has one winner: not promised by this storage" in answer.out
    assert "median" not in answer.out


def test_check_does_not_deny_what_it_could_not_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the storage cannot be reached, its promises could not be tried, which is not to say that it has none."""
    monkeypatch.setattr("accountstore.backends.local.files.Files.write", Mock(side_effect=ConnectionRefusedError))
    answer = run("check")
    assert answer.code == 1
    for promise in ("create has one winner", "update loses nothing", "delete of a version is conditional"):
        assert f"{promise}: could not be tried\n" in answer.out
    assert "not promised" not in answer.out
    assert "not all names of documents were looked at" in answer.out


def test_check_of_a_read_only_storage_says_what_it_did_not_try() -> None:
    """Where nothing may be written no promise is tried, which is not to say that the storage has none."""
    Path("read").mkdir()
    configure(f"{CONFIG}\n[storages.Read]\nurl = 'read'\nread_only = true\n")
    answer = run("check", "Read")
    assert answer.code == 0
    for promise in ("create has one winner", "update loses nothing", "delete of a version is conditional"):
        assert f"{promise}: not tried, as the storage is read-only\n" in answer.out


def test_ls_and_check_name_what_no_location_names(tree: None) -> None:
    """Documents that other programs have named are told, ten by name, with what is wrong; the exit code is 0."""
    for name in ("e\u0301.account", "mail/a#b.account", "DOMAIN\\me.account", "a:\n.account"):
        Path("first", name).touch()
    told = [
        "'e\u0301.account' (file name: is not in Unicode normal form C",
        "'mail/a#b.account' (file name: has '#': no ",
        r"'DOMAIN\\me.account' (file name: has '\': no ",
        r"'a:\n.account' (file name: has ':': no ",
    ]
    for arguments, count in (("ls -r", 4), ("ls", 3)):
        answer = run(*arguments.split())
        assert answer.code == 0
        assert answer.err.count("not listed: '") == count
        assert all(name in answer.err for name in told if arguments == "ls -r")
        assert not any(name in answer.out for name in ("#", ":", "\\", "\u0301"))
    answer = run("check")
    assert answer.code == 0
    assert answer.out.count("not listed: ") == 4
    for number in range(20):
        Path("first", f"{number}#.account").touch()
    assert "accountstore: not listed: 13 more\n" in run("ls").err


@pytest.mark.parametrize("command", ["get", "rm", "cp - b.account", "mv - b.account"])
def test_a_document_that_is_not_there_leads_to_the_storage_that_was_meant(tree: None, command: str) -> None:
    """Where a folder has a storage's name, the error of a missing document tells the location in that storage."""
    first, *rest = command.replace("- ", "").split()
    assert run(first, "archive/old/e.account", *rest).refusal == (
        "archive/old/e.account: there is no such document; in the storage 'Archive' it would be 'Archive:old/e.account'"
    )


def test_a_storage_that_cannot_be_reached_is_named_in_one_line() -> None:
    """A storage that is down is named with its place; a write that did not reach it is not called uncertain."""
    configure(CONFIG + '[storages.Far]\nurl = "ftp://me:CANARY@127.0.0.1:1/mail"\nattempts = 1\n')
    for command in ("get Far:a.account", "save Far:a.account"):
        refusal = run(*command.split(), stdin=SINGLE).refusal
        assert refusal.startswith("Far:a.account: the storage cannot be reached or is busy (")
        assert refusal.endswith(" [storage 'Far': ftp://127.0.0.1:1/mail]")
        assert "CANARY" not in refusal


def test_check_of_a_storage_that_ignores_conditions_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that declares more than it keeps is found out."""
    monkeypatch.setattr("accountstore.backends.local.documents.Documents._compare", Mock())
    answer = run("check")
    assert answer.code == 1
    assert "the condition was ignored" in answer.out
    assert "update loses nothing: NOT KEPT" in answer.out
    assert "create has one winner: proven" in answer.out


def test_check_says_why_a_storage_does_not_take_a_condition(capsys: pytest.CaptureFixture[str]) -> None:
    """What a backend refuses to try is told in its words, beside that it is not kept."""
    step = Step("delete of the version before", "", 0.1, "obstore alone cannot do this; install: it")
    show_check(Check("Fast", True, True, False, None, (step,), MemoryBackend().capabilities))
    out = " ".join(capsys.readouterr().out.split())
    assert "delete of a version is conditional: NOT KEPT, and refused: obstore alone cannot do this; install: it" in out


A = '[storages.a]\nurl = "a"\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (A + 'urll = "b"\n', "accountstore.toml: storages.a: unknown key 'urll'; did you mean 'url'?"),
        (A + 'options = { key = "${NO_SUCH}" }\n', "the environment variable NO_SUCH is not set"),
        ('[storages.a]\nurl = "fiel:///a"\n', "unknown scheme 'fiel'; did you mean"),
        ('[storages.a]\nurl = "absent://a"\n', "needs a package that is not installed: pip install absentfs"),
        (A + 'engine = "obstore"\n', "the engine 'obstore' serves s3, gs and az URLs, not 'file'"),
        ('[storages."A b"]\nurl = "a"\nattempts = 0\n', """storages."A b".attempts: must be at least 1"""),
        ("[storages.a\n", "(at line 1, column 12)"),
        ("", "no storage is configured"),
        ('default = "b"\n' + A, "default: no storage of that name is configured; known: a"),
    ],
)
def test_a_faulty_configuration_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    """Whatever is wrong with the configuration ends every command with 1 and one line that says where."""
    from fsspec.registry import known_implementations

    monkeypatch.setitem(known_implementations, "absent", {"class": "absentfs.Files", "err": "pip install absentfs"})
    configure(text)
    for command in ("storages", "get a.account", "save a.account"):
        assert reason in run(*command.split(), stdin=SINGLE).refusal


def test_the_configuration_is_chosen_on_the_command_line_or_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config` goes before the environment variable, and that before the file in the working directory."""
    for name in ("given", "named"):
        Path(f"{name}.toml").write_text(f'[storages.{name}]\nurl = "{name}"\n', encoding="utf-8")
    assert "First Storage" in run("storages").out
    monkeypatch.setenv("ACCOUNTSTORE_CONFIG", "named.toml")
    assert run("storages").out.splitlines()[2].startswith("named")
    assert run("--config", "given.toml", "storages").out.splitlines()[2].startswith("given")
    refusal = run("--config", "missing.toml", "storages").refusal
    assert refusal == "missing.toml: does not exist: `accountstore storages add NAME URL` makes one"
    Path("folder").mkdir()
    refusal = run("--config", "folder", "ls").refusal
    assert refusal == (
        "folder: is a folder, no file: a folder of documents is a storage's url there, or in Python a StorageConfig's"
    )


NAMES = (
    *("demo", "storages", "config", "check", "save", "edit", "import", "get", "stat", "ls", "tree", "rm", "cp", "mv"),
    *("completion", "refresh", "serve"),
)


@pytest.mark.parametrize(
    "arguments", ["nope", "get", "get a b", "get --nope a", "rm", "cp a", "--config", "ls -x", "check a b"]
)
def test_wrong_usage_ends_with_two(arguments: str) -> None:
    """Wrong usage ends with 2, a hint on stderr and no traceback."""
    answer = run(*arguments.split())
    assert (answer.code, answer.out, answer.crash) == (2, "", "")
    assert "Error" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(option: str) -> None:
    """The help of the whole names every command and the exit codes."""
    answer = run(option)
    assert answer.code == 0
    assert all(f" {name} " in answer.out for name in NAMES)
    for code in ("0 done", "1 refused", "2 wrong usage", "3 conflicts (migrate)", "130 interrupted"):
        assert code in " ".join(answer.out.split())
    assert {*COMMAND.commands} - {"keys", "gateway", "migrate"} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_each_command_has_an_example(name: str) -> None:
    """Each command's help says what it does and gives an example of itself."""
    answer = run(name, "--help")
    assert answer.code == 0
    assert f"Usage: accountstore {name}" in answer.out
    assert f"accountstore {name}" in answer.out.partition("Examples:")[2].replace("-- ", "") or name == "storages"


USAGES = {
    "": "[OPTIONS] COMMAND [ARGUMENTS]",
    "check": "[OPTIONS] [STORAGE]",
    "save": "[OPTIONS] LOCATION",
    "get": "[OPTIONS] LOCATION",
    "ls": "[OPTIONS] [STORAGE:][FOLDER]",
    "storages": "[OPTIONS] [COMMAND] [ARGUMENTS]",
    "storages add": "[OPTIONS] NAME URL",
    "import": "[OPTIONS] FORMAT FILE [TARGET]",
    "config": "[OPTIONS] COMMAND [ARGUMENTS]",
    "rm": "[OPTIONS] LOCATION...",
    "cp": "[OPTIONS] SOURCE TARGET",
}
VALUE_OF_A_FLAG = r"(?i)--\w+ *(, -\w)? +<?(bool|boolean|flag)\b"


@pytest.mark.parametrize(("name", "usage"), USAGES.items())
def test_the_help_draws_options_and_arguments_as_they_are_written(name: str, usage: str) -> None:
    """Whatever typer and click draw: a flag takes no value, an argument stands in the brackets that are meant."""
    shown = run(*name.split(), "--help").out
    assert shown.splitlines()[0].split() == ["Usage:", "accountstore", *name.split(), *usage.split()]
    assert "\n  --help, -h " in shown
    assert not re.search(VALUE_OF_A_FLAG, shown)
    assert "[[" not in shown
    assert name or "  --config PATH  The " in shown
    wrong = run(*name.split(), "--nope")
    assert wrong.err.splitlines()[0].split() == shown.splitlines()[0].split()


def test_the_help_of_typer_itself_would_be_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The control: drawn by a release of typer that gives flags a value, the help fails the test above."""
    if tuple(map(int, version("typer").split(".")[:2])) < (0, 28):
        pytest.skip("this release gives them none")
    plain = typer.Typer(add_completion=False)

    @plain.command()
    def check(
        storage: Annotated[str, typer.Argument(metavar="[STORAGE]")] = "",
        recursive: Annotated[bool, typer.Option("--recursive", "-r")] = False,
    ) -> None: ...

    get_command(plain).main(["--help"], prog_name="accountstore", standalone_mode=False)
    shown = capsys.readouterr().out
    assert re.search(VALUE_OF_A_FLAG, shown)
    assert "[[" in shown


@pytest.mark.parametrize("columns", ["1", "-5", "wide", "²"])
def test_the_help_fits_any_terminal(columns: str) -> None:
    """A width that is odd, or none, ends in no traceback, and no word is lost."""
    for line in ("--help", "ls --help"):
        answer = python(*PROGRAM, *line.split(), COLUMNS=columns, TERMINAL_WIDTH=columns)
        assert (answer.code, answer.err) == (0, "")
        assert "Show this message and exit." in " ".join(answer.out.split())


def test_version_prints_the_version() -> None:
    """`--version` needs no command and no configuration."""
    configure("broken")
    assert run("--version").out == "accountstore 0.1.0\n"


def test_the_package_itself_is_the_program() -> None:
    """`python -m accountstore` is the command, as `python -m accountstore.cli` is."""
    for module in ("accountstore", "accountstore.cli"):
        answer = python("-m", module, "ls", "--help")
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith("Usage: accountstore ls ")


@pytest.mark.parametrize("missing", ["typer", "click", "rich"])
def test_without_the_extra_the_program_says_what_to_install(missing: str) -> None:
    """Where a package of the extra is missing, the program says how to get it and ends with 1."""
    terminal = "sys.stdin.isatty = lambda: True"  # where `save` needs click
    code = f"import sys; {terminal}; sys.modules[{missing!r}] = None; from accountstore.cli import main; main()"
    refusal = python("-c", code, "save", "a.account").refusal
    assert refusal == "the command line needs typer, click, rich and tomlkit: pip install 'accountstore[cli]'"


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    """A module of our own that cannot be imported is a bug, and shows as one."""
    code = "import sys; sys.modules['accountstore.codecs'] = None; from accountstore.cli import main; main()"
    answer = python("-c", code)
    assert answer.code == 1
    assert "ModuleNotFoundError" in answer.err
    assert "pip install" not in answer.err


def test_an_interrupt_at_the_start_ends_with_130() -> None:
    """Ctrl-C while the commands are still being imported shows no traceback."""
    code = """if True:
        import sys
        from accountstore.cli import main
        class Interrupt:
            def find_spec(self, *_):
                raise KeyboardInterrupt
        sys.meta_path.insert(0, Interrupt())
        main()"""
    answer = python("-c", code)
    assert (answer.code, answer.everything) == (130, "")


@pytest.mark.parametrize("command", ["get a.account", "get --json a.account", "tree", "config show"])
def test_a_reader_that_went_away_is_no_message(saved: None, command: str) -> None:
    """Output into a closed pipe ends the program silently, as a broken pipe ends others."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        answer = python(*PROGRAM, *command.split(), stdout=pipe)
    assert (answer.code, answer.err) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_reported(saved: None) -> None:
    """A full disk under the output ends with 1 and one line."""
    with open("/dev/full", "wb") as full:
        answer = python(*PROGRAM, "ls", stdout=full)
    assert answer.refusal == "cannot read the input or write the output (No space left on device)"


def test_closed_streams_are_empty_ones(saved: None) -> None:
    """A program started without stdin or stdout reads nothing and writes nowhere."""
    for line, code in (("ls >&-", 0), ("save b.account <&-", 1)):
        command = ["sh", "-c", f'"$0" "$@" -m accountstore.cli {line}', *PYTHON]
        done = subprocess.run(command, capture_output=True, check=False, timeout=HUNG)
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
    assert files() == ["first/a.account"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "line",
    [
        *("--help", "ls --help", "--version", "check", "ls -r", "ls --json", "tree", "stat a.account", "config show"),
    ],
)
def test_any_output_that_cannot_be_written_is_reported(saved: None, line: str) -> None:
    """Also of the help, which no command prints: exit code 1 and one line, whatever of it was written."""
    with open("/dev/full", "wb") as full:
        answer = python(*PROGRAM, *line.split(), stdout=full)
    assert answer.code == 1
    assert answer.err.endswith("accountstore: cannot read the input or write the output (No space left on device)\n")
    assert "Traceback" not in answer.err + answer.out


@pytest.mark.once
@pytest.mark.parametrize("line", ["", "--help", "nope", "ls", "get nope.account"])
@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&1 >&-", ">&- 2>&- <&-", "</dev/null >/dev/full 2>/dev/full"])
def test_no_stream_at_all_ends_in_an_exit_code(saved: None, line: str, streams: str) -> None:
    """Whichever streams are closed or full, a command ends with the exit code of its outcome, and no traceback."""
    command = ["sh", "-c", f'"$0" "$@" -m accountstore.cli {line} {streams}', *PYTHON]
    done = subprocess.run(command, capture_output=True, check=False, timeout=HUNG)
    usual = {"": 2, "nope": 2, "get nope.account": 1}.get(line, 0)
    assert done.returncode in {usual, 1}
    assert b"Traceback" not in done.stdout + done.stderr


@pytest.mark.once
@pytest.mark.parametrize("line", ["ls", "save b.account", "check", "demo", "--help", "edit a.account"])
@pytest.mark.parametrize("descriptors", [4, 5, 6, 7])
def test_too_few_descriptors_end_in_one_line(saved: None, line: str, descriptors: int) -> None:
    """A program that may open hardly any file says so, or does its work, without a traceback."""
    limited = f'ulimit -n {descriptors}; exec "$0" "$@" -m accountstore.cli {line}'
    done = subprocess.run(["sh", "-c", limited, *PYTHON], input=b"", capture_output=True, check=False, timeout=HUNG)
    assert b"Traceback" not in done.stdout + done.stderr
    assert done.returncode in {0, 1}
    assert done.returncode == 0 or done.stdout or done.stderr.startswith(b"accountstore: ")


def test_without_the_look_at_descriptors_there_would_be_a_traceback(saved: None) -> None:
    """The control: without the look at them, asyncio's own attempt at an event loop shows a traceback."""
    code = """if True:
        import resource
        import accountstore.cli.exits as exits, accountstore.cli.commands as commands
        exits._require = lambda _: None
        resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
        commands.app(['ls'])"""
    assert "Traceback" in python("-c", code).err


@pytest.mark.parametrize("command", ["ls", "get a.account", "check", "storages", "save b.account", "demo"])
def test_a_system_without_threads_is_reported(monkeypatch: pytest.MonkeyPatch, saved: None, command: str) -> None:
    """Where no thread can be started, a command ends with 1 and a line, not with a traceback."""
    monkeypatch.setattr("threading.Thread.start", Mock(side_effect=RuntimeError("can't start new thread")))
    answer = run(*command.split(), stdin=PASSWORD)
    assert (answer.code, answer.crash) == (1, "")
    assert "thread" in answer.everything


def test_an_output_that_cannot_show_a_character_gets_its_escape() -> None:
    """Where the output's encoding lacks a character, its escape shows instead of a traceback."""
    run("save", "é.account", stdin=SINGLE)
    answer = python(*PROGRAM, "ls", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (answer.code, answer.out, answer.err) == (0, "\\xe9.account\n", "")


def test_save_asks_on_a_terminal_and_hides_secrets() -> None:
    """On a terminal `save` asks for each field, asks again for what cannot be, and does not echo secrets."""
    terminal = Terminal("save", "mail/me.account", PYTHONIOENCODING="utf-8:strict")
    terminal.expect("mail/me.account is new.")
    terminal.answer("Host: ", " ")
    terminal.answer("It cannot be empty.\nHost: ", b"\xff")
    terminal.answer("That is not text.\nHost: ", " imap.example.com ")
    terminal.answer("Port: ", "")
    terminal.answer("It cannot be empty.\nPort: ", "70000000000")
    terminal.answer("Port: ", "993")
    terminal.answer("[IMAP]: ", "imapp")
    terminal.answer("[IMAP]: ", "")
    terminal.answer("[SSLAuto]: ", "sslimplicit")
    terminal.answer("[password]: ", "OAUTH")
    terminal.answer("Login: ", "me@example.com")
    terminal.answer("Client id (may be left empty): ", "")
    terminal.answer("Client secret (hidden, may be left empty): ", b"\xffCANARY")
    terminal.answer("That is not text.\nClient secret (hidden, may be left empty): ", "CANARY-typed-1")
    terminal.answer("Refresh token (hidden): ", "")
    terminal.answer("Refresh token (hidden): ", "CANARY-typed-2")
    terminal.answer("Request URL (may be left empty): ", "https://login.example.com/")
    assert terminal.end() == 0
    assert "imap.example.com" in terminal.shown, "what is not secret is echoed"
    assert "CANARY" not in terminal.shown
    assert "saved mail/me.account" in terminal.shown
    assert json.loads(Path("first", "mail/me.account").read_bytes()) == PASSWORD | {
        "securityOptions": "SSLImplicit",
        "protocolType": "IMAP",
        "credentials": {
            "discriminator": "EmailClientAccountOauthCredentials",
            "login": "me@example.com",
            "clientSecret": "CANARY-typed-1",
            "refreshToken": "CANARY-typed-2",
            "requestUrl": "https://login.example.com/",
        },
    }


def test_save_on_a_terminal_takes_what_has_no_secret() -> None:
    """A public OAuth client needs no secret, and a server without login no credentials."""
    for kind, more in (("OAuth", ("me", "id", "", "CANARY-typed", "")), ("none", ())):
        terminal = Terminal("save", f"{kind}.account")
        terminal.expect("is new.")
        for text in ("h", "25", "", "", kind, *more):
            terminal.answer(": ", text)
        assert terminal.end() == 0
    kinds = [json.loads(Path("first", f"{kind}.account").read_bytes())["credentials"] for kind in ("OAuth", "none")]
    assert "clientSecret" not in kinds[0]
    assert kinds[1] == {"discriminator": "EmailClientAccountCredentials"}


def test_save_on_a_terminal_refuses_before_it_asks(saved: None) -> None:
    """With `--create` over a document, nobody has to type a document in vain."""
    terminal = Terminal("save", "--create", "a.account")
    assert terminal.end() == 1
    assert terminal.shown == "accountstore: a.account: there is a document already\n"


@pytest.mark.parametrize("question", ["Host: ", "Password (hidden): "])
def test_ctrl_c_ends_with_130_and_writes_nothing(question: str) -> None:
    """The first interrupt at a question ends the program with 130, without a traceback and without a document."""
    # With a buffer, `input()` clears what is raised while it flushes its prompt.
    terminal = Terminal("save", "a.account", PYTHONUNBUFFERED="1")
    if question != "Host: ":
        for asked, text in (("Host: ", "h"), ("Port: ", "1"), ("]: ", ""), ("]: ", ""), ("]: ", ""), ("Login: ", "l")):
            terminal.answer(asked, text)
    terminal.expect(question)
    terminal.interrupt()
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert files() == []


def test_the_end_of_input_at_a_question_is_reported() -> None:
    """Ctrl-D at a question ends with 1 and writes nothing."""
    terminal = Terminal("save", "a.account")
    terminal.expect("Host: ")
    terminal.type(b"\x04")
    assert terminal.end() == 1
    assert terminal.shown.endswith("accountstore: the input ended before the document was complete\n")
    assert files() == []


def test_a_terminal_gets_tables_in_its_width(tree: None) -> None:
    """On a terminal `ls` and `get` show tables no wider than it, in colour unless NO_COLOR is set."""
    listing = Terminal("ls", "-r")
    coloured, without = Terminal("get", "a.account"), Terminal("get", "a.account", NO_COLOR="1")
    assert listing.end() == 0
    assert "4 documents" in listing.shown
    assert "mail/team a/d.account" in listing.shown
    assert (coloured.end(), without.end()) == (0, 0)
    assert "--reveal shows them" in coloured.shown
    assert "\x1b[36m" in coloured.shown
    assert "\x1b[3" not in without.shown
    assert plain(coloured.shown) == plain(without.shown)
    for shown in (listing.shown, coloured.shown):
        assert max(len(plain(line)) for line in shown.splitlines()) <= 100
        assert not any(canary in shown for canary in CANARIES)


def test_json_on_a_terminal_is_indented_and_masked(saved: None) -> None:
    """On a terminal `get --json` shows indented JSON that a program can still read."""
    terminal = Terminal("get", "--json", "--reveal", "a.account")
    assert terminal.end() == 0
    assert json.loads(plain(terminal.shown)) == SINGLE
    assert terminal.shown.count("\n") > 10


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC", "nonsense"])
def test_ls_shows_any_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], zone: str) -> None:
    """A time that the local zone, or any calendar, has no name for takes no other document with it."""
    monkeypatch.setattr("accountstore.cli.show.on_terminal", lambda: True)
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        moments = [datetime(year, month, 1, tzinfo=UTC) for year, month in ((1, 1), (9999, 12), (1900, 1), (2026, 6))]
        entries = [Entry(Location(f"{i}.account"), 1, None, moment) for i, moment in enumerate(moments)]
        show_entries([*entries, Entry(Location("none.account"), 1, None, None), Folder("f", None)], first=True)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[2:]] == [
        *(f"{i}.account" for i in range(4)),
        *("f/", "none.account"),
    ]
    assert re.search(r"0001-01-01 \d\d:\d\d", shown)


def test_a_time_without_a_local_one_would_take_the_table_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where the local zone is insisted on, one document of the year 1 takes the whole table with it."""
    monkeypatch.setattr("accountstore.cli.show.on_terminal", lambda: True)
    monkeypatch.setattr("accountstore.cli.show.suppress", Mock(return_value=nullcontext()))
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        with pytest.raises((OverflowError, ValueError)):
            show_entries([Entry(Location("a.account"), 1, None, datetime(1, 1, 1, tzinfo=UTC))], first=True)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize(
    "env", [{"TERM": ""}, {"TERM": "nonsense"}, {"TERM": "dumb"}, {"COLUMNS": "1"}, {"COLUMNS": "²"}]
)
def test_odd_terminals_end_in_no_traceback(tree: None, env: dict[str, str]) -> None:
    """Whatever the terminal calls itself, and however narrow it is, tables show."""
    shown = [Terminal(*command.split(), **env) for command in ("ls", "get a.account", "storages")]
    for terminal in shown:
        assert terminal.end() == 0
        assert "Traceback" not in terminal.shown


def test_a_terminal_shows_folders_too(tree: None) -> None:
    """On a terminal `ls` lists the folders beside the documents, and says how to see what is in them."""
    terminal = Terminal("ls")
    assert terminal.end() == 0
    assert [line.split()[0] for line in plain(terminal.shown).splitlines()[2:5]] == [
        *("a.account", "b.multi.account", "mail/"),
    ]
    assert "2 documents, 1 folder (-r also lists what is below)" in plain(terminal.shown)


def answer_with(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Give these answers to the questions to come, secrets among them."""
    answer = Mock(side_effect=answers)
    monkeypatch.setattr("click.termui.visible_prompt_func", answer)
    monkeypatch.setattr("click.termui.hidden_prompt_func", answer)


ONE = ("smtp.example.com", "587", "", "", "", "me", "CANARY-password")


def test_answers_are_saved_with_defaults_that_fit_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers make a document, which is saved by the same store that has looked whether there is one."""
    opening = Mock(wraps=AccountStore.open)
    monkeypatch.setattr(AccountStore, "open", opening)
    monkeypatch.setattr("sys.stdin", Mock(**{"isatty.return_value": True}))
    answer_with(monkeypatch, *ONE)
    app(["save", "a.account"], standalone_mode=False)
    saved = {"host": "smtp.example.com", "port": 587, "securityOptions": "SSLAuto", "protocolType": "SMTP"}
    assert json.loads(Path("first", "a.account").read_bytes()) == PASSWORD | saved
    assert opening.call_count == 1


def test_questions_make_a_multi_account(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`save` asks for receiving accounts until there are no more, then for a sending one; stdout stays empty."""
    answer_with(monkeypatch, "perhaps", "y", *ONE, "yes", *ONE, "n", "y", "host", "0", "65536", *ONE[1:])
    document = ask_document(MultiAccount)
    assert isinstance(document, MultiAccount)
    assert (len(document.receive_accounts), document.send_account and document.send_account.port) == (2, 587)
    assert JSON.decode(JSON.encode(document), MultiAccount) == document
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("Error: ")) == ("", 3)
    answer_with(monkeypatch, "n", "n")
    assert ask_document(MultiAccount) == MultiAccount(receive_accounts=[], send_account=None)


@pytest.mark.filterwarnings("default")
def test_a_terminal_that_would_echo_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the echo cannot be turned off, no secret is asked for."""
    asked: list[str] = []

    def would_echo(prompt: str) -> str:
        warnings.warn("Can not control echo on the terminal.", GetPassWarning, stacklevel=2)
        asked.append(prompt)
        return "CANARY"

    answer_with(monkeypatch, *ONE)
    monkeypatch.setattr("click.termui.hidden_prompt_func", would_echo)
    with pytest.raises(UnsupportedError, match="would show the secret"):
        ask_document(Account)
    assert asked == []


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents and files full of secrets, sound and broken, and storages that are reached with some."""
    far = '[storages.Far]\nurl = "ftp://CANARY-user:CANARY-word@127.0.0.1:1/mail"\n'
    configure(CONFIG + far + 'options = { password = "CANARY-option", acct = "${CANARY_VARIABLE}" }\n')
    monkeypatch.setenv("CANARY_VARIABLE", "CANARY-of-environment")
    run("save", "a.account", stdin=SINGLE)
    run("save", "a.multi.account", stdin=MULTI)
    run("save", "Archive:a.account", stdin=SINGLE)
    run("save", "mail/a.account", stdin=SINGLE)
    Path("first", "mail", "cut.account").write_bytes(json.dumps(SINGLE).encode()[:-3])
    Path("first", "cut.account").write_bytes(json.dumps(SINGLE).encode()[:-3])
    Path("first", "field.account").write_bytes(wrong(port="CANARY-port"))
    Path("first", "tag.account").write_bytes(wrong(credentials={"discriminator": "CANARY-tag", "login": "CANARY"}))
    Path("first", "text.account").write_bytes(b"CANARY \xff")
    Path("first", "big.account").write_bytes(wrong(long="CANARY" * 5000))
    Path("archive", "cut.account").write_bytes(Path("archive", "a.account").read_bytes()[:-3])


BROKEN = ("cut.account", "field.account", "tag.account", "text.account", "big.account", "Archive:cut.account")


def test_no_command_shows_a_secret_unless_asked_to(canaries: None) -> None:
    """Every command, on every path through it, shows no secret of a document or of the configuration."""
    answers = [
        run(*command.split())
        for command in (
            "storages", "check", "check Archive", "check Far", "ls", "ls -r Archive:", "ls Far:", "get Far:a.account",
            "get a.account", "get --json a.account", "get a.multi.account", "get --json a.multi.account",
            "get Archive:a.account", "get --json Archive:a.account", "cp a.account Archive:b.account",
            "cp a.account Far:", "cp --create a.account Archive:b.account", "mv a.account Far:b.account",
            "rm nope.account Far:a.account", "get nope.account", "save Far:a.account", "demo",
            "storages --json", "config show", "config show --json", "check --all --json", "ls -l", "ls -r --json",
            "tree", "tree --json", "tree Far:", "stat --json a.account Far:a.account", "cp -r mail Far:",
            "cp -r mail Archive:", "mv -r Archive: Far:", "rm -r Archive:", "rm -r -y Far:", "edit Far:a.account",
            "storages add x ftp://CANARY:CANARY@h/x", "storages add x y -o password=CANARY", "completion zsh",
            "save f.account --host h --port 0", "save f.account --host h --port 1 --login l --password-env NO",
        )
    ]  # fmt: skip
    for name in BROKEN:
        answers += [run("get", name), run("get", "--json", "--reveal", name), run("cp", name, "x.account")]
    for data in (wrong(port="CANARY"), b'"CANARY', wrong(long="CANARY" * 9000)):
        answers += [run("save", "a.account", stdin=data), run("save", "a.multi.account", stdin=data)]
    answers.append(run("save", "--create", "a.account", stdin=SINGLE))
    answers.append(run("save", "a.account", stdin=run("get", "--json", "a.account").raw))
    assert {answer.code for answer in answers} == {0, 1, 2}
    shown = [answer.everything.replace("${CANARY_VARIABLE}", "") for answer in answers]
    assert [text for text in shown if "CANARY" in text] == []
    assert [answer.crash for answer in answers if answer.crash] == []


def test_reveal_shows_every_secret(canaries: None) -> None:
    """The control: with `--reveal` the same canaries do show, so the search would find them."""
    for arguments in (["--reveal"], ["--reveal", "--json"]):
        for name in ("a.account", "Archive:a.account"):
            shown = run("get", *arguments, name).out
            assert [canary for canary in CANARIES if canary not in shown] == []
            assert "**********" not in shown
    assert "CANARY-password" in run("get", "--reveal", "a.multi.account").out


@pytest.mark.parametrize("protected", [True, False])
def test_a_crash_shows_no_secret(protected: bool) -> None:
    """A bug's traceback has no local variables in it. The control: typer's own tracebacks can show them."""
    control = "commands.app.pretty_exceptions_enable = commands.app.pretty_exceptions_show_locals = True"
    code = f"""if True:
        import accountstore.cli.app, accountstore.cli.commands as commands
        def crash(*_, **__):
            secret = ''.join(('CAN', 'ARY'))
            raise RuntimeError('a bug')
        accountstore.cli.app.AccountStore.open = crash
        {"" if protected else control}
        from accountstore.cli import main
        main()"""
    answer = python("-c", code, "ls")
    assert (answer.code, answer.out) == (1, "")
    assert "RuntimeError: a bug" in answer.err
    assert ("CANARY" in answer.err) is not protected
