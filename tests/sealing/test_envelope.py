"""Sealed documents: their form, and that nothing else opens. Each refusal has a control that opens."""

from __future__ import annotations

import base64
import json
import os
import time
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from doubles import raises
from samples import ACCOUNT, AT, MULTI, MULTI_AT
from sealed import BY, KEYS, b64, sealed_over, sealer, static, unb64

from accountstore import AccountStoreError, DecodeError, Location, SealError, errors
from accountstore.backends.base import Blob, Stat, Version
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON, is_sealed
from accountstore.sealing.envelope import WrappedKey, aes_gcm, assemble, open_content, parse, place_in, place_of, seal
from accountstore.sealing.ring import ALGORITHMS
from accountstore.validation import MAX_BYTES, sealed_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from accountstore.sealing.sealer import Sealer

pytestmark = pytest.mark.anyio

PLAIN = JSON.encode(ACCOUNT)
KEY = AT.path
FUZZ = int(os.environ.get("ACCOUNTSTORE_FUZZ_SEALED", "3000"))


async def sealed(key: str = KEY, data: bytes = PLAIN, by: Sealer | None = None) -> bytes:
    return await (by or sealer()).seal(key, data, BY)


async def opened(data: bytes, key: str = KEY, by: Sealer | None = None) -> bytes:
    blob = Blob(data, Stat(key, len(data), Version("1"), None))
    return (await (by or sealer()).open(key, blob, BY)).data


async def refused(data: bytes, key: str = KEY, by: Sealer | None = None) -> type[SealError] | None:
    """The class of the error of opening; None where it opened."""
    try:
        await opened(data, key, by)
    except SealError as error:
        assert str(error)
        return type(error)
    return None


def edited(data: bytes, change: Callable[[dict[str, Any]], object], /) -> bytes:
    tree = json.loads(data)
    change(tree)
    return json.dumps(tree, separators=(",", ":")).encode()


def reprotected(data: bytes, change: Callable[[dict[str, Any]], object], /) -> bytes:
    """With another protected header, and encrypted anew under it: by somebody who has the key."""
    tree = json.loads(data)
    key = _unwrap(tree)
    header = json.loads(unb64(tree["protected"]))
    iv, old = unb64(tree["iv"]), tree["protected"].encode()
    plain = aes_gcm(key).decrypt(iv, unb64(tree["ciphertext"]) + unb64(tree["tag"]), old)
    change(header)
    tree["protected"] = b64(json.dumps(header, separators=(",", ":")).encode())
    content = aes_gcm(key).encrypt(iv, plain, tree["protected"].encode())
    tree |= {"ciphertext": b64(content[:-16]), "tag": b64(content[-16:])}
    return json.dumps(tree, separators=(",", ":")).encode()


def _unwrap(tree: dict[str, Any], /) -> bytes:
    from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

    return aes_key_unwrap(KEYS["old"], unb64(tree["recipients"][0]["encrypted_key"]))


async def test_the_form_is_that_of_the_documentation() -> None:
    """A sealed document is a JWE in the general JSON serialization, with the place as a string in its header."""
    tree = json.loads(await sealed("Ünï/ĸ.multi.account"))
    assert list(tree) == ["protected", "recipients", "iv", "ciphertext", "tag"]
    assert tree["recipients"] == [
        {"header": {"alg": "A256KW", "kid": "old"}, "encrypted_key": tree["recipients"][0]["encrypted_key"]}
    ]
    protected = unb64(tree["protected"])
    assert protected.isascii()
    assert json.loads(protected) == {"enc": "A256GCM", "acs": "1:multi:main:Ünï/ĸ.multi.account"}
    assert protected == json.dumps(json.loads(protected), separators=(",", ":")).encode()


async def test_each_write_has_a_key_and_an_iv_of_its_own() -> None:
    """The same document sealed twice has nothing in common but its header."""
    one, two = json.loads(await sealed()), json.loads(await sealed())
    assert one["protected"] == two["protected"]
    assert one["iv"] != two["iv"]
    assert one["ciphertext"] != two["ciphertext"]
    assert _unwrap(one) != _unwrap(two)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, MAX_BYTES])
async def test_what_is_sealed_opens_and_fits(size: int) -> None:
    """A document of any size opens to the same bytes; the file is within the limit of a read."""
    longest = f"{'ü' * 100}/{'€' * 200}.account"
    data = os.urandom(size)
    made = await sealed(longest, data)
    assert len(made) <= sealed_limit(size)
    assert await opened(made, longest) == data


PLACES = [
    ("main", "mail/a.account"),
    ("main", "mail/b.account"),
    ("main", "post/a.account"),
    ("main", "a.account"),
    ("main", "mail/a.multi.account"),
    ("other", "mail/a.account"),
    ("other", "mail/a.multi.account"),
    ("mail", "a.account"),
    ("Main", "mail/a.account"),
    ("main", "mail/\u00e4.account"),
    ("main", "mail/x/a.account"),
]
"""Places that differ in storage id, folder, file name or kind; some look alike when joined."""


async def test_a_document_opens_at_its_own_place_only() -> None:
    """Of every ordered pair of places, a document of one does not open at the other: `MovedError`. Of each, it does."""
    made = {(at, key): await sealed(key, by=sealer(storage_id=at)) for at, key in PLACES}
    for at, key in PLACES:
        assert await opened(made[at, key], key, sealer(storage_id=at)) == PLAIN
    for one, (at, key) in permutations(PLACES, 2):
        assert await refused(made[one], key, sealer(storage_id=at)) is errors.MovedError


def test_control_fernet_opens_what_was_swapped() -> None:
    """The control: what is encrypted without its place opens at any."""
    from cryptography.fernet import Fernet

    files = {key: Fernet(base64.urlsafe_b64encode(KEYS["old"])).encrypt(PLAIN) for _, key in PLACES}
    swapped = dict(zip(files, reversed(files.values()), strict=True))
    assert all(Fernet(base64.urlsafe_b64encode(KEYS["old"])).decrypt(data) == PLAIN for data in swapped.values())


async def test_no_flipped_bit_opens() -> None:
    """With any bit of the file changed, nothing opens, and the error says so."""
    made = await sealed()
    assert await opened(made) == PLAIN
    found: dict[str, int] = {}
    for place in range(len(made)):
        for bit in range(8):
            data = bytearray(made)
            data[place] ^= 1 << bit
            kind = await refused(bytes(data))
            assert kind is not None, (place, bit)
            found[kind.__name__] = found.get(kind.__name__, 0) + 1
    assert sum(found.values()) == 8 * len(made)
    assert {"TamperedError", "EnvelopeError", "WrongKeyError", "MissingKeyError", "AlgorithmError"} <= set(found)


async def test_no_cut_off_file_opens() -> None:
    """A file that ends anywhere before its end does not open."""
    made = await sealed()
    for length in range(len(made)):
        assert await refused(made[:length]) in {errors.EnvelopeError, errors.NotSealedError}
    assert await refused(made[:-1]) is errors.EnvelopeError


HEADERS = ["alg", "enc", "zip", "crit", "kid", "p2c", "p2s", "epk", "jku", "jwk", "x5u", "cty", "typ", "aad", "b64"]


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("where", ["protected", "unprotected", "header", "member", "recipient"])
async def test_no_header_is_added(name: str, where: str) -> None:
    """A header more, authenticated or not, in any place, does not open."""
    made = await sealed()

    def add(tree: dict[str, Any]) -> None:
        match where:
            case "unprotected":
                tree["unprotected"] = {name: "x"}
            case "header":
                tree["recipients"][0]["header"][name] = "x"
            case "recipient":
                tree["recipients"][0][name] = "x"
            case _:
                tree[name] = "x"

    is_protected = where == "protected"
    data = reprotected(made, lambda header: header.update({name: "x"})) if is_protected else edited(made, add)
    assert await refused(data) in {errors.EnvelopeError, errors.AlgorithmError, errors.MissingKeyError}


async def test_no_member_stands_twice() -> None:
    """A member or header that stands twice, with the same value or another, before or after, does not open."""
    made = await sealed()
    tree = json.loads(made)
    for name, value in tree.items():
        for other in (value, "x"):
            member = f"{json.dumps(name)}:{json.dumps(other)}".encode()
            assert await refused(b"{" + member + b"," + made[1:]) is errors.EnvelopeError
            assert await refused(made[:-1] + b"," + member + b"}") is errors.EnvelopeError
    for text in (b'"alg":"A256KW"', b'"kid":"old"'):
        doubled = made.replace(text, text + b"," + text)
        assert doubled != made
        assert await refused(doubled) is errors.EnvelopeError
    header = unb64(tree["protected"])
    for again in (b'{"enc":"A256GCM",' + header[1:], b'{"acs":"x",' + header[1:]):
        key, iv = _unwrap(tree), unb64(tree["iv"])
        content = aes_gcm(key).encrypt(iv, PLAIN, b64(again).encode())
        parts = {"protected": b64(again), "ciphertext": b64(content[:-16]), "tag": b64(content[-16:])}
        assert await refused(json.dumps(tree | parts).encode()) is errors.EnvelopeError


async def test_another_serialization_of_the_same_header_opens() -> None:
    """The control of the above: another order or spacing, authenticated, opens; and so do other tools' documents."""
    made = await sealed()
    assert await opened(json.dumps(json.loads(made), indent=1).encode()) == PLAIN

    def reorder(header: dict[str, Any]) -> None:
        header["enc"] = header.pop("enc")

    assert await opened(reprotected(made, reorder)) == PLAIN


@pytest.mark.parametrize(
    "alg",
    [
        *("none", "dir", "A128KW", "A192KW", "A256GCMKW", "RSA1_5", "RSA-OAEP", "RSA-OAEP-256", "ECDH-ES"),
        *("ECDH-ES+A256KW", "PBES2-HS256+A128KW", "PBES2-HS512+A256KW", "a256kw", "", "HPKE-0", "A256KW "),
    ],
)
async def test_no_other_key_algorithm_is_taken(alg: str) -> None:
    """The algorithms of keys are a fixed list: any other is an `AlgorithmError`, before any key is used."""
    made = await sealed()
    assert (
        await refused(edited(made, lambda tree: tree["recipients"][0]["header"].update(alg=alg)))
        is errors.AlgorithmError
    )


async def test_a_direct_key_is_not_taken() -> None:
    """The key that wraps is never used for contents: a document with `dir`, made with it, does not open."""
    protected = b64(json.dumps({"enc": "A256GCM", "acs": place_of("main", KEY)}, separators=(",", ":")).encode())
    iv = bytes(12)
    content = aes_gcm(KEYS["old"]).encrypt(iv, PLAIN, protected.encode())
    header = {"alg": "dir", "kid": "old"}
    parts = {"iv": b64(iv), "ciphertext": b64(content[:-16]), "tag": b64(content[-16:])}
    tree = {"protected": protected, "recipients": [{"header": header, "encrypted_key": ""}], **parts}
    assert await refused(json.dumps(tree).encode()) is errors.AlgorithmError


@pytest.mark.parametrize("enc", ["A128GCM", "A192GCM", "A256CBC-HS512", "A128CBC-HS256", "none", "", "a256gcm"])
async def test_no_other_content_algorithm_is_taken(enc: str) -> None:
    """The algorithm of contents is fixed, also where the header is authenticated."""
    assert await refused(reprotected(await sealed(), lambda header: header.update(enc=enc))) is errors.AlgorithmError


async def test_a_short_content_key_is_not_taken() -> None:
    """A content key of 16 bytes, wrapped by the right key, would make it A128GCM: it does not open."""
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    short = os.urandom(16)
    made = seal(place_of("main", KEY), PLAIN, short, [WrappedKey("A256KW", "old", aes_key_wrap(KEYS["old"], short))])
    assert await refused(made) is errors.WrongKeyError


def _bomb(tree: dict[str, Any]) -> None:
    tree["recipients"] = tree["recipients"] * 11


SIZES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no recipient": lambda tree: tree.update(recipients=[]),
    "eleven recipients": _bomb,
    "no recipients": lambda tree: tree.pop("recipients"),
    "long key id": lambda tree: tree["recipients"][0]["header"].update(kid="k" * 257),
    "empty key id": lambda tree: tree["recipients"][0]["header"].update(kid=""),
    "long wrapped key": lambda tree: tree["recipients"][0].update(encrypted_key=b64(bytes(2049))),
    "short iv": lambda tree: tree.update(iv=b64(bytes(11))),
    "long iv": lambda tree: tree.update(iv=b64(bytes(16))),
    "no iv": lambda tree: tree.update(iv=""),
    "short tag": lambda tree: tree.update(tag=tree["tag"][:16]),
    "no tag": lambda tree: tree.pop("tag"),
    "padding": lambda tree: tree.update(tag=tree["tag"] + "=="),
    "stray character": lambda tree: tree.update(ciphertext="." + tree["ciphertext"]),
    "line break": lambda tree: tree.update(iv=tree["iv"] + "\n"),
    "number": lambda tree: tree.update(iv=1),
    "null": lambda tree: tree.update(protected=None),
    "not ASCII": lambda tree: tree.update(protected="\u00e9"),
    "no JSON in the header": lambda tree: tree.update(protected=b64(b"{")),
    "not UTF-8 in the header": lambda tree: tree.update(protected=b64(b'{"enc":"A256GCM","acs":"\xff"}')),
    "deep": lambda tree: tree.update(more=[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]),
    "place is an object": lambda tree: tree.update(protected=b64(b'{"enc":"A256GCM","acs":{}}')),
}


@pytest.mark.parametrize("name", SIZES)
async def test_parts_of_wrong_size_or_type_are_refused(name: str) -> None:
    """A part that is too long, too short, missing, or of another type is an `EnvelopeError`."""
    assert await refused(edited(await sealed(), SIZES[name])) is errors.EnvelopeError


async def test_ten_recipients_open() -> None:
    """The control: as many recipients as are allowed open, the known one in any place."""
    made = await sealed()

    def add(tree: dict[str, Any]) -> None:
        other = {"header": {"alg": "A256KW", "kid": "unknown"}, "encrypted_key": b64(bytes(40))}
        tree["recipients"] = [other] * 9 + tree["recipients"]

    assert await opened(edited(made, add)) == PLAIN


async def test_missing_and_wrong_keys_are_told_apart() -> None:
    """A key id that the ring does not have is a `MissingKeyError`, another key under the id a `WrongKeyError`; both
    name the id.
    """
    made = await sealed()
    with raises(errors.MissingKeyError, "'old'", key_id="old"):
        await opened(made, by=sealer(static("new")))
    from accountstore.sealing import StaticKeys

    with raises(errors.WrongKeyError, "'old'", key_id="old"):
        await opened(made, by=sealer(StaticKeys({"old": KEYS["new"]})))


async def test_plaintext_is_refused_where_sealed_is_required() -> None:
    """A plain document planted in a required storage is a `NotSealedError`; an optional one reads it."""
    assert await refused(PLAIN) is errors.NotSealedError
    assert await opened(PLAIN, by=sealer(mode="optional")) == PLAIN
    for junk in (b"", b"{}", b"\x00" * 99, b"null", b"[]", '{"protected":"x"}'.encode("utf-16")):
        assert await refused(junk) is errors.NotSealedError


def test_a_plain_document_is_not_taken_for_a_sealed_one() -> None:
    """What tells them apart are the members: a plain document with such words in it, or one of them, is plain."""
    assert not is_sealed(PLAIN)
    assert not is_sealed(b'{"host":"\\"protected\\":\\"ciphertext\\"","protected":"x"}')
    assert is_sealed(b'{"ciphertext":null,"protected":{}}')
    for own in (b'"host":"x"', b'"receiveAccounts":[]'):
        assert not is_sealed(b'{"protected":"x","ciphertext":"x","iv":"x","tag":"x",%b}' % own)


async def test_fuzzed_documents_are_refused() -> None:
    """Whatever is done to a sealed document, it opens to the same bytes or is a `SealError`: nothing else comes out."""
    random = Random(FUZZ)
    base = await sealed()
    both = sealer()
    tree = json.loads(base)
    parts = [base, unb64(tree["protected"]), *(str(value).encode() for value in tree.values())]
    pieces = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"\x00",
        b"\xff",
        b'"zip":"DEF"',
        b'"enc"',
        b"null",
        b"1e999",
    ]
    kinds: dict[str, int] = {}
    started = time.perf_counter()
    for _ in range(FUZZ):
        data = bytearray(base)
        for _ in range(random.choice((1, 1, 2, 5))):
            at = random.randrange(len(data) + 1)
            match random.randrange(5):
                case 0:
                    data[at:at] = random.choice(pieces)
                case 1:
                    del data[at : at + random.randrange(1, 60)]
                case 2:
                    part = random.choice(parts)
                    start = random.randrange(len(part))
                    data[at:at] = part[start : start + random.randrange(1, 80)]
                case 3:
                    data[at : at + 1] = bytes([random.randrange(256)])
                case _:
                    data[at : at + 4] = os.urandom(4)
        try:
            found = await opened(bytes(data), by=both)
        except SealError as error:
            kinds[type(error).__name__] = kinds.get(type(error).__name__, 0) + 1
        else:  # spaces between members, which are nobody's
            assert found == PLAIN
            assert json.loads(data) == tree
    print(f"\n{FUZZ} fuzzed documents in {time.perf_counter() - started:.0f} s: {kinds}")
    assert kinds.keys() >= {"EnvelopeError", "TamperedError"}


def test_rewrapping_leaves_the_contents() -> None:
    """A key that is wrapped anew changes the recipients alone."""
    content_key = os.urandom(32)
    place = place_of("main", KEY)
    made = seal(place, PLAIN, content_key, [WrappedKey("A256KW", "old", b"x" * 40)])
    envelope = parse(made, ALGORITHMS)
    from msgspec.structs import replace

    again = assemble(replace(envelope, keys=(WrappedKey("A256KW", "new", b"y" * 40),)))
    before, after = json.loads(made), json.loads(again)
    assert before.pop("recipients") != after.pop("recipients")
    assert before == after
    assert open_content(parse(again, ALGORITHMS), content_key, place_in(envelope, place), place, "new") == PLAIN


# --- vectors of the RFCs ----------------------------------------------------------------------------------------------


def test_key_wrap_is_that_of_rfc_3394() -> None:
    """The vectors of RFC 3394 sections 4.6 (256 bits of key data under a 256-bit key) and 2.2.3.1's integrity check."""
    from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

    kek = bytes(range(32))
    data = bytes.fromhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")
    wrapped = bytes.fromhex("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21")
    assert aes_key_wrap(kek, data) == wrapped
    assert aes_key_unwrap(kek, wrapped) == data
    with pytest.raises(InvalidUnwrap):
        aes_key_unwrap(kek, wrapped[:-1] + b"\x00")


def test_content_encryption_is_that_of_rfc_7516() -> None:
    """The vector of RFC 7516 appendix A.1: A256GCM with the protected header, in base64url, as additional data."""
    key = bytes.fromhex("b1a1f480548fe1733fb403ff6b9ad4f68a076e5b702e22692f82cb2e7aea40fc")
    protected = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ"
    iv, tag = unb64("48V1_ALb6US04U3b"), unb64("XFBoMYUZodetZdvTiFvSkQ")
    content = unb64("5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A")
    plain = b"The true sign of intelligence is not knowledge but imagination."
    assert aes_gcm(key).decrypt(iv, content + tag, protected.encode()) == plain
    assert aes_gcm(key).encrypt(iv, plain, protected.encode()) == content + tag


async def test_two_kinds_are_told_apart_in_a_store() -> None:
    """A single and a multi account that are swapped in their storage do not open: `MovedError`, about the location."""
    backend = MemoryBackend()
    store = sealed_over({"main": backend})
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    one, two = [await backend.read(at.path, limit=10**6) for at in (AT, MULTI_AT)]
    await backend.write(AT.path, two.data, mode="overwrite")
    await backend.write(MULTI_AT.path, one.data, mode="overwrite")
    with raises(errors.MovedError, location=AT) as caught:
        await store.get(AT)
    assert "of a storage that was renamed, `encryption.id` is the name before" in str(caught.value)
    with raises(errors.MovedError, location=MULTI_AT):
        await store.get_multi(MULTI_AT)
    await backend.write(AT.path, one.data, mode="overwrite")
    assert await store.get(AT) == ACCOUNT


def test_every_kind_of_error_is_a_seal_error() -> None:
    """All are `SealError`, so that one `except` meets them, and none is a `DecodeError`, which is about documents."""
    kinds = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, SealError)]
    assert len(kinds) == 10
    assert not any(issubclass(cls, DecodeError) for cls in kinds)
    assert all(issubclass(cls, AccountStoreError) for cls in kinds)
    assert Location("x.account").path == "x.account"
