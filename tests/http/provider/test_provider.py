"""An identity provider that is not ours issues tokens (RFC 9068), replaces its keys and goes down for a while.

It runs by `make compat`; the package oidc-provider is looked for in the folder NODE_MODULES.
"""

import asyncio
import base64
import hashlib
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import jwt
import pytest

from service.dev.servers import free_port
from service.infra import jwks
from service.shop.principals import ROLES, Scope
from tests.client import NO_TLS, Shop, eventually, is_problem
from tests.tools import require_node_package, require_programs

PROVIDER = Path(__file__).with_name("provider.mjs")
CALLBACK = "http://127.0.0.1/callback"
AUDIENCE = "commerce-core"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
# A call for each scope that staff can have; those that change something name what does not exist.
NOWHERE = "01890a5d-ac96-774b-bcce-b302099a8057"
CALLS: dict[Scope, tuple[str, str, Any]] = {
    "catalog:write": ("PATCH", "/categories/999999", {"name": "Tents"}),
    "stock:write": ("POST", "/products/999999/stock", {"delta": 1, "reason": "found"}),
    "orders:read": ("GET", "/orders", None),
    "orders:refund": ("POST", f"/orders/{NOWHERE}/refund", {"amount_minor": 1}),
    "auth:revoke": ("POST", "/auth/revocations", {"sub": "nobody"}),
}


class Provider:
    """The provider as its users and its operator see it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._command = (*require_programs("node"), PROVIDER, require_node_package("oidc-provider"))

    @contextmanager
    def running(self, *keys: str) -> Iterator[subprocess.Popen[str]]:
        """The provider during the block; it signs with the first key and publishes all."""
        command = [*map(str, self._command), str(self.port), str(self._folder), *keys]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout
                printed = ""
                for line in process.stdout:
                    printed += line
                    if line == "ready\n":
                        break
                else:
                    pytest.fail(printed)
                yield process
            finally:
                process.kill()

    async def sign_in(self, user: str) -> dict[str, str]:
        """The tokens of a user, by the authorization code flow with PKCE, as a browser and a client go through it."""
        async with httpx.AsyncClient(base_url=self.url, verify=NO_TLS) as browser:
            answer = await browser.get(
                "/auth",
                params={
                    "client_id": "console",
                    "response_type": "code",
                    "redirect_uri": CALLBACK,
                    "scope": "openid email shop",
                    "resource": "https://api.shop.example",
                    "code_challenge": CHALLENGE,
                    "code_challenge_method": "S256",
                    "nonce": "n-1",
                },
            )
            while not (location := answer.headers.get("location", "")).startswith(CALLBACK):
                if answer.is_redirect:
                    answer = await browser.get(urljoin(str(answer.url), location))
                else:
                    action, fields = filled_form(answer, user)
                    answer = await browser.post(action, data=fields)
            code = parse_qs(urlsplit(location).query)["code"][0]
            form = {"grant_type": "authorization_code", "code": code, "client_id": "console"}
            answer = await browser.post("/token", data={**form, "redirect_uri": CALLBACK, "code_verifier": VERIFIER})
            assert answer.status_code == 200, answer.text
            tokens: dict[str, str] = answer.json()
            return tokens

    async def token(self, user: str) -> str:
        return (await self.sign_in(user))["access_token"]


def filled_form(page: httpx.Response, user: str) -> tuple[str, dict[str, str]]:
    """The address and the fields of a page's form: the user signs in, or agrees."""
    assert page.status_code == 200, page.text
    action = re.search(r'<form[^>]* action="([^"]+)"', page.text)
    prompt = re.search(r'name="prompt" value="(\w+)"', page.text)
    assert action, page.text
    assert prompt, page.text
    return action[1], {"prompt": prompt[1], "login": user, "password": "any"}


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


@pytest.fixture
def changed_settings(provider: Provider) -> dict[str, str]:
    return {"AUTH_ISSUER": provider.url, "AUTH_AUDIENCE": AUDIENCE}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are read every 0.1 s; unknown ones are asked for as often."""
    for name in ("REFRESH_SECONDS", "RETRY_SECONDS", "COOLDOWN_SECONDS"):
        monkeypatch.setattr(jwks, name, 0.1)


@pytest.fixture
def signing(provider: Provider) -> Iterator[None]:
    """The provider runs with one key."""
    with provider.running("k1"):
        yield


async def whoami(shop: Shop, token: str) -> httpx.Response:
    """What a call for everybody answers to this token: 200, or why it is refused."""
    return await shop.http.get("/products", headers={"Authorization": f"Bearer {token}"})


async def test_a_customers_cart_is_theirs(signing: None, shop: Shop, provider: Provider) -> None:
    kim, lee = await provider.token("kim"), await provider.token("lee")

    cart = await shop.call("POST", "/carts", 201, Authorization=f"Bearer {kim}")

    path = f"/carts/{cart['id']}"
    await shop.call("GET", path, 200, Authorization=f"Bearer {kim}")
    await shop.call("GET", path, 404, Authorization=f"Bearer {lee}")
    await shop.call("GET", path, 404)


async def test_a_customer_claims_a_guests_cart(signing: None, shop: Shop, provider: Provider) -> None:
    cart_id = await shop.create_cart()
    kim = await provider.token("kim")

    claimed = await shop.call("POST", f"/carts/{cart_id}/claim", 200, Authorization=f"Bearer {kim}")

    assert claimed["id"] == cart_id
    await shop.call("GET", f"/carts/{cart_id}", 404)


async def test_roles_get_what_the_matrix_says(signing: None, shop: Shop, provider: Provider) -> None:
    for roles in ((), *((role,) for role in ROLES), ("support", "refunds")):
        token = await provider.token("-".join(("anna", *roles)))
        allowed = {scope for role in roles for scope in ROLES[role]}
        for scope, (method, path, body) in CALLS.items():
            answer = await shop.http.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
            if scope in allowed:
                assert answer.status_code in (200, 204, 404), (roles, scope, answer.text)
            else:
                assert is_problem(answer, 403, "forbidden"), (roles, scope, answer.text)
                assert answer.json()["required_scope"] == scope


async def test_keys_are_replaced_without_an_outage(quick: None, shop: Shop, provider: Provider) -> None:
    with provider.running("k1"):
        old = await provider.token("kim")
        assert (await whoami(shop, old)).status_code == 200
    with provider.running("k2", "k1"):
        new = await provider.token("kim")
        assert jwt.get_unverified_header(new)["kid"] == "k2"

        async def accepted() -> bool | None:
            return (await whoami(shop, new)).status_code == 200 or None

        await eventually(accepted)
        assert (await whoami(shop, old)).status_code == 200
    with provider.running("k2"):

        async def refused() -> bool | None:
            return is_problem(await whoami(shop, old), 401, "invalid_token") or None

        await eventually(refused)
        assert (await whoami(shop, new)).status_code == 200


async def test_known_keys_go_on_while_the_provider_is_down(
    monkeypatch: pytest.MonkeyPatch, shop: Shop, provider: Provider
) -> None:
    """Method: the tokens are of other people than before, so none of them is in the cache."""
    # Unknown keys are asked for at once, but the service does not notice by itself that the keys have changed.
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.1)
    with provider.running("k1"):
        first, known = await provider.token("kim"), await provider.token("lee")
        assert (await whoami(shop, first)).status_code == 200
    with provider.running("k2"):
        unknown = await provider.token("mia")

    async def unavailable() -> bool | None:
        return is_problem(await whoami(shop, unknown), 503, "auth_unavailable") or None

    await eventually(unavailable)
    assert (await whoami(shop, known)).status_code == 200
    assert (await shop.http.get("/products")).status_code == 200

    with provider.running("k2", "k1"):

        async def accepted() -> bool | None:
            return (await whoami(shop, unknown)).status_code == 200 or None

        await eventually(accepted)


async def test_a_frozen_provider_does_not_stop_the_shop(
    monkeypatch: pytest.MonkeyPatch, shop: Shop, provider: Provider
) -> None:
    """It accepts connections and does not answer. Method: it goes on only after the other calls were answered."""
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.1)
    with provider.running("k1"):
        first, known = await provider.token("kim"), await provider.token("lee")
        assert (await whoami(shop, first)).status_code == 200
    with provider.running("k2") as process:
        unknown = await provider.token("mia")
        process.send_signal(signal.SIGSTOP)

        monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.1)
        assert is_problem(await whoami(shop, unknown), 503, "auth_unavailable")
        monkeypatch.setattr(jwks, "FETCH_SECONDS", 60)
        # Until no attempt of before is under way.
        await asyncio.sleep(3 * jwks.COOLDOWN_SECONDS)
        asking = asyncio.create_task(whoami(shop, unknown))
        others = [await whoami(shop, known), await shop.http.get("/products")]
        assert not asking.done()
        process.send_signal(signal.SIGCONT)

        assert (await asking).status_code == 200
    assert [answer.status_code for answer in others] == [200, 200]


async def test_an_id_token_is_refused(signing: None, shop: Shop, provider: Provider) -> None:
    tokens = await provider.sign_in("kim")

    assert (await whoami(shop, tokens["access_token"])).status_code == 200
    assert is_problem(await whoami(shop, tokens["id_token"]), 401, "invalid_token")
