"""What a request without a valid token gets, and what the handler of one with a valid token sees."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from .keys import KeySet, KeysUnavailable
from .tokens import TokenError, Verifier

# https://www.rfc-editor.org/rfc/rfc6750#section-2.1
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_METADATA_PATH = "/.well-known/oauth-protected-resource"
_NO_STORE = {"cache-control": "no-store"}
_PAGE = Path(__file__).with_name("sign_in.html")

Answer = dict[str, Any]


class Guard:
    """Lets requests with a valid token through to the handler."""

    def __init__(self, verifier: Verifier, client_id: str = "", scope: str = "openid") -> None:
        """Guard with `verifier`.

        Args:
            verifier: Says whether a token is valid.
            client_id: The issuer's client for browsers; empty if browsers do not get a page to sign in.
            scope: The scopes that the page asks for.
        """
        self._verifier = verifier
        self._client_id = client_id
        self._scope = scope

    @classmethod
    def from_environment(cls) -> Guard:
        """Return a guard as `JWT_ISSUER`, `JWT_AUDIENCE` and the other variables describe it.

        Raises:
            KeyError: The issuer or the audience is missing.
            ValueError: A value cannot work.
        """
        issuer = os.environ["JWT_ISSUER"]
        verifier = Verifier(
            KeySet(issuer, os.environ.get("JWT_ALGORITHM", "RS256")),
            issuer,
            os.environ["JWT_AUDIENCE"],
            float(os.environ.get("JWT_LEEWAY", "0")),
        )
        return cls(verifier, os.environ.get("JWT_CLIENT_ID", ""), os.environ.get("JWT_SCOPE", "openid"))

    def answer(self, event: Any) -> Answer | None:
        """Return the answer to a request that must not reach the handler; else None.

        The claims of a valid token are then in the event, where API Gateway puts them: `requestContext.authorizer` has
        `jwt.claims` and `jwt.scopes` in payload format 2.0, and `claims` in 1.0.
        """
        request = _Request(event)
        if request.path.startswith(_METADATA_PATH) and request.method in ("GET", "HEAD"):
            return self._metadata(request)
        given = _BEARER.fullmatch(request.headers.get("authorization", "").strip())
        if given is None:
            return self._refuse(request, "")
        try:
            claims = self._verifier.claims(given[1])
        except TokenError as error:
            return self._refuse(request, str(error))
        except KeysUnavailable:
            headers = {**_NO_STORE, "content-type": "text/plain; charset=utf-8", "retry-after": "10"}
            return {"statusCode": 503, "headers": headers, "body": "The keys of the issuer cannot be fetched.\n"}
        request.context["authorizer"] = (
            {"claims": claims}
            if "httpMethod" in event
            else {"jwt": {"claims": claims, "scopes": str(claims["scope"]).split() if "scope" in claims else None}}
        )
        return None

    def _refuse(self, request: _Request, reason: str) -> Answer:
        # https://www.rfc-editor.org/rfc/rfc6750#section-3 and https://www.rfc-editor.org/rfc/rfc9728#section-5.1
        challenge = f'Bearer resource_metadata="{request.base}{_METADATA_PATH}"'
        if reason:
            challenge += f', error="invalid_token", error_description="{reason}"'
        headers = {**_NO_STORE, "www-authenticate": challenge, "content-type": "text/plain; charset=utf-8"}
        body = f"{reason or 'Send an access token.'} Issuer: {self._verifier.issuer}\n"
        if self._client_id and request.is_navigation and not reason:
            headers |= {
                "content-type": "text/html; charset=utf-8",
                "content-security-policy": "base-uri 'none'; frame-ancestors 'none'; object-src 'none'",
                "referrer-policy": "no-referrer",
            }
            body = self._page(request)
        return {"statusCode": 401, "headers": headers, "body": body}

    def _page(self, request: _Request) -> str:
        settings = {
            "issuer": self._verifier.issuer,
            "clientId": self._client_id,
            "scope": self._scope,
            "home": f"{request.prefix}/",
        }
        text = json.dumps(settings).replace("<", "\\u003c")  # so that no value ends the element
        return _PAGE.read_text(encoding="utf-8").replace("SETTINGS", text, 1)

    def _metadata(self, request: _Request) -> Answer:
        # https://www.rfc-editor.org/rfc/rfc9728: MCP clients find the issuer here.
        found = {
            "resource": f"{request.base}{request.path.removeprefix(_METADATA_PATH) or '/'}",
            "authorization_servers": [self._verifier.issuer],
            "bearer_methods_supported": ["header"],
        }
        headers = {"content-type": "application/json", "access-control-allow-origin": "*"}
        return {"statusCode": 200, "headers": headers, "body": json.dumps(found)}


class _Request:
    """The parts of an event that matter here; an event of another kind is a request without a token."""

    def __init__(self, event: Any) -> None:
        event = event if isinstance(event, dict) else {}
        self.context: dict[str, Any] = event.get("requestContext") or {}
        self.headers = {name.lower(): str(value) for name, value in (event.get("headers") or {}).items()}
        http = self.context.get("http") or {}
        self.method = str(event.get("httpMethod") or http.get("method", ""))
        self.path = str(event.get("path") or event.get("rawPath") or "/")
        # A REST API has its stage, or the base path of a custom domain, in front of the path.
        whole = str(self.context.get("path") or self.path)
        self.prefix = whole.removesuffix(self.path) if "httpMethod" in event else ""
        scheme = self.headers.get("x-forwarded-proto", "https")
        self.base = f"{scheme}://{self.headers.get('host', '')}{self.prefix}"

    @property
    def is_navigation(self) -> bool:
        """Whether a browser would show the answer as a page."""
        html = "text/html" in self.headers.get("accept", "")
        return self.method == "GET" and self.headers.get("sec-fetch-mode", "navigate") == "navigate" and html
