"""Completion in shells: in a real bash, and what zsh and fish are told."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from running import HUNG, PYTHON

for package in ("pty", "typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

import pty
import select
import termios
import time

from commandline import CONFIG, PROGRAM, SINGLE, configure, run

from accountstore.cli import shells
from accountstore.config_file import load_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.usefixtures("home")


BREAKS = " \t\n\"'@><=;|&(:"
"""What bash has in COMP_WORDBREAKS."""
_LENIENT = f"""if True:
    import accountstore.cli.completion as completion, accountstore.cli.shells as shells, accountstore.cli as program
    completion._PATIENCE = shells._PATIENCE = {HUNG}
    program.main()"""
PATIENT = (*PYTHON, "-c", _LENIENT)
"""The program, which waits for a busy machine as long as it takes."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in this process a listing may take its time."""
    monkeypatch.setattr("accountstore.cli.completion._PATIENCE", HUNG)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program by its name, as a shell finds it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "accountstore"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(PATIENT)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


class Bash:
    """An interactive bash on a pseudo terminal, with completion switched on."""

    def __init__(self) -> None:
        self._terminal, inner = pty.openpty()
        termios.tcsetwinsize(inner, (50, 200))
        env = os.environ | {"TERM": "dumb", "PS1": "READY ", "INPUTRC": "/dev/null"}
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], stdin=inner, stdout=inner, stderr=inner, env=env,
            start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self._until("READY ")
        for line in (
            'eval "$(accountstore completion bash)"',
            "bind 'set bell-style none'",
            # Shows the line as readline has it.
            """bind -x '"\\C-t": printf "\\001%s\\002" "$READLINE_LINE"'""",
        ):
            self._type(f"{line}\n")
            self._until("READY ")

    def completed(self, line: str) -> str:
        """What a tab makes of a line."""
        return self.shown(f"{line}\t")[1]

    def shown(self, keys: str) -> tuple[str, str]:
        """What bash shows while keys are typed, and the line then."""
        self._type(f"{keys}\x14")
        shown = self._until("\x02")
        self._type("\x15")
        before, _, line = shown.partition("\x02")[0].rpartition("\x01")
        return before, line

    def end(self) -> None:
        """Leave the shell."""
        self.process.kill()
        self.process.wait(HUNG)
        os.close(self._terminal)

    def _type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def _until(self, text: str) -> str:
        shown = ""
        until = time.monotonic() + HUNG
        while text not in shown and time.monotonic() < until:
            if select.select([self._terminal], [], [], 0.1)[0]:
                shown += os.read(self._terminal, 4096).decode(errors="replace")
        return shown


@pytest.fixture
def bash(command: None, tree: None) -> Iterator[Bash]:
    """A bash in a folder with a configuration."""
    if which("bash") is None:
        pytest.skip("bash is not installed")
    shell = Bash()
    yield shell
    shell.end()


@pytest.mark.once
def test_bash_completes_storages_folders_and_documents(bash: Bash) -> None:
    """Quoted as the line needs it, with a space behind what is complete, and a colon where bash splits words."""
    for line, completed in (
        ("check Ar", "check Archive "),
        ("get Fi", r"get First\ Storage:"),
        ("get mail/t", r"get mail/team\ a/"),
        (r"get mail/team\ a/", r"get mail/team\ a/d.account "),
        (r"get First\ Storage:mail/t", r"get First\ Storage:mail/team\ a/"),
        ('get "First Storage":a', 'get "First Storage":a.account '),
        ('get "First Storage:mail/c', 'get "First Storage:mail/c.account"'),
        ("ls mail/", r"ls mail/team\ a/"),
        ("--config accountstore.toml get a", "--config accountstore.toml get a.account "),
        ("get nope", "get nope"),
        ("migrate Archive:o", "migrate Archive:old/"),
        ("migrate mail/ Ar", "migrate mail/ Archive:"),
        ("migrate mail/ Archive: --res", "migrate mail/ Archive: --resume "),
        ("import himalaya accountst", "import himalaya accountstore.toml "),
    ):
        assert bash.completed(f"accountstore {line}") == f"accountstore {completed}"


@pytest.mark.once
def test_bash_shows_what_there_is(bash: Bash) -> None:
    """A second tab shows storages, folders and documents."""
    shown, _ = bash.shown("accountstore get \t\t")
    for name in ("First\\ Storage:", "Archive:", "a.account", "b.multi.account", "mail/"):
        assert name in shown


@pytest.mark.once
def test_bash_shows_no_error_and_no_secret(bash: Bash) -> None:
    """A configuration that cannot be used, or a storage that cannot be reached, completes nothing and says nothing."""
    for text in (
        "[storages.a\nCANARY",
        '[storages.a]\nurl = "ftp://CANARY:CANARY@127.0.0.1:1/x"\noptions = { x = "CANARY" }\n',
        '[storages.a]\nurl = "a"\noptions = { x = "${NO_SUCH_CANARY}" }\n',
    ):
        configure(text)
        shown, line = bash.shown("accountstore get m\t\t")
        assert line == "accountstore get m"
        assert "CANARY" not in shown
        assert "rror" not in shown


def asked(line: str, shell: str = "bash", program: Sequence[str] = PATIENT) -> subprocess.CompletedProcess[bytes]:
    """What the program answers to a shell."""
    names = {"COMP_LINE": line, "COMP_POINT": str(len(line.encode())), "COMP_WORDBREAKS": BREAKS}
    zsh = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return subprocess.run(
        program,
        env=os.environ | names | zsh | {"_ACCOUNTSTORE_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        check=False,
        timeout=HUNG,
    )


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("sta", ["stat "]),
        ("get Ar", ["Archive:"]),
        ("get Fi", [r"First\ Storage:"]),
        ("get a.", ["a.account "]),
        ("get mail/t", [r"mail/team\ a/"]),
        ("get Archive:o", ["old/"]),
        ("get Archive:old/", ["old/e.account "]),
        ("get 'First Storage:a", ["First Storage:a.account"]),
        ("get --rev", ["--reveal "]),
        ("cp a.account Ar", ["Archive:"]),
        ("rm a.account b", ["b.multi.account "]),
        ("check A", ["Archive "]),
        ("migrate Ar", ["Archive:"]),
        ("migrate pl", ["plan "]),
        ("migrate Archive:o", ["old/"]),
        ("migrate mail/ Ar", ["Archive:"]),
        ("migrate plan mail/ Ar", ["Archive:"]),
        ("migrate verify m", ["mail/"]),
        ("refresh a.", ["a.account "]),
        ("refresh --all Ar", ["Archive:"]),
        ("gateway add-client me --storage A", ["Archive "]),
        ("save a.account --protocol I", ["IMAP "]),
        ("save a.account --security SSLI", ["SSLImplicit "]),
        ("storages ", ["add "]),
        ("ls mail/", [r"mail/team\ a/"]),
        ("import mbsync ./acc", ["./accountstore.toml "]),
        ("import mbsync fir", ["first/"]),
        ("import mbsync ~/no", []),
        ("--config acc", ["accountstore.toml "]),
        ("get nope", []),
        ("get ../", []),
        ("get Nope:x", []),
    ],
)
def test_the_answers_to_bash(tree: None, monkeypatch: pytest.MonkeyPatch, line: str, replies: list[str]) -> None:
    """Each reply replaces what stands behind the last break character."""
    assert answered(monkeypatch, line) == (replies, 0)


def answered(monkeypatch: pytest.MonkeyPatch, line: str) -> tuple[list[str], int]:
    """The replies to bash in this process, and the exit code."""
    line = f"accountstore {line}"
    for name, value in {"LINE": line, "POINT": len(line), "WORDBREAKS": BREAKS, "WORDS": "", "CWORD": ""}.items():
        monkeypatch.setenv(f"COMP_{name}", str(value))
    text, code = shells.answer_bash()
    return text.splitlines(), code


@pytest.mark.parametrize("line", ["get x", "ls ", "ls x", "cp a.account x", "refresh --all x", "migrate ", "migrate x"])
def test_completion_makes_nothing(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """A storage whose folder is missing, such as below a mount point that is not mounted, is only looked at."""
    configure('[storages.main]\nurl = "mnt/usb/accounts"\n')
    before = sorted(os.listdir())
    answered(monkeypatch, line)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "text",
    [
        "[storages.a\n",
        '[storages.a]\nurl = "a"\nnonsense = 1\n',
        '[storages.a]\nurl = "a"\noptions = { x = "${NO_SUCH}" }\n',
        '[storages.a]\nurl = "absent://a"\n',
        '[storages.a]\nurl = "/dev/null/a"\n',
        '[storages.a]\nurl = "ftp://127.0.0.1:1/a"\n',
    ],
)
def test_the_commands_of_migrate_are_offered_whatever_is_wrong_with_the_storages(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Neither a configuration that cannot be used nor a storage that does not open keeps them back."""
    configure(text)
    assert answered(monkeypatch, "migrate pl") == (["plan "], 0)
    replies, code = answered(monkeypatch, "migrate ")
    assert (replies[:4], code) == (["run ", "plan ", "verify ", "report "], 0)


def test_a_command_of_migrate_that_was_begun_is_completed_without_the_storages(
    tree: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the configuration is read, so nothing has to be waited for; and is read where none begins so."""
    load = Mock(side_effect=load_config)
    monkeypatch.setattr("accountstore.cli.completion.load_config", load)
    for typed, offered in (("pl", ["plan "]), ("r", ["run ", "report "]), ("run", ["run "]), ("--h", ["--help "])):
        assert answered(monkeypatch, f"migrate {typed}") == (offered, 0)
    assert not load.called
    assert answered(monkeypatch, "migrate ma") == (["mail/"], 0)
    assert load.called


@pytest.mark.once
@pytest.mark.parametrize(("shell", "quote"), [("zsh", '"{}"'), ("fish", "{}")])
def test_the_answers_to_other_shells(tree: None, shell: str, quote: str) -> None:
    """zsh and fish get the names that typer's scripts for them take."""
    shown = asked("accountstore get mail/", shell).stdout.decode()
    for name in ("mail/c.account", "mail/team a/"):
        assert quote.format(name) in shown
    assert "Archive" in asked("accountstore check A", shell).stdout.decode()


@pytest.mark.once
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_failure_is_no_answer(shell: str) -> None:
    """Whatever fails, nothing of it is on stdout or stderr."""
    configure("CANARY")
    answer = asked("accountstore get m", shell)
    assert b"CANARY" not in answer.stdout + answer.stderr
    assert (answer.stderr, answer.returncode) == (b"", 1)
    assert asked("accountstore get m", "nonsense").stderr == b""


def test_names_that_steer_a_terminal_are_not_offered(tree: None) -> None:
    """A document or storage with a direction character in its name is left to be typed."""
    configure(CONFIG + '[storages."Ar\u202eb"]\nurl = "x"\n')
    run("save", "a\u202eb.account", stdin=SINGLE)
    assert asked("accountstore get a").stdout == b"a.account \n"
    assert asked("accountstore check A").stdout == b"Archive \n"


@pytest.mark.once
def test_only_the_storage_in_question_is_opened(tree: None) -> None:
    """A storage that is down, or whose package is missing, does not stop another one's names."""
    configure(CONFIG + '[storages.Far]\nurl = "ftp://127.0.0.1:1/mail"\n[storages.Odd]\nurl = "absent://x"\n')
    assert asked("accountstore get mail/c").stdout == b"mail/c.account \n"
    assert asked("accountstore get Far:a").stdout == b""


@pytest.mark.once
def test_a_storage_that_hangs_is_given_up(tree: None) -> None:
    """Where a storage does not answer, so does the program, after a bounded time and without a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        configure(CONFIG + f'[storages.Far]\nurl = "ftp://127.0.0.1:{silent.getsockname()[1]}/mail"\n')
        started = time.monotonic()
        answer = asked("accountstore get Far:a", program=[*PYTHON, *PROGRAM])
        took = time.monotonic() - started
        configure(f'[storages.Far]\nurl = "ftp://127.0.0.1:{silent.getsockname()[1]}/mail"\n')
        unhurried = _LENIENT.replace("completion._PATIENCE = ", "")  # the storage alone is given up
        commands = asked("accountstore migrate ", program=[*PYTHON, "-c", unhurried])
    assert (answer.stdout, answer.stderr) == (b"", b"")
    assert commands.stdout.startswith(b"run \nplan \n"), "what is there is offered all the same"
    assert took < HUNG / 3, "the storage alone would be waited for and tried again"


@pytest.mark.once
def test_a_program_that_is_stuck_ends_by_itself(tree: None) -> None:
    """Also where code blocks that cannot be cancelled. The control: the same code without the alarm goes on."""
    code = """if True:
        import sys, time, accountstore.cli.completion as c, accountstore.cli.shells as s
        s._PATIENCE = float(sys.argv[1])
        c.load_config = lambda *_: time.sleep(3) or sys.stdout.write("late")
        from accountstore.cli import main
        sys.argv[1:] = []
        main()"""
    env = {"_ACCOUNTSTORE_COMPLETE": "complete_bash", "COMP_LINE": "accountstore get a", "COMP_POINT": "18"}
    for patience, code_of_it in (("0.5", 1), ("60", 1)):
        started = time.monotonic()
        done = subprocess.run(
            [*PYTHON, "-c", code, patience], env=os.environ | env, capture_output=True, check=False, timeout=HUNG
        )
        assert (done.returncode, done.stdout) == (code_of_it, b"")
        if patience == "60":
            assert time.monotonic() - started >= 3


@pytest.mark.once
def test_the_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder with very many documents the first ones are offered."""
    Path("first").mkdir()
    for number in range(600):
        Path("first", f"{number:03}.account").write_bytes(b"")
    assert len(asked("accountstore get ").stdout.splitlines()) == 500 + 2


@pytest.mark.parametrize(
    ("line", "words", "last", "kept", "quote"),
    [
        ("", [], "", 0, ""),
        ("a", [], "a", 0, ""),
        ("a ", ["a"], "", 0, ""),
        ("a  b\tc", ["a", "b"], "c", 0, ""),
        ("a x:y", ["a"], "x:y", 2, ""),
        ("a x\\:y", ["a"], "x:y", 0, ""),
        ("a 'x:y", ["a"], "x:y", 0, "'"),
        ("a 'x':y:z", ["a"], "x:y:z", 4, ""),
        ('a "x y', ["a"], "x y", 0, '"'),
        ('a "x\\"y\\z', ["a"], 'x"y\\z', 0, '"'),
        ("a 'x\\", ["a"], "x\\", 0, "'"),
        ("a --b=c", ["a"], "--b=c", 4, ""),
        ("a '' b", ["a", ""], "b", 0, ""),
        ("a \\", ["a"], "", 0, ""),
    ],
)
def test_a_line_is_split_as_bash_splits_it(line: str, words: list[str], last: str, kept: int, quote: str) -> None:
    """Words are unquoted; what bash keeps of the last one ends at the last break character that is not quoted."""
    assert shells.split(line, BREAKS) == (words, last, kept, quote)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_names_program_and_variable(shell: str) -> None:
    """`completion SHELL` prints a script, which such a shell takes where it is installed."""
    answer = run("completion", shell)
    assert (answer.code, answer.err) == (0, "")
    assert "accountstore" in answer.out
    assert f"_ACCOUNTSTORE_COMPLETE=complete_{shell}" in answer.out
    if which(shell) is not None:
        subprocess.run([shell, "-n"], input=answer.raw, check=True, timeout=HUNG)


def test_another_shell_is_wrong_usage() -> None:
    """A shell that is not known ends with 2."""
    assert run("completion", "tcsh").code == 2
