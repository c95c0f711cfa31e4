"""What is public: names, docstrings, types and version; and that importing does nothing else."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import subprocess
import textwrap
from importlib.metadata import requires, version
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from running import PYTHON

import accountstore
from accountstore import AccountStore, AccountStoreError, errors
from accountstore.backends.base import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = (
    "Account",
    "AccountStore",
    "AccountStoreError",
    "BackendError",
    "Capabilities",
    "Check",
    "ClosedError",
    "ConfigError",
    "ConflictError",
    "DecodeError",
    "DeniedError",
    "DocumentError",
    "EncodeError",
    "Entry",
    "Event",
    "ExistsError",
    "ExtensionError",
    "FullError",
    "Location",
    "LocationError",
    "MultiAccount",
    "NotFoundError",
    "NotRegularError",
    "OAuthCredentials",
    "PasswordCredentials",
    "ProtocolType",
    "Secret",
    "SecurityOptions",
    "StorageConfig",
    "StoreConfig",
    "Stored",
    "TooLargeError",
    "UnavailableError",
    "UncertainError",
    "UnsupportedError",
    "Version",
)
"""The public names of `accountstore`: a change here is a change of the interface."""

BACKEND_NAMES = (
    "Backend",
    "BackendFactory",
    "Blob",
    "Capabilities",
    "CursorPages",
    "Pages",
    "Stat",
    "Version",
    "Write",
    "WriteMode",
    "classify_oserror",
    "digest",
    "each",
)
"""The public names for authors of backends, in `accountstore.backends.base`."""

EXTRAS = {
    "s3": "s3fs",
    "gcs": "gcsfs",
    "azure": "adlfs",
    "obstore": "obstore",
    "obstore_options": "obstore",
    **{f"accountstore.cli.{name}": "typer" for name in ("commands", "endings", "prompts", "show")},
}
"""What is left out here where its package is not installed: backends, and the command line."""
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(accountstore.__path__, "accountstore.")
    if not module.name.endswith("__main__")
    and importlib.util.find_spec(EXTRAS.get(module.name.removeprefix("accountstore.backends."), "pytest"))
)


def package() -> Iterator[ModuleType]:
    yield accountstore
    for name in MODULES:
        yield importlib.import_module(name)


def defined(module: ModuleType, /) -> set[str]:
    """The names without an underscore that a module's source defines at its top.

    Type variables aside, and commands, which a decorator `@app.command` hands to the command line.
    """
    names: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not any(ast.unparse(decorator).startswith("app.") for decorator in node.decorator_list):
                names.add(node.name)
        elif isinstance(node, ast.Assign) and not _is_type_variable(node.value):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def _is_type_variable(value: ast.expr, /) -> bool:
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name)):
        return False
    return value.func.id in {"TypeVar", "TypeVarTuple"}


def in_order(name: str, /) -> tuple[bool, bool, str]:
    """Constants, then classes, then functions: the order that the linter keeps in `__all__`."""
    return not name.isupper(), not name[0].isupper(), name


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_public_names_are_these() -> None:
    """`accountstore` exports just the names that are promised, and each of them can be had."""
    assert accountstore.__all__ == NAMES
    assert importlib.import_module("accountstore.backends.base").__all__ == BACKEND_NAMES
    for name in NAMES:
        assert getattr(accountstore, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = getattr(accountstore, "no_such_name")  # noqa: B009 -- type checkers would refuse the attribute
    assert set(NAMES) <= set(dir(accountstore))


def test_a_star_import_brings_these_names_only() -> None:
    """`from accountstore import *` brings the public names and nothing else."""
    namespace: dict[str, object] = {}
    exec("from accountstore import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(NAMES)


def test_every_error_is_public() -> None:
    """Whatever a public call may raise can be imported from `accountstore`."""
    assert set(errors.__all__) <= set(NAMES)


@pytest.mark.parametrize("name", ["accountstore", *MODULES])
def test_each_module_says_what_is_public(name: str) -> None:
    """`__all__` has every public name that the module defines and none that it lacks, in order, and no other twice."""
    module = importlib.import_module(name)
    exported: tuple[str, ...] = getattr(module, "__all__", ())
    own = defined(module)
    if name != "accountstore":
        assert own <= set(exported)
    assert [missing for missing in exported if not hasattr(module, missing)] == []
    assert list(exported) == sorted(set(exported), key=in_order)
    assert all(not name.startswith("_") for name in exported)


def test_the_search_for_names_finds_them() -> None:
    """The control: the search above sees classes, functions and values, and passes over what is private."""
    module = ModuleType("example")
    source = (
        "import os\nT = TypeVar('T')\nTs = TypeVarTuple('Ts')\n"
        "A: int = 1\nb = _c = 2\nclass D: ...\nasync def e(): ...\ndef _f(): ...\n"
    )
    original = inspect.getsource
    try:
        inspect.getsource = lambda _: source  # type: ignore[assignment] # for this module, which has no file
        assert defined(module) == {"A", "b", "D", "e"}
    finally:
        inspect.getsource = original
    assert sorted(["each", "Blob", "JSON"], key=in_order) == ["JSON", "Blob", "each"]


# --- docstrings and signatures ----------------------------------------------------------------------------------------


def documentable() -> Iterator[tuple[str, Any]]:
    """Every public module, class, function and method, by its name; not methods that the protocol documents."""
    protocol = {name for name in vars(Backend) if not name.startswith("_")}
    for module in package():
        yield module.__name__, module
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for member, raw in vars(value).items():
                    plain = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
                    plain = plain.fget if isinstance(plain, property) else plain
                    is_own = (
                        inspect.isfunction(plain) and plain.__module__ == module.__name__ and plain.__name__ == member
                    )
                    if is_own and not member.startswith("_") and (value is Backend or member not in protocol):
                        yield f"{module.__name__}.{name}.{member}", plain


def test_everything_public_has_a_docstring() -> None:
    """Every public module, class, function and method has a docstring of its own."""
    found = dict(documentable())
    assert len(found) > 150
    without = [
        name
        for name, value in found.items()
        if not (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__)
    ]
    assert without == []


def test_raised_errors_are_named_as_they_are() -> None:
    """The classes that docstrings say are raised exist."""
    words: set[str] = set()
    for _, value in documentable():
        for section in re.findall(r"Raises:\n((?: {4}.*\n?)+)", inspect.getdoc(value) or ""):
            words |= set(re.findall(r"\b[A-Z]\w+Error\b", section))
    assert {"NotFoundError", "ConflictError", "ConfigError"} <= words
    assert [word for word in words if word not in errors.__all__ and not hasattr(builtins, word)] == []


def test_data_goes_by_position_and_options_by_name() -> None:
    """Calls of the store and methods of a backend take data by position only and options by name only."""
    for cls in (AccountStore, Backend):
        for name, member in vars(cls).items():
            function = member.__func__ if isinstance(member, classmethod) else member
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            _, *parameters = inspect.signature(function).parameters.values()
            kinds = {parameter.kind for parameter in parameters}
            assert kinds <= {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY}, (
                f"{cls.__name__}.{name}"
            )


def test_errors_are_all_the_librarys_own() -> None:
    """Each public name that ends in `Error` is one of the tree."""
    for name in NAMES:
        if name.endswith("Error"):
            assert issubclass(getattr(accountstore, name), AccountStoreError)


# --- the distribution -------------------------------------------------------------------------------------------------


def test_the_package_is_typed() -> None:
    """`py.typed` is shipped, so that type checkers read the package's annotations (PEP 561)."""
    assert (files("accountstore") / "py.typed").is_file()


def test_the_version_is_the_distributions() -> None:
    """`__version__` is what the metadata says."""
    assert accountstore.__version__ == version("accountstore")


def test_the_dependencies_are_light() -> None:
    """The core needs anyio, fsspec, msgspec and platformdirs, and nothing heavier."""
    core = {re.split(r"[^\w-]", line)[0] for line in requires("accountstore") or [] if "extra ==" not in line}
    assert core == {"anyio", "fsspec", "msgspec", "platformdirs"}


# --- importing --------------------------------------------------------------------------------------------------------

WATCH = """
    import json, os, sys, threading
    sys.path.insert(0, sys.argv[3])
    exec(sys.argv[1])  # what may do as it likes
    told, on = [], True

    def watch(event, arguments):
        if not on:
            return
        if event == "open":
            path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else "fd"
            path = os.fsdecode(path)
            if not path.endswith((".py", ".pyc")) and "__pycache__" not in path:
                told.append(f"open {path}")
        elif event in {"os.mkdir", "os.rename", "os.remove", "os.putenv", "os.system", "os.fork", "os.exec",
                       "subprocess.Popen", "socket.__new__", "socket.connect",
                       "ctypes.dlopen", "tempfile.mkstemp", "signal.signal"}:
            told.append(event)

    class Environment(dict):
        def __getitem__(self, name):
            if on: told.append(f"environment {name}")
            return super().__getitem__(name)
        def get(self, name, default=None):
            if on: told.append(f"environment {name}")
            return super().get(name, default)
        def __contains__(self, name):
            if on: told.append(f"environment {name}")
            return super().__contains__(name)

    def start(thread, original=threading.Thread.start):
        told.append("thread")
        original(thread)

    threading.Thread.start = start
    os.environ = Environment(os.environ)
    before = set(sys.modules)
    sys.addaudithook(watch)
    exec(sys.argv[2])
    on = False
    new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
    print(json.dumps({"told": told, "new": sorted(new), "threads": threading.active_count(),
                      "all": sorted(set(sys.modules) - before)}))
"""


def watched(statement: str, /, before: str = "", path: Path | None = None) -> dict[str, Any]:
    """What a fresh interpreter does while it runs a statement: files, environment, threads, and what it imports."""
    folder = str(path or Path(accountstore.__file__).parent.parent)
    command = [*PYTHON, "-c", textwrap.dedent(WATCH), before, statement, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


PUBLIC = "from accountstore import *; from accountstore.backends.base import *"


@pytest.mark.parametrize("statement", ["import accountstore", PUBLIC])
def test_importing_does_nothing_else(statement: str) -> None:
    """Importing opens no file, starts no thread or process and asks the environment nothing."""
    found = watched(statement, before="import anyio, anyio.abc, anyio.lowlevel, msgspec")
    assert found["told"] == []
    assert found["threads"] == 1


def test_what_an_import_does_is_seen(tmp_path: Path) -> None:
    """The control: a module that opens, asks and starts something at its import is found."""
    (tmp_path / "busy.py").write_text(
        "import os, threading\n"
        "open(os.devnull).close()\n"
        "os.environ.get('HOME')\n"
        "os.environ['PATH']\n"
        "'X' in os.environ\n"
        "t = threading.Thread(target=print, args=('',), kwargs={'end': ''})\nt.start()\nt.join()\n"
    )
    told = watched("import busy", path=tmp_path)["told"]
    assert f"open {os.devnull}" in told
    assert {"environment HOME", "environment PATH", "environment X"} <= set(told)
    assert "thread" in told


def test_importing_loads_little() -> None:
    """Of other packages, importing loads none; using the public names anyio, msgspec and what those need."""
    assert watched("import accountstore")["new"] == ["accountstore"]
    found = watched(PUBLIC)
    assert set(found["new"]) <= {"accountstore", "anyio", "msgspec", "typing_extensions", "idna", "sniffio"}
    assert "accountstore" in found["new"]
    heavy = {"asyncio", "fsspec", "trio", "logging", "concurrent.futures", "ssl", "importlib.metadata", "platformdirs"}
    assert not heavy & set(found["all"])
    assert [name for name in found["all"] if name.startswith(("accountstore.cli", "accountstore.testing"))] == []


def test_what_is_loaded_is_seen() -> None:
    """The control: the search above sees what a backend loads."""
    found = watched("import accountstore.backends.memory")
    assert "fsspec" in found["new"]
    assert "fsspec" in found["all"]


def test_two_loops_need_no_reload() -> None:
    """One import serves stores on asyncio and on trio, one after another."""
    code = """
        import anyio
        from accountstore import AccountStore, StorageConfig, StoreConfig
        async def main():
            async with AccountStore.open(StoreConfig(storages={"a": StorageConfig("memory://")})) as store:
                return store.storages
        print(anyio.run(main, backend="asyncio") == anyio.run(main, backend="trio") == anyio.run(main) == ("a",))
    """
    command = [*PYTHON, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
