"""Who may do what: tokens, tenants, rights, shares."""

from __future__ import annotations

import time
from base64 import b64encode
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from gateways import (
    BASE,
    HASH,
    KEY,
    MULTI,
    OTHER_HASH,
    PASSWORD,
    SECRET,
    STORAGE,
    ask_token,
    client,
    configured,
    request_of,
    serving,
    signer,
    told,
)

from accountstore import AccountStore, ConfigError, Location, Secret, StorageConfig, StoreConfig
from accountstore.backends.memory import MemoryBackend
from accountstore.gateway import Access, GatewayConfig, Limits, Quota, gateway, hash_secret
from accountstore.gateway.clients import Clients
from accountstore.gateway.limits import Bucket
from accountstore.gateway.problems import Problem
from accountstore.testing import store_over

if TYPE_CHECKING:
    import httpx
    from starlette.requests import HTTPConnection

pytestmark = pytest.mark.anyio

GET = f"{BASE}?fileName=a.account"


# --- tokens ----------------------------------------------------------------------------------------------------------


async def test_a_token_is_for_who_knows_the_secret(store: AccountStore) -> None:
    """Id and secret give a bearer token for a day, in any order of the form; it opens what it is for."""
    async with serving(store, token=False) as http:
        form = f"client_secret={SECRET}&client_id=id&grant_type=client_credentials"
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await http.post("/connect/token", content=form, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        told = answer.json()
        assert (told["token_type"], told["expires_in"]) == ("Bearer", 86400)
        for scheme in ("Bearer", "bearer"):
            got = await http.get(GET, headers={"authorization": f"{scheme} {told['access_token']}"})
            assert got.status_code == 404


async def test_basic_credentials_are_taken_too(store: AccountStore) -> None:
    """RFC 6749 has clients send id and secret in the Authorization header."""
    async with serving(store, token=False) as http:
        for given, status in ((f"id:{SECRET}", 200), ("id:no", 400), ("id", 400), ("\xff", 400)):
            basic = b64encode(given.encode("latin-1")).decode()
            data = {"grant_type": "client_credentials"}
            answer = await http.post("/connect/token", data=data, headers={"authorization": f"Basic {basic}"})
            assert answer.status_code == status, given


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ("", "unsupported_grant_type"),
        ("grant_type=password&client_id=id&client_secret=secret", "unsupported_grant_type"),
        ("grant_type=client_credentials", "invalid_client"),
        ("grant_type=client_credentials&client_id=id", "invalid_client"),
        ("grant_type=client_credentials&client_id=id&client_secret=no", "invalid_client"),
        ("grant_type=client_credentials&client_id=no&client_secret=secret", "invalid_client"),
        ("grant_type=client_credentials&client_id=id&client_id=id&client_secret=secret", "invalid_request"),
        ("grant_type=client_credentials" + "".join(f"&x{number}=1" for number in range(40)), "invalid_request"),
        ("grant_type=client_credentials&client_id=%ff&client_secret=secret", "invalid_request"),
    ],
)
async def test_a_refusal_has_the_form_of_the_rfc(store: AccountStore, form: str, error: str) -> None:
    """A wrong id and a wrong secret are told alike, with 400 and the RFC's error; so is a broken form."""
    async with serving(store, token=False) as http:
        answer = await http.post("/connect/token", content=form)
    assert answer.status_code == 400
    assert answer.json()["error"] == error


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer x.y.z",
        "Bearer " + "x" * 10_000,
        "Bearer \xe9",
        "Basic aWQ6c2VjcmV0",
        "Bearer a b",
    ],
)
async def test_without_a_token_there_is_401(store: AccountStore, header: str | None) -> None:
    """A missing, empty or spoiled token is answered with 401 in the envelope, never with 403."""
    async with serving(store, token=False) as http:
        headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
        for method in ("GET", "PUT"):
            answer = await http.request(method, GET, headers=headers)
            assert told(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


async def status_with(http: httpx.AsyncClient, token: str) -> int:
    return (await http.get(GET, headers={"authorization": f"Bearer {token}"})).status_code


async def test_only_a_fresh_token_of_ones_own_key_is_taken(store: AccountStore) -> None:
    """Forged, changed at any place, expired, of the future, of another key or of a client that is none: all 401."""
    async with serving(store, token=False) as http:
        token = (await ask_token(http)).json()["access_token"]
        name = token.rsplit(".", 2)[0]
        assert await status_with(http, token) == 404
        for at in range(len(token)):
            changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            # The last character of a signature has two bits that say nothing.
            if at < len(token) - 1:
                assert await status_with(http, changed) == 401, at
        assert await status_with(http, signer("z" * 43).sign(name)) == 401
        assert await status_with(http, signer(KEY).sign("id")) == 401
        assert await status_with(http, signer(KEY).sign("other.0123456789ab")) == 401
        assert await status_with(http, signer(KEY).sign(name)) == 404  # control: a token as the gateway's own


async def test_a_token_expires(store: AccountStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is good for its seconds and not longer; before it was made, by a clock that is a little behind."""
    async with serving(store, configured(token_seconds=100), token=False) as http:
        token = (await ask_token(http)).json()["access_token"]
        now = time.time()
        for later, status in ((99, 404), (102, 401), (-58, 404), (-62, 401)):
            monkeypatch.setattr("itsdangerous.timed.time.time", lambda later=later: now + later)
            assert await status_with(http, token) == status


async def test_any_replica_takes_a_token_and_a_restart_survives(store: AccountStore) -> None:
    """A token of one gateway opens another with the same keys, also after keys were rotated, until the old one goes."""
    async with serving(store, token=False) as http:
        token = (await ask_token(http)).json()["access_token"]
    for keys, status in (((KEY,), 404), (("n" * 43, KEY), 404), (("n" * 43,), 401)):
        async with serving(store, configured(keys=keys), token=False) as http:
            assert await status_with(http, token) == status
            new = (await ask_token(http)).json()["access_token"]
            assert await status_with(http, new) == 404


async def test_a_token_ends_with_its_secret(store: AccountStore) -> None:
    """A secret is replaced by adding the new one; with the old one out, its tokens are too. The same for a client."""
    both = {"id": client(secrets=(OTHER_HASH, HASH))}
    async with serving(store, configured(both), token=False) as http:
        old, new = [(await ask_token(http, "id", secret)).json()["access_token"] for secret in (SECRET, "other")]
        assert [await status_with(http, token) for token in (old, new)] == [404, 404]
    async with serving(store, configured({"id": client(secrets=(OTHER_HASH,))}), token=False) as http:
        assert [await status_with(http, token) for token in (old, new)] == [401, 404]
    async with serving(store, configured({"di": client(secrets=(OTHER_HASH,))}), token=False) as http:
        assert await status_with(http, new) == 401


async def test_brute_force_is_slowed(store: AccountStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten wrong secrets even the right one waits, a minute for each; another client is not held up, before there
    have been sixty.
    """
    clock = [time.monotonic()]
    monkeypatch.setattr("accountstore.gateway.clients.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Bucket.__init__, "__defaults__", (lambda: clock[0],))
    clients = {"id": client(), "other": client(secrets=(OTHER_HASH,))}
    async with serving(store, configured(clients), token=False) as http:
        answers = [(await ask_token(http, "id", f"guess{n}")).status_code for n in range(12)]
        assert answers == [400] * 10 + [429] * 2
        assert (await ask_token(http)).status_code == 429
        assert (await ask_token(http, "other", "other")).status_code == 200
        clock[0] += 61
        assert (await ask_token(http)).status_code == 200
        assert [(await ask_token(http, "id", "no")).status_code for _ in range(2)] == [400, 429]
        # All ids of a peer have one account of failures too.
        clock[0] += 61
        assert [(await ask_token(http, f"no{n}")).status_code for n in range(61)] == [400] * 60 + [429]
        assert (await ask_token(http, "other", "other")).status_code == 429
        clock[0] += 1
        assert (await ask_token(http, "other", "other")).status_code == 200


async def test_guesses_at_once_are_slowed_too(store: AccountStore) -> None:
    """Of thirty wrong secrets at once ten are hashed; a right one costs nothing, however often it is given at once."""
    clients = {"id": client(), "other": client(secrets=(OTHER_HASH,))}
    told: list[str] = []

    async def ask(http: httpx.AsyncClient, name: str, secret: str) -> None:
        answer = (await ask_token(http, name, secret)).json()
        told.append(answer.get("error", "granted"))

    async with serving(store, configured(clients), token=False) as http:
        for name, secrets, expected in (
            ("id", [f"guess{n}" for n in range(30)], {"invalid_client": 10, "slow_down": 20}),
            ("other", ["other"] * 30, {"granted": 30}),
        ):
            told.clear()
            async with anyio.create_task_group() as tasks:
                for secret in secrets:
                    tasks.start_soon(ask, http, name, secret)
            assert Counter(told) == expected


async def test_no_answer_tells_whether_there_is_a_client(store: AccountStore) -> None:
    """An unknown id has the answers of a known one with a wrong secret, however many ids were tried before."""
    async with serving(store, token=False) as http:
        for status in [400] * 10 + [429] * 2:
            answers = [await ask_token(http, name, "no") for name in ("id", "nobody", "n" * 200)]
            assert [answer.status_code for answer in answers] == [status] * 3
            assert len({answer.content for answer in answers}) == 1


async def test_an_attempt_that_is_given_up_counts(store: AccountStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes away while a secret is hashed has made an attempt."""
    clients = Clients(store, configured())
    hashing = anyio.Event()

    async def find(*_: object) -> None:
        hashing.set()
        await anyio.sleep_forever()

    form = {"grant_type": "client_credentials", "client_id": "id", "client_secret": SECRET}
    with monkeypatch.context() as patched:
        patched.setattr(clients, "_find", find)
        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(clients.grant, form, "", "peer")
                await hashing.wait()
                tasks.cancel_scope.cancel()
            hashing = anyio.Event()
    with pytest.raises(Problem, match="too many wrong secrets"):
        await clients.grant(form, "", "peer")
    assert await clients.grant(form, "", "another peer")


async def test_every_attempt_without_success_is_the_same_work(
    store: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an unknown id as many hashes are computed, of the same costs, as for any client."""
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error

    dear = hash_secret(Secret("dear"))
    clients = {
        "one": client(secrets=(OTHER_HASH,)),
        "two": client(secrets=(HASH, OTHER_HASH)),
        "dear": client(secrets=(dear,)),
        "both": client(secrets=(dear, HASH)),
    }
    costs: list[str] = []

    def verify(_: object, secret_hash: str, secret: str) -> bool:
        costs.append(secret_hash.split("$")[3])
        raise Argon2Error

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    works: set[tuple[str, ...]] = set()
    async with serving(store, configured(clients), token=False) as http:
        for name in ("nobody", *clients):
            costs.clear()
            assert (await ask_token(http, name, "wrong")).status_code == 400
            works.add((*sorted(costs),))
    assert works == {("m=65536,t=3,p=4", "m=8,t=1,p=1", "m=8,t=1,p=1")}


async def test_the_failures_that_are_remembered_are_bounded(
    store: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many peers fail, memory does not grow with them."""
    monkeypatch.setattr("accountstore.gateway.clients._FAILURES_KEPT", 5)
    clients = Clients(store, configured())
    form = {"grant_type": "client_credentials", "client_id": "id", "client_secret": SECRET}
    for peer in range(20):
        await clients.grant(form, "", f"10.0.0.{peer}")
    assert len(clients._failures) == 5  # pyright: ignore[reportPrivateUsage]
    assert not clients._turns  # pyright: ignore[reportPrivateUsage]


async def test_those_who_wait_for_tokens_are_bounded(store: AccountStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing takes its time, two at once; who would wait behind too many is told to come again."""
    monkeypatch.setattr("accountstore.gateway.clients._HASHES_WAITING", 3)
    config = configured({"id": client(secrets=(hash_secret(Secret(SECRET)),))})
    async with serving(store, config, token=False) as http:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await ask_token(http))

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(ask)
    statuses = [answer.status_code for answer in answers]
    assert sorted(set(statuses)) == [200, 503]
    assert statuses.count(200) >= 3
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert (refused.json()["error"], refused.headers["retry-after"]) == ("temporarily_unavailable", "1")


@pytest.mark.once
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_time_tells_no_secret() -> None:
    """An unknown id, and a secret that is wrong at its first or last character, take as long as one another.

    The medians of interleaved blocks are within a factor of two; without the hash for unknown ids it would be hundreds.
    """
    secret = "s" * 43
    store = store_over({"main": MemoryBackend()})
    clients = Clients(store, configured({"id": client(secrets=(hash_secret(Secret(secret)),))}))
    guesses = {"unknown": ("no", secret), "first": ("id", "x" + secret[1:]), "last": ("id", secret[:-1] + "x")}
    times: dict[str, list[float]] = {name: [] for name in guesses}
    for block in range(9):
        for name, (who, guess) in guesses.items():
            form = {"grant_type": "client_credentials", "client_id": who, "client_secret": guess}
            began = time.perf_counter()
            with pytest.raises(Exception, match="no such client"):
                await clients.grant(form, "", f"{name}{block}")
            times[name].append(time.perf_counter() - began)
    medians = {name: median(seconds) for name, seconds in times.items()}
    print({name: f"{1e3 * seconds:.1f} ms" for name, seconds in medians.items()})
    assert max(medians.values()) < 2 * min(medians.values())


# --- tenants ---------------------------------------------------------------------------------------------------------


async def test_a_tenant_has_its_folder(store: AccountStore) -> None:
    """A client's names are relative to its folder; it neither reads, nor writes, nor is told of, what is outside."""
    clients = {name: client(folder=f"tenants/{name}", storage="main") for name in ("id", "b")}
    await store.save_json(Location("a.account"), _document())
    await store.save_json(Location("a.account", folder="tenants/b"), _document())
    async with serving(store, configured(clients)) as http:
        assert told(await http.get(GET)) == (404, "notFound")
        assert (await http.put(BASE, json=request_of(PASSWORD, storage="main"))).status_code == 200
        assert (await http.get(f"{GET}&storage=main")).json() == PASSWORD
        listed = (await http.get(f"{STORAGE}/folder/")).json()["value"]
        assert [entry["path"] for entry in listed] == ["/a.account"]
    assert await store.exists(Location("a.account", folder="tenants/id"))


def _document() -> bytes:
    return b'{"host":"h","port":1}'


async def test_what_is_missing_and_what_is_anothers_look_the_same() -> None:
    """A storage that is not the client's is answered as one that does not exist, and as a missing document."""
    config = StoreConfig(default="main", storages={name: StorageConfig("memory://") for name in ("main", "other")})
    async with serving(config, configured({"id": client(folder="t", storage="main")})) as http:
        answers = [
            await http.get(f"{BASE}?fileName=a.account&storage={storage}") for storage in ("main", "other", "nowhere")
        ]
        puts = [await http.put(BASE, json=request_of(PASSWORD, storage=storage)) for storage in ("other", "nowhere")]
        exist = [(await http.get(f"{STORAGE}/{storage}/exist")).json() for storage in ("other", "nowhere")]
    for answer in (*answers, *puts):
        assert told(answer) == (404, "notFound")
    assert len({answer.json()["error"]["message"] for answer in (*answers, *puts)}) == 1
    assert exist == [{"exists": False}] * 2


async def test_a_client_of_everything_reaches_all_storages() -> None:
    """A client without folder and storage reaches each storage; one with a folder alone, the default one's."""
    config = StoreConfig(default="main", storages={name: StorageConfig("memory://") for name in ("main", "other")})
    clients = {"id": client(), "narrow": client(folder="t")}
    async with serving(config, configured(clients)) as http:
        for storage in ("main", "other"):
            assert (await http.put(BASE, json=request_of(PASSWORD, storage=storage))).status_code == 200
        token = (await ask_token(http, "narrow")).json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        assert told(await http.get(f"{GET}&storage=other", headers=headers)) == (404, "notFound")


async def test_a_reader_reads_only(store: AccountStore) -> None:
    """A client with the right to read is refused every call that writes, and nothing is written."""
    await store.save_json(Location("a.account"), _document())
    async with serving(store, configured({"id": client(rights="read")})) as http:
        assert (await http.get(GET)).status_code == 200
        assert (await http.get(f"{STORAGE}/file/a.account")).status_code == 200
        for method, path in (
            ("PUT", BASE),
            ("PUT", MULTI),
            ("PUT", f"{STORAGE}/file/b.account"),
            ("DELETE", f"{STORAGE}/file/a.account"),
            ("PUT", f"{STORAGE}/file/copy/a.account?destPath=b.account"),
            ("PUT", f"{STORAGE}/file/move/a.account?destPath=b.account"),
            ("PUT", f"{STORAGE}/folder/x"),
            ("DELETE", f"{STORAGE}/folder/?recursive=true"),
        ):
            answer = await http.request(method, path, json=request_of(PASSWORD))
            assert told(answer) == (403, "readOnly"), path
    assert [entry.location.path async for entry in store.list(recursive=True)] == ["a.account"]


async def test_an_embedding_service_says_who_may_do_what(store: AccountStore) -> None:
    """With a callback there are no tokens of the gateway's own; None is 401, an access is what it says."""

    async def authorize(connection: HTTPConnection) -> Access | None:
        name = connection.headers.get("x-tenant")
        return name and Access(name, store.scoped(f"tenants/{name}"), writes=name != "reader")  # type: ignore[return-value]

    async with serving(store, GatewayConfig(), authorize=authorize, token=False) as http:
        refused = await http.get(GET)
        assert told(refused) == (401, "unauthorized")
        assert "/connect/token" not in refused.text
        assert (await ask_token(http)).status_code == 404
        saved = await http.put(BASE, json=request_of(PASSWORD), headers={"x-tenant": "a"})
        assert saved.status_code == 200
        refused = await http.put(BASE, json=request_of(PASSWORD), headers={"x-tenant": "reader"})
        assert told(refused) == (403, "readOnly")
        got = await http.get(GET, headers={"x-tenant": "a", "if-none-match": saved.headers["etag"]})
        assert got.status_code == 304
        assert "/connect/token" not in (await http.get("/openapi.json")).json()["paths"]
    assert await store.exists(Location("a.account", folder="tenants/a"))


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"probe_seconds": 0}, "probe_seconds"),
        ({"probe_seconds": -1.0}, "probe_seconds"),
        ({"limits": Limits(in_flight=0)}, "limits.in_flight"),
        ({"limits": Limits(request_seconds=0)}, "limits.request_seconds"),
        ({"limits": Limits(body_bytes=-1)}, "limits.body_bytes"),
        ({"keys": ("x",)}, "keys"),
        ({"keys": KEY}, "keys"),
        ({"clients": {"id": client(secrets=())}}, "clients.id.secrets"),
    ],
)
async def test_a_service_gets_no_configuration_that_cannot_be(
    store: AccountStore, wrong: dict[str, Any], key: str
) -> None:
    """With a callback, what is wrong in the configuration is told at once all the same, by its key."""

    async def authorize(_: HTTPConnection) -> Access | None:
        return None

    gateway(store, GatewayConfig(keys=(Secret(KEY),)), authorize=authorize)  # control
    with pytest.raises(ConfigError, match=f"^{key}: "):
        gateway(store, GatewayConfig(**wrong), authorize=authorize)


# --- shares ----------------------------------------------------------------------------------------------------------


async def test_a_client_has_its_rate(store: AccountStore) -> None:
    """Beyond its requests a second a client is told 429, to come again in a second; another client is not."""
    clients = {"id": client(rate=3), "b": client()}
    async with serving(store, configured(clients)) as http:
        answers = [await http.get(GET) for _ in range(10)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:3] == [404] * 3
        assert 429 in statuses
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert told(refused) == (429, "tooMany")
        assert refused.headers["retry-after"] == "1"
        token = (await ask_token(http, "b")).json()["access_token"]
        assert await status_with(http, token) == 404


def test_a_bucket_fills_again() -> None:
    """A bucket gives its size at once, then its rate, and never holds more than its size."""
    now = [0.0]
    bucket = Bucket(2, 3, lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] = 1000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_a_quota_counts_what_is_under_way() -> None:
    """A client has so many requests at once; one that ends makes room, whatever it ended in."""
    quota = Quota(None, 1)
    with quota, pytest.raises(Exception, match="too many requests"), quota:
        pass
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), quota:
            raise ZeroDivisionError
    with quota:
        pass


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GatewayConfig(), "keys: none"),
        (GatewayConfig(keys=("short",)), "keys: one has fewer than 32"),  # type: ignore[arg-type]
        (configured({"a b": client()}), "clients: an id"),
        (configured({"id": client(secrets=())}), "clients.id.secrets: none"),
        (configured({"id": client(secrets=("plain",))}), "clients.id.secrets: one is not"),
        (configured({"id": client(rate=0)}), "clients.id.rate"),
        (configured({"id": client(concurrency=-1)}), "clients.id.concurrency"),
        (configured(token_seconds=0), "token_seconds"),
        (configured(probe_seconds=float("inf")), "probe_seconds"),
        (GatewayConfig(keys=(KEY,)), "clients: none"),  # type: ignore[arg-type]
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config: GatewayConfig, message: str) -> None:
    """What cannot be meant is refused when the gateway is made, with the key."""
    with pytest.raises(ConfigError, match=message):
        gateway(StoreConfig(storages={}), config)


async def test_a_client_of_what_is_not_there_is_refused(store: AccountStore) -> None:
    """A client of an unknown storage, or of a folder that cannot be, is refused when the store opens."""
    for more in ({"storage": "no"}, {"folder": ".."}):
        with pytest.raises(ConfigError, match=r"clients\.id: "):
            gateway(store, configured({"id": client(**more)}))


def test_secrets_of_a_configuration_do_not_show() -> None:
    """Neither keys nor hashes show in a representation, also where a dict stands in a client's place."""
    config = configured()
    shown = [client(), config, GatewayConfig(keys=config.keys, clients=cast("Any", {"a": {"secrets": [HASH]}}))]
    text = repr(shown) + repr([one.__rich_repr__() for one in shown])
    assert KEY not in text
    assert HASH not in text


def test_hashes_are_salted() -> None:
    """A secret's hash differs each time, and is argon2id."""
    hashes = {hash_secret(Secret(SECRET)) for _ in range(2)}
    assert len(hashes) == 2
    assert all(one.startswith("$argon2id$") for one in hashes)
