"""Completion in shells: the scripts that switch it on, and the answers to them.

Scripts and protocol are typer's. For bash they are ours, because it splits words at colons and does not quote what it
inserts, and a location such as `First Storage:mail/a.account` has a space and a colon.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import sys
from contextlib import redirect_stdout, suppress
from typing import Annotated

import typer
from typer.completion import get_completion_inspect_parameters, shell_complete
from typer.main import get_command

from accountstore.cli.app import app, examples
from accountstore.cli.exits import exit_codes
from accountstore.cli.help import Command

__all__ = ("VARIABLE", "answer_bash", "complete", "completion", "split")

VARIABLE = "_ACCOUNTSTORE_COMPLETE"
"""The environment variable by which a shell asks."""
_PATIENCE = 3.0
"""Seconds after which there is no answer."""
_BASH = f"""\
_accountstore_completion() {{
    local reply
    COMPREPLY=()
    while IFS= read -r reply; do
        COMPREPLY+=("$reply")
    done < <(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        {VARIABLE}=complete_bash "$1" 2>/dev/null)
}}
complete -o nospace -F _accountstore_completion accountstore
"""


@app.command(
    cls=Command,
    epilog=examples(
        'eval "$(accountstore completion bash)"   (in ~/.bashrc)',
        "accountstore completion zsh > ~/.zfunc/_accountstore",
        "accountstore completion fish > ~/.config/fish/completions/accountstore.fish",
    ),
)
def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="One of bash, zsh, fish.", show_default=False)],
) -> None:
    """Print the script that completes commands, storages, folders and documents in your shell.

    To complete a location, its folder is listed, and no other storage is opened. What takes longer than a few seconds
    is not offered.
    """
    if shell not in {"bash", "zsh", "fish"}:
        raise typer.BadParameter("the shell must be bash, zsh or fish")
    with exit_codes():
        sys.stdout.write(_BASH if shell == "bash" else _answer(f"source_{shell}")[0])


def complete() -> int:
    """Answer a shell, and return the exit code. Errors are no answer, and nothing is written to stderr."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _give_up)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    with suppress(Exception), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        instruction = os.environ[VARIABLE]
        text, code = answer_bash() if instruction == "complete_bash" else _answer(instruction)
        sys.stdout.write(text)
        sys.stdout.flush()
        return code
    return 1


def _give_up(*_: object) -> None:
    os._exit(1)


def _answer(instruction: str, /) -> tuple[str, int]:
    """What typer says to a shell."""
    get_completion_inspect_parameters()  # which makes the shells known
    with redirect_stdout(io.StringIO()) as said:
        try:
            code = shell_complete(get_command(app), {}, "accountstore", VARIABLE, instruction)
        except SystemExit as ended:  # fish asks so whether there is anything
            code = ended.code if isinstance(ended.code, int) else 1
    return said.getvalue(), code


def answer_bash() -> tuple[str, int]:
    """What bash is told about the line in its variables, and the exit code."""
    line = os.environ["COMP_LINE"].encode()[: int(os.environ["COMP_POINT"])].decode(errors="ignore")
    words, last, kept, quote = split(line, os.environ.get("COMP_WORDBREAKS", ":="))
    os.environ["COMP_WORDS"] = shlex.join([*words, last])
    os.environ["COMP_CWORD"] = str(len(words))
    text, code = _answer("complete_bash")
    return "".join(f"{_reply(value, kept, quote)}\n" for value in text.splitlines() if value), code


def split(line: str, breaks: str, /) -> tuple[list[str], str, int, str]:
    """The words before the last one, the last one, how many characters of it bash keeps, and the quote that is open.

    Bash replaces what stands behind the last break character that is not quoted.
    """
    words: list[str] = []
    word, kept, quote, escaped, begun = "", 0, "", False, False
    for c in line:
        if escaped:
            word += c if quote != '"' or c in '$`"\\' else f"\\{c}"
            escaped = False
        elif c == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            quote, word = ("", word) if c == quote else (quote, word + c)
        elif c in "'\"":
            quote, begun = c, True
        elif c.isspace():
            if begun:
                words.append(word)
            word, kept, begun = "", 0, False
        else:
            word, begun = word + c, True
            kept = len(word) if c in breaks else kept
    return words, word, kept, quote


def _reply(value: str, kept: int, quote: str, /) -> str:
    """A value as bash inserts it: quoted, with a space behind what is complete."""
    rest = value[kept:]
    if quote == '"':
        return re.sub(r'([$`"\\])', r"\\\1", rest)
    if quote:
        return rest.replace("'", r"'\''")
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", rest) + ("" if value.endswith(("/", ":", "=")) else " ")
