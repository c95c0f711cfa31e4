"""The measuring of the tests by mutants: which mutants there are, which tests are chosen, and what becomes of them."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

import mutation
import pytest
from mutants import Mutant, mutants, sample

if TYPE_CHECKING:
    from pathlib import Path

EXPRESSIONS = {
    "a < b": {"a <= b", "a >= b"},
    "a == b": {"a != b"},
    "a not in b": {"a in b"},
    "a is None": {"a is not None"},
    "a and b": {"a or b", "a", "b"},
    "not a": {"a"},
    "a + 2": {"a - 2", "a + 3", "a + 1"},
    "[a for a in b if a]": {"[a for a in b if True]"},
    "a if b else c": {"a if True else c", "a if False else c"},
    "f(a, b, c=d)": {"f(b, a, c=d)", "f(a, b)"},
    "f(a, b=True)": {"f(a)", "f(a, b=False)"},
    "'text'": {"''"},
    "b'text'": {"b''"},
    "f'{a} of {b}'": {"f' of {b}'", "f'{a}{b}'", "f'{a} of '"},
    "cast('T', a)": set[str](),
}
"""Expressions, and what they become."""

STATEMENTS = {
    "return a": {"return None"},
    "return": {"pass"},
    "return None": {"pass"},
    "f()": {"pass"},
    "a = b": {"pass"},
    "a: T = b": {"pass"},
    "a: T": set[str](),
    "a += b": {"pass", "a -= b"},
    "raise E('text', a)": {"pass", "raise E(a, 'text')"},
    "'''text'''": set[str](),
    "import a": set[str](),
    "if a:\n    continue": {"if True:\n    continue", "if False:\n    continue", "if a:\n    pass"},
    "while a:\n    break": {"while False:\n    break", "while a:\n    pass"},
    "try:\n    import a\nexcept E:\n    return": {
        "try:\n    import a\nexcept ZeroDivisionError:\n    return",
        "try:\n    import a\nexcept E:\n    raise",
        "try:\n    import a\nexcept E:\n    pass",
    },
    "try:\n    import a\nexcept (D, E):\n    import b": {
        "try:\n    import a\nexcept (E,):\n    import b",
        "try:\n    import a\nexcept (D,):\n    import b",
        "try:\n    import a\nexcept (D, E):\n    raise",
    },
    "try:\n    import a\nfinally:\n    import b": {"try:\n    import a\nfinally:\n    pass"},
    "with a, b as c:\n    import d": {"with b as c:\n    import d"},
    "async with a:\n    import d": {"if True:\n    import d"},
}
"""Statements of a function, and what they become."""


def plain(source: str) -> str:
    """Without needless brackets and spaces."""
    return ast.unparse(ast.parse(source))


@pytest.mark.parametrize(
    ("before", "code", "expected"),
    [
        # Behind letters of several bytes, too.
        *(pytest.param("ä = ö; x = ", code, EXPRESSIONS[code], id=code) for code in EXPRESSIONS),
        *(pytest.param("async def f():\n  ", code, STATEMENTS[code], id=code) for code in STATEMENTS),
    ],
)
def test_each_part_is_changed(before: str, code: str, expected: set[str]) -> None:
    """The mutants of an expression, or a statement of a function, are these and no others, each once."""
    source = before + code.replace("\n", "\n  ") + "\n"
    made = [mutant.apply(source) for mutant in mutants("m.py", source)]
    assert all(text.startswith(before) and text.endswith("\n") for text in made)
    assert sorted(map(plain, made)) == sorted(plain(before + each.replace("\n", "\n  ")) for each in expected)


SOURCE = '''"""Several functions."""

LIMIT = 9
NAMES: TypeAlias = "list[str]"
double = lambda number: number * 2
__all__ = ("Box",)


class Box(Base, frozen=True):
    def long(self, a: "int" = 1) -> "int":
        """Of many mutants."""
        return a + 2 + 3 + 4 + 5 + 6 + 7 + 8

    def short(self):
        return 9
'''


def test_a_mutant_knows_where_it_is() -> None:
    """A mutant has its function, its lines and whether they run on import; types and lists of names have none."""
    found = mutants("m.py", SOURCE)
    places = {(mutant.function, *mutant.lines, mutant.on_import) for mutant in found}
    outside = {("", 3, True), ("", 5, False), ("Box", 9, True), ("Box", 10, True)}
    assert places == outside | {("Box.long", 12, False), ("Box.short", 15, False)}
    changes = {(mutant.old, mutant.new) for mutant in found if mutant.function == "Box"}
    assert changes == {("True", "False"), ("1", "2"), ("1", "0")}


def test_mutants_are_drawn_by_a_seed() -> None:
    """A seed draws the same mutants each time, with a larger count the same first, until there are none."""
    found, sources = mutants("m.py", SOURCE), {"m.py": SOURCE}
    every = [*sample(found, sources, 1000, 1)]
    assert sorted(every) == sorted(found)
    assert [*sample(found, sources, 5, 1)] == every[:5]
    assert [*sample(found, sources, 1000, 2)] != every


def test_what_is_no_change_is_not_drawn() -> None:
    """Mutants that are no Python, or that make the same program, are left out."""
    right = Mutant("m.py", "", [1], True, 4, "1", "2")
    found = [right, right._replace(new="(1)"), right._replace(new=")")]
    assert [*sample(found, {"m.py": "a = 1\n"}, 10, 1)] == [right]


def test_the_quick_variant_of_each_test_is_chosen_first() -> None:
    """The quick variant of each comes first, then others, then slow ones, while there are seconds.

    Of what runs on import all tests of the module count, those in its own file first.
    """
    seconds = {"test_a.py::a[1]": 3.0, "test_a.py::a[2]": 2.0, "test_b.py::b": 1.0, "test_m.py::m": 4.0, "c": 9.0}
    lines = {"1": ["", *seconds.keys() - {"test_m.py::m"}, "failed"], "2": ["test_m.py::m"], "3": [""]}
    tests = mutation.Tests(seconds, {"p/m.py": lines})
    mutant = Mutant("p/m.py", "f", [1], False, 0, "a", "b")
    assert tests.of(mutant, 20) == ["test_b.py::b", "test_a.py::a[2]", "test_a.py::a[1]", "c"]
    assert tests.of(mutant, 14) == ["test_b.py::b", "test_a.py::a[2]", "c"]
    assert tests.of(mutant, 0) == ["test_b.py::b"]
    for runs_on_import in (mutant._replace(on_import=True), mutant._replace(lines=[3])):
        assert tests.of(runs_on_import, 20)[:2] == ["test_m.py::m", "test_b.py::b"]
    assert tests.of(mutant._replace(lines=[4]), 20) == []


TOY = """
LIMIT = 9

def small(number):
    return number < LIMIT

def count(limit):
    number = 0
    while number < limit:
        number += 1
    return number

def greeting():
    return "hello"

def odd(number):
    return number % 2

def unused(number):
    return -number
"""
TOY_TESTS = """
import pytest, subprocess, sys, toy

def test_small():
    assert toy.small(3) and not toy.small(12)

@pytest.mark.timeout(10)
def test_count():
    assert toy.count(3) == 3

def test_program():
    assert subprocess.check_output([sys.executable, "-I", "-c", "import toy; print(toy.greeting())"]) == b"hello\\n"

seen = []

def test_of_two_is_the_first():
    seen.append(toy.odd(1))

def test_of_two_needs_the_other():
    assert seen == [1] and toy.odd(1)
"""
OUTCOMES = {
    ("number < LIMIT", "(number <= LIMIT)"): "survived",
    ("number += 1", "number -= 1"): "hung",
    ('"hello"', "''"): "killed",
    ("return number % 2", "return None"): "unclear",
    ("return -number", "return None"): "unexecuted",
}


@pytest.mark.once
def test_mutants_are_judged_by_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that a test, or a program of its, notices or hangs by is killed; one that none notices survives.

    A test that also fails without it proves nothing. A second run repeats nothing, or only those that are not killed.
    """
    for name in ("coverage", "pytest_reportlog", "pytest_timeout", "xdist"):
        pytest.importorskip(name)
    package, root = tmp_path / "installed" / "toy", tmp_path / "root"
    for path, text in ((package / "__init__.py", TOY), (root / "tests" / "test_toy.py", TOY_TESTS)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (root / "pytest.ini").write_text("[pytest]\n")  # or pytest would take that of a folder above

    def some(module: str, source: str) -> list[Mutant]:
        return [mutant for mutant in mutants(module, source) if (mutant.old, mutant.new) in OUTCOMES]

    monkeypatch.setattr("mutation.mutants", some)
    monkeypatch.chdir(tmp_path)
    chosen = mutation.PARSER.parse_args(["--jobs=1", "--out=out"])
    report = mutation.run(chosen, package, root)
    (results,) = tmp_path.glob("out/*/results.jsonl")
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert {(row["old"], row["new"]): row["outcome"] for row in rows} == OUTCOMES
    assert "| __init__.py | 5 | 2 | 1 | 1 | 1 | 1 | 50 % |" in report
    assert "- __init__.py:5 small, survived: `number < LIMIT` -> `(number <= LIMIT)`" in report
    judged: list[Mutant] = []

    def judge(self: object, worker: object, mutant: Mutant) -> dict[str, Any]:
        judged.append(mutant)
        return {**mutant._asdict(), "outcome": "killed", "test": ""}

    monkeypatch.setattr("mutation.Judge.judge", judge)
    assert mutation.run(chosen, package, root) == report
    assert judged == []
    chosen.again = True
    assert "| __init__.py | 5 | 4 | 1 | 0 | 1 | 0 | 80 % |" in mutation.run(chosen, package, root)
    assert {OUTCOMES[mutant.old, mutant.new] for mutant in judged} == {"survived", "unclear"}
