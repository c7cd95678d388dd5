"""Issuers of tokens on loopback: the template's own, and one made with Authlib, a package for real ones."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from local.issuer import running_issuer

AUDIENCE = "my-client"
REDIRECT = "http://127.0.0.1:1/"


class Forge:
    """Makes tokens like those of an issuer, with its key or another one.

    Attributes:
        url: The issuer.
        key: Its private key.
        key_id: The id of this key.
        token: An access token that the issuer has given to a client that signed in.
        id_token: The ID token that came with it.
    """

    def __init__(self, url: str, key: Any, key_id: str) -> None:
        self.url, self.key, self.key_id = url, key, key_id
        self.token, self.id_token = _sign_in(url)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of the issuer's own token with changes; None removes a claim."""
        claims = jwt.decode(self.token, options={"verify_signature": False})
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def make(
        self, algorithm: str = "RS256", key: Any = None, header: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """Return a token with a correct signature."""
        headers = {"kid": self.key_id, "typ": "at+jwt", **(header or {})}
        return jwt.encode(self.claims(**changes), key or self.key, algorithm, headers=headers)

    def raw(self, header: Any, payload: bytes | None = None, signature: bytes | None = None) -> str:
        """Return a token with any header and payload, by default signed as RS256 says."""
        payload = json.dumps(self.claims()).encode() if payload is None else payload
        first = header if isinstance(header, bytes) else json.dumps(header).encode()
        signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (first, payload))
        if signature is None:
            signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(signed, self.key)
        return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()

    def raw_payload(self, payload: bytes) -> str:
        """Return a signed token with any payload."""
        return self.raw({"alg": "RS256", "kid": self.key_id, "typ": "at+jwt"}, payload)

    def raw_claims(self, **changes: Any) -> str:
        """Return a signed token with claims that PyJWT would not make."""
        return self.raw_payload(json.dumps({**self.claims(), **changes}).encode())


@contextmanager
def local() -> Iterator[Forge]:
    """Run the issuer of `make dev`."""
    with running_issuer(AUDIENCE) as issuer:
        yield Forge(issuer.url, issuer.key, issuer.key_id)


@contextmanager
def authlib() -> Iterator[Forge]:
    """Run an issuer that Authlib's grants and token generators make, behind Flask."""
    from authlib.integrations.flask_oauth2 import AuthorizationServer
    from authlib.oauth2.rfc6749 import ClientMixin, grants
    from authlib.oauth2.rfc7636 import CodeChallenge
    from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
    from authlib.oidc.core import UserInfo
    from authlib.oidc.core.grants import OpenIDCode
    from flask import Flask, jsonify
    from werkzeug.serving import make_server

    key, key_id = rsa.generate_private_key(65537, 2048), "authlib-1"
    private = {**RSAAlgorithm.to_jwk(key, as_dict=True), "kid": key_id, "alg": "RS256", "use": "sig"}
    public = {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "alg": "RS256", "use": "sig"}
    codes: dict[str, Any] = {}

    class User:
        def get_user_id(self) -> str:
            return "someone"

    class Client(ClientMixin):  # type: ignore[misc]
        client_id = AUDIENCE

        def get_client_id(self) -> str:
            return self.client_id

        def get_default_redirect_uri(self) -> str:
            return REDIRECT

        def get_allowed_scope(self, scope: str) -> str:
            return scope or "openid"

        def check_redirect_uri(self, redirect_uri: str) -> bool:
            return redirect_uri == REDIRECT

        def check_client_secret(self, client_secret: str) -> bool:
            return False

        def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
            return method == "none"

        def check_response_type(self, response_type: str) -> bool:
            return response_type == "code"

        def check_grant_type(self, grant_type: str) -> bool:
            return grant_type == "authorization_code"

    class Code:
        def __init__(self, request: Any) -> None:
            data = request.payload.data
            self.redirect_uri, self.scope, self.nonce = data["redirect_uri"], data["scope"], data.get("nonce")
            self.code_challenge, self.code_challenge_method = data["code_challenge"], data["code_challenge_method"]

        def get_redirect_uri(self) -> str:
            return str(self.redirect_uri)

        def get_scope(self) -> str:
            return str(self.scope)

        def get_nonce(self) -> Any:
            return self.nonce

        def get_auth_time(self) -> int:
            return int(time.time())

        def get_acr(self) -> None:
            return None

        def get_amr(self) -> None:
            return None

    class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            codes[code] = Code(request)

        def query_authorization_code(self, code: str, client: Any) -> Any:
            return codes.get(code)

        def delete_authorization_code(self, authorization_code: Any) -> None:
            codes.clear()

        def authenticate_user(self, authorization_code: Any) -> Any:
            return User()

    class OpenId(OpenIDCode):  # type: ignore[misc]
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return False

        def resolve_client_private_key(self, client: Any) -> Any:
            return private

        def get_client_algorithm(self, client: Any) -> str:
            return "RS256"

        def get_client_claims(self, client: Any) -> dict[str, Any]:
            return {"iss": url, "exp": int(time.time()) + 3600}

        def generate_user_info(self, user: Any, scope: str) -> Any:
            return UserInfo(sub="someone")

    class Tokens(JWTBearerTokenGenerator):  # type: ignore[misc]
        def get_jwks(self) -> Any:
            return private

        def get_audiences(self, client: Any, user: Any, scope: str) -> str:
            return AUDIENCE

    app = Flask("issuer")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    url = f"http://127.0.0.1:{server.server_port}"
    oauth = AuthorizationServer(app, query_client=lambda _: Client(), save_token=lambda *_: None)
    oauth.register_grant(CodeGrant, [OpenId(require_nonce=False), CodeChallenge(required=True)])
    oauth.register_token_generator("default", Tokens(url))

    @app.get("/.well-known/openid-configuration")
    def configuration() -> Any:
        endpoints = {"authorization_endpoint": f"{url}/authorize", "token_endpoint": f"{url}/token"}
        return jsonify({"issuer": url, "jwks_uri": f"{url}/jwks", **endpoints})

    @app.get("/jwks")
    def jwks() -> Any:
        return jsonify({"keys": [public]})

    @app.post("/authorize")
    def authorize() -> Any:
        grant = oauth.get_consent_grant(end_user=User())
        return oauth.create_authorization_response(grant=grant, grant_user=User())

    @app.post("/token")
    def token() -> Any:
        return oauth.create_token_response()

    thread = threading.Thread(target=server.serve_forever, name="Authlib issuer")
    thread.start()
    try:
        yield Forge(url, key, key_id)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _sign_in(issuer: str) -> tuple[str, str]:
    """Sign in with the authorization code flow and PKCE; return the access token and the ID token."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    _, configuration = send(f"{issuer}/.well-known/openid-configuration")
    found = json.loads(configuration)
    common = {"client_id": AUDIENCE, "redirect_uri": REDIRECT}
    query = {
        **common,
        "response_type": "code",
        "scope": "openid",
        "state": "s",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "username": "someone",
    }
    response, shown = send(found["authorization_endpoint"], query)
    assert response.status in (302, 303), shown
    code = dict(parse_qsl(urlsplit(response.headers["location"]).query))["code"]
    form = {**common, "grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    _, answer = send(found["token_endpoint"], form)
    tokens = json.loads(answer)
    return tokens["access_token"], tokens["id_token"]


def send(url: str, form: dict[str, str] | None = None, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Send GET, or POST with a form; return the response and its body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    body = urlencode(form) if form is not None else None
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    kind = {"content-type": "application/x-www-form-urlencoded"} if form is not None else {}
    connection.request("POST" if form is not None else "GET", target, body, {**kind, **headers})
    response = connection.getresponse()
    answer = response, response.read()
    connection.close()
    return answer
