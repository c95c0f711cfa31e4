"""Everything that CI runs: `nox` alone runs it all, `nox -s NAME` one session, `nox -l` lists them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False

# Hundreds of programs are started here: each would compile again what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")


def _interpreters() -> list[str]:
    """The supported versions that this machine has, those that pyenv keeps included."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found: list[str] = []
    for version in nox.project.python_versions(PYPROJECT):
        kept = sorted(pyenv.glob(f"versions/{version}.*/bin"))
        if kept:
            # Before pyenv's own shims, which refuse a version that is not the chosen one.
            os.environ["PATH"] = f"{kept[-1]}{os.pathsep}{os.environ['PATH']}"
        if kept or shutil.which(f"python{version}"):
            found.append(version)
    return found or [f"{sys.version_info.major}.{sys.version_info.minor}"]


PYTHONS = _interpreters()
NEWEST = PYTHONS[-1]
EVERYTHING = "cli,testing,s3,gcs,azure,fast,dask,oauth,otel,transit,aws-kms,gateway"
HUNG = "--timeout=1200"
"""Ends a test that hangs: no test takes so long on any machine that is of use."""


def _install(session: nox.Session, *groups: str, extras: str = "cli,testing,gateway") -> None:
    """Install the built wheel, never the checkout, with what the groups name."""
    session.install(*PYPROJECT["build-system"]["requires"])
    dist = session.create_tmp()
    shutil.rmtree(dist)
    session.run("hatchling", "build", "-t", "wheel", "-d", dist, silent=True)
    wheel = next(Path(dist).resolve().glob("*.whl"))
    session.install(f"accountstore[{extras}] @ {wheel.as_uri()}", *_requirements(*groups))
    session.run(
        "python", "-Ic", "import accountstore as a; assert 'site-packages' in a.__file__, a.__file__", silent=True
    )


def _requirements(*groups: str) -> list[str]:
    """The requirements of dependency groups, without the project itself."""
    names = nox.project.dependency_groups(PYPROJECT, *groups)
    return [name for name in names if not name.startswith("accountstore")]


def _by_npm(session: nox.Session) -> dict[str, str]:
    """Install the servers that are packages of Node, by installers that need what the session has, and say where."""
    azurite, provider = ROOT / ".nox" / "azurite", ROOT / ".nox" / "oidc-provider"
    session.run("python", "tests/servers/install_azurite.py", str(azurite))
    session.run("python", "tests/refresh/install_provider.py", str(provider))
    return {"ACCOUNTSTORE_AZURITE": str(azurite), "ACCOUNTSTORE_OIDC_PROVIDER": str(provider)}


@nox.session(python=False)
def demo(session: nox.Session) -> None:
    """The README's first command line, in a clean clone, with an empty home."""
    command = (ROOT / "README.md").read_text(encoding="utf-8").partition("```sh\n")[2].partition("\n```")[0]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "accountstore")
        session.run("git", "clone", "--quiet", str(ROOT), str(copy), external=True)
        home = Path(folder, "home")
        home.mkdir()
        with session.chdir(copy):
            session.run("bash", "-ec", command, env={"HOME": str(home)}, external=True)


@nox.session(python=NEWEST)
def lint(session: nox.Session) -> None:
    """Style and format, by ruff."""
    session.install(*_requirements("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(python=NEWEST)
def types(session: nox.Session) -> None:
    """Types, by mypy and pyright, both strict, and of an application by others too; every public name has one."""
    _install(session, "types", "bench", extras=EVERYTHING)
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "accountstore", "--ignoreexternal")
    session.run("pytest", "tests/test_type_checkers.py", "--all", "-q", HUNG)


@nox.session(python=NEWEST)
def layers(session: nox.Session) -> None:
    """Arrows between modules point down, by import-linter."""
    _install(session, "layers")
    session.run("lint-imports", "--no-cache")


@nox.session(python=NEWEST)
def docs(session: nox.Session) -> None:
    """The documentation site, into build/docs; a warning is an error, and so is a link that leads nowhere. Each page
    in a browser.
    """
    _install(session, "docs", "browser", extras="cli,crypto,gateway,oauth,otel,testing")
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--fresh-env", "docs", "build/docs")
    # In CI a browser that is missing is a failure, not a skip.
    env = {"ACCOUNTSTORE_SITE": "build/docs"} | ({"ACCOUNTSTORE_SERVERS": "required"} if "CI" in os.environ else {})
    session.run("pytest", "tests/docs/test_site.py", "--all", "-q", HUNG, env=env)


@nox.session(python=NEWEST)
def package(session: nox.Session) -> None:
    """What a release uploads: built twice to the same bytes, and looked at by twine and check-wheel-contents."""
    session.install(*PYPROJECT["build-system"]["requires"], *_requirements("package"))
    first, second = Path(session.create_tmp(), "first"), Path(session.create_tmp(), "second")
    for dist in (first, second):
        shutil.rmtree(dist, ignore_errors=True)
        session.run("hatchling", "build", "-d", str(dist), silent=True)
    built = sorted(first.iterdir())
    changed = [file.name for file in built if file.read_bytes() != (second / file.name).read_bytes()]
    if changed or len(built) != 2:
        session.error(f"an sdist and a wheel should be built the same twice, not {changed or built}")
    session.run("twine", "check", "--strict", *map(str, built))
    session.run("check-wheel-contents", *map(str, first.glob("*.whl")))


@nox.session(python=NEWEST)
def fuzz(session: nox.Session) -> None:
    """A million mutated documents, a million sealed ones, a hundred thousand names."""
    _install(session, "test")
    env = {"ACCOUNTSTORE_FUZZ_DOCUMENTS": "1000000", "ACCOUNTSTORE_FUZZ_NAMES": "100000"}
    session.run("pytest", "tests/promises/test_fuzz.py", "-s", "--all", HUNG, env=env)
    env = {"ACCOUNTSTORE_FUZZ_SEALED": "1000000"}
    session.run("pytest", "tests/sealing/test_envelope.py", "-s", "-k", "fuzzed and asyncio", HUNG, env=env)


@nox.session(python=NEWEST)
def crash(session: nox.Session) -> None:
    """Two thousand processes killed while they write, and every crash point of the local write."""
    _install(session, "test")
    env = {"ACCOUNTSTORE_KILLS": "2000"}
    session.run(
        "pytest", "tests/promises/test_kill.py", "tests/promises/test_crash_points.py", "-s", "--all", HUNG, env=env
    )


@nox.session(python=NEWEST, default=False)
def histories(session: nox.Session) -> None:
    """A thousand recorded histories of each backend, by hand, for half an hour."""
    _install(session, "test", "servers", extras=EVERYTHING)
    env = {"ACCOUNTSTORE_HISTORIES": "1000"}
    session.run("pytest", "tests/promises/test_histories.py", "-s", "--all", *session.posargs, env=env)


@nox.session(python=NEWEST, default=False)
def refresh(session: nox.Session) -> None:
    """Every schedule of three tasks, fifty expiries on every storage, three hundred kills: by hand, for an hour."""
    _install(session, "test", "servers", extras=EVERYTHING)
    many = {"SCHEDULES": "1000000", "EXPIRIES": "50", "REFRESH_WORKERS": "8", "REFRESH_KILLS": "160"}
    env = {f"ACCOUNTSTORE_{name}": value for name, value in many.items()} | _by_npm(session)
    session.run("pytest", "tests/refresh", "-s", "--all", "--timeout=3600", *session.posargs, env=env)


@nox.session(python=NEWEST)
def bench(session: nox.Session) -> None:
    """Every benchmark, briefly here: `nox -s bench -- --blocks 15` measures."""
    _install(session, "bench", extras=EVERYTHING)
    # As `python -m benchmarks`, which would put the checkout before the wheel.
    program = "import runpy, sys; sys.path.append('.'); runpy.run_module('benchmarks', run_name='__main__')"
    session.run("python", "-P", "-c", program, *(session.posargs or ["--quick"]))


@nox.session(python=NEWEST, default=False)
def cloud(session: nox.Session) -> None:
    """The public suite on real buckets, by hand: tests/cloud/test_real_clouds.py says which variables name them."""
    _install(session, "test", extras=EVERYTHING)
    # 5 is pytest's code for having skipped all.
    session.run("pytest", "tests/cloud/test_real_clouds.py", "--all", HUNG, *session.posargs, success_codes=[0, 5])


@nox.session(python=PYTHONS[0])
def bare(session: nox.Session) -> None:
    """What `pytest` alone runs, with the extra `testing` and nothing else."""
    _install(session, extras="testing")
    session.run("pytest", *session.posargs)


@nox.session(python=NEWEST, default=False)
def mutation(session: nox.Session) -> None:
    """How many changes of the package the tests notice, by hand, for hours: tests/mutation.py says how."""
    _install(session, "test", "servers", extras=EVERYTHING)
    session.run("python", "tests/mutation.py", *session.posargs, env=_by_npm(session))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, each asynchronous one on asyncio, uvloop and trio, and with the object stores' servers, on the newest
    Python. On the others what may differ there: without servers, and on asyncio and trio.
    """
    session.log(f"on Python {session.python} of {', '.join(PYTHONS)}")
    if session.python != NEWEST:
        _install(session, "test", extras=EVERYTHING)
        session.run("pytest", "-n", "4", HUNG, *session.posargs)
        return
    _install(session, "test", "servers", "examples", extras=EVERYTHING)
    # In CI a server that is missing is a failure, not a skip.
    env = {"ACCOUNTSTORE_SERVERS": "required", **_by_npm(session)}
    session.run("pytest", "-n", "4", "--all", HUNG, *session.posargs, env=env)
