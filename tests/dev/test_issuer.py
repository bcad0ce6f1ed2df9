"""The development issuer, over HTTP as a browser and a client use it."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import httpx
import jwt
import pytest

from service.dev.issuer import server
from service.dev.issuer.tokens import AUDIENCE, CUSTOMERS, STAFF, Issuer, User, make_key
from service.dev.servers import free_port
from service.shop.principals import ROLES
from tests.client import NO_TLS
from tests.conftest import served

CALLBACK = "http://127.0.0.1:8080/console/callback"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
ASKED = {
    "response_type": "code",
    "client_id": "console",
    "redirect_uri": CALLBACK,
    "scope": "openid email",
    "state": "a state & more",
    "nonce": "n-1",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


class Browser:
    """A browser at the sign-in page, and the client that it came from."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def show(self, **changes: str | None) -> httpx.Response:
        return await self.http.get("/authorize", params=without_none(ASKED | changes))

    async def sign_in(self, user: str, **changes: str | None) -> httpx.Response:
        return await self.http.post("/authorize", params=without_none(ASKED | changes), data={"user": user})

    async def get_code(self, user: str = "kim", **changes: str | None) -> str:
        return back_at_client(await self.sign_in(user, **changes))["code"]

    async def exchange(self, code: str, **changes: str) -> httpx.Response:
        form = {"grant_type": "authorization_code", "code": code, "client_id": "console"}
        return await self.http.post(
            "/token", data={**form, "redirect_uri": CALLBACK, "code_verifier": VERIFIER, **changes}
        )


def without_none(values: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def back_at_client(answer: httpx.Response) -> dict[str, str]:
    """The parameters with which the browser comes back to the client."""
    assert answer.status_code == 303, answer.text
    address, _, query = answer.headers["location"].partition("?")
    assert address == CALLBACK
    return dict(parse_qsl(query, strict_parsing=True))


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(f"http://127.0.0.1:{free_port()}", make_key())


@pytest.fixture
async def browser(issuer: Issuer) -> AsyncIterator[Browser]:
    app = server.create_app(issuer)
    async with (
        served(app, int(issuer.url.rpartition(":")[2])) as url,
        httpx.AsyncClient(base_url=url, verify=NO_TLS) as http,
    ):
        assert url == issuer.url
        yield Browser(http)


async def decoded(browser: Browser, token: str, audience: str) -> dict[str, Any]:
    """The claims of a token, verified as any resource server does it: from the issuer's metadata."""
    metadata = (await browser.http.get("/.well-known/openid-configuration")).json()
    keys = (await browser.http.get(metadata["jwks_uri"])).json()
    kid = jwt.get_unverified_header(token)["kid"]
    (key,) = (jwt.PyJWK(key) for key in keys["keys"] if key["kid"] == kid)
    claims: dict[str, Any] = jwt.decode(
        token, key, ["ES256"], audience=audience, issuer=metadata["issuer"], options={"require": ["exp", "iat", "sub"]}
    )
    return claims


def test_each_role_has_a_demo_user() -> None:
    assert sorted(role for user in STAFF for role in user.roles) == sorted(ROLES)
    assert not any(user.roles for user in CUSTOMERS)


@pytest.mark.parametrize("user", [*CUSTOMERS, *STAFF], ids=lambda user: user.sub)
async def test_a_demo_user_signs_in(browser: Browser, issuer: Issuer, user: User) -> None:
    page = await browser.show()
    assert f'name="user" value="{user.sub}"' in page.text

    back = back_at_client(await browser.sign_in(user.sub))
    answer = await browser.exchange(back["code"])

    assert (back["state"], back["iss"]) == (ASKED["state"], issuer.url)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 3600)
    access = await decoded(browser, tokens["access_token"], AUDIENCE)
    person = {"iss": issuer.url, "sub": user.sub, "email": user.email, "email_verified": user.email_verified}
    assert access == access | person | {"client_id": "console", "roles": list(user.roles)}
    assert access["exp"] - access["iat"] == 3600
    assert len(access["jti"]) == 32
    assert jwt.get_unverified_header(tokens["access_token"])["typ"] == "at+jwt"
    identity = await decoded(browser, tokens["id_token"], "console")
    assert identity == identity | person | {"nonce": "n-1"}
    assert "roles" not in identity
    assert jwt.get_unverified_header(tokens["id_token"])["typ"] == "JWT"


async def test_two_tokens_differ(issuer: Issuer) -> None:
    user = CUSTOMERS[0]
    ids = {jwt.decode(issuer.access_token(user, "x"), options={"verify_signature": False})["jti"] for _ in range(2)}
    assert len(ids) == 2


async def test_the_key_set_shows_no_private_key(issuer: Issuer) -> None:
    (key,) = issuer.key_set["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}


async def test_a_code_is_exchanged_once(browser: Browser) -> None:
    code = await browser.get_code()

    first, second = await browser.exchange(code), await browser.exchange(code)

    assert first.status_code == 200
    assert (second.status_code, second.json()) == (400, {"error": "invalid_grant"})


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "another"},
        {"redirect_uri": f"{CALLBACK}/other"},
        {"code_verifier": "w" * 43},
        {"code_verifier": ""},
        {"code_verifier": CHALLENGE},
        {"code": "unknown"},
    ],
)
async def test_a_code_is_bound_to_its_request(browser: Browser, changes: dict[str, str]) -> None:
    code = await browser.get_code()

    answer = await browser.exchange(**{"code": code, **changes})

    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})
    # A wrong use makes it void, so that nobody can guess on.
    again = await browser.exchange(code)
    assert again.status_code == (200 if "code" in changes else 400)


async def test_a_short_verifier_is_refused(browser: Browser) -> None:
    short = "v" * 42
    challenge = base64.urlsafe_b64encode(hashlib.sha256(short.encode()).digest()).decode().rstrip("=")
    code = await browser.get_code(code_challenge=challenge)

    answer = await browser.exchange(code, code_verifier=short)

    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})


async def test_a_code_expires(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CODE_SECONDS", -1)
    answer = await browser.exchange(await browser.get_code())
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})


async def test_codes_that_nobody_exchanges_are_bounded(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CODES", 2)
    codes = [await browser.get_code() for _ in range(3)]
    assert [(await browser.exchange(code)).status_code for code in codes] == [400, 200, 200]


async def test_another_grant_is_refused(browser: Browser) -> None:
    answer = await browser.exchange(await browser.get_code(), grant_type="password")
    assert (answer.status_code, answer.json()) == (400, {"error": "unsupported_grant_type"})


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "",
        "https://shop.example/callback",
        "http://localhost.shop.example/",
        "http://127.0.0.1.shop.example/",
        "http://localhost@shop.example/",
        "http://localhost:80@shop.example/",
        "http://localhost\\@shop.example/",
        "http://shop.example/?http://localhost/",
        "//localhost/",
        "localhost/",
        "javascript:alert(1)//localhost/",
        "http://10.0.0.1/",
        "http://localhost/#part",
        "http://localhost/\r\nSet-Cookie: a=b",
        "http://localhost; script-src *",
        "http://[::1%25a]/",
    ],
)
async def test_no_code_goes_to_another_machine(browser: Browser, uri: str | None) -> None:
    for answer in (await browser.show(redirect_uri=uri), await browser.sign_in("ada", redirect_uri=uri)):
        assert answer.status_code == 400
        assert "location" not in answer.headers
        assert "on this machine" in answer.text


@pytest.mark.parametrize(
    "uri", ["http://localhost/", "http://localhost:8080", "https://127.0.0.1:1/a/b?c=d", "http://[::1]:8080/callback"]
)
async def test_a_code_comes_back_to_this_machine(browser: Browser, uri: str) -> None:
    answer = await browser.sign_in("ada", redirect_uri=uri)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{uri}{'&' if '?' in uri else '?'}code=")


@pytest.mark.parametrize("client_id", [None, "", "a b", "é", "x" * 101])
async def test_a_client_has_a_name(browser: Browser, client_id: str | None) -> None:
    answer = await browser.show(client_id=client_id)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"scope": "email"}, "invalid_scope"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
    ],
)
async def test_the_client_learns_what_is_wrong(
    browser: Browser, issuer: Issuer, changes: dict[str, str | None], error: str
) -> None:
    for answer in (await browser.show(**changes), await browser.sign_in("ada", **changes)):
        back = back_at_client(answer)
        assert "code" not in back
        assert (back["error"], back["state"], back["iss"]) == (error, ASKED["state"], issuer.url)


async def test_a_stranger_is_not_signed_in(browser: Browser) -> None:
    back = back_at_client(await browser.sign_in("nobody"))
    assert back["error"] == "access_denied"
    assert "code" not in back


async def test_the_page_allows_nothing_but_its_form_and_style(browser: Browser) -> None:
    page = await browser.show(client_id="<script>")

    policy = {
        name: values for name, *values in (part.split() for part in page.headers["content-security-policy"].split(";"))
    }
    style = re.search("<style>(.*)</style>", page.text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == {
        "default-src": ["'none'"],
        "style-src": [f"'sha256-{digest}'"],
        # Browsers check the redirect after the form too.
        "form-action": ["'self'", "http://127.0.0.1:8080"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    assert page.headers["cache-control"] == "no-store"
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text


async def test_only_its_own_host_is_answered(browser: Browser) -> None:
    """A stranger's page could bind a name of its own to this machine's address, and would be of the same origin."""
    paths = ("/.well-known/openid-configuration", "/jwks", "/authorize", "/token")
    for host, allowed in (("shop.example", False), ("localhost.shop.example", False), ("localhost", True)):
        answers = [await browser.http.get(path, headers={"Host": host}) for path in paths]
        assert [answer.text == "Invalid host header" for answer in answers] == [not allowed] * len(paths)


async def test_the_metadata_name_its_own_address(browser: Browser, issuer: Issuer) -> None:
    metadata = (await browser.http.get("/.well-known/openid-configuration")).json()

    assert metadata["issuer"] == issuer.url
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        assert metadata[name].startswith(f"{issuer.url}/")
    assert metadata["code_challenge_methods_supported"] == ["S256"]
