"""The development issuer's server: OpenID Connect's authorization code flow for public clients on this machine."""

import hashlib
import re
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import uvicorn
from jwt.utils import base64url_encode
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from service.dev.issuer.page import html_page, sign_in_page
from service.dev.issuer.tokens import CUSTOMERS, STAFF, TOKEN_SECONDS, Issuer, User, issuer_port, open_issuer

CODE_SECONDS = 60
# The oldest goes when there are more.
MOST_CODES = 1000

# Its origin is the first group. Only this machine receives the codes.
REDIRECT_URI = re.compile(r'(https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?)(?:[/?][!"$-~]*)?')
CLIENT_ID = re.compile(r"[!-~]{1,100}")
# RFC 7636: the base64url form of a SHA-256, and what it was made of.
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
USERS = {user.sub: user for user in (*CUSTOMERS, *STAFF)}
NO_STORE = {"Cache-Control": "no-store"}


@dataclass(slots=True, frozen=True)
class Grant:
    """What a code stands for: a user, for one client; `expires` is a time of `time.monotonic`."""

    user: User
    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str
    expires: float


class CodeFlow:
    """The authorization code flow with PKCE. A code can be exchanged once, within CODE_SECONDS."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._grants: dict[str, Grant] = {}

    async def authorize(self, request: Request) -> Response:
        """GET shows the demo users; POST signs in the `user` whose button was pressed."""
        parameters = request.query_params
        client_id, redirect_uri = parameters.get("client_id", ""), parameters.get("redirect_uri", "")
        address = REDIRECT_URI.fullmatch(redirect_uri)
        if not CLIENT_ID.fullmatch(client_id) or address is None:
            # Nothing is sent to an address that may be a stranger's.
            content = "<h1>Refused</h1><p>It needs a client_id, and a redirect_uri on this machine (localhost).</p>"
            return html_page("Refused", content, 400)
        back = {"state": parameters["state"]} if "state" in parameters else {}
        back["iss"] = self._issuer.url
        if error := refusal(parameters):
            return redirect(redirect_uri, {**error, **back})
        if request.method != "POST":
            return sign_in_page(client_id, address[1])
        user = USERS.get(dict(parse_qsl((await request.body()).decode(errors="replace"))).get("user", ""))
        if user is None:
            return redirect(redirect_uri, {"error": "access_denied", **back})
        code = secrets.token_urlsafe(32)
        challenge, nonce = parameters["code_challenge"], parameters.get("nonce", "")
        expires = time.monotonic() + CODE_SECONDS
        self._grants[code] = Grant(user, client_id, redirect_uri, challenge, nonce, expires)
        while len(self._grants) > MOST_CODES:
            del self._grants[next(iter(self._grants))]
        return redirect(redirect_uri, {"code": code, **back})

    async def token(self, request: Request) -> Response:
        """Exchange a code for an access token and an ID token. A code is void after its first use, right or wrong."""
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        if form.get("grant_type") != "authorization_code":
            return JSONResponse({"error": "unsupported_grant_type"}, 400, NO_STORE)
        grant = self._grants.pop(form.get("code", ""), None)
        if (
            grant is None
            or time.monotonic() > grant.expires
            or form.get("client_id") != grant.client_id
            or form.get("redirect_uri") != grant.redirect_uri
            or challenge_of(form.get("code_verifier", "")) != grant.challenge
        ):
            return JSONResponse({"error": "invalid_grant"}, 400, NO_STORE)
        tokens = {
            "access_token": self._issuer.access_token(grant.user, grant.client_id),
            "token_type": "Bearer",
            "expires_in": TOKEN_SECONDS,
            "id_token": self._issuer.id_token(grant.user, grant.client_id, grant.nonce),
        }
        return JSONResponse(tokens, headers=NO_STORE)


def refusal(parameters: Mapping[str, str]) -> dict[str, str] | None:
    """Why a request for a code is refused, in the words of OAuth 2."""
    if parameters.get("response_type") != "code":
        return {"error": "unsupported_response_type"}
    if "openid" not in parameters.get("scope", "").split():
        return {"error": "invalid_scope", "error_description": "scope must contain openid"}
    challenge = CHALLENGE.fullmatch(parameters.get("code_challenge", ""))
    if not challenge or parameters.get("code_challenge_method") != "S256":
        return {"error": "invalid_request", "error_description": "PKCE with S256 is needed"}
    return None


def challenge_of(verifier: str) -> str | None:
    """The challenge that belongs to this verifier; None if it is too short, too long or of other characters."""
    if not VERIFIER.fullmatch(verifier):
        return None
    return base64url_encode(hashlib.sha256(verifier.encode()).digest()).decode()


def redirect(uri: str, parameters: Mapping[str, str]) -> RedirectResponse:
    return RedirectResponse(f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}", 303, NO_STORE)


def create_app(issuer: Issuer) -> Starlette:
    flow = CodeFlow(issuer)
    metadata = {
        "issuer": issuer.url,
        "authorization_endpoint": f"{issuer.url}/authorize",
        "token_endpoint": f"{issuer.url}/token",
        "jwks_uri": f"{issuer.url}/jwks",
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code"],
        "subject_types_supported": ["public"],
        "scopes_supported": ["openid"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": True,
    }

    async def show_metadata(request: Request) -> Response:
        return JSONResponse(metadata)

    async def show_keys(request: Request) -> Response:
        return JSONResponse(issuer.key_set)

    routes = [
        Route("/.well-known/openid-configuration", show_metadata),
        Route("/jwks", show_keys),
        Route("/authorize", flow.authorize, methods=["GET", "POST"]),
        Route("/token", flow.token, methods=["POST"]),
    ]
    # A stranger's page that binds its own name to this machine's address gets nothing.
    own_host = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    return Starlette(routes=routes, middleware=[own_host])


def serve(folder: Path) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT, with key and port of this folder. Raises CannotRun.

    Call it in the main thread of a process of its own, since it takes the signals.
    """
    port = issuer_port(folder)
    app = create_app(open_issuer(folder, port))
    # uvicorn stops on these signals and raises them again; ignored here, they let this function return.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, proxy_headers=False)
