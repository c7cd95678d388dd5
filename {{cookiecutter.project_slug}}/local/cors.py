"""Cross-origin headers of a function URL.

https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html#urls-cors
"""

from __future__ import annotations

from .template import Cors


def is_preflight(method: str, headers: dict[str, str]) -> bool:
    """Return whether a request is a CORS preflight; `headers` has lower-case names."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def cors_headers(cors: Cors, origin: str, preflight: bool) -> list[tuple[str, str]]:
    """Return what the URL adds to a response for a page of `origin`; nothing if the page may not read it."""
    if origin in cors.allow_origins:
        headers = [("access-control-allow-origin", origin), ("vary", "Origin")]
    elif "*" in cors.allow_origins:
        headers = [("access-control-allow-origin", "*")]
    else:
        return []
    if cors.allow_credentials:
        headers.append(("access-control-allow-credentials", "true"))
    if cors.expose_headers and not preflight:
        headers.append(("access-control-expose-headers", ",".join(cors.expose_headers)))
    if preflight:
        headers.append(("access-control-allow-methods", ",".join(cors.allow_methods)))
        headers.append(("access-control-allow-headers", ",".join(cors.allow_headers)))
        if cors.max_age is not None:
            headers.append(("access-control-max-age", str(cors.max_age)))
    return headers
