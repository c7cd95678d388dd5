"""Whether a request came through the CloudFront distribution in front, and which host its caller named.

The distribution adds a secret to each request, and its function copies the caller's `Host` to `x-forwarded-host`: the
function URL would refuse a request with another host than its own.
https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/add-origin-custom-headers.html
"""

from __future__ import annotations

import hmac
from typing import Any

_SECRET = "x-origin-secret"
_HOST = "x-forwarded-host"
_SHORTEST = 32  # characters
_BODY = "This address answers only its CloudFront distribution.\n"


class Origin:
    """Lets requests of the distribution through, with the host that their callers named."""

    def __init__(self, secrets: str) -> None:
        """Let requests through that have one of these secrets.

        Args:
            secrets: One secret, or more with a space between them while the distribution changes from one to another.

        Raises:
            ValueError: `secrets` is empty, one is too short, or one is a reference that CloudFormation did not resolve.
        """
        self._secrets = [secret.encode() for secret in secrets.split()]
        if not self._secrets or "resolve:" in secrets or any(len(secret) < _SHORTEST for secret in self._secrets):
            raise ValueError(f"ORIGIN_SECRET must be one or more secrets of at least {_SHORTEST} characters")

    def answer(self, event: Any) -> dict[str, Any] | None:
        """Return the answer to a request that did not come through the distribution; else None.

        The event then has the caller's host in `host` and in `requestContext.domainName`, and no longer the secret.
        """
        headers = event.get("headers") if isinstance(event, dict) else None
        names = {name.lower(): name for name in headers} if isinstance(headers, dict) else {}
        given = str(headers.pop(names[_SECRET])).encode() if headers and _SECRET in names else b""
        if not any(hmac.compare_digest(given, secret) for secret in self._secrets):  # in constant time
            head = {"cache-control": "no-store", "content-type": "text/plain; charset=utf-8"}
            return {"statusCode": 403, "headers": head, "body": _BODY}
        if headers and _HOST in names:
            host = headers[names.get("host", "host")] = headers[names[_HOST]]
            domain = host.partition(":")[0]
            context = event.setdefault("requestContext", {})
            context.update(domainName=domain, domainPrefix=domain.partition(".")[0])
        return None
