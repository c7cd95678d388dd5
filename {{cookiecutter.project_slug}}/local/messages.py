"""What a response consists of on its way from the runtime to the client.

The runtime posts a `PostStart`, `Chunk`s and a `ResponseEnd`; the client gets a `ResponseHead`, `Chunk`s and a
`ResponseEnd`. `responses` turns one into the other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import h11

from .http_server import response_head


@dataclass(frozen=True)
class PostStart:
    """The runtime started to post a response with this content type."""

    content_type: str


@dataclass(frozen=True)
class ResponseHead:
    """Status and headers for the client."""

    status: int
    headers: list[tuple[str, str]]

    def __post_init__(self) -> None:
        """Check that HTTP allows the status and the headers.

        Raises:
            ValueError: It does not.
        """
        try:
            response_head(self.status, self.headers)
        except (TypeError, h11.LocalProtocolError) as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Chunk:
    """Bytes of the response, in the pieces in which the runtime sent them."""

    data: bytes


@dataclass(frozen=True)
class ResponseEnd:
    """The end of the response. If `error_type` is set the invocation failed, before its first byte or after."""

    error_type: str = ""
    error_body: bytes = b""


#: What the runtime posts, up to and including the `ResponseEnd`.
PostedMessages = AsyncGenerator[PostStart | Chunk | ResponseEnd]
#: What the client gets, up to and including the `ResponseEnd`.
ResponseMessages = AsyncGenerator[ResponseHead | Chunk | ResponseEnd]
