"""The function, a Model Context Protocol server at `/mcp`. A tool's progress reaches the client while it works."""

import asyncio
from math import isqrt
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streaming_runtime import AsgiHandler

# The protocol has hundreds of models, and a request needs few: pydantic prepares each one when it is first used, and a
# cold start is a sixth shorter. It has to be set before the models are defined.
BaseModel.model_config["defer_build"] = True

from mcp.server import MCPServer  # noqa: E402
from mcp.server.mcpserver import Context  # noqa: E402
from mcp.server.transport_security import TransportSecuritySettings  # noqa: E402

STEPS = 10  # progress reports

# A subscription would keep an invocation running, and billed, until the function's timeout.
server = MCPServer("primes", subscriptions=False)


@server.tool()
async def count_primes(limit: Annotated[int, Field(ge=2, le=1_000_000)], ctx: Context[Any, Any]) -> int:
    """Count the primes up to and including a limit, and report progress."""
    found = 0
    for step in range(STEPS):
        start, stop = (2 + (limit - 1) * part // STEPS for part in (step, step + 1))
        # In a thread, so that the event loop can send the report meanwhile.
        found += await asyncio.to_thread(primes_between, start, stop)
        await ctx.report_progress(step + 1, STEPS, f"{found} primes below {stop}")
    return found


def primes_between(start: int, stop: int) -> int:
    """Return the number of primes from `start` (at least 2) to below `stop`."""
    return sum(all(number % factor for factor in range(2, isqrt(number) + 1)) for number in range(start, stop))


streamable_http = server.streamable_http_app(
    # Requests of one client may reach different execution environments, so each one is independent.
    stateless_http=True,
    # By default the package only accepts requests to localhost. It needs the exact name of any other host, which is
    # unknown before the URL is deployed. The check prevents DNS rebinding, by which a web page reaches a server in its
    # reader's network; Lambda's URL is on the internet, and AuthType decides who may call it.
    transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse GET, with which a client listens to a session: without sessions it would wait until the timeout."""
    if scope["type"] == "http" and scope["method"] != "POST":
        await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
    else:
        await streamable_http(scope, receive, send)


handler = AsgiHandler(app)
