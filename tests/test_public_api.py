"""What is public: names, docstrings, types and version; and that importing does nothing else."""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any, cast

import pytest
from running import PYTHON

import accountstore
from accountstore import AccountStore, errors
from accountstore.backends.base import Backend, BatchBackend
from accountstore.sealing import KeyProvider, Rewrapper

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = {
    "accountstore": """
        Account AccountStore Capabilities Check Copied Credentials Document Encryption Entry Event Exchange Folder
        Location MultiAccount NoCredentials OAuthCredentials Observer PasswordCredentials ProtocolType Sealing Secret
        SecurityOptions Skipped StorageConfig StoreConfig Stored TokenGrant Usage Version VersionInfo WriteMode
        from_json json_schema masked to_json
        AccountStoreError AlgorithmError BackendError ClosedError ConfigError ConflictError DecodeError DeniedError
        DocumentError EncodeError EnvelopeError ExchangeError ExistsError ExtensionError FullError JournalError
        KeyDeniedError KeyProviderError LeaseError LocationError MissingKeyError MovedError NoAnswerError NoOAuthError
        NotFoundError NotRegularError NotSealedError RefreshError RefusedError SealError TamperedError TooLargeError
        UnavailableError UncertainError UnknownFieldError UnsupportedError WrongKeyError
    """,
    "accountstore.rotation": "Rotated Sealing reseal resume_time rewrap sealing verify",
    "accountstore.sealing": """
        KeyProvider Rewrapper StaticKeys WrappedKey add_key new_key promote_key read_keys
    """,
    "accountstore.backends.base": """
        Backend BackendFactory BatchBackend Blob Capabilities Stat Usage Version VersionInfo Write WriteMode
        check_size classify_error digest only_version pages_by_cursor pages_of
        BackendError ConfigError ConflictError DeniedError ExistsError FullError LockedError NotFoundError
        NotRegularError TooLargeError UnavailableError UncertainError UnsupportedError
    """,
    "accountstore.blocking": "BlockingAccountStore",
    "accountstore.telemetry": "otel_observer",
    "accountstore.migration": """
        Migration Options Outcome PROBLEMS Place Report Total migrate plan read_report verify
    """,
    "accountstore.testing": """
        BackendTests Call Fault FaultyBackend Harness LossyBackend LossyProxy Recorder Schedule
        account_store backend_machine exercise find_violation is_linearizable read_histories store_machine store_over
    """,
}
"""The public names by their modules: a change here is a change of the interface."""

STORE = """
    open aclose get get_multi read read_multi save save_multi update update_multi refresh refresh_multi read_json
    save_json stat exists versions usage delete copy move list get_many save_many copy_many storages capabilities
    check scoped filesystem
"""
"""The public members of `AccountStore`."""

EXTRAS = {
    "http": "aiohttp",
    "s3": "s3fs",
    "s3_options": "s3fs",
    "gcs": "gcsfs",
    "gcs_credentials": "gcsfs",
    "sessions": "aiohttp",
    "azure": "adlfs",
    "obstore": "obstore",
    "cli": "typer",
    "dask": "distributed",
    "oauth": "httpx2",
    "transit": "httpx2",
    "aws_kms": "botocore",
    "gateway": "starlette",
    "telemetry": "opentelemetry",
}
"""What is left out here where its package is not installed: backends, and the command line."""
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(accountstore.__path__, "accountstore.")
    if not module.name.endswith("__main__")
    and all(importlib.util.find_spec(EXTRAS[part]) for part in module.name.split(".") if part in EXTRAS)
)


def defined(module: object, /) -> dict[str, Any]:
    """The classes and functions without an underscore that a module defines."""
    name = getattr(module, "__name__", "")
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }


@pytest.mark.parametrize("module", NAMES)
def test_the_public_names_are_these(module: str) -> None:
    """A public module exports just the names that are promised, each once; a star import brings them and no others."""
    for part in EXTRAS.keys() & module.split("."):
        pytest.importorskip(EXTRAS[part])
    names = set(NAMES[module].split())
    public = importlib.import_module(module)
    assert sorted(public.__all__) == sorted(names)
    namespace: dict[str, object] = {}
    exec(f"from {module} import *", namespace)
    assert set(namespace) - {"__builtins__"} == names
    assert names <= set(dir(public))
    assert set(defined(public)) <= names
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = public.no_such_name


def test_the_members_of_the_store_are_these() -> None:
    """`AccountStore` has just the public members that are promised."""
    assert {name for name in dir(AccountStore) if not name.startswith("_")} == set(STORE.split())


def documentable() -> Iterator[tuple[str, Any]]:
    """Modules, classes, functions and methods that are public, by name, but methods that the protocol documents."""
    protocols = {Backend, BatchBackend, KeyProvider, Rewrapper}
    protocol = {name for each in protocols for name in vars(each)}
    for module_name in ["accountstore", *MODULES]:
        module = importlib.import_module(module_name)
        yield module_name, module
        for name, value in defined(module).items():
            yield f"{module_name}.{name}", value
            for member, raw in vars(value).items() if inspect.isclass(value) else ():
                plain = getattr(raw, "__func__", getattr(raw, "fget", raw))
                is_own = inspect.isfunction(plain) and (plain.__module__, plain.__name__) == (module_name, member)
                is_documented_once = member in protocol and value not in protocols
                if is_own and not member.startswith("_") and not is_documented_once:
                    yield f"{module_name}.{name}.{member}", plain


def test_everything_public_has_a_docstring() -> None:
    """Every public module, class, function and method has a docstring of its own."""
    found = dict(documentable())
    assert len(found) > 150
    assert [name for name, value in found.items() if not value.__doc__] == []


def test_docstrings_name_no_file_that_is_not_there() -> None:
    """No docstring of the package sends its reader to a document that neither the package nor the repository has."""
    root = Path(__file__).parent.parent
    named = {
        (name, file)
        for name, value in documentable()
        for file in re.findall(r"[\w/-]+\.(?:md|rst)\b", f"{value.__doc__} {getattr(value, '__init__', None).__doc__}")
        if not (root / file).is_file()
    }
    assert named == set()


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
    for cls in (AccountStore, Backend, BatchBackend):
        for name, member in vars(cls).items():
            function = member.__func__ if isinstance(member, classmethod) else member
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            _, *parameters = inspect.signature(function).parameters.values()
            kinds = {parameter.kind for parameter in parameters}
            assert kinds <= {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY}, f"{cls}.{name}"


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


WATCH = """
    import json, os, sys, threading
    sys.path.insert(0, sys.argv[3])
    exec(sys.argv[1])  # what may do as it likes
    seen, on = [], True

    def watch(event, arguments):
        if not on:
            return
        if event == "open":
            path = "fd" if isinstance(arguments[0], int) else os.fsdecode(arguments[0])
            if not path.endswith((".py", ".pyc")) and "__pycache__" not in path:
                seen.append(f"open {path}")
        elif event in {"os.mkdir", "os.rename", "os.remove", "os.putenv", "os.system", "os.fork", "os.exec",
                       "subprocess.Popen", "socket.__new__", "socket.connect", "ctypes.dlopen", "tempfile.mkstemp",
                       "signal.signal"}:
            seen.append(event)

    def seen_by(read):
        def reading(self, name, *default):
            if on: seen.append(f"environment {name}")
            return read(self, name, *default)
        return reading

    class Environment(dict):
        __getitem__, get, __contains__ = map(seen_by, (dict.__getitem__, dict.get, dict.__contains__))
    def start(thread, original=threading.Thread.start):
        seen.append("thread")
        original(thread)

    threading.Thread.start = start
    os.environ = Environment(os.environ)
    before = set(sys.modules)
    sys.addaudithook(watch)
    exec(sys.argv[2])
    on = False
    new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
    print(json.dumps({"seen": seen, "new": sorted(new), "threads": threading.active_count(),
                      "all": sorted(set(sys.modules) - before)}))
"""


def watched(statement: str, /, before: str = "", path: Path | None = None) -> dict[str, Any]:
    """What a fresh interpreter does while it runs a statement: files, environment, threads, and what it imports."""
    folder = str(path or Path(accountstore.__file__).parent.parent)
    command = [*PYTHON, "-c", textwrap.dedent(WATCH), before, statement, folder]
    return cast(
        "dict[str, Any]", json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    )


PUBLIC = "from accountstore import *; from accountstore.backends.base import *"


@pytest.mark.parametrize("statement", ["import accountstore", PUBLIC])
def test_importing_does_nothing_else(statement: str) -> None:
    """Importing opens no file, starts no thread or process and asks the environment nothing."""
    found = watched(statement, before="import anyio, anyio.abc, anyio.lowlevel, msgspec")
    assert found["seen"] == []
    assert found["threads"] == 1


def test_what_an_import_does_is_seen(tmp_path: Path) -> None:
    """The control: a module that opens, asks and starts something at its import is found."""
    busy = """if True:
        import os, threading
        open(os.devnull).close()
        os.environ.get("HOME"), os.environ["PATH"], "X" in os.environ
        thread = threading.Thread(target=print, args=("",), kwargs={"end": ""})
        thread.start()
        thread.join()"""
    (tmp_path / "busy.py").write_text(busy)
    seen = watched("import busy", path=tmp_path)["seen"]
    assert f"open {os.devnull}" in seen
    assert {"environment HOME", "environment PATH", "environment X"} <= set(seen)
    assert "thread" in seen


def test_importing_loads_little() -> None:
    """Of other packages, importing loads none; using the public names anyio, msgspec and what those need."""
    assert watched("import accountstore")["new"] == ["accountstore"]
    found = watched(PUBLIC)
    assert set(found["new"]) <= {"accountstore", "anyio", "msgspec", "typing_extensions", "idna", "sniffio"}
    assert "accountstore" in found["new"]
    heavy = {"asyncio", "fsspec", "trio", "logging", "concurrent.futures", "ssl", "importlib.metadata", "platformdirs"}
    assert not heavy & set(found["all"])
    assert [name for name in found["all"] if re.match(r"accountstore\.(cli|testing)\b", name)] == []


def test_what_is_loaded_is_seen() -> None:
    """The control: the search above sees what a backend loads."""
    found = watched("import accountstore.backends.memory")
    assert "fsspec" in {*found["new"]} & {*found["all"]}
