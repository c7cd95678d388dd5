"""The CORS headers of the URL, as the template's `Cors` sets them."""

from __future__ import annotations

import pytest
from tests.local.conftest import Serve

from local.template import Cors

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
    """Return status, body and the headers on which a browser decides."""
    connection = serve(HANDLER, url={"cors": cors}).connect()
    connection.request(method, "/", headers=headers)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    kept = {name: value for name, value in found.items() if name.startswith("access-control-") or name == "vary"}
    return response.status, response.read(), kept


def test_preflight_does_not_invoke(serve: Serve) -> None:
    served = serve("tell(b'!')\n" + HANDLER.replace("\n    ", "\n"), url={"cors": LISTED})
    connection = served.connect()
    connection.request("OPTIONS", "/", headers={"Origin": PAGE, **PREFLIGHT})
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    assert "x-of-function" not in response.headers
    assert not served.told.ready(0)


def test_preflight_headers(serve: Serve) -> None:
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


def test_simple_request_headers(serve: Serve) -> None:
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
def test_unlisted_origin(serve: Serve, headers: dict[str, str]) -> None:
    method = "OPTIONS" if headers else "GET"
    status, body, found = cors_headers(serve, LISTED, method, Origin="https://evil.example", **headers)
    assert (status, body, found) == (200, b"" if headers else b"GET", {})


@pytest.mark.parametrize(
    ("cors", "headers"),
    [(None, {"Origin": PAGE, **PREFLIGHT}), (LISTED, {"Origin": PAGE}), (LISTED, {})],
    ids=["no Cors", "not a preflight", "no page"],
)
def test_other_options_requests_invoke(serve: Serve, cors: Cors | None, headers: dict[str, str]) -> None:
    assert cors_headers(serve, cors, "OPTIONS", **headers)[1] == b"OPTIONS"


def test_error_response_has_cors_headers(serve: Serve) -> None:
    served = serve("def handler(event, context):\n    raise ValueError\n", url={"cors": LISTED})
    connection = served.connect()
    connection.request("GET", "/", headers={"Origin": PAGE})
    response = connection.getresponse()
    assert (response.status, response.headers["access-control-allow-origin"]) == (502, PAGE)


def test_function_cors_headers_are_kept(serve: Serve) -> None:
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
