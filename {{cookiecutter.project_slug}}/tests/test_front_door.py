"""The check of tokens in front of the function, with an issuer on this machine."""

import dataclasses
import http.client
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from local.function_url import running
from local.issuer import Issuer, running_issuer
from local.template import load_function
from tests.conftest import PROJECT

# A function URL does not let a function set `www-authenticate` itself.
CHALLENGE = "x-amzn-remapped-www-authenticate"
# Says that it ran, and who called it.
HANDLER = """
def handler(event, context):
    print("handler ran")
    return event["requestContext"]["authorizer"]["jwt"]["claims"]["username"]
"""


class Door(NamedTuple):
    url: str
    issuer: Issuer

    def get(self, token: str = "", **headers: str) -> tuple[int, Any, str]:
        """Return status, headers and body of a request with this token."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        connection.request("GET", "/", headers={**headers, **({"authorization": f"Bearer {token}"} if token else {})})
        response = connection.getresponse()
        answer = response.status, response.headers, response.read().decode()
        connection.close()
        return answer


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The template's function with a handler of this file."""
    folder = tmp_path_factory.mktemp("handler")
    (folder / "guarded.py").write_text(HANDLER, encoding="utf-8")
    function = load_function(PROJECT / "template.yaml", "StreamFunction")
    with running_issuer(function.environment["JWT_AUDIENCE"]) as issuer, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("JWT_ISSUER", issuer.url)
        patch.setenv("FRONT_DOOR_HANDLER", "guarded.handler")
        with running(dataclasses.replace(function, timeout=30)) as url:
            yield Door(url, issuer)


def test_valid_token_reaches_handler(door: Door) -> None:
    status, _, body = door.get(door.issuer.token("someone"))
    assert (status, body) == (200, '"someone"')


def test_request_without_token_is_refused(door: Door) -> None:
    status, headers, body = door.get()
    assert status == 401
    assert headers[CHALLENGE].startswith("Bearer resource_metadata=")
    assert "someone" not in body


def test_expired_token_is_refused(door: Door) -> None:
    claims = {**door.issuer.claims(), "exp": int(time.time()) - 1}
    status, headers, _ = door.get(door.issuer.sign(claims))
    assert (status, "The token has expired." in headers[CHALLENGE]) == (401, True)


def test_token_for_others_is_refused(door: Door) -> None:
    claims = {**door.issuer.claims(), "aud": "another-client"}
    status, headers, _ = door.get(door.issuer.sign(claims))
    assert (status, "another audience" in headers[CHALLENGE]) == (401, True)


def test_browser_gets_page_to_sign_in(door: Door) -> None:
    status, headers, body = door.get(accept="text/html")
    assert (status, headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert door.issuer.url in body
