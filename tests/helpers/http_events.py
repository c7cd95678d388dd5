"""Events of HTTP requests, as a function URL and a REST API make them."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
HOST = "abc.lambda-url.us-east-1.on.aws"


def function_url(method: str = "GET", path: str = "/", query: str = "", **changes: Any) -> Message:
    """An event of a function URL, https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": HOST, "x-forwarded-port": "443", "x-forwarded-proto": "https"},
        "requestContext": {
            "domainName": HOST,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"},
            "stage": "$default",
        },
        "isBase64Encoded": False,
        **changes,
    }


def rest_api(
    method: str = "GET", path: str = "/", query: dict[str, list[str]] | None = None, stage: str = "", **changes: Any
) -> Message:
    """An event of a REST API, called by a custom domain, or by its own domain with `stage` in the path.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
    """
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "the last value only"},
        "multiValueHeaders": {"Host": [HOST], "X-Forwarded-Port": ["443"], "X-Forwarded-Proto": ["https"]},
        "queryStringParameters": None if query is None else {name: values[-1] for name, values in query.items()},
        "multiValueQueryStringParameters": query,
        "requestContext": {
            "domainName": HOST,
            "httpMethod": method,
            "identity": {"sourceIp": "203.0.113.7"},
            "path": stage + path,
            "protocol": "HTTP/1.1",
            "stage": "prod",
        },
        "body": None,
        "isBase64Encoded": False,
        **changes,
    }
