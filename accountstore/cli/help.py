"""The help of a command, drawn here: what typer and click would draw differs from one release to the next."""

from __future__ import annotations

from contextlib import suppress
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("Command", "Group", "RunGroup")

_LEAST = 40


class Command(TyperCommand):
    """A command that draws its own help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; of `--config` it is said where it stands."""
        try:
            return list(super().parse_args(ctx, args))
        except Exception as error:
            if getattr(error, "option_name", "") == "--config":
                ctx.fail("--config goes before the command: accountstore --config PATH COMMAND ...")
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the usage line says behind the command's name."""
        return ["[OPTIONS]", *(param.metavar for param in _params(self, ctx, "argument"))]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(_usage(self, ctx) + _help(self, ctx, formatter.width))


class Group(TyperGroup):
    """All commands, with one help for all."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the usage line says behind the command's name."""
        return ["[OPTIONS]", "[COMMAND]" if self.invoke_without_command else "COMMAND", "[ARGUMENTS]"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        commands = [(name, str(command.help).partition("\n\n")[0]) for name, command in self.commands.items()]
        text = _usage(self, ctx) + _help(self, ctx, formatter.width)
        formatter.write(text + _table("Commands", commands, formatter.width))


class RunGroup(Group):
    """The commands of `migrate`, of which `run` may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments: places without a command are a run."""
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = ["run", *args]
        return list(super().parse_args(ctx, args))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the usage line says behind the command's name."""
        return ["[COMMAND]", "SOURCE TARGET", "[OPTIONS]"]

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The commands, and what the first place of a run may be; where a command was begun, no storage is asked."""
        commands = list(super().shell_complete(ctx, incomplete))
        if incomplete and commands:
            return commands
        run = self.commands["run"]
        within = run.make_context("run", [], parent=ctx, resilient_parsing=True)
        with suppress(Exception):  # the commands are there, whatever is wrong with the storages
            return commands + run.params[0].shell_complete(within, incomplete)
        return commands


def _params(command: Any, context: Any, kind: str, /) -> list[Any]:
    return [param for param in command.get_params(context) if param.param_type_name == kind]


def _usage(command: Any, context: Any, /) -> str:
    return f"Usage: {context.command_path} {' '.join(command.collect_usage_pieces(context))}\n\n"


def _help(command: Any, context: Any, width: int, /) -> str:
    paragraphs = [fill(" ".join(text.split()), _width(width)) for text in str(command.help).split("\n\n")]
    arguments = [(param.metavar, param.help) for param in _params(command, context, "argument")]
    options = [(_option(param), param.help) for param in _params(command, context, "option")]
    examples = "".join(f"  {line}\n" for line in (command.epilog or "").splitlines())
    return (
        "\n\n".join(paragraphs)
        + "\n"
        + _table("Arguments", arguments, width)
        + _table("Options", options, width)
        + (f"\nExamples:\n{examples}" if examples else "")
    )


def _option(param: Any, /) -> str:
    """The names of an option, and its value's, if it takes one: every one that does has a metavar of ours."""
    return " ".join(filter(None, (", ".join(sorted(param.opts, key=len, reverse=True)), param.metavar)))


def _table(title: str, rows: Iterable[tuple[str, str]], width: int, /) -> str:
    rows = list(rows)
    if not rows:
        return ""
    lines: list[str] = []
    first = max(len(name) for name, _ in rows) + 4
    for name, text in rows:
        wrapped = wrap(" ".join(text.split()), max(_width(width) - first, _LEAST // 2))
        lines += [f"  {name}".ljust(first) + wrapped[0], *(" " * first + line for line in wrapped[1:])]
    return f"\n{title}:\n" + "\n".join(lines) + "\n"


def _width(width: int, /) -> int:
    return max(width, _LEAST)
