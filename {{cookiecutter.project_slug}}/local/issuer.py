"""An OpenID Connect issuer for localhost: signs tokens with keys that it makes at its start, for any name.

It has what a page needs to sign in with the authorization code flow and PKCE. `GET /token` returns a token for curl and
the probe. https://openid.net/specs/openid-connect-core-1_0.html#CodeFlowAuth
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import html
import json
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import h11
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from .access import is_foreign_page, is_loopback
from .http_server import Connection, Server, field_values, url_of

#: Seconds for which a token is valid, as Cognito has it by default.
LIFETIME = 3600
_CODE_LIFETIME = 60.0  # seconds
_SIZE_LIMIT = 64 * 1024  # bytes of a form
_NO_STORE = ("cache-control", "no-store")
_ANY_ORIGIN = ("access-control-allow-origin", "*")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Local sign-in</title>
<style>
  :root { color-scheme: light dark; }
  body { max-width: 26rem; margin: 0 auto; padding: clamp(16px, 8vw, 64px) 16px; font: 16px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.35rem; }
  label { display: block; margin: 16px 0 4px; }
  input, button { box-sizing: border-box; width: 100%; min-height: 44px; padding: 8px 12px; font: inherit; }
  button { margin-top: 12px; font-weight: 600; cursor: pointer; }
</style>
<h1>Local sign-in</h1>
<p>This stands in for your issuer while you develop. Any name will do, without a password.</p>
<form method="post">
  <label for="name">Name</label>
  <input id="name" name="username" value="developer" required autofocus>
  FIELDS
  <button>Sign in</button>
</form>
</html>
"""


@dataclass(frozen=True)
class _Code:
    """What a code was made for."""

    request: dict[str, str]
    username: str
    expires: float


class Issuer:
    """Makes tokens, and serves what their users need.

    Attributes:
        url: Its URL without a slash at the end, which tokens have in `iss`; empty until it is served.
        key: The private key.
        key_id: The key's id.
    """

    def __init__(self, audience: str | list[str], lifetime: float = LIFETIME) -> None:
        """Make a key.

        Args:
            audience: What tokens have in `aud`.
            lifetime: Seconds for which a token is valid.
        """
        self.url = ""
        self.key = rsa.generate_private_key(65537, 2048)
        self.key_id = secrets.token_hex(8)
        self._audience = audience
        self._lifetime = lifetime
        self._codes: dict[str, _Code] = {}

    def sign(self, claims: dict[str, Any], kind: str = "at+jwt") -> str:
        """Return a token with exactly these claims."""
        return jwt.encode(claims, self.key, "RS256", headers={"kid": self.key_id, "typ": kind})

    def claims(self, username: str = "developer", client_id: str = "local", scope: str = "openid") -> dict[str, Any]:
        """Return the claims of an access token, named as in RFC 9068, and `token_use` as in Cognito's."""
        now = int(time.time())
        return {
            "iss": self.url,
            "sub": hashlib.sha256(username.encode()).hexdigest()[:32],
            "aud": self._audience,
            "client_id": client_id,
            "token_use": "access",
            "scope": scope,
            "username": username,
            "iat": now,
            "exp": now + int(self._lifetime),
            "jti": secrets.token_hex(8),
        }

    def token(self, username: str = "developer") -> str:
        """Return an access token."""
        return self.sign(self.claims(username))

    def admit(self, event: Any) -> Any:
        """Return the event with an access token, unless it is not a request or has an `authorization` of its own."""
        headers = event.get("headers") if isinstance(event, dict) else None
        if not isinstance(headers, dict) or any(name.lower() == "authorization" for name in headers):
            return event
        return {**event, "headers": {**headers, "authorization": f"Bearer {self.token()}"}}

    async def serve(self, connection: Connection, request: h11.Request) -> None:
        """Answer one request."""
        body = await connection.read_body(_SIZE_LIMIT)
        headers = field_values(request)
        path, _, query = request.target.decode("latin-1").partition("?")
        form = dict(parse_qsl((body if request.method == b"POST" else query.encode()).decode(errors="replace")))
        if not is_loopback(headers.get("host", "localhost")):  # DNS rebinding
            await connection.respond(403, [], b"The issuer answers to loopback names only.\n")
            return
        match request.method, path:
            case b"GET", "/.well-known/openid-configuration":
                await _send_json(connection, 200, self._configuration())
            case b"GET", "/jwks.json":
                await _send_json(connection, 200, {"keys": [self.public_key()]})
            case b"GET", "/token":
                await connection.respond(200, [("content-type", "text/plain"), _NO_STORE], self.token().encode())
            case b"POST", "/token":
                await _send_json(connection, *self._redeem(form))
            case b"GET" | b"POST", "/authorize" if problem := _problem(form):
                await connection.respond(400, [("content-type", "text/plain"), _NO_STORE], f"{problem}\n".encode())
            case b"GET", "/authorize":
                fields = "\n  ".join(
                    f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
                    for name, value in form.items()
                )
                page = _PAGE.replace("FIELDS", fields).encode()
                await connection.respond(200, [("content-type", "text/html; charset=utf-8"), _NO_STORE], page)
            case b"POST", "/authorize" if not is_foreign_page(headers):
                code = secrets.token_urlsafe(24)
                self._codes[code] = _Code(form, form.get("username", ""), time.monotonic() + _CODE_LIFETIME)
                answer = urlencode({"code": code, "state": form.get("state", ""), "iss": self.url})
                await connection.respond(303, [("location", f"{form['redirect_uri']}?{answer}"), _NO_STORE], b"")
            case _:
                await connection.respond(404, [], b"")

    def public_key(self) -> dict[str, Any]:
        """Return the public key as a JSON Web Key."""
        found: dict[str, Any] = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {**found, "kid": self.key_id, "use": "sig", "alg": "RS256", "key_ops": ["verify"]}

    def _configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks.json",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
        }

    def _redeem(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        code = self._codes.pop(form.get("code", ""), None)
        if form.get("grant_type") != "authorization_code":
            return 400, {"error": "unsupported_grant_type"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            code is None
            or code.expires < time.monotonic()
            or challenge != code.request["code_challenge"]
            or any(form.get(name) != code.request[name] for name in ("client_id", "redirect_uri"))
        ):
            return 400, {"error": "invalid_grant"}
        claims = self.claims(code.username, form["client_id"], code.request.get("scope", "openid"))
        identity = {**claims, "aud": form["client_id"], "token_use": "id", "nonce": code.request.get("nonce", "")}
        del identity["client_id"], identity["scope"]
        return 200, {
            "access_token": self.sign(claims),
            "id_token": self.sign(identity, "JWT"),
            "token_type": "Bearer",
            "expires_in": int(self._lifetime),
            "scope": claims["scope"],
        }


@contextlib.asynccontextmanager
async def issuing(issuer: Issuer, port: int = 0) -> AsyncIterator[Issuer]:
    """Serve `issuer` on 127.0.0.1 until the block ends.

    Raises:
        ListenError: The message says where and why.
    """
    server = Server(issuer.serve)
    try:
        issuer.url = url_of(*await server.start("127.0.0.1", port)).rstrip("/")
        yield issuer
    finally:
        await server.close()


@contextlib.contextmanager
def running_issuer(audience: str, lifetime: float = LIFETIME) -> Iterator[Issuer]:
    """Serve an issuer in a thread until the block ends, for code that is not asynchronous; the block gets it."""
    started: Future[Callable[[], object]] = Future()
    issuer = Issuer(audience, lifetime)

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with issuing(issuer):
            started.set_result(lambda: loop.call_soon_threadsafe(stop.set))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="local issuer")
    thread.start()
    try:
        stop = started.result()
        try:
            yield issuer
        finally:
            stop()
    finally:
        thread.join()


def _problem(form: dict[str, str]) -> str:
    """Return what is wrong with a request for authorization; empty if nothing is."""
    target = urlsplit(form.get("redirect_uri", ""))
    if target.scheme not in ("http", "https") or not is_loopback(target.netloc):
        return f"redirect_uri must be a URL of this machine, got {form.get('redirect_uri', '')!r}"
    if form.get("response_type") != "code" or not form.get("client_id"):
        return "response_type must be code, and client_id must be given"
    if form.get("code_challenge_method") != "S256" or not form.get("code_challenge"):
        return "code_challenge must be given, with code_challenge_method S256"
    return ""


async def _send_json(connection: Connection, status: int, value: dict[str, Any]) -> None:
    headers = [("content-type", "application/json"), _NO_STORE, _ANY_ORIGIN]
    await connection.respond(status, headers, json.dumps(value).encode())
