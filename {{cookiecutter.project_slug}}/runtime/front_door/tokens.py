"""Whether an access token is valid, by RFC 7519 (JWT), RFC 8725 (best current practices) and RFC 9068.

PyJWT checks the signature and the times. What it leaves to the caller is here: which key, and for whom the token is.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode
from typing import Any, NamedTuple

import jwt
from jwt import PyJWK

from .keys import KeySet

_SIZE_LIMIT = 16 * 1024  # characters; Cognito's largest tokens have about half as many
_REMEMBERED = 64  # valid tokens; a client sends the same one with each request until it expires
_TYPES = ("", "jwt", "at+jwt", "application/at+jwt")
# Only ID tokens have these: https://openid.net/specs/openid-connect-core-1_0.html#HybridIDToken
_ID_CLAIMS = ("at_hash", "c_hash")
_DESCRIPTIONS = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidIssuerError: "The token is from another issuer.",
    jwt.MissingRequiredClaimError: "The token lacks a claim.",
    jwt.InvalidSignatureError: "The signature of the token is wrong.",
}


class TokenError(Exception):
    """A token is not valid. The message says why, in ASCII without quotes."""


class _Valid(NamedTuple):
    """A token that was valid: the key that signed it, when it expires, and its claims as JSON."""

    key_id: str | None
    key: PyJWK
    expires: int
    claims: str


def _header(token: str) -> dict[str, Any]:
    # PyJWT's own function reads all three parts, which takes longer than the check of the signature.
    first = token.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise TokenError("The token is malformed.")
    return header


class Verifier:
    """Accepts the access tokens of one issuer for one audience."""

    def __init__(self, keys: KeySet, issuer: str, audience: str, leeway: float = 0.0) -> None:
        """Accept tokens that name exactly these.

        Args:
            keys: The issuer's keys.
            issuer: What tokens must have in `iss`.
            audience: What tokens must have in `aud`, or in `client_id` if they have no `aud`, as Cognito's do not.
            leeway: Seconds by which clocks may differ in `exp` and `nbf`.

        Raises:
            ValueError: `audience` is empty.
        """
        if not audience:
            raise ValueError("JWT_AUDIENCE must name the audience or the client of the tokens, got ''")
        self.issuer = issuer
        self._keys = keys
        self._audience = audience
        self._leeway = leeway
        self._valid: dict[str, _Valid] = {}

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid token.

        Raises:
            TokenError: It is not valid.
            KeysUnavailable: The issuer's keys are needed and cannot be fetched.
        """
        if len(token) > _SIZE_LIMIT:
            raise TokenError("The token is too long.")
        if (valid := self._valid.get(token)) and self._keys.find(valid.key_id) is valid.key:
            if valid.expires > time.time() - self._leeway:
                remembered: dict[str, Any] = json.loads(valid.claims)  # the handler may change its own
                return remembered
            del self._valid[token]
        header, algorithm = _header(token), self._keys.algorithm
        kind, key_id = header.get("typ", ""), header.get("kid")
        if header.get("alg") != algorithm:
            raise TokenError(f"The algorithm of the token is not {algorithm}.")
        if "crit" in header or not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise TokenError("The token is not an access token.")
        key = self._keys.find(key_id) if key_id is None or isinstance(key_id, str) else None
        if key is None:
            raise TokenError("The key of the token is unknown.")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self.issuer,
                leeway=self._leeway,
                # The audience is below. `iat` says when the token was made, not from when it is valid.
                options={"require": ["exp", "iss"], "verify_aud": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise TokenError(_DESCRIPTIONS.get(type(error), "The token is malformed.")) from None
        # ID tokens say to a client who has signed in; they do not allow anything.
        if claims.get("token_use", "access") != "access" or not claims.keys().isdisjoint(_ID_CLAIMS):
            raise TokenError("The token is not an access token.")
        # As API Gateway does: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-jwt-authorizer.html
        audience = claims["aud"] if "aud" in claims else claims.get("client_id")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise TokenError("The token is for another audience.")
        if len(self._valid) >= _REMEMBERED:
            self._valid.clear()
        self._valid[token] = _Valid(key_id, key, int(claims["exp"]), json.dumps(claims))
        return claims
