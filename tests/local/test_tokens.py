"""The check of tokens: which ones reach the handler, with the template's own issuer and with one made by Authlib."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm
from tests.helpers import issuers
from tests.helpers.issuers import AUDIENCE, Forge, send
from tests.local.conftest import function, write_handler

from front_door.guard import Guard
from front_door.keys import FRESH, RETRY, STALE, KeySet, KeysUnavailable, fetch
from front_door.tokens import TokenError, Verifier
from local.function_url import running
from local.journal import Observer

CHALLENGE = "x-amzn-remapped-www-authenticate"  # as the URL names it
HANDLER = """
    def handler(event, context):
        with open(os.environ["RAN"], "a") as ran:
            ran.write("x")
        authorizer = event["requestContext"]["authorizer"]["jwt"]
        return {"subject": authorizer["claims"].get("sub"), "scopes": authorizer["scopes"]}
    """


@pytest.fixture(scope="module")
def strangers_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class Door(NamedTuple):
    """A function that checks tokens."""

    url: str
    forge: Forge
    ran: Path

    def try_(self, value: str) -> tuple[int, str, bytes, int]:
        """Return status, challenge and body for a value of `authorization`, and how often the handler ran."""
        before = self.ran.stat().st_size
        response, body = send(self.url, authorization=value)
        return response.status, response.headers[CHALLENGE] or "", body, self.ran.stat().st_size - before


@pytest.fixture(scope="module", params=["local", "authlib"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    write_handler(folder, HANDLER)
    (folder / "ran").touch()
    with getattr(issuers, request.param)() as forge:
        environment = {
            "PYTHONPATH": str(folder),
            "RAN": str(folder / "ran"),
            "FRONT_DOOR_HANDLER": "served.handler",
            "JWT_ISSUER": forge.url,
            "JWT_AUDIENCE": AUDIENCE,
        }
        served = function(handler="front_door.entry.handler", environment=environment)
        with running(served, 1, Observer()) as url:
            yield Door(url, forge, folder / "ran")


def now(seconds: int = 0) -> int:
    return int(time.time()) + seconds


def public_pem(forge: Forge) -> bytes:
    kind, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(forge.key.public_key().public_bytes(kind, form))


def symmetric(forge: Forge, secret: bytes, algorithm: str = "HS256") -> str:
    """Return a token that a shared secret signs; PyJWT itself refuses to use a public key so."""
    header = {"alg": algorithm, "kid": forge.key_id, "typ": "at+jwt"}
    unsigned = forge.raw(header, signature=b"").rpartition(".")[0]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(unsigned.encode(), secret)
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def changed(token: str, part: int, change: Callable[[bytes], bytes]) -> str:
    parts = token.split(".")
    old = base64.urlsafe_b64decode(parts[part] + "==")
    parts[part] = base64.urlsafe_b64encode(change(old)).decode().rstrip("=")
    return ".".join(parts)


Make = Callable[[Forge, rsa.RSAPrivateKey], str]
ADMITTED: dict[str, Make] = {
    "the issuer's own": lambda forge, _: forge.token,
    "type JWT": lambda forge, _: forge.make(header={"typ": "JWT"}),
    "no type": lambda forge, _: forge.raw({"alg": "RS256", "kid": forge.key_id}),
    "full media type": lambda forge, _: forge.make(header={"typ": "application/at+jwt"}),
    "one of two audiences": lambda forge, _: forge.make(aud=["another", AUDIENCE]),
    "client without an audience": lambda forge, _: forge.make(aud=None, client_id=AUDIENCE, token_use="access"),
    "valid from now": lambda forge, _: forge.make(nbf=now()),
    "issued later": lambda forge, _: forge.make(iat=now(60)),
    "no key id, and one key": lambda forge, _: forge.raw({"alg": "RS256", "typ": "JWT"}),
    "no subject": lambda forge, _: forge.make(sub=None),
    "text of any script": lambda forge, _: forge.make(name="Füße 流れ"),
    "long": lambda forge, _: forge.make(groups=["x" * 100] * 80),
    "expires later than computers count": lambda forge, _: forge.make(exp=10**12),
}
REFUSED: dict[str, tuple[Make, str]] = {
    "another issuer": (lambda forge, _: forge.make(iss="https://issuer.example.com"), "another issuer"),
    "issuer with a slash": (lambda forge, _: forge.make(iss=f"{forge.url}/"), "another issuer"),
    "issuer in capitals": (lambda forge, _: forge.make(iss=forge.url.upper()), "another issuer"),
    "no issuer": (lambda forge, _: forge.make(iss=None), "lacks a claim"),
    "list of issuers": (lambda forge, _: forge.raw_claims(iss=[forge.url]), "malformed|another issuer"),
    "another audience": (lambda forge, _: forge.make(aud="another"), "another audience"),
    "longer audience": (lambda forge, _: forge.make(aud=f"{AUDIENCE}-2"), "another audience"),
    "shorter audience": (lambda forge, _: forge.make(aud=AUDIENCE[:-1]), "another audience"),
    "other audiences": (lambda forge, _: forge.make(aud=["another", "third"]), "another audience"),
    "empty list of audiences": (lambda forge, _: forge.make(aud=[]), "another audience"),
    "null as audience": (lambda forge, _: forge.raw_claims(aud=None), "another audience"),
    "number as audience": (lambda forge, _: forge.raw_claims(aud=7), "another audience"),
    "no audience and another client": (lambda forge, _: forge.make(aud=None, client_id="another"), "another audience"),
    "neither audience nor client": (lambda forge, _: forge.make(aud=None, client_id=None), "another audience"),
    "own client for another audience": (lambda forge, _: forge.make(aud="another", client_id=AUDIENCE), "another aud"),
    "RS384": (lambda forge, _: forge.make("RS384"), "algorithm"),
    "RS512": (lambda forge, _: forge.make("RS512"), "algorithm"),
    "PS256": (lambda forge, _: forge.make("PS256"), "algorithm"),
    "ES256": (lambda forge, _: forge.make("ES256", ec.generate_private_key(ec.SECP256R1())), "algorithm"),
    "HS256": (lambda forge, _: symmetric(forge, b"secret" * 8), "algorithm"),
    "HS256 with the public key": (lambda forge, _: symmetric(forge, public_pem(forge)), "algorithm"),
    "public key's secret called RS256": (lambda forge, _: symmetric(forge, public_pem(forge), "RS256"), "signature"),
    "algorithm left out": (lambda forge, _: forge.raw({"kid": forge.key_id, "typ": "JWT"}), "algorithm"),
    "none": (lambda forge, _: forge.raw({"alg": "none", "kid": forge.key_id}, signature=b""), "algorithm"),
    "none in capitals": (lambda forge, _: forge.raw({"alg": "NONE", "kid": forge.key_id}, signature=b""), "algorithm"),
    "none without a signature": (lambda forge, _: forge.raw({"alg": "none"}, signature=b""), "algorithm"),
    "RS256 without a signature": (lambda forge, _: changed(forge.token, 2, lambda _: b""), "signature|malformed"),
    "list of algorithms": (lambda forge, _: forge.raw({"alg": ["RS256"], "kid": forge.key_id}), "algorithm"),
    "expired by a second": (lambda forge, _: forge.make(exp=now(-1)), "expired"),
    "expires this second": (lambda forge, _: forge.make(exp=now()), "expired"),
    "expired long ago": (lambda forge, _: forge.make(exp=1), "expired"),
    "no expiry": (lambda forge, _: forge.make(exp=None), "lacks a claim"),
    "word as expiry": (lambda forge, _: forge.raw_claims(exp="tomorrow"), "malformed"),
    "infinite expiry": (lambda forge, _: forge.raw_claims(exp=float("inf")), "malformed"),
    "list as expiry": (lambda forge, _: forge.raw_claims(exp=[now(60)]), "malformed"),
    "not valid yet": (lambda forge, _: forge.make(nbf=now(60)), "not valid yet"),
    "word as start": (lambda forge, _: forge.raw_claims(nbf="yesterday"), "malformed"),
    "unknown key": (lambda forge, key: forge.make(key=key, header={"kid": "unknown"}), "key of the token is unknown"),
    "another key under its id": (lambda forge, key: forge.make(key=key), "signature"),
    "number as key id": (lambda forge, _: forge.raw({"alg": "RS256", "kid": 1}), "key of the token is unknown"),
    "empty key id": (lambda forge, _: forge.raw({"alg": "RS256", "kid": ""}), "key of the token is unknown"),
    "key in its header": (
        lambda forge, key: forge.make(key=key, header={"jwk": RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)}),
        "signature",
    ),
    "address of a key": (
        lambda forge, key: forge.make(key=key, header={"jku": "http://127.0.0.1:1/jwks", "kid": "unknown"}),
        "key of the token is unknown",
    ),
    "critical header": (
        lambda forge, _: forge.raw({"alg": "RS256", "kid": forge.key_id, "crit": ["b64"], "b64": False}),
        "not an access token",
    ),
    "signature of another token": (
        lambda forge, _: f"{forge.token.rpartition('.')[0]}.{forge.make(sub='x').rpartition('.')[2]}",
        "signature",
    ),
    "changed signature": (
        lambda forge, _: changed(forge.token, 2, lambda old: bytes([old[0] ^ 1]) + old[1:]),
        "signature",
    ),
    "shorter signature": (lambda forge, _: changed(forge.token, 2, lambda old: old[:-1]), "signature"),
    "changed claims": (
        lambda forge, _: changed(forge.token, 1, lambda old: old.replace(b"{", b'{"admin":1,', 1)),
        "signature",
    ),
    "changed header": (
        lambda forge, _: changed(forge.token, 0, lambda old: old.replace(b"{", b'{"x":1,', 1)),
        "signature",
    ),
    "ID token": (lambda forge, _: forge.id_token, "not an access token|another audience"),
    "ID token of Cognito": (lambda forge, _: forge.make(token_use="id"), "not an access token"),
    "ID token by its hash": (lambda forge, _: forge.make(at_hash="x"), "not an access token"),
    "token of a logout": (lambda forge, _: forge.make(header={"typ": "logout+jwt"}), "not an access token"),
    "proof of possession": (lambda forge, _: forge.make(header={"typ": "dpop+jwt"}), "not an access token"),
    "number as type": (lambda forge, _: forge.raw({"alg": "RS256", "kid": forge.key_id, "typ": 1}), "not an access"),
    "word": (lambda forge, _: "word", "malformed"),
    "two parts": (lambda forge, _: forge.token.rpartition(".")[0], "malformed"),
    "four parts": (lambda forge, _: f"{forge.token}.x", "malformed|signature"),
    "five parts": (lambda forge, _: f"{forge.token}.x.y", "malformed|signature"),
    "empty parts": (lambda forge, _: "..", "malformed"),
    "no base64": (lambda forge, _: f"{forge.token.partition('.')[0]}.~~~.~~~", "malformed|signature"),
    "header that is a list": (lambda forge, _: forge.raw([1]), "malformed"),
    "header that is broken": (lambda forge, _: forge.raw(b"{"), "malformed"),
    "header that nests": (lambda forge, _: forge.raw(b"[" * 6000), "malformed"),
    "claims that are a list": (lambda forge, _: forge.raw_payload(b"[1]"), "malformed"),
    "claims that are broken": (lambda forge, _: forge.raw_payload(b"{"), "malformed"),
    "no claims": (lambda forge, _: forge.raw_payload(b""), "malformed"),
    "huge": (lambda forge, _: forge.make(groups=["x" * 100] * 130), "too long"),
}


@pytest.mark.parametrize("name", ADMITTED)
def test_valid_token_is_admitted(name: str, door: Door, strangers_key: rsa.RSAPrivateKey) -> None:
    token = ADMITTED[name](door.forge, strangers_key)
    status, _, body, ran = door.try_(f"Bearer {token}")
    assert (status, ran) == (200, 1), body
    assert json.loads(body)["subject"] == jwt.decode(token, options={"verify_signature": False}).get("sub")


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_token_is_refused(name: str, door: Door, strangers_key: rsa.RSAPrivateKey) -> None:
    make, reason = REFUSED[name]
    status, challenge, body, ran = door.try_(f"Bearer {make(door.forge, strangers_key)}")
    assert (status, ran) == (401, 0), body
    assert 'error="invalid_token"' in challenge
    assert any(part in challenge for part in reason.split("|")), challenge
    assert body.decode().endswith(f" Issuer: {door.forge.url}\n")


HEADERS = [
    "",
    "Bearer",
    "Basic {}",
    "DPoP {}",
    "Bearer {} {}",
    "Bearer {},Bearer {}",
    "{}",
    "Bearer \t{}",
    "Bearer: {}",
]


@pytest.mark.parametrize("value", HEADERS)
def test_other_header_is_refused(value: str, door: Door) -> None:
    status, challenge, _, ran = door.try_(value.replace("{}", door.forge.token))
    assert (status, ran) == (401, 0)
    assert challenge == f'Bearer resource_metadata="{door.url}.well-known/oauth-protected-resource"'


@pytest.mark.parametrize("value", ["bearer {}", "BEARER  {}"])
def test_scheme_ignores_case(value: str, door: Door) -> None:
    assert door.try_(value.replace("{}", door.forge.token))[0] == 200


def test_token_elsewhere_is_refused(door: Door) -> None:
    """A URL is logged and shared, and a browser sends cookies for any page."""
    token = door.forge.token
    places: dict[str, dict[str, str]] = {
        f"{door.url}?access_token={token}": {},
        door.url: {"cookie": f"access_token={token}", "x-authorization": f"Bearer {token}"},
    }
    for url, headers in places.items():
        assert send(url, None, **headers)[0].status == 401
    assert send(door.url, {"access_token": token})[0].status == 401


def test_repeated_token_is_checked_again(door: Door) -> None:
    """It is remembered only until it expires."""
    token = door.forge.make(exp=now(2))
    assert door.try_(f"Bearer {token}")[0] == 200
    while time.time() < jwt.decode(token, options={"verify_signature": False})["exp"]:
        time.sleep(0.05)  # the clock of the function's process cannot be changed
    assert door.try_(f"Bearer {token}")[0] == 401


def test_metadata_names_the_issuer(door: Door) -> None:
    response, body = send(f"{door.url}.well-known/oauth-protected-resource/mcp")
    assert (response.status, response.headers["access-control-allow-origin"]) == (200, "*")
    expected = {
        "resource": f"{door.url}mcp",
        "authorization_servers": [door.forge.url],
        "bearer_methods_supported": ["header"],
    }
    assert json.loads(body) == expected


# The issuer's keys.

ISSUER = "https://issuer.example.com/pool"


class Clock:
    """An issuer and the time, both as a test sets them."""

    def __init__(self) -> None:
        self.time = 1e9
        self.requests: list[str] = []
        self.keys: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.configuration: Any = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"}

    def fetch(self, url: str) -> Any:
        self.requests.append(url)
        if self.error is not None:
            raise self.error
        return self.configuration if url.endswith("/.well-known/openid-configuration") else {"keys": self.keys}

    def key_set(self, algorithm: str = "RS256") -> KeySet:
        return KeySet(ISSUER, algorithm, self.fetch, lambda: self.time)


def public(key: Any, key_id: str, **more: Any) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, **more}


@pytest.fixture
def clock(strangers_key: rsa.RSAPrivateKey) -> Clock:
    found = Clock()
    found.keys = [public(strangers_key, "first")]
    return found


def test_keys_are_fetched_once(clock: Clock) -> None:
    keys = clock.key_set()
    assert clock.requests == []
    found = [keys.find("first") for _ in range(100)]
    assert found[0] is not None
    assert found == found[:1] * 100
    assert clock.requests == [f"{ISSUER}/.well-known/openid-configuration", f"{ISSUER}/keys"]


def test_rotated_keys_are_found(clock: Clock, strangers_key: rsa.RSAPrivateKey) -> None:
    keys = clock.key_set()
    keys.find("first")
    clock.keys = [public(strangers_key, "second")]
    assert keys.find("second") is None  # too early to ask again
    clock.time += RETRY
    assert keys.find("second") is not None
    assert keys.find("first") is None


def test_removed_key_stops_working(clock: Clock) -> None:
    keys = clock.key_set()
    keys.find("first")
    clock.keys = []
    clock.time += FRESH - 1
    assert keys.find("first") is not None
    clock.time += 1
    assert keys.find("first") is None


def test_unknown_keys_do_not_flood_the_issuer(clock: Clock) -> None:
    keys = clock.key_set()
    for number in range(1000):
        assert keys.find(f"unknown-{number}") is None
    assert len(clock.requests) == 2


def test_keys_survive_an_outage(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    keys = clock.key_set()
    keys.find("first")
    clock.error = OSError("down")
    clock.time += STALE - 1
    assert keys.find("first") is not None
    assert caplog.messages == [f"The keys of {ISSUER} cannot be fetched: OSError: down"]
    with pytest.raises(KeysUnavailable):
        keys.find("second")  # perhaps a new one
    clock.time += 1
    with pytest.raises(KeysUnavailable):
        keys.find("first")
    clock.error = None
    clock.time += RETRY
    assert keys.find("first") is not None


@pytest.mark.parametrize(
    "configuration",
    [
        None,
        [],
        {},
        {"issuer": "https://another.example.com", "jwks_uri": f"{ISSUER}/keys"},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": 7},
    ],
    ids=str,
)
def test_wrong_configuration_yields_no_keys(configuration: Any, clock: Clock) -> None:
    clock.configuration = configuration
    with pytest.raises(KeysUnavailable):
        clock.key_set().find("first")


def test_unsuitable_keys_are_left_out(clock: Clock, strangers_key: rsa.RSAPrivateKey) -> None:
    curve = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    small = rsa.generate_private_key(65537, 1024)
    clock.keys = [
        public(strangers_key, "encryption", use="enc"),
        public(strangers_key, "other", alg="RS512"),
        public(small, "small"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {**curve, "kid": "curve"},
        {"kty": "RSA", "kid": "empty"},
        public(strangers_key, "good", alg="RS256", use="sig"),
    ]
    keys = clock.key_set()
    assert [name for name in ("encryption", "other", "small", "secret", "curve", "empty") if keys.find(name)] == []
    assert keys.find("good") is not None


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS1", ""])
def test_algorithm_without_public_key_is_refused(algorithm: str, clock: Clock) -> None:
    with pytest.raises(ValueError, match="JWT_ALGORITHM must be one of ES256, "):
        clock.key_set(algorithm)


def test_token_without_key_id(clock: Clock, strangers_key: rsa.RSAPrivateKey) -> None:
    """Issuers with a single key may leave the id out: https://openid.net/specs/openid-connect-core-1_0.html#Signing"""
    keys = clock.key_set()
    assert keys.find(None) is keys.find("first")
    clock.keys = [public(strangers_key, "first"), public(rsa.generate_private_key(65537, 2048), "second")]
    clock.time += FRESH
    assert keys.find(None) is None
    assert keys.find("second") is not None


def test_elliptic_curve_is_accepted(clock: Clock) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    clock.keys = [{**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "curve"}]
    verifier = Verifier(clock.key_set("ES256"), ISSUER, AUDIENCE)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": now(60)}
    assert verifier.claims(jwt.encode(claims, key, "ES256", headers={"kid": "curve"})) == claims


def test_leeway_covers_both_times(clock: Clock, strangers_key: rsa.RSAPrivateKey) -> None:
    verifier = Verifier(clock.key_set(), ISSUER, AUDIENCE, leeway=30)
    claims = {"iss": ISSUER, "aud": AUDIENCE}

    def check(**times: int) -> dict[str, Any]:
        return verifier.claims(jwt.encode({**claims, **times}, strangers_key, "RS256", headers={"kid": "first"}))

    assert check(exp=now(-20), nbf=now(20))
    for times in ({"exp": now(-31)}, {"exp": now(60), "nbf": now(40)}):
        with pytest.raises(TokenError):
            check(**times)


def test_rotation_forgets_remembered_tokens(clock: Clock, strangers_key: rsa.RSAPrivateKey) -> None:
    verifier = Verifier(clock.key_set(), ISSUER, AUDIENCE)
    token = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "exp": now(600)}, strangers_key, "RS256", headers={"kid": "first"}
    )
    for _ in range(2):
        verifier.claims(token)["changed"] = "by the handler"
    assert "changed" not in verifier.claims(token)
    clock.keys = []
    clock.time += FRESH
    with pytest.raises(TokenError, match="key of the token is unknown"):
        verifier.claims(token)


def test_issuer_that_is_down(clock: Clock, strangers_key: rsa.RSAPrivateKey) -> None:
    clock.error = OSError("down")
    guard = Guard(Verifier(clock.key_set(), ISSUER, AUDIENCE))
    token = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "exp": now(600)}, strangers_key, "RS256", headers={"kid": "first"}
    )
    answer = guard.answer({"headers": {"authorization": f"Bearer {token}"}, "requestContext": {}})
    assert answer is not None
    assert (answer["statusCode"], answer["headers"]["retry-after"]) == (503, "10")


@pytest.mark.parametrize("url", ["http://issuer.example.com/keys", "file:///etc/hosts", "ftp://127.0.0.2.example.com/"])
def test_only_https_is_fetched(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with https://"):
        fetch(url)
    with pytest.raises(ValueError, match="JWT_ISSUER must be an https:// URL"):
        KeySet(url, "RS256")


# Events.


def test_rest_api_has_claims_in_their_place(clock: Clock, strangers_key: rsa.RSAPrivateKey) -> None:
    token = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "exp": now(600)}, strangers_key, "RS256", headers={"kid": "first"}
    )
    guard = Guard(Verifier(clock.key_set(), ISSUER, AUDIENCE), "client")
    event = {
        "httpMethod": "GET",
        "path": "/events",
        "headers": {"Host": "api.example.com", "Authorization": f"Bearer {token}", "Accept": "text/html"},
        "requestContext": {"path": "/live/events", "stage": "live"},
    }
    assert guard.answer(event) is None
    assert event["requestContext"]["authorizer"]["claims"]["aud"] == AUDIENCE  # type: ignore[index]
    answer = guard.answer({**event, "headers": {"Host": "api.example.com", "Accept": "text/html"}})
    assert answer is not None
    assert answer["headers"]["www-authenticate"] == (
        'Bearer resource_metadata="https://api.example.com/live/.well-known/oauth-protected-resource"'
    )
    assert '"home": "/live/"' in answer["body"]


@pytest.mark.parametrize(
    "event", [None, [], "text", {}, {"headers": None, "requestContext": None}, {"Records": []}], ids=str
)
def test_other_event_is_refused(event: Any, clock: Clock) -> None:
    answer = Guard(Verifier(clock.key_set(), ISSUER, AUDIENCE)).answer(event)
    assert answer is not None
    assert answer["statusCode"] == 401
    assert clock.requests == []


def test_settings_cannot_end_the_element(clock: Clock) -> None:
    guard = Guard(Verifier(clock.key_set(), ISSUER, AUDIENCE), "</script><b>")
    headers = {"accept": "text/html"}
    answer = guard.answer({"headers": headers, "requestContext": {"http": {"method": "GET"}}, "rawPath": "/"})
    assert answer is not None
    assert "</script><b>" not in answer["body"]
    assert "\\u003c/script>" in answer["body"]
