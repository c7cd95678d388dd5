"""Clients of the chat examples' protocols, each with its own package; run by the interpreter of the group `clients`.

`python protocol_clients.py CLIENT URL` makes the requests for which test_protocol_clients.py prepares answers,
and prints what the client has read, as JSON.
"""

# The packages are installed where this runs, and not where it is type-checked.
from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx

TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}
QUESTION = [{"role": "user", "content": "Why?"}]


def openai(url: str) -> dict[str, Any]:
    """OpenAI's own client."""
    from openai import APIError, OpenAI, RateLimitError

    client = OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    create: Any = client.chat.completions.create

    def read(messages: list[Any], **more: Any) -> dict[str, Any]:
        # The client's own accumulator checks that the chunks fit together.
        with client.chat.completions.stream(
            model="m", messages=messages, stream_options={"include_usage": True}, **more
        ) as stream:
            events = [event.type for event in stream]
            completion = stream.get_final_completion()
        [choice] = completion.choices
        return {
            "events": sorted(set(events)),
            "text": choice.message.content,
            "reasoning": getattr(choice.message, "reasoning_content", None),
            "calls": [
                (call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()
            ],
            "reason": choice.finish_reason,
            "tokens": (completion.usage.prompt_tokens, completion.usage.completion_tokens),
        }

    found: dict[str, Any] = {"text": read(QUESTION)}
    tools = [{"type": "function", "function": {**TOOL, "strict": True}}]
    found["tool"] = read(QUESTION, tools=tools)
    call = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    history = [
        *QUESTION,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "2"},
    ]
    found["after tool"] = read(history, tools=tools)["text"]
    whole = create(model="m", messages=QUESTION)
    found["whole"] = (whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens)
    read_before = ""
    try:
        for chunk in create(model="m", messages=QUESTION, stream=True):
            read_before += chunk.choices[0].delta.content or ""
    except APIError as error:
        found["error midway"] = (read_before, type(error).__name__, error.message, error.code)
    try:
        create(model="m", messages=QUESTION, stream=True)
    except RateLimitError as error:
        found["error before"] = (error.status_code, error.code)
    try:
        for _ in create(model="m", messages=QUESTION, stream=True):
            pass
    except APIError as error:
        found["deadline"] = error.code
    return found


def pydantic_ai(url: str) -> dict[str, Any]:
    """Pydantic AI as a consumer of an OpenAI-compatible service, with a tool of its own."""
    from pydantic_ai import Agent
    from pydantic_ai.exceptions import ModelAPIError
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent: Any = Agent(OpenAIChatModel("m", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="unused")), retries=0)
    called = []

    @agent.tool_plain  # type: ignore[untyped-decorator]
    def add(a: int) -> int:
        """Add."""
        called.append(a)
        return a + 1

    result = agent.run_sync("Why?")
    found: dict[str, Any] = {"called": called, "text": result.output, "tokens": result.usage.total_tokens}
    import asyncio

    async def streamed() -> list[str]:
        async with agent.run_stream("Why?") as stream:
            return [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]

    found["streamed"] = asyncio.run(streamed())
    try:
        asyncio.run(streamed())
    except ModelAPIError as error:
        found["error midway"] = type(error).__name__
    return found


def events(url: str, body: Any) -> Iterator[Any]:
    """Yield the JSON of each event, and `[DONE]`. Every line of a stream has to be one that the format allows."""
    with httpx.Client(timeout=60) as client, client.stream("POST", url, json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            assert line in ("", ": ping") or line.startswith("data: "), line
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                yield data if data == "[DONE]" else json.loads(data)


def agui(url: str) -> dict[str, Any]:
    """The models of AG-UI's package. They accept unknown fields, so those are looked for."""
    from ag_ui.core import Event, RunAgentInput
    from pydantic import TypeAdapter

    adapter: Any = TypeAdapter(Event)
    found: dict[str, Any] = {}
    tool_message = {"id": "3", "role": "tool", "toolCallId": "t1", "content": "2"}
    call = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    history = [{"id": "1", **QUESTION[0]}, {"id": "2", "role": "assistant", "toolCalls": [call]}, tool_message]
    for name, messages in (("tool", history[:1]), ("after tool", history), ("error midway", history[:1])):
        run = RunAgentInput.model_validate(
            {
                "threadId": "t",
                "runId": name,
                "state": {},
                "messages": messages,
                "tools": [TOOL],
                "context": [],
                "forwardedProps": {},
            }
        )
        body = run.model_dump(mode="json", by_alias=True, exclude_none=True)
        read = [adapter.validate_python(event) for event in events(f"{url}/ag-ui", body)]
        unknown = [event.model_extra for event in read if event.model_extra]
        assert not unknown, unknown
        found[name] = {
            "types": list(dict.fromkeys(event.type.value for event in read)),
            "text": "".join(getattr(event, "delta", "") for event in read if "TEXT" in event.type),
            "input": "".join(event.delta for event in read if event.type == "TOOL_CALL_ARGS"),
            "end": read[-1].model_dump(mode="json", by_alias=True, exclude_none=True),
        }
    return found


def ui_messages(url: str) -> dict[str, Any]:
    """The models that Pydantic AI converted from the AI SDK's own, and the rules by which `useChat` reads chunks.

    The rules restate process-ui-message-stream.ts of `ai` 7: what it throws on fails here.
    """
    from pydantic import TypeAdapter
    from pydantic_ai.ui.vercel_ai import request_types, response_types

    kinds: list[Any] = [
        kind
        for kind in vars(response_types).values()
        if isinstance(kind, type)
        and issubclass(kind, response_types.BaseChunk)
        and kind is not response_types.BaseChunk
    ]
    models = {kind.model_fields["type"].default: kind for kind in kinds}
    asked = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "Why?"}]}

    def turn(messages: list[Any]) -> dict[str, Any]:
        body = (
            TypeAdapter(request_types.SubmitMessage)
            .validate_python({"trigger": "submit-message", "id": "chat", "messages": messages})
            .model_dump(mode="json", by_alias=True, exclude_none=True)
        )
        message: dict[str, Any] = {"id": "", "role": "assistant", "parts": [], "errors": [], "metadata": None}
        texts: dict[tuple[str, str], Any] = {}
        tools: dict[str, Any] = {}
        ended = False
        for chunk in events(f"{url}/api/chat", body):
            assert not ended
            if chunk == "[DONE]":
                ended = True
                continue
            model = models[chunk["type"]].model_validate(chunk, extra="forbid")
            assert model.model_dump(by_alias=True, exclude_unset=True) == chunk
            match chunk["type"].split("-"):
                case ["start"]:
                    message["id"] = chunk["messageId"]
                case [("text" | "reasoning") as kind, "start"]:
                    texts[kind, chunk["id"]] = part = {"type": kind, "text": ""}
                    message["parts"].append(part)
                case [("text" | "reasoning") as kind, "delta"]:
                    texts[kind, chunk["id"]]["text"] += chunk["delta"]
                case [("text" | "reasoning") as kind, "end"]:
                    del texts[kind, chunk["id"]]
                case ["start", "step"]:
                    message["parts"].append({"type": "step-start"})
                case ["finish", "step"]:
                    texts.clear()
                case ["tool", "input", "start"]:
                    tools[chunk["toolCallId"]] = part = {"type": f"tool-{chunk['toolName']}", "input": ""}
                    message["parts"].append(part | {"toolCallId": chunk["toolCallId"]})
                    tools[chunk["toolCallId"]] = message["parts"][-1]
                case ["tool", "input", "delta"]:
                    tools[chunk["toolCallId"]]["input"] += chunk["inputTextDelta"]
                case ["tool", "input", "available"]:
                    part = tools[chunk["toolCallId"]]
                    assert json.loads(part["input"] or "{}") == chunk["input"]
                    part.update(input=chunk["input"], state="input-available")
                case ["tool", "output", "available"]:
                    tools[chunk["toolCallId"]].update(output=chunk["output"], state="output-available")
                case ["error"]:
                    message["errors"].append(chunk["errorText"])
                case ["finish"]:
                    message["metadata"] = chunk["messageMetadata"]
                    message["reason"] = chunk["finishReason"]
                case ["abort"]:
                    message["reason"] = "abort"
                case kind:
                    raise AssertionError(kind)
        assert ended
        assert not texts
        return message

    found = {"tool": turn([asked])}
    assistant = {name: found["tool"][name] for name in ("id", "role")}
    parts = [dict(part) for part in found["tool"]["parts"]]
    for part in parts:
        if part.get("state") == "input-available":
            part.update(state="output-available", output=2)
    found["after tool"] = turn([asked, {**assistant, "parts": parts}])
    found["error midway"] = turn([asked])
    return found


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
