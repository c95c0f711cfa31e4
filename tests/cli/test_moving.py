"""`cp -r`, `mv -r`, `rm -r`: whole folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from running import HUNG

for package in ("pty", "typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

from commandline import CONFIG, SINGLE, Terminal, configure, document_at, files, run, start

from accountstore import AccountStore, BackendError, Location
from accountstore.backends.local.syscalls import SystemCalls

pytestmark = pytest.mark.usefixtures("home")


def below(folder: str) -> list[str]:
    """The files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def folder(tree: None) -> None:
    """The folder `mail` of two documents that can be read, one of them with fields of tomorrow."""
    run("rm", "b.multi.account")
    Path("first", "note.txt").unlink()


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        ("post", "first/post"),
        ("post/", "first/post/mail"),
        ("old/post", "first/old/post"),
        ("Archive:", "archive/mail"),
        ("Archive:post", "archive/post"),
        ("Archive:post/", "archive/post/mail"),
    ],
)
@pytest.mark.parametrize("command", ["cp", "mv"])
def test_a_folder_goes_with_all_that_is_below(folder: None, command: str, target: str, arrives: str) -> None:
    """A target that ends in `/` or `:` takes the folder under its own name; any other is the folder's new name."""
    before = below("archive")
    answer = run(command, "-r", "mail", target)
    assert (answer.code, answer.everything) == (0, "")
    assert below(arrives) == ["c.account", "team a/d.account"]
    assert len(below("archive")) == len(before) + 2 * arrives.startswith("archive")
    assert below("first/mail") == (["c.account", "team a/d.account"] if command == "cp" else [])
    name = arrives.replace("first/", "").replace("archive/", "Archive:")
    assert document_at(f"{name}/c.account") == SINGLE


def test_a_whole_storage_is_copied(folder: None) -> None:
    """The root of a storage has no name of its own: its documents go straight into the target."""
    assert run("cp", "-r", "First Storage:", "Archive:copy/").code == 0
    assert below("archive/copy") == ["a.account", "mail/c.account", "mail/team a/d.account"]


def test_a_document_may_be_given_with_r(folder: None) -> None:
    """With `-r` a document is what it is without."""
    assert run("cp", "-r", "a.account", "b.account").code == 0
    assert run("mv", "-r", "b.account", "Archive:").code == 0
    assert run("rm", "-r", "Archive:b.account").code == 0
    assert below("archive") == ["old/e.account"]


@pytest.mark.parametrize("target", ["mail", "mail/", "mail/team a", "First Storage:mail", "First Storage:mail/x"])
@pytest.mark.parametrize("command", ["cp", "mv"])
def test_a_folder_is_not_copied_into_itself(folder: None, command: str, target: str) -> None:
    """Whatever names the storage: nothing is copied, and nothing is removed."""
    assert run(command, "-r", "mail", target).refusal == "the target is in the source"
    assert below("first") == ["a.account", "mail/c.account", "mail/team a/d.account"]


def test_two_names_of_one_place_do_not_copy_without_an_end(folder: None) -> None:
    """Where two storages are one folder, what is copied there is not copied again."""
    configure(CONFIG + '[storages.Alias]\nurl = "first/mail"\n')
    assert run("cp", "-r", "mail", "Alias:copy").code == 0
    assert below("first/mail/copy") == ["c.account", "team a/d.account"]


def test_what_fails_is_told_and_the_rest_goes(folder: None) -> None:
    """A broken document is named, the others are copied, and the exit code is 1."""
    Path("first", "mail", "cut.account").write_bytes(b'{"host": "CANARY')
    answer = run("cp", "-r", "mail", "post")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("accountstore: mail/cut.account: is not valid JSON")
    assert "CANARY" not in answer.everything
    assert below("first/post") == ["c.account", "team a/d.account"]


@pytest.mark.parametrize(("source", "target"), [(("-r", "mail"), "Mem:"), (("a.account",), "Mem:b.account")])
def test_nothing_is_moved_to_what_ends_with_the_command(folder: None, source: tuple[str, ...], target: str) -> None:
    """A storage in memory is gone when the command is: a move there would lose the documents; a copy is warned of."""
    configure(CONFIG + '[storages.Mem]\nurl = "memory://"\n')
    ends = "Mem: is in the memory of this command alone, and ends with it"
    assert run("mv", *source, target).refusal == f"{ends}: nothing is moved there"
    assert below("first") == ["a.account", "mail/c.account", "mail/team a/d.account"]
    copied = run("cp", *source, target)
    assert (copied.code, copied.err) == (0, f"accountstore: warning: {ends}\n")


def test_the_only_storage_may_be_one_that_ends_with_the_command() -> None:
    """It is told by its name where the location names none, and the configuration no default."""
    configure('[storages.Mem]\nurl = "memory://"\n')
    assert run("mv", "a.account", "b.account").refusal.startswith("Mem: is in the memory of this command alone")


def test_a_folder_that_may_not_be_read_is_told(folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and the rest is listed and copied; a copy then ends with 1. As the folder itself it is an error,
    which names it.
    """
    opened = SystemCalls.open

    def denying(path: str, flags: int, mode: int = 0, *, dir_fd: int | None = None) -> int:
        if path == "team a":
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(SystemCalls, "open", staticmethod(denying))
    why = "'mail/team a/' (it is a folder that may not be read)\n"
    for command in (("ls", "-r", "mail"), ("tree", "mail")):
        listed = run(*command)
        assert ("c.account" in listed.out, listed.err) == (True, f"accountstore: not listed: {why}")
    copied = run("cp", "-r", "mail", "post")
    assert (copied.code, copied.err) == (1, f"accountstore: left out: {why}")
    assert below("first/post") == ["c.account"]
    assert run("ls", "mail/team a").refusal.startswith("First Storage:mail/team a/: access is denied")


@pytest.mark.parametrize("command", ["cp", "mv"])
def test_what_no_location_names_is_told_and_stays(folder: None, command: str) -> None:
    """A document that other programs have named is left where it is; the exit code says that not all went."""
    Path("first", "mail", "a#b.account").write_bytes(b"{}")
    answer = run(command, "-r", "mail", "post")
    assert answer.code == 1
    assert "left out: 'mail/a#b.account'" in answer.err
    assert below("first/post") == ["c.account", "team a/d.account"]
    assert "a#b.account" in below("first/mail")


def test_with_create_nothing_is_replaced(folder: None) -> None:
    """Of a folder the documents that are there already are told and stay as they are."""
    run("save", "post/c.account", stdin=SINGLE | {"host": "other.example.com"})
    answer = run("mv", "-r", "--create", "mail", "post")
    assert (answer.code, answer.err) == (1, "accountstore: post/c.account: there is a document already\n")
    assert document_at("post/c.account")["host"] == "other.example.com"
    assert below("first/mail") == ["c.account"]


@pytest.mark.parametrize("command", ["cp -r nowhere post", "mv -r nowhere post", "rm -r -y nowhere"])
def test_a_folder_of_nothing_is_an_error(tree: None, command: str) -> None:
    """A folder that is not there is a mistake; a storage's name without its colon leads to the storage."""
    assert run(*command.split()).refusal.startswith("no documents in 'nowhere")
    refusal = run(*command.replace("nowhere", "Archive").split()).refusal
    assert refusal.endswith("; the storage 'Archive' is listed by: accountstore ls 'Archive:'")


@pytest.mark.parametrize("command", ["cp -r", "mv -r"])
def test_a_storage_without_its_colon_is_no_target(folder: None, command: str) -> None:
    """The name of a storage is not taken for a folder of the default one; who means that says so."""
    refusal = run(*command.split(), "mail", "Archive").refusal
    assert refusal == "'Archive' is a storage: its root is 'Archive:', a folder of that name 'First Storage:Archive'"
    assert below("first") == ["a.account", "mail/c.account", "mail/team a/d.account"]
    assert run(*command.split(), "mail", "First Storage:Archive").code == 0
    assert below("first/Archive") == ["c.account", "team a/d.account"]


@pytest.mark.parametrize(
    "command", ["save -", "cp a.account -", "mv a.account -", "import msmtp given -", "cp -r mail -"]
)
def test_a_new_folder_with_a_storages_name_is_told(folder: None, command: str) -> None:
    """It is written all the same. A folder that is there, a storage that is named, and another case are no mistake."""
    Path("given").write_text("account x\nhost h\n")
    told = "'Archive' is a new folder of the storage 'First Storage'; in the storage 'Archive' it would be 'Archive:x'"

    def answer(target: str) -> Any:
        run("cp", "mail/c.account", "a.account")
        name = "" if command.startswith(("cp -r", "import")) else "/b.account"
        return run(*[f"{target}{name}" if word == "-" else word for word in command.split()], stdin=SINGLE)

    first = answer("Archive/x")
    assert (first.code, first.err) == (0, f"accountstore: warning: {told}\n")
    for target in ("Archive/y", "First Storage:Archive/z", "archive/x", "Archive:x"):
        assert answer(target)[::2] == (0, "")


def test_a_folder_with_a_storages_name_that_has_something_is_not_new(folder: None) -> None:
    """What a listing leaves out counts."""
    Path("first/Archive").mkdir()
    Path("first/Archive/l.account").symlink_to("elsewhere")
    assert run("save", "Archive/x.account", stdin=SINGLE)[::2] == (0, "")


@pytest.mark.parametrize("at", [0, 1])
def test_names_are_checked_before_anything_is_copied(folder: None, at: int) -> None:
    """A target whose names would be too long, or a storage that is not configured, leaves all as it is."""
    target = ["x/" * 510 + "x", "Nope:x"][at]
    assert run("mv", "-r", "mail", target).code == 1
    assert below("first") == ["a.account", "mail/c.account", "mail/team a/d.account"]


def test_documents_are_copied_side_by_side(folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many documents several are under way at once, and never more than eight."""
    for number in range(20):
        run("save", f"mail/{number}.account", stdin=SINGLE)
    under_way: list[int] = []
    most: list[int] = []
    copy = AccountStore.copy

    async def counted(self: AccountStore, *pair: Any, **mode: Any) -> Any:
        under_way.append(1)
        most.append(len(under_way))
        try:
            return await copy(self, *pair, **mode)
        finally:
            under_way.pop()

    monkeypatch.setattr(AccountStore, "copy", counted)
    assert run("cp", "-r", "mail", "post").code == 0
    assert len(most) == 22
    assert 1 < max(most) <= 8


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(24, "Too many open files")])
def test_a_shortage_within_a_folder_is_one_line(
    folder: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What no document is to blame for ends the command with 1 and one line, as elsewhere."""
    monkeypatch.setattr(AccountStore, "copy", Mock(side_effect=error))
    answer = run("cp", "-r", "mail", "post")
    assert (answer.code, answer.crash) == (1, "")
    assert answer.err.count("\n") == 1


def test_rm_of_a_folder_asks_on_a_terminal(folder: None) -> None:
    """The question says how many documents would go and from where; Enter means no, and nothing is removed."""
    terminal = Terminal("rm", "-r", "mail")
    terminal.answer("Remove 2 documents in 'mail'? [y/N]: ", "")
    assert terminal.end() == 1
    assert below("first/mail") == ["c.account", "team a/d.account"]
    terminal = Terminal("rm", "-r", "mail", "a.account")
    terminal.answer("[y/N]: ", "y")
    assert terminal.end() == 0
    assert below("first") == []
    assert "removed 2 documents" in terminal.shown


@pytest.mark.once
@pytest.mark.parametrize("end", ["interrupt", "end of input"])
def test_rm_is_given_up_at_the_question(folder: None, end: str) -> None:
    """Ctrl-C and Ctrl-D at the question remove nothing; of the end of the input it is said so."""
    terminal = Terminal("rm", "-r", "mail", PYTHONUNBUFFERED="1")
    terminal.expect("[y/N]: ")
    if end == "interrupt":
        terminal.interrupt()
    else:
        terminal.type(b"\x04")
    assert terminal.end() == (130 if end == "interrupt" else 1)
    assert "Traceback" not in terminal.shown
    unanswered = "accountstore: the question was not answered: nothing was removed" in terminal.shown
    assert unanswered is (end == "end of input")
    assert below("first/mail") == ["c.account", "team a/d.account"]


def test_rm_of_a_folder_needs_yes_where_nobody_can_be_asked(folder: None) -> None:
    """Without a terminal the command refuses, unless `--yes` is given."""
    refusal = run("rm", "-r", "mail").refusal
    assert refusal == "would remove 2 documents in 'mail': nobody can be asked here, so say --yes"
    assert below("first/mail") == ["c.account", "team a/d.account"]
    for yes in ("--yes", "-y"):
        run("save", "mail/again.account", stdin=SINGLE)
        assert run("rm", "-r", yes, "mail").everything == ""
        assert below("first/mail") == []


@pytest.mark.parametrize("name", ["", "/", "First Storage:/"])
def test_rm_removes_a_root_only_by_the_storages_name(folder: None, name: str) -> None:
    """A variable that is not set in a script must not remove everything: `rm -r "$UNSET"` and `"Mail:$UNSET/"`."""
    assert "is a root: to remove all that is in a storage, name it" in run("rm", "-r", "-y", name).refusal
    assert below("first") == ["a.account", "mail/c.account", "mail/team a/d.account"]
    assert run("rm", "-r", "-y", "First Storage:").code == 0
    assert below("first") == []


def test_rm_without_r_refuses_a_folder(folder: None) -> None:
    """A folder is not removed by accident."""
    assert run("rm", "mail").code == 1
    assert below("first/mail") == ["c.account", "team a/d.account"]


def test_rm_of_a_folder_leaves_what_is_no_document(tree: None) -> None:
    """Other files stay, and documents that no location names are told."""
    Path("first", "mail", "note.txt").touch()
    Path("first", "mail", "a#b.account").touch()
    answer = run("rm", "-r", "-y", "mail")
    assert answer.code == 1
    assert "left out: 'mail/a#b.account'" in answer.err
    assert below("first/mail") == ["a#b.account", "note.txt"]


def test_rm_with_force_takes_an_empty_folder_for_removed(tree: None) -> None:
    """With `-f` a folder that is not there is no error, and nobody is asked."""
    assert run("rm", "-r", "-f", "nowhere", "nope.account").everything == ""
    assert len(files()) == 6


def test_what_is_saved_while_the_question_is_asked_stays(folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the question counted is removed."""

    def meanwhile(*_: str) -> bool:
        Path("first", "mail", "new.account").write_bytes(json.dumps(SINGLE).encode())
        return True

    monkeypatch.setattr("sys.stdin", Mock(**{"isatty.return_value": True}))
    monkeypatch.setattr("accountstore.cli.prompts.ask_whether", meanwhile)
    from accountstore.cli.commands import app

    app(["rm", "-r", "mail"], standalone_mode=False)
    assert below("first/mail") == ["new.account"]


def test_a_delete_that_fails_is_told_and_the_rest_goes(folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails with one document, the others are removed."""
    delete = AccountStore.delete

    async def failing(self: AccountStore, where: Location, **options: Any) -> None:
        if where.file_name == "c.account":
            raise BackendError("the storage failed", location=where)
        await delete(self, where, **options)

    monkeypatch.setattr(AccountStore, "delete", failing)
    answer = run("rm", "-r", "-y", "mail")
    assert (answer.code, answer.err) == (1, "accountstore: mail/c.account: the storage failed\n")
    assert below("first/mail") == ["c.account"]


@pytest.mark.once
@pytest.mark.parametrize("command", ["cp -r mail post", "mv -r mail post"])
def test_ctrl_c_ends_with_130_and_every_document_is_somewhere(folder: None, command: str) -> None:
    """Interrupted in the middle, a copy or move of a folder leaves each document whole at one place at least."""
    for number in range(300):
        Path("first", "mail", f"{number}.account").write_bytes(json.dumps(SINGLE).encode())
    process = start(*command.split(), stderr=subprocess.PIPE)
    until_some("first/post", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HUNG)
    assert (process.returncode, err) in {(130, b""), (0, b"")}
    assert {*below("first/mail"), *below("first/post")} >= {f"{number}.account" for number in range(300)}
    for name in below("first/post"):
        assert json.loads(Path("first/post", name).read_bytes()) == SINGLE


def until_some(folder: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until there is something in a folder, or the program has ended."""
    while process.poll() is None and not os.path.isdir(folder):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
