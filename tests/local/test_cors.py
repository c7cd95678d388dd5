"""What the URL answers and adds for pages of other origins, as the template's `Cors` has it."""

from __future__ import annotations

import pytest
from tests.local.conftest import Serve

from local.function import Cors

PAGE = "https://page.example"
HANDLER = """
    def handler(event, context):
        method = event["requestContext"]["http"]["method"]
        return StreamingResponse([method], headers={"x-of-function": method})
    """
LISTED = Cors(
    allow_origins=(PAGE, "https://other.example"),
    allow_methods=("GET", "PUT"),
    allow_headers=("x-one", "x-two"),
    expose_headers=("x-of-function", "date"),
    allow_credentials=True,
    max_age=600,
)
ANY = Cors(allow_origins=("*",), allow_methods=("*",), allow_headers=("*",))
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-one"}


def cors_headers(serve: Serve, cors: Cors | None, method: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body, and the headers that a browser decides by."""
    connection = serve(HANDLER, url={"cors": cors}).connect()
    connection.request(method, "/", headers=headers)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    kept = {name: value for name, value in found.items() if name.startswith("access-control-") or name == "vary"}
    return response.status, response.read(), kept


def test_a_preflight_is_answered_by_the_url_and_starts_nothing(serve: Serve) -> None:
    served = serve("tell(b'!')\n" + HANDLER.replace("\n    ", "\n"), url={"cors": LISTED})
    connection = served.connect()
    connection.request("OPTIONS", "/", headers={"Origin": PAGE, **PREFLIGHT})
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    assert "x-of-function" not in response.headers
    assert not served.told.ready(0)


def test_a_preflight_says_what_the_template_allows(serve: Serve) -> None:
    assert cors_headers(serve, LISTED, "OPTIONS", Origin=PAGE, **PREFLIGHT) == (
        200,
        b"",
        {
            "access-control-allow-origin": PAGE,
            "access-control-allow-methods": "GET,PUT",
            "access-control-allow-headers": "x-one,x-two",
            "access-control-allow-credentials": "true",
            "access-control-max-age": "600",
            "vary": "Origin",
        },
    )
    assert cors_headers(serve, ANY, "OPTIONS", Origin=PAGE, **PREFLIGHT) == (
        200,
        b"",
        {
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "*",
            "access-control-allow-headers": "*",
        },
    )


def test_a_simple_request_gets_the_functions_answer_and_who_may_read_it(serve: Serve) -> None:
    assert cors_headers(serve, LISTED, "GET", Origin=PAGE) == (
        200,
        b"GET",
        {
            "access-control-allow-origin": PAGE,
            "access-control-allow-credentials": "true",
            "access-control-expose-headers": "x-of-function,date",
            "vary": "Origin",
        },
    )
    assert cors_headers(serve, ANY, "GET", Origin=PAGE) == (200, b"GET", {"access-control-allow-origin": "*"})


@pytest.mark.parametrize("headers", [PREFLIGHT, {}], ids=["preflight", "simple"])
def test_an_origin_that_is_not_listed_is_not_named(serve: Serve, headers: dict[str, str]) -> None:
    method = "OPTIONS" if headers else "GET"
    status, body, found = cors_headers(serve, LISTED, method, Origin="https://evil.example", **headers)
    assert (status, body, found) == (200, b"" if headers else b"GET", {})


@pytest.mark.parametrize(
    ("cors", "headers"),
    [(None, {"Origin": PAGE, **PREFLIGHT}), (LISTED, {"Origin": PAGE}), (LISTED, {})],
    ids=["no Cors", "not a preflight", "no page"],
)
def test_other_options_requests_reach_the_function(serve: Serve, cors: Cors | None, headers: dict[str, str]) -> None:
    assert cors_headers(serve, cors, "OPTIONS", **headers)[1] == b"OPTIONS"


def test_a_response_without_the_function_can_be_read_by_the_page_too(serve: Serve) -> None:
    served = serve("def handler(event, context):\n    raise ValueError\n", url={"cors": LISTED})
    connection = served.connect()
    connection.request("GET", "/", headers={"Origin": PAGE})
    response = connection.getresponse()
    assert (response.status, response.headers["access-control-allow-origin"]) == (502, PAGE)


def test_headers_of_the_function_are_not_replaced_so_that_it_shows_if_both_set_them(serve: Serve) -> None:
    served = serve(
        f"""
        def handler(event, context):
            return StreamingResponse(["x"], headers={{"access-control-allow-origin": "{PAGE}"}})
        """,
        url={"cors": ANY},
    )
    connection = served.connect()
    connection.request("GET", "/", headers={"Origin": PAGE})
    assert connection.getresponse().headers.get_all("access-control-allow-origin") == [PAGE, "*"]
