"""The public keys of an OpenID Connect issuer: fetched when needed, and kept while the issuer cannot be reached."""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from jwt import PyJWK
from jwt.exceptions import PyJWTError

#: Algorithms with a public key. Others, such as HS256, would make a public key a shared secret.
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
#: Seconds after which keys are fetched again, so that a key that the issuer has removed stops working.
FRESH = 3600.0
#: Seconds for which keys are used while the issuer cannot be reached.
STALE = 24 * 3600.0
#: Seconds between two attempts, so that unknown keys in tokens cannot flood the issuer.
RETRY = 10.0

_RSA_BITS = 2048  # https://www.rfc-editor.org/rfc/rfc7518#section-3.3
_SIZE_LIMIT = 1024 * 1024  # bytes of a document
_TIMEOUT = 3.0  # seconds
_log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """The issuer's keys are not known, because it cannot be reached."""


def fetch(url: str) -> Any:
    """Return the JSON document at a URL.

    Raises:
        OSError, http.client.HTTPException: It cannot be fetched.
        ValueError: It is not JSON, or the URL is neither https nor on the loopback interface.
    """
    loopback = _is_loopback(url)
    if urlsplit(url).scheme != "https" and not loopback:
        raise ValueError(f"{url} must begin with https://")
    handlers: list[Any] = [_NoRedirects]
    if loopback:
        handlers.append(urllib.request.ProxyHandler({}))
    with urllib.request.build_opener(*handlers).open(url, timeout=_TIMEOUT) as response:
        return json.loads(response.read(_SIZE_LIMIT))


class KeySet:
    """The keys of one issuer, by their ids."""

    def __init__(
        self,
        issuer: str,
        algorithm: str,
        fetch: Callable[[str], Any] = fetch,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Fetch nothing yet.

        Args:
            issuer: The issuer's URL, as its tokens have it in `iss`.
            algorithm: The only algorithm that is accepted.
            fetch: Returns the JSON document at a URL.
            clock: Returns the time in seconds.

        Raises:
            ValueError: The algorithm has no public key, or the issuer is not a URL.
        """
        if algorithm not in ALGORITHMS:
            raise ValueError(f"JWT_ALGORITHM must be one of {', '.join(sorted(ALGORITHMS))}, got {algorithm!r}")
        if urlsplit(issuer).scheme != "https" and not _is_loopback(issuer):
            raise ValueError(f"JWT_ISSUER must be an https:// URL, got {issuer!r}")
        self.algorithm = algorithm
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched = -STALE
        self._tried = -RETRY

    def find(self, key_id: str | None) -> PyJWK | None:
        """Return the key with this id, or the only key for a token without an id; None if the issuer has none.

        Raises:
            KeysUnavailable: The issuer cannot be reached, and the key is not known from before.
        """
        now = self._clock()
        if now - self._fetched >= FRESH or self._known(key_id) is None:  # the issuer may have a new key
            self._refresh(now)
        if now - self._fetched < STALE and (key := self._known(key_id)):
            return key
        if self._fetched < self._tried:
            raise KeysUnavailable(self._issuer)
        return None

    def _known(self, key_id: str | None) -> PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            [key_id] = self._keys
        return self._keys.get(key_id or "")

    def _refresh(self, now: float) -> None:
        if now - self._tried < RETRY:
            return
        self._tried = now
        try:
            found = self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if found["issuer"] != self._issuer:
                raise ValueError(f"it names the issuer {found['issuer']!r}")
            self._keys = dict(self._usable(self._fetch(found["jwks_uri"])["keys"]))
            self._fetched = now
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
            _log.warning("The keys of %s cannot be fetched: %s: %s", self._issuer, type(error).__name__, error)

    def _usable(self, keys: list[dict[str, Any]]) -> Any:
        for key in keys:
            if key.get("use", "sig") != "sig" or key.get("alg", self.algorithm) != self.algorithm:
                continue
            try:
                usable = PyJWK(key, self.algorithm)
            except PyJWTError:  # of another kind than the algorithm's
                continue
            if getattr(usable.key, "key_size", _RSA_BITS) >= _RSA_BITS or key.get("kty") != "RSA":
                yield str(key.get("kid", "")), usable


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The issuer's documents are where it says, so a redirect is an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
