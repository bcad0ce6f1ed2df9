"""Credentials: which access tokens and service keys are accepted, and for how long."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.app import create_app
from service.http import identity
from service.infra import jwks
from service.infra.db import Pool
from service.settings import Settings
from service.shop import access
from tests.client import ADMIN_TOKEN, Shop, eventually, is_problem
from tests.conftest import login, served
from tests.provider import AUDIENCE, KEYS, Provider, bearer, public_jwk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def changed_settings(provider: Provider) -> dict[str, str]:
    return {"AUTH_ISSUER": provider.url, "AUTH_AUDIENCE": AUDIENCE, "ADMIN_TOKEN": ADMIN_TOKEN}


@pytest.fixture
async def owner_pool(settings: Settings, database_url: str) -> AsyncIterator[Pool]:
    pool = Pool(settings.model_copy(update={"database_url": login(database_url, "owner")}), "tests")
    yield pool
    await pool.aclose()


async def status_of(shop: Shop, token: str, path: str = "/orders") -> tuple[int, str | None]:
    """The status of a staff call with this token, and the code of its problem."""
    answer = await shop.http.get(path, headers=bearer(token))
    return answer.status_code, answer.json().get("code") if answer.status_code >= 400 else None


def changed_jwk(own_kid: str, **changed: Any) -> dict[str, Any]:
    return {**public_jwk(own_kid, *KEYS[own_kid]), **changed}


@pytest.mark.parametrize("kid", ["one", "ed", "rsa"])
async def test_a_token_of_each_algorithm_is_accepted(shop: Shop, provider: Provider, kid: str) -> None:
    assert await status_of(shop, provider.token("anna", "viewer", kid=kid)) == (200, None)


@pytest.mark.parametrize(
    ("changed", "header"),
    [
        ({"aud": ["other", AUDIENCE]}, {}),
        # Times in seconds from now.
        ({"nbf": 20, "iat": 20}, {}),
        ({"exp": -20, "iat": -60}, {}),
        ({"scope": "openid", "iat": 0.5}, {}),
        ({"sub": 255 * "s"}, {}),
        ({"sub": "auth0|5f7c8ec7c33c6c004bbafe82"}, {}),
        ({}, {"typ": "application/at+jwt"}),
        ({}, {"typ": "AT+JWT"}),
        # Never followed.
        ({}, {"jku": "https://attacker.example/keys", "x5u": "https://attacker.example/cert"}),
    ],
)
async def test_unusual_valid_tokens_are_accepted(
    shop: Shop, provider: Provider, changed: dict[str, Any], header: dict[str, Any]
) -> None:
    times = {name: int(time.time()) + changed[name] for name in changed.keys() & {"iat", "exp", "nbf"}}
    token = provider.sign(provider.claims(**{"sub": "anna", "roles": ["viewer"], **changed, **times}), **header)
    assert await status_of(shop, token) == (200, None)


def forged(provider: Provider) -> dict[str, str]:
    """Tokens that must be refused, by what is wrong with them."""
    now = int(time.time())
    claims = provider.claims("anna", "admin")
    good = provider.sign(claims)
    head, body, signature = good.split(".")

    def encoded(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    none = {"typ": "at+jwt", "alg": "none", "kid": "one"}
    pem = (
        KEYS["rsa"][1]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    hs256 = encoded({"typ": "at+jwt", "alg": "HS256", "kid": "rsa"}) + "." + body
    mac = base64.urlsafe_b64encode(hmac.digest(pem, hs256.encode(), "sha256")).rstrip(b"=").decode()
    deep = base64.urlsafe_b64encode(b"[" * 3000).decode().rstrip("=")
    own = ec.generate_private_key(ec.SECP256R1())
    own_jwk = public_jwk("one", "ES256", own)
    wrong_claims: dict[str, dict[str, Any]] = {
        "another issuer": {"iss": f"{provider.url}/"},
        "no issuer": {"iss": None},
        "another audience": {"aud": "other"},
        "no audience": {"aud": None},
        "an audience that contains ours": {"aud": f"{AUDIENCE}-other"},
        "expired": {"iat": now - 600, "exp": now - 31},
        "no expiry": {"exp": None},
        "an expiry that is a text": {"exp": "never"},
        "an expiry that is infinite": {"exp": float("inf")},
        "issued in the future": {"iat": now + 60, "exp": now + 300},
        "not valid yet": {"nbf": now + 60},
        "no time of issue": {"iat": None},
        "lives too long": {"exp": now + 86_401},
        "expires before it was issued": {"iat": now + 20, "exp": now + 10},
        "no subject": {"sub": None},
        "an empty subject": {"sub": ""},
        "a subject that is no text": {"sub": 7},
        "a subject that is too long": {"sub": 256 * "s"},
        "a subject with a line break": {"sub": "anna\nadmin"},
        "a subject in other letters": {"sub": "änna"},
        "the owner of what was erased": {"sub": "erased"},
        "an ID token with the type of an access token": {"at_hash": "x"},
        "an ID token of a code": {"c_hash": "x"},
        "an ID token of Keycloak": {"typ": "ID"},
    }
    return {
        **{
            what: provider.sign(provider.claims(**{"sub": "anna", "roles": ["admin"], **claims}))
            for what, claims in wrong_claims.items()
        },
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.x",
        "another signature": f"{head}.{body}.{signature[::-1]}",
        "another body": f"{head}.{encoded({**claims, 'sub': 'root'})}.{signature}",
        "algorithm none": f"{encoded(none)}.{body}.",
        "algorithm none with a signature": f"{encoded(none)}.{body}.{signature}",
        "HS256 with the public key": f"{hs256}.{mac}",
        "signed by a stranger": jwt.encode(claims, own, "ES256", {"typ": "at+jwt", "kid": "one"}),
        "a stranger's key in the header": jwt.encode(
            claims, own, "ES256", {"typ": "at+jwt", "kid": "one", "jwk": own_jwk}
        ),
        "another algorithm than the key's": jwt.encode(
            claims, KEYS["rsa"][1], "PS256", {"typ": "at+jwt", "kid": "rsa"}
        ),
        "an unknown key": jwt.encode(claims, own, "ES256", {"typ": "at+jwt", "kid": "unknown"}),
        "no kid": jwt.encode(claims, KEYS["one"][1], "ES256", {"typ": "at+jwt"}),
        "an ID token": provider.sign(claims, typ="JWT"),
        "no type": provider.sign(claims, typ=None),
        "a critical extension": provider.sign(claims, crit=["b64"]),
        "an empty list of critical extensions": provider.sign(claims, crit=[]),
        "a header that is a list": f"{encoded([])}.{body}.{signature}",
        "a header that is nested deeply": f"{deep}.{body}.{signature}",
        "characters between": f"{head}.{body}!.{signature}",
        "padding": f"{head}.{body}=.{signature}",
        "too large": provider.sign({**claims, "padding": "x" * 8192}),
        "a word": "secret",
        "part of the ADMIN_TOKEN": ADMIN_TOKEN[:-1],
        "a key that does not exist": access.KEY_PREFIX + 43 * "k",
        "a key of another kind": "cck-" + 43 * "k",
    }


async def test_forged_tokens_are_refused_on_every_route(shop: Shop, provider: Provider) -> None:
    cart = await shop.create_cart()
    assert await status_of(shop, provider.token("anna", "admin")) == (200, None)
    for what, token in forged(provider).items():
        for path in ("/orders", "/products", f"/carts/{cart}"):
            answer = await shop.http.get(path, headers=bearer(token))
            assert is_problem(answer, 401, "invalid_token"), (what, path, answer.text)
            assert answer.headers["www-authenticate"] == 'Bearer realm="shop", error="invalid_token"'
    # The known keys are asked for once at start, and once for the unknown key.
    assert provider.requests["/keys"] <= 2


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Basic {ADMIN_TOKEN}")],
        [("Authorization", ADMIN_TOKEN)],
        [("Authorization", f"Bearer {ADMIN_TOKEN}"), ("Authorization", f"Bearer {ADMIN_TOKEN}")],
        [("Authorization", f"Bearer {ADMIN_TOKEN}"), ("Authorization", "")],
    ],
)
async def test_a_credential_is_sent_once_as_bearer(shop: Shop, headers: list[tuple[str, str]]) -> None:
    assert is_problem(await shop.http.get("/products", headers=headers), 401, "invalid_token")


async def test_routes_that_do_not_read_the_header_ignore_it(shop: Shop) -> None:
    for path in ("/health/live", "/docs", "/openapi.json", "/problems/invalid", "/payments/success"):
        assert (await shop.http.get(path, headers=bearer("forged"))).status_code == 200, path
    assert is_problem(await shop.http.post("/webhooks/stripe", headers=bearer("forged")), 400, "invalid_signature")


@pytest.mark.parametrize(
    ("path", "claims", "is_viewer"),
    [
        ("roles", {"roles": ["viewer"]}, True),
        ("roles", {"roles": "viewer"}, True),
        ("roles", {"roles": ["unknown", 7, None]}, False),
        ("roles", {"roles": []}, False),
        ("roles", {"roles": {"viewer": {"123": "shop.example"}}}, True),
        *(("roles", {"roles": {"viewer": nothing}}, False) for nothing in (False, None, {}, [], "")),
        ("roles", {"scope": "orders:read", "groups": ["viewer"]}, False),
        ("realm_access.roles", {"realm_access": {"roles": ["viewer", "offline_access"]}}, True),
        ("realm_access.roles", {"realm_access": ["viewer"]}, False),
        ("realm_access.roles", {"roles": ["viewer"]}, False),
        ("https://shop.example/roles", {"https://shop.example/roles": ["viewer"]}, True),
        ("urn:zitadel:iam:org:project:roles", {"urn:zitadel:iam:org:project:roles": {"viewer": {"1": "a"}}}, True),
    ],
)
async def test_roles_come_from_one_claim_alone(
    settings: Settings, provider: Provider, path: str, claims: dict[str, Any], is_viewer: bool
) -> None:
    settings = settings.model_copy(update={"auth_roles_claim": path})
    async with served(create_app(settings)) as url, Shop(url) as shop:
        token = provider.sign(provider.claims(**{"roles": None, **claims}))
        expected = (200, None) if is_viewer else (403, "forbidden")
        assert await status_of(shop, token) == expected


async def test_a_call_names_the_scope_that_is_missing(shop: Shop, provider: Provider) -> None:
    answer = await shop.http.post("/categories", json={"name": "x"}, headers=bearer(provider.token("anna", "support")))
    assert is_problem(answer, 403, "forbidden")
    assert answer.json()["required_scope"] == "catalog:write"
    assert is_problem(await shop.http.post("/categories", json={"name": "x"}), 401, "unauthorized")


async def test_unknown_keys_are_asked_for_once_a_minute(shop: Shop, provider: Provider) -> None:
    async def flood() -> None:
        tokens = [jwt.encode({}, KEYS["two"][1], "ES256", {"typ": "at+jwt", "kid": f"kid {n}"}) for n in range(50)]
        assert set(await asyncio.gather(*(status_of(shop, token) for token in tokens))) == {(401, "invalid_token")}

    await flood()
    asked = provider.requests["/keys"]
    assert asked <= 2
    await flood()
    assert provider.requests["/keys"] == asked


@pytest.mark.parametrize(
    "published",
    [
        [],
        [changed_jwk("one", alg="RS512")],
        # What is no key, or one that nobody can read, does not stop the refreshes.
        [
            7,
            None,
            {},
            {"kty": ["EC"], "crv": {}, "kid": "x"},
            {"kty": "EC", "crv": "P-256", "kid": "x", "x": 1, "y": []},
        ],
    ],
)
async def test_all_keys_can_be_withdrawn(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch, published: list[Any]
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.01)
    async with served(create_app(settings)) as url, Shop(url) as shop:
        token = provider.token("anna", "viewer")
        assert await status_of(shop, token) == (200, None)
        provider.published = published

        async def is_refused() -> bool:
            return await status_of(shop, token) == (401, "invalid_token")

        await eventually(is_refused)
        provider.published = [public_jwk("one", *KEYS["one"])]

        async def is_accepted() -> bool:
            return await status_of(shop, token) == (200, None)

        await eventually(is_accepted)


@pytest.mark.parametrize("address", ["https://a..example/keys", f"https://{64 * 'a'}.example/keys"])
async def test_an_odd_address_of_keys_does_not_stop_the_refreshes(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.02)
    metadata = {"issuer": provider.url, "jwks_uri": address}
    provider.documents = {"/.well-known/openid-configuration": metadata}
    async with served(create_app(settings)) as url, Shop(url) as shop:
        assert await status_of(shop, provider.token("anna", "viewer")) == (503, "auth_unavailable")
        provider.documents = {}

        async def is_accepted() -> bool:
            return await status_of(shop, provider.token("anna", "viewer")) == (200, None)

        await eventually(is_accepted)


async def test_few_requests_wait_for_a_provider_that_hangs(
    shop: Shop, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "MAX_WAITING", 3)
    assert await status_of(shop, provider.token("anna", "viewer")) == (200, None)
    provider.hanging.clear()
    unknown = [provider.token(f"user {n}", "viewer", kid="two") for n in range(10)]
    answers = [asyncio.create_task(status_of(shop, token)) for token in unknown]

    async def all_but_three() -> bool:
        return sum(answer.done() for answer in answers) == 7

    await eventually(all_but_three)
    provider.published.append(public_jwk("two", *KEYS["two"]))
    provider.hanging.set()
    assert Counter(await asyncio.gather(*answers)) == {(200, None): 3, (401, "invalid_token"): 7}


async def test_a_new_key_is_accepted_and_a_withdrawn_one_refused(
    shop: Shop, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = provider.token("anna", "viewer")
    assert await status_of(shop, old) == (200, None)

    provider.published = [public_jwk("two", *KEYS["two"])]
    assert await status_of(shop, provider.token("anna", "viewer", kid="two")) == (200, None)
    # It was remembered as verified until the keys changed.
    assert await status_of(shop, old) == (401, "invalid_token")


async def test_keys_are_refreshed_beside_the_requests(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.01)
    async with served(create_app(settings)) as url, Shop(url) as shop:
        old = provider.token("anna", "viewer")
        assert await status_of(shop, old) == (200, None)
        provider.published = [public_jwk("two", *KEYS["two"])]

        async def is_refused() -> bool:
            return await status_of(shop, old) == (401, "invalid_token")

        await eventually(is_refused)


async def test_without_the_provider_known_keys_go_on(
    shop: Shop, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await status_of(shop, provider.token("anna", "viewer")) == (200, None)
    provider.status = 500
    unknown = provider.token("anna", "viewer", kid="two")

    answer = await shop.http.get("/orders", headers=bearer(unknown))
    assert is_problem(answer, 503, "auth_unavailable")
    assert answer.headers["retry-after"] == "5"
    # A new token of a known key, no token, and other credentials.
    assert await status_of(shop, provider.token("berta", "viewer")) == (200, None)
    assert (await shop.http.get("/products")).status_code == 200
    assert await status_of(shop, ADMIN_TOKEN) == (200, None)

    monkeypatch.setattr(jwks, "KEEP_SECONDS", -1.0)
    assert await status_of(shop, provider.token("carla", "viewer")) == (503, "auth_unavailable")

    monkeypatch.undo()
    provider.status = 200
    provider.published.append(public_jwk("two", *KEYS["two"]))
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
    assert await status_of(shop, unknown) == (200, None)


@pytest.mark.parametrize(
    "documents",
    [
        {"/keys": {}},
        {"/keys": [1]},
        {"/keys": {"keys": {"one": 1}}},
        {"/keys": {"keys": [public_jwk("two", *KEYS["two"]), 7, {}], "padding": "x" * jwks.MAX_BYTES}},
    ],
)
async def test_an_unusable_set_does_not_replace_the_last_one(
    shop: Shop, provider: Provider, documents: dict[str, Any]
) -> None:
    assert await status_of(shop, provider.token("anna", "viewer")) == (200, None)
    provider.documents = documents
    assert await status_of(shop, provider.token("anna", "viewer", kid="two")) == (503, "auth_unavailable")
    assert await status_of(shop, provider.token("berta", "viewer")) == (200, None)


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://other.example", "jwks_uri": "{url}/keys"},
        {"issuer": "{url}/", "jwks_uri": "{url}/keys"},
        {"issuer": "{url}"},
        {"issuer": "{url}", "jwks_uri": "http://keys.example/keys"},
        {"issuer": "{url}", "jwks_uri": 7},
        [],
    ],
)
async def test_metadata_that_cannot_be_trusted_give_no_keys(
    settings: Settings, provider: Provider, metadata: Any
) -> None:
    document = json.loads(json.dumps(metadata).replace("{url}", provider.url))
    provider.documents = {"/.well-known/openid-configuration": document}
    async with served(create_app(settings)) as url, Shop(url) as shop:
        assert await status_of(shop, provider.token("anna", "viewer")) == (503, "auth_unavailable")
        assert provider.requests["/keys"] == 0


@pytest.mark.parametrize(
    ("kid", "jwk"),
    [
        ("one", changed_jwk("one", use="enc")),
        ("one", changed_jwk("one", key_ops=["sign"])),
        ("one", changed_jwk("one", key_ops="verify")),
        ("one", changed_jwk("one", alg="RS256")),
        ("one", changed_jwk("one", crv="P-384")),
        ("one", changed_jwk("one", kid=None)),
        ("one", changed_jwk("one", x="AA")),
        ("one", {**changed_jwk("one"), "d": "AA"}),
        ("ed", changed_jwk("ed", alg="ES256")),
        ("rsa", changed_jwk("rsa", alg="RS512")),
        ("rsa", {"kty": "oct", "k": "c2VjcmV0", "kid": "rsa", "alg": "RS256"}),
    ],
)
async def test_only_keys_that_verify_signatures_are_used(
    settings: Settings, provider: Provider, kid: str, jwk: dict[str, Any]
) -> None:
    token = provider.token("anna", "viewer", kid=kid)
    provider.published = [public_jwk("two", *KEYS["two"]), jwk]
    async with served(create_app(settings)) as url, Shop(url) as shop:
        assert await status_of(shop, provider.token("anna", "viewer", kid="two")) == (200, None)
        assert await status_of(shop, token) == (401, "invalid_token")


async def test_a_weak_key_is_not_used(settings: Settings, provider: Provider) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    provider.published = [public_jwk("two", *KEYS["two"]), public_jwk("weak", "RS256", weak)]
    async with served(create_app(settings)) as url, Shop(url) as shop:
        with warnings.catch_warnings():
            # PyJWT warns about such a key when it signs.
            warnings.simplefilter("ignore")
            token = jwt.encode(provider.claims("anna", "viewer"), weak, "RS256", {"typ": "at+jwt", "kid": "weak"})
        assert await status_of(shop, token) == (401, "invalid_token")


async def test_an_algorithm_that_is_not_allowed_is_refused(settings: Settings, provider: Provider) -> None:
    settings = settings.model_copy(update={"auth_algorithms": ("ES256",)})
    async with served(create_app(settings)) as url, Shop(url) as shop:
        assert await status_of(shop, provider.token("anna", "viewer")) == (200, None)
        assert await status_of(shop, provider.token("anna", "viewer", kid="rsa")) == (401, "invalid_token")


async def test_a_verified_token_is_remembered_but_not_past_its_expiry(
    shop: Shop, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    long, short = (provider.token("anna", "viewer", exp=int(now) + seconds) for seconds in (300, 20))
    verified: list[str] = []
    verify = identity.Identity._verify_token

    async def counted(self: identity.Identity, token: str) -> Any:
        verified.append(token)
        return await verify(self, token)

    monkeypatch.setattr(identity.Identity, "_verify_token", counted)
    for token in (long, short, long, short):
        assert await status_of(shop, token) == (200, None)
    assert verified == [long, short]
    # The short one has expired by its own time, but not by ours and the leeway.
    monkeypatch.setattr(identity.time, "time", lambda: now + 25)
    assert await status_of(shop, short) == (200, None)
    assert await status_of(shop, long) == (200, None)
    assert verified == [long, short, short]
    monkeypatch.setattr(identity.time, "time", lambda: now + 61)
    assert await status_of(shop, long) == (200, None)
    assert verified == [long, short, short, long]


async def test_so_many_credentials_are_remembered(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "CACHED_CREDENTIALS", 2)
    app = create_app(settings)
    async with served(app) as url, Shop(url) as shop:
        tokens = [provider.token(f"user {n}", "viewer") for n in range(3)]
        for token in [*tokens, "forged"]:
            await status_of(shop, token)
        remembered = app.state.identity._verified
        assert set(remembered) == {hashlib.sha256(token.encode()).digest() for token in tokens[1:]}


async def test_revoked_tokens_are_refused_on_every_process(
    shop: Shop, settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "REVOCATIONS_SECONDS", 0.05)
    async with served(create_app(settings)) as url, Shop(url) as other:
        past = int(time.time()) - 2
        anna, berta = (provider.token(sub, "viewer", iat=past) for sub in ("anna", "berta"))
        for process in (shop, other):
            assert await status_of(process, anna) == (200, None)

        await shop.call("POST", "/auth/revocations", 204, {"sub": "anna"}, **bearer(ADMIN_TOKEN))

        for process in (shop, other):

            async def is_refused(process: Shop = process) -> bool:
                return await status_of(process, anna) == (401, "invalid_token")

            await eventually(is_refused)
            assert await status_of(process, berta) == (200, None)
            assert await status_of(process, provider.token("anna", "viewer", iat=int(time.time()) + 2)) == (200, None)


async def test_a_revocation_with_a_key_revokes_once(shop: Shop, database: asyncpg.Connection) -> None:
    times = []
    for _ in range(2):
        await shop.call("POST", "/auth/revocations", 204, {"sub": "anna"}, Idempotency_Key="k", **bearer(ADMIN_TOKEN))
        times.append(await database.fetchval("SELECT revoked_at FROM token_revocations"))
    assert times[0] == times[1]


async def test_tokens_are_refused_while_revocations_are_unknown(
    shop: Shop, provider: Provider, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered, new = (provider.token(sub, "viewer") for sub in ("anna", "berta"))
    assert await status_of(shop, remembered) == (200, None)
    monkeypatch.setattr(identity, "REVOCATIONS_STALE_SECONDS", -1.0)
    assert await status_of(shop, remembered) == (200, None)
    await database.execute("ALTER TABLE token_revocations RENAME TO elsewhere")
    for token in (remembered, new):
        assert await status_of(shop, token) == (500, "internal")
    assert await status_of(shop, ADMIN_TOKEN) == (200, None)


async def test_stale_revocations_are_read_once_for_all(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "REVOCATIONS_SECONDS", 3600)
    read = access.list_revocations
    reads: list[float] = []

    async def slow(resources: Any) -> dict[str, float]:
        reads.append(time.monotonic())
        await asyncio.sleep(0.2)
        return await read(resources)

    app = create_app(settings)
    async with served(app) as url, Shop(url) as shop:
        token = provider.token("anna", "viewer")
        assert await status_of(shop, token) == (200, None)
        monkeypatch.setattr(access, "list_revocations", slow)
        app.state.identity._revoked_read_at = float("-inf")
        assert set(await asyncio.gather(*(status_of(shop, token) for _ in range(20)))) == {(200, None)}
        assert len(reads) == 1


async def test_a_remembered_token_is_not_accepted_with_stale_revocations(
    settings: Settings, provider: Provider, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "REVOCATIONS_SECONDS", 3600)
    app = create_app(settings)
    async with served(app) as url, Shop(url) as shop:
        token = provider.token("anna", "viewer", iat=int(time.time()) - 2)
        assert await status_of(shop, token) == (200, None)
        await database.execute("INSERT INTO token_revocations (subject) VALUES ('anna')")
        app.state.identity._revoked_read_at = float("-inf")
        assert await status_of(shop, token) == (401, "invalid_token")


async def test_a_service_key_may_do_what_its_scopes_say(
    shop: Shop, owner_pool: Pool, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KEY_CACHE_SECONDS", 0.0)
    key = await access.add_key(owner_pool, name="erp", scopes=["orders:read"], days=1, created_by="tests")
    assert await status_of(shop, key) == (200, None)
    assert await status_of(shop, key, "/stuck") == (200, None)
    refused = await shop.http.post("/categories", json={"name": "x"}, headers=bearer(key))
    assert is_problem(refused, 403, "forbidden")

    stored = str(await database.fetchrow("SELECT * FROM api_keys"))
    assert key not in stored
    assert key[:10] in stored

    await database.execute("UPDATE api_keys SET created_at = '2000-01-01', expires_at = now()")
    assert await status_of(shop, key) == (401, "invalid_token")
    await database.execute("UPDATE api_keys SET expires_at = now() + interval '1 day'")
    assert await status_of(shop, key) == (200, None)
    await access.revoke_key(owner_pool, "erp")
    assert await status_of(shop, key) == (401, "invalid_token")


async def test_a_key_is_remembered_for_less_than_a_minute(
    shop: Shop, owner_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await access.add_key(owner_pool, name="erp", scopes=["orders:read"], days=1, created_by="tests")
    assert await status_of(shop, key) == (200, None)
    await access.revoke_key(owner_pool, "erp")
    assert await status_of(shop, key) == (200, None)
    now = time.time()
    monkeypatch.setattr(identity.time, "time", lambda: now + 51)
    assert await status_of(shop, key) == (401, "invalid_token")


@pytest.mark.parametrize("changed_settings", [{}])
async def test_in_an_open_demo_a_credential_must_still_be_valid(shop: Shop, owner_pool: Pool) -> None:
    assert (await shop.http.get("/orders")).status_code == 200
    assert await status_of(shop, ADMIN_TOKEN) == (401, "invalid_token")
    key = await access.add_key(owner_pool, name="erp", scopes=["stock:write"], days=1, created_by="tests")
    assert await status_of(shop, key) == (403, "forbidden")


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8080", 200), ("[::1]:8080", 200), ("shop.example", 401)],
)
@pytest.mark.parametrize("changed_settings", [{}])
async def test_an_open_demo_answers_staff_by_its_address_only(shop: Shop, host: str, status: int) -> None:
    assert (await shop.http.get("/orders", headers={"Host": host})).status_code == status


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 401), ("same-site", 401), ("same-origin", 200), ("none", 200)]
)
@pytest.mark.parametrize("changed_settings", [{"ALLOW_OPEN_STAFF": "true"}])
async def test_an_open_demo_does_not_answer_pages_of_other_sites(shop: Shop, site: str, status: int) -> None:
    assert (await shop.http.get("/orders", headers={"Sec-Fetch-Site": site})).status_code == status
