"""Which requests a server on localhost refuses, because a web page elsewhere may have sent them.

A page can send requests to 127.0.0.1. The browser reveals that in `Origin` and `Sec-Fetch-Site`, unless the page's own
domain name resolves to 127.0.0.1 (DNS rebinding). Then that name is in `Host`.
"""

from __future__ import annotations

import ipaddress


def host_name(host: str) -> str:
    """Return the name or address in a `Host` header, in lower case and without port and brackets.

    A bare IPv6 address is returned as it is: people write it so, though a header must not.
    """
    name, colon, port = host.rpartition(":")
    has_port = colon and not port.endswith("]") and (":" not in name or name.endswith("]"))
    return (name if has_port else host).strip("[]").lower()


def is_loopback(host: str) -> bool:
    """Return whether a `Host` header names this machine's loopback interface."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_foreign_page(headers: dict[str, str]) -> bool:
    """Return whether a request came from a page of another origin than its host; `headers` has lower-case names."""
    own = f"http://{headers.get('host', '')}"
    return headers.get("origin", own) != own or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
