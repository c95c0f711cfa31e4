"""`ls -l`, `--json`, `tree`, `stat`, `check --all`: what people see and what programs read."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import msgspec
import pytest

for package in ("typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

from commandline import CANARIES, CONFIG, SINGLE, Answer, Terminal, configure, plain, run

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("home")


SIZE = len(json.dumps(SINGLE))


def lines_of(answer: Answer) -> list[Any]:
    """The objects of an answer in JSON, one a line."""
    assert answer.crash == ""
    return [json.loads(line) for line in answer.out.splitlines()]


def test_ls_long_has_kind_size_and_time_before_the_location(tree: None) -> None:
    """In a pipe each line of `ls -l` has four fields between tabs, the location last."""
    rows = [line.split("\t") for line in run("ls", "-lr").out.splitlines()]
    assert [(kind, size, name) for kind, size, _, name in rows] == [
        ("account", str(SIZE), "a.account"),
        ("multi", str(SIZE), "b.multi.account"),
        ("account", str(SIZE), "mail/c.account"),
        ("account", str(SIZE), "mail/team a/d.account"),
    ]
    for _, _, moment, name in rows:
        assert datetime.fromisoformat(moment).timestamp() == int(Path("first", name).stat().st_mtime)
        assert moment.endswith("+00:00")


def test_ls_json_is_one_object_a_line(tree: None) -> None:
    """`ls --json` has documents and folders with their kinds; nothing of it is on stderr."""
    answer = run("ls", "--json")
    assert answer.err == ""
    found = {item.pop("location"): item for item in lines_of(answer)}
    assert list(found) == ["a.account", "b.multi.account", "mail/"]
    assert {name: item["kind"] for name, item in found.items()} == {
        "a.account": "account",
        "b.multi.account": "multi",
        "mail/": "folder",
    }
    assert found["a.account"]["bytes"] == SIZE
    moment = datetime.fromisoformat(found["a.account"]["modified"]).timestamp()
    assert moment == pytest.approx(Path("first/a.account").stat().st_mtime, abs=1e-3)
    recursive = [item["location"] for item in lines_of(run("ls", "-r", "--json", "First Storage:mail"))]
    assert recursive == ["First Storage:mail/c.account", "First Storage:mail/team a/d.account"]


@pytest.mark.parametrize("command", ["ls --json", "ls -l --json", "tree --json", "stat --json a\u202eb.account"])
def test_json_has_no_character_that_steers_a_terminal(command: str) -> None:
    """A name with a direction character shows as its escape in JSON, which a program reads as the name."""
    run("save", "a\u202eb.account", stdin=SINGLE)
    answer = run(*command.split())
    assert "\u202e" not in answer.out
    assert "a\u202eb.account" in json.dumps(lines_of(answer), ensure_ascii=False)


@pytest.mark.parametrize("command", ["tree", "stat a\u202eb.account"])
def test_no_character_that_steers_a_terminal_shows(command: str) -> None:
    """What is drawn for people has escapes for such characters."""
    run("save", "a\u202eb.account", stdin=SINGLE)
    answer = run(*command.split())
    assert "\u202e" not in answer.everything
    assert "a\\u202eb.account" in answer.out


def test_a_document_that_json_cannot_carry_is_shown() -> None:
    """`get` shows the known fields of a document with a value that JSON has not, and warns of the others; `--json`,
    which has the whole document, refuses it.
    """
    Path("archive").mkdir()
    Path("archive/a.account").write_bytes(msgspec.msgpack.encode(SINGLE | {"key": b"CANARY"}))
    answer = run("get", "Archive:a.account")
    assert (answer.code, answer.crash) == (0, "")
    assert SINGLE["host"] in answer.out
    assert re.fullmatch(r"accountstore: warning: Archive:a\.account: .+ has bytes, .+ not shown\n", answer.err)
    assert "has bytes" in run("get", "--json", "Archive:a.account").refusal
    assert not any(secret in answer.everything for secret in CANARIES)


def test_tree_draws_what_is_below(tree: None) -> None:
    """`tree` shows each folder once, with what is in it, sorted."""
    answer = run("tree")
    assert (answer.code, answer.err) == (0, "")
    assert [re.sub(r"^[│├└─ ]+", "", line).rstrip() for line in answer.out.splitlines()] == [
        *("/", "a.account", "b.multi.account", "mail/", "c.account", "team a/", "d.account"),
    ]
    depths = [len(line) - len(line.lstrip("│├└─ ")) for line in answer.out.splitlines()]
    assert depths == [0, 4, 4, 4, 8, 8, 12]


def test_tree_as_json_nests(tree: None) -> None:
    """`tree --json` is one object; what is in a folder is in its `contents`."""
    [root] = lines_of(run("tree", "--json", "First Storage:mail/"))
    assert root["location"] == "First Storage:mail/"
    assert [node["location"] for node in root["contents"]] == [
        "First Storage:mail/c.account",
        "First Storage:mail/team a/",
    ]
    assert root["contents"][1]["contents"][0]["location"] == "First Storage:mail/team a/d.account"


def test_tree_of_nothing_says_so() -> None:
    """An empty folder is no error; a folder with a storage's name leads to that storage."""
    assert run("tree").err == "accountstore: no documents in '/'\n"
    assert "accountstore ls 'Archive:'" in run("tree", "archive").err


def test_tree_names_what_no_location_names(tree: None) -> None:
    """A document that other programs have named is told on stderr, and not drawn."""
    Path("first", "mail", "a#b.account").touch()
    answer = run("tree")
    assert "not listed: 'mail/a#b.account'" in answer.err
    assert "a#b" not in answer.out


def test_stat_shows_kind_size_and_time_without_reading(tree: None) -> None:
    """`stat` answers also for a document that could not be read, and with the storage's name."""
    Path("first", "cut.account").write_bytes(b"{")
    [item] = lines_of(run("stat", "--json", "cut.account"))
    assert {**item, "modified": None} == {
        "location": "cut.account",
        "kind": "account",
        "bytes": 1,
        "modified": None,
        "storage": "First Storage",
    }
    shown = run("stat", "b.multi.account").out
    for part in ("b.multi.account", "multi", str(SIZE), "First Storage"):
        assert part in shown


def test_stat_goes_on_after_a_missing_document(tree: None) -> None:
    """Of several documents those that are there show; the exit code tells of the others."""
    answer = run("stat", "--json", "nope.account", "a.account", "archive/old/e.account")
    assert answer.code == 1
    assert [item["location"] for item in lines_of(answer)] == ["a.account"]
    assert "nope.account: there is no such document" in answer.err
    assert "in the storage 'Archive' it would be 'Archive:old/e.account'" in answer.err


def test_check_all_proves_every_storage_for_programs() -> None:
    """`check --all --json` has one object a storage, with its steps and what they prove."""
    first, archive = lines_of(run("check", "--all", "--json"))
    assert (first["storage"], archive["storage"]) == ("First Storage", "Archive")
    for result in (first, archive):
        assert [result[key] for key in ("ok", "create", "update", "delete", "complete")] == [True] * 5
        assert len(result["steps"]) >= 8
        assert all(step["problem"] == "" and step["seconds"] >= 0 for step in result["steps"])
    both = run("check", "--all").out
    assert both.index("First Storage") < both.index("Archive")


def test_check_all_ends_with_one_if_a_storage_fails() -> None:
    """The other storages are checked all the same."""
    configure(CONFIG + '[storages.Far]\nurl = "ftp://127.0.0.1:1/mail"\n')
    answer = run("check", "--all", "--json")
    assert answer.code == 1
    assert {item["storage"]: item["ok"] for item in lines_of(answer)} == {
        "First Storage": True,
        "Archive": True,
        "Far": False,
    }


def test_check_takes_a_name_or_all() -> None:
    """Both are wrong usage."""
    assert run("check", "--all", "Archive").code == 2
    answer = run("check", "--config", "accountstore.toml")
    assert (answer.code, "--config goes before the command" in answer.err) == (2, True)
    assert "No such option" in run("check", "--confg", "x").err


def test_storages_for_programs_say_who_keeps_the_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """`storages --json` has one object a storage, without credentials."""
    configure(
        CONFIG
        + '[storages.Far]\nurl = "ftp://CANARY:CANARY@127.0.0.1/mail?CANARY"\nconditions = "trust"\nread_only = true\n'
    )
    answer = run("storages", "--json")
    first, archive, far = lines_of(answer)
    assert first == {
        "storage": "First Storage",
        "default": True,
        "url": str(Path("first").absolute()),
        "codec": "json",
        "encryption": None,
        "engine": "fsspec",
        "create": True,
        "update": True,
        "conditions": "kept",
        "atomic": True,
        "durable": True,
        "read_only": False,
    }
    assert (archive["codec"], archive["default"]) == ("msgpack", False)
    assert (far["url"], far["create"], far["conditions"]) == ("ftp://127.0.0.1/mail", False, "trust")
    assert (archive["read_only"], far["read_only"]) == (False, True)
    assert run("storages").out.count("read-only") == 2
    assert "CANARY" not in answer.everything


@pytest.mark.once
@pytest.mark.parametrize("command", [("ls", "-l"), ("tree",), ("stat", "a.account")])
def test_a_terminal_gets_them_in_its_width(tree: None, command: Sequence[str]) -> None:
    """On a terminal the tables and the tree fit, and show no secret."""
    terminal = Terminal(*command)
    assert terminal.end() == 0
    assert max(len(plain(line)) for line in terminal.shown.splitlines()) <= 100
    assert "account" in terminal.shown
    assert not any(canary in terminal.shown for canary in CANARIES)


def test_a_deep_tree_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders thirty deep are drawn, each document in a line, and counted."""
    for number in range(30):
        folder = Path("first", *["deep"] * (number + 1))
        folder.mkdir(parents=True)
        (folder / "a.account").touch()
    monkeypatch.setattr("accountstore.cli.listing.on_terminal", Mock(return_value=True))
    answer = run("tree")
    assert len(answer.out.splitlines()) == 1 + 30 * 2 + 1
    assert answer.out.endswith("30 documents, 30 folders\n")
