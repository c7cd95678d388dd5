"""A stand-in for a model: it calls the tool for today, and tells what the tool said."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from datetime import date
from typing import Any

from strands.models import Model

INTERVAL = float(os.environ.get("STREAM_INTERVAL", "0.05"))  # seconds between words


class StandIn(Model):  # type: ignore[misc]  # where Strands is not installed
    """Streams a text as Bedrock does."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def stream(
        self, messages: Any, tool_specs: Any = None, system_prompt: Any = None, **_: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield the events of ConverseStream."""
        results = [block["toolResult"] for block in messages[-1]["content"] if "toolResult" in block]
        yield {"messageStart": {"role": "assistant"}}
        if results:
            day = results[0]["content"][0]["text"]
            for word in f"{self._text} The tool says that today is a {day}.".split():
                yield {"contentBlockDelta": {"delta": {"text": f"{word} "}}}
                await asyncio.sleep(INTERVAL)
        else:
            yield {"contentBlockStart": {"start": {"toolUse": {"toolUseId": "today", "name": "weekday"}}}}
            given = json.dumps({"day": date.today().isoformat()})
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": given}}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if results else "tool_use"}}

    def update_config(self, **_: Any) -> None:
        """Do nothing: there is nothing to configure."""

    def get_config(self) -> dict[str, Any]:
        """Return no settings."""
        return {}

    def structured_output(self, *_: Any, **__: Any) -> Any:
        """Refuse."""
        raise NotImplementedError
