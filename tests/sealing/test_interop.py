"""Other tools open what is sealed here, and refuse what was moved; what they seal to the same profile opens here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import install_azurite
import pytest
from doubles import raises
from running import HUNG
from samples import ACCOUNT, FULL
from sealed import BY, b64, jwk, jwks, sealed_over, sealer, unb64

from accountstore import Location, SealError, errors
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.sealing.envelope import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = pytest.mark.anyio

PLACES = ["a.account", "mail/team a/b.account", "Ünï \"q'/ĸ€😀.account"]
PLAIN = JSON.encode(FULL)

# --- tools: each takes a sealed document and a folder, and returns the contents, or raises ----------------------------


def by_joserfc(sealed: bytes, folder: Path) -> bytes:
    """In its strict mode, with the header registered."""
    jwe = pytest.importorskip("joserfc.jwe")
    from joserfc.jwk import OctKey
    from joserfc.registry import HeaderParameter

    registry = jwe.JWERegistry(
        header_registry={"acs": HeaderParameter("place", "str")}, algorithms=["A256KW", "A256GCM"]
    )
    found = jwe.decrypt_json(json.loads(sealed), OctKey.import_key(cast("Any", jwk())), registry=registry)
    return bytes(found.plaintext)


def by_jwcrypto(sealed: bytes, folder: Path) -> bytes:
    module = pytest.importorskip("jwcrypto.jwe")
    from jwcrypto.jwk import JWK

    token = module.JWE()
    token.deserialize(sealed.decode(), JWK(**jwk()))
    return bytes(token.payload)


NODE = """
import * as jose from 'jose'; import fs from 'node:fs';
const key = await jose.importJWK(JSON.parse(fs.readFileSync(process.argv[2])));
const found = await jose.generalDecrypt(JSON.parse(fs.readFileSync(process.argv[3])), key);
process.stdout.write(found.plaintext);
"""


def by_node(sealed: bytes, folder: Path) -> bytes:
    found, home = install_azurite.node(), os.environ.get("ACCOUNTSTORE_AZURITE", "")
    if found is None or not (Path(home) / "node_modules" / "jose").exists():
        pytest.skip("no jose of npm: run tests/servers/install_azurite.py FOLDER, and name it in ACCOUNTSTORE_AZURITE")
    (folder / "node_modules").symlink_to(Path(home) / "node_modules")
    (folder / "key.jwk").write_text(json.dumps(jwk()))
    (folder / "open.mjs").write_text(NODE)
    (folder / "x.account").write_bytes(sealed)
    return _run([found[0], "open.mjs", "key.jwk", "x.account"], folder)


def by_command(sealed: bytes, folder: Path) -> bytes:
    """By the command `jose` of Debian's package, as the README says."""
    (folder / "keys.jwks").write_text(jwks("new", "old"))
    (folder / "x.account").write_bytes(sealed)
    return _run([_jose(), "jwe", "dec", "-i", "x.account", "-k", "keys.jwks"], folder)


def _jose() -> str:
    found = shutil.which("jose")
    return found or pytest.skip("no command jose: install the package of your distribution")


def _run(command: list[str], folder: Path, text: bytes = b"") -> bytes:
    done = subprocess.run(command, cwd=folder, input=text, capture_output=True, check=False, timeout=HUNG)
    if done.returncode:
        raise ValueError(done.stderr.decode())
    return done.stdout


TOOLS: Mapping[str, Callable[[bytes, Path], bytes]] = {
    "joserfc": by_joserfc,
    "jwcrypto": by_jwcrypto,
    "node": by_node,
    "jose": by_command,
}


def relocated(sealed: bytes, place: str) -> bytes:
    tree = json.loads(sealed)
    header = json.loads(unb64(tree["protected"])) | {"acs": place}
    tree["protected"] = b64(json.dumps(header, separators=(",", ":")).encode())
    return json.dumps(tree).encode()


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("tool", TOOLS)
async def test_others_open_what_is_sealed_here(tool: str, key: str, tmp_path: Path) -> None:
    """Each tool opens a document with the key as a JWK; one whose place was edited, none does."""
    made = await sealer().seal(key, PLAIN, BY)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    assert TOOLS[tool](made, tmp_path / "one") == PLAIN
    assert TOOLS[tool](relocated(made, place_of("main", key)), tmp_path / "three") == PLAIN
    with pytest.raises(Exception) as caught:
        TOOLS[tool](relocated(made, place_of("main", "other.account")), tmp_path / "two")
    assert not isinstance(caught.value, (pytest.skip.Exception, FileNotFoundError))


# --- and back ---------------------------------------------------------------------------------------------------------


def sealed_by_joserfc(place: str, folder: Path) -> bytes:
    jwe = pytest.importorskip("joserfc.jwe")
    from joserfc.jwk import OctKey
    from joserfc.registry import HeaderParameter

    registry = jwe.JWERegistry(
        header_registry={"acs": HeaderParameter("place", "str")}, algorithms=["A256KW", "A256GCM"]
    )
    token = jwe.GeneralJSONEncryption({"enc": "A256GCM", "acs": place}, PLAIN)
    token.add_recipient({"alg": "A256KW", "kid": "old"}, OctKey.import_key(cast("Any", jwk())))
    return json.dumps(jwe.encrypt_json(token, None, registry=registry)).encode()


def sealed_by_jwcrypto(place: str, folder: Path) -> bytes:
    module = pytest.importorskip("jwcrypto.jwe")
    from jwcrypto.jwk import JWK

    token = module.JWE(PLAIN, json.dumps({"enc": "A256GCM", "acs": place}))
    token.add_recipient(JWK(**jwk()), json.dumps({"alg": "A256KW", "kid": "old"}))
    return str(token.serialize()).encode()


def sealed_by_command(place: str, folder: Path) -> bytes:
    """In the flattened serialization, which it writes for one recipient."""
    (folder / "plain").write_bytes(PLAIN)
    (folder / "recipient").write_text('{"header": {"alg": "A256KW", "kid": "old"}}')
    (folder / "key").write_text(json.dumps(jwk()))
    template = json.dumps({"protected": {"enc": "A256GCM", "acs": place}})
    return _run([_jose(), "jwe", "enc", "-i", template, "-I", "plain", "-r", "recipient", "-k", "key"], folder)


BACK: Mapping[str, Callable[[str, Path], bytes]] = {
    "joserfc": sealed_by_joserfc,
    "jwcrypto": sealed_by_jwcrypto,
    "jose": sealed_by_command,
}


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("tool", BACK)
async def test_what_others_seal_opens_here(tool: str, key: str, tmp_path: Path) -> None:
    """A document that a tool seals to the profile is read, at its place alone, and changed as ours are."""
    backend = MemoryBackend()
    await backend.write(key, BACK[tool](place_of("main", key), tmp_path), mode="overwrite")
    store = sealed_over({"main": backend})
    folder, _, name = key.rpartition("/")
    at = Location(name, folder=folder)
    assert await store.get(at) == FULL
    await backend.write("other.account", (await backend.read(key, limit=10**6)).data, mode="overwrite")
    with raises(errors.MovedError):
        await store.get(Location("other.account"))
    await store.update(at, lambda _: ACCOUNT)
    assert await store.get(at) == ACCOUNT


async def test_flat_documents_are_as_strict(tmp_path: Path) -> None:
    """The flattened serialization opens under the same rules: no member more, none twice, none of the other form."""
    made = json.loads(await sealer().seal("a.account", PLAIN, BY))
    (one,) = made.pop("recipients")
    flat = made | one
    backend = MemoryBackend()
    store = sealed_over({"main": backend})

    async def refused(text: str) -> type[SealError] | None:
        await backend.write("a.account", text.encode(), mode="overwrite")
        try:
            await store.get(Location("a.account"))
        except SealError as error:
            return type(error)
        return None

    assert await refused(json.dumps(flat)) is None
    more: Any
    for more in ({"recipients": [one]}, {"zip": "DEF"}, {"unprotected": {}}, {"aad": ""}):
        assert await refused(json.dumps(flat | more)) is errors.EnvelopeError
    assert await refused(json.dumps(flat)[:-1] + ', "tag": "AAAA"}') is errors.EnvelopeError
    assert await refused(json.dumps(flat | {"header": {"alg": "dir", "kid": "old"}})) is errors.AlgorithmError


def test_the_tools_are_there_in_ci() -> None:
    """Where everything must run, the packages of Python and npm are installed, so that nothing above was skipped."""
    if os.environ.get("ACCOUNTSTORE_SERVERS") != "required":
        pytest.skip("only where all servers are required")
    names: list[Any] = [pytest.importorskip(name) for name in ("joserfc", "jwcrypto")]
    assert all(names)
    assert (Path(os.environ["ACCOUNTSTORE_AZURITE"]) / "node_modules" / "jose").exists()
