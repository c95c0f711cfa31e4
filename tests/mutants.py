"""Mutants of a module: small changes of its source that a test should notice. `mutation.py` runs the tests."""

from __future__ import annotations

import ast
from collections import defaultdict
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ("Mutant", "mutants", "sample")

T = TypeVar("T")
_Change: TypeAlias = "tuple[Any, ast.AST | str]"
"""A node, or the first and the last of several, and what takes their place."""

_SWAPPED: Sequence[tuple[type[ast.AST], type[ast.AST]]] = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Eq, ast.NotEq)),
    *((ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.FloorDiv)),
    *((ast.Div, ast.Mult), (ast.Mod, ast.Mult), (ast.BitAnd, ast.BitOr), (ast.LShift, ast.RShift)),
)
_ABOUT_TYPES = frozenset({"TypeVar", "TypeVarTuple", "NewType", "cast"})


class Mutant(NamedTuple):
    """One change: `old`, at byte `start` of the module, becomes `new`."""

    module: str
    function: str
    lines: Sequence[int]
    on_import: bool
    """Whether the code runs when the module is imported, and not in a call."""
    start: int
    old: str
    new: str

    def apply(self, source: str, /) -> str:
        """The changed source."""
        text = source.encode()
        return (text[: self.start] + self.new.encode() + text[self.start + len(self.old.encode()) :]).decode()


def mutants(module: str, source: str, /) -> list[Mutant]:
    """All mutants of a module, in the order of its source."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[Mutant] = []
    for names, on_import, place, new in _walk(ast.parse(source)):
        first, last = place if isinstance(place, tuple) else (place, place)
        begin = starts[first.lineno - 1] + first.col_offset
        old = text[begin : starts[last.end_lineno - 1] + last.end_col_offset].decode()
        code = new if isinstance(new, str) else ast.unparse(new)
        if isinstance(new, ast.expr) and not isinstance(new, (ast.Name, ast.Constant, ast.Tuple)):
            code = f"({code})"
        lines = [*range(first.lineno, last.end_lineno + 1)]
        found.append(Mutant(module, ".".join(names), lines, on_import, begin, old, code))
    return sorted(found, key=lambda mutant: mutant.start)


def sample(found: Sequence[Mutant], sources: Mapping[str, str], count: int, seed: int) -> Iterator[Mutant]:
    """Mutants at random, a function by its number of mutants to the power of 0.75, so that long ones do not take all.

    Those that are no Python or no change are left out. With a larger count the same ones come first.
    """
    random = Random(seed)
    functions: defaultdict[tuple[str, str], list[Mutant]] = defaultdict(list)
    for mutant in found:
        functions[mutant.module, mutant.function].append(mutant)
    for those in functions.values():
        random.shuffle(those)
    weights = {key: len(those) ** 0.75 for key, those in functions.items()}
    while weights and count:
        (key,) = random.choices([*weights], [*weights.values()])
        mutant = functions[key].pop()
        if not functions[key]:
            del weights[key]
        source = sources[mutant.module]
        with suppress(SyntaxError):
            if ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source)):
                yield mutant
                count -= 1


def _walk(tree: ast.Module, /) -> Iterator[tuple[tuple[str, ...], bool, Any, ast.AST | str]]:
    """The changes of all nodes, each with the names of its function and whether it runs on import."""
    todo: list[tuple[ast.AST | None, tuple[str, ...], bool, bool]] = [(node, (), True, False) for node in tree.body]
    while todo:
        node, names, on_import, quiet = todo.pop()
        quiet = quiet or isinstance(node, ast.Raise) or _is_about_types(node)
        inside: list[Any] = []
        match node:
            case None | ast.Expr(ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.arg():
                continue  # docstrings; annotations
            case ast.Assign([ast.Name("__all__" | "__slots__")]) | ast.AnnAssign(annotation=ast.Name("TypeAlias")):
                continue
            case ast.If(ast.Name("TYPE_CHECKING")):
                todo += ((each, names, on_import, quiet) for each in node.orelse)
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                todo += ((each, (*names, node.name), False, False) for each in node.body)
                inside = [*node.args.defaults, *node.args.kw_defaults]
            case ast.Lambda():
                todo.append((node.body, names, False, quiet))
                inside = [*node.args.defaults, *node.args.kw_defaults]
            case ast.ClassDef():
                todo += ((each, (*names, node.name), on_import, False) for each in (*node.keywords, *node.body))
            case ast.AnnAssign():
                inside = [node.value]
            case ast.JoinedStr():
                pass  # places in it are told from Python 3.12 on only
            case _:
                inside = [*ast.iter_child_nodes(node)]
        todo += ((each, names, on_import, quiet) for each in inside)
        for place, new in (*_of_expression(node, quiet), *_of_statement(node, on_import)):
            yield names, on_import, place, new


def _is_about_types(node: ast.AST | None, /) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ABOUT_TYPES


def _with(node: ast.AST, /, **fields: object) -> ast.AST:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def _less(them: Sequence[T], /) -> list[list[T]]:
    """All but one, for each of them."""
    return [[*them[:i], *them[i + 1 :]] for i in range(len(them))]


def _others(operator: ast.AST, /) -> list[ast.AST]:
    pairs = (*_SWAPPED, *((b, a) for a, b in _SWAPPED))
    return [other() for kind, other in pairs if isinstance(operator, kind)]


def _of_expression(node: ast.AST, quiet: bool, /) -> Iterator[_Change]:
    """Changes of an expression; with `quiet` none of texts, which are messages or about types."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield from ((node, _with(node, ops=[*ops[:i], other, *ops[i + 1 :]])) for other in _others(op))
        case ast.BoolOp(values=values):
            yield from ((node, _with(node, op=other)) for other in _others(node.op))
            yield from ((node, rest[0] if len(rest) == 1 else _with(node, values=rest)) for rest in _less(values))
        case ast.BinOp() | ast.AugAssign():
            yield from ((node, _with(node, op=other)) for other in _others(node.op)[:1])
        case ast.UnaryOp(ast.Not()):
            yield node, node.operand
        case ast.Constant(bool() as value):
            yield node, ast.Constant(not value)
        case ast.Constant((int() | float()) as value):
            yield from ((node, ast.Constant(value + by)) for by in (1, -1))
        case ast.Constant((str() | bytes()) as value) if value and not quiet:
            yield node, ast.Constant(value[:0])
        case ast.JoinedStr(values) if not quiet:
            yield from ((node, ast.JoinedStr(rest)) for rest in _less(values))
        case ast.Call(args=args, keywords=keywords) if not _is_about_types(node):
            for i in range(len(args) - 1):
                yield node, _with(node, args=[*args[:i], args[i + 1], args[i], *args[i + 2 :]])
            yield from ((node, _with(node, keywords=rest)) for rest in _less(keywords))
        case ast.If(test) | ast.IfExp(test):
            yield from ((test, word) for word in ("True", "False"))
        case ast.While(test):
            yield test, "False"
        case ast.comprehension(ifs=tests):
            yield from ((test, "True") for test in tests)
        case _:
            pass


def _of_statement(node: ast.AST, on_import: bool, /) -> Iterator[_Change]:
    """Other exceptions or fewer, `raise` for their handling, no `finally`, a `with` without one of its scopes; in a
    function also no result, or no statement.
    """
    match node:
        case ast.ExceptHandler(kind, body=body):
            yield (body[0], body[-1]), "raise"
            if isinstance(kind, ast.Tuple):
                yield from ((kind, ast.Tuple(rest)) for rest in _less(kind.elts))
            elif kind is not None:
                yield kind, "Exception" if ast.unparse(kind) == "BaseException" else "ZeroDivisionError"
        case ast.Try(finalbody=[first, *_] as body):
            yield (first, body[-1]), "pass"
        case ast.With(items) | ast.AsyncWith(items):
            word = "with" if isinstance(node, ast.With) else "async with"
            for item, rest in zip(items, _less(items), strict=True):
                if item.optional_vars is None:
                    new = f"{word} {', '.join(map(ast.unparse, rest))}" if rest else "if True"
                    yield (node, items[-1].optional_vars or items[-1].context_expr), new
        case ast.Return(ast.expr() as value) if not on_import and ast.unparse(value) != "None":
            yield node, "return None"
        case ast.Expr() | ast.Raise() | ast.Return() | ast.Continue() | ast.Break() | ast.Assign() | ast.AugAssign():
            yield from () if on_import else ((node, "pass"),)
        case ast.AnnAssign(value=ast.expr()):
            yield from () if on_import else ((node, "pass"),)
        case _:
            pass
