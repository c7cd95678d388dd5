"""One model of what happens in an answer, and four wire formats that clients understand. It has no dependencies.

A protocol reads the body of a request, and writes each event as the data of server-sent events:

- `Plain`: the format of page.html
- `OpenAI`: chat completions, for OpenAI's clients and compatible ones
- `UIMessages`: the UI message stream of Vercel's AI SDK, for `useChat`
- `AGUI`: the Agent User Interaction protocol, for front ends such as CopilotKit
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

Json = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """The model begins to call a tool. The pieces of its input follow."""

    id: str
    name: str


@dataclass(frozen=True)
class ToolInput:
    """A piece of the JSON that is the input of the call before."""

    text: str


@dataclass(frozen=True)
class ToolResult:
    """What a tool returned that ran in this function. A client runs its own tools, and sends the results itself."""

    id: str
    output: Any
    failed: bool = False


@dataclass(frozen=True)
class Usage:
    """Tokens of one call of the model."""

    input: int
    output: int


@dataclass(frozen=True)
class Finish:
    """The end of the answer. `reason` is a stop reason of Bedrock, or `cancelled`."""

    reason: str


@dataclass(frozen=True)
class Failure:
    """An error that ends the answer. `status` is the one of HTTP if nothing was sent before."""

    name: str
    message: str
    status: int = 502


Event = Text | Reasoning | ToolCall | ToolInput | ToolResult | Usage | Finish | Failure
Item = dict[str, Any]  # the arguments of a ServerSentEvent


@dataclass
class Request:
    """What a client asks.

    Attributes:
        id: Names the answer, so that the client can stop it.
        messages: The conversation in the format of Bedrock's Converse API, which Strands has too.
        system: Instructions for the model.
        tools: Tools that the client runs, as Bedrock's `toolSpec`.
        settings: Bedrock's `inferenceConfig`, as far as the client sets it.
    """

    id: str
    messages: list[Json] = field(default_factory=list)
    system: str = ""
    tools: list[Json] = field(default_factory=list)
    settings: Json = field(default_factory=dict)

    def add(self, role: str, *blocks: Json) -> None:
        """Append content blocks. Bedrock requires that the roles alternate, so those of one role are joined."""
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        elif blocks:
            self.messages.append({"role": role, "content": [*blocks]})

    def add_text(self, role: str, text: str) -> None:
        """Append a text. Bedrock refuses blank ones."""
        if text.strip():
            self.add(role, {"text": text})


class Protocol:
    """A wire format, and its state in one answer. Subclasses implement the methods that raise NotImplementedError.

    An answer consists of parts: texts, pieces of reasoning, and tool calls. The formats mark where they begin and end.
    """

    path: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}
    streams = True

    def __init__(self, body: Json) -> None:
        """Read a request.

        Raises:
            ValueError: The body is not a request of this protocol, or asks for what is not supported.
        """
        try:
            self.request = self.read(body)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"The request has another format than {type(self).__name__} ({error}).") from None
        roles = [message["role"] for message in self.request.messages]
        if roles[:1] != ["user"] or roles[-1] != "user":
            raise ValueError("The request needs a list of messages that starts and ends with the user's.")
        self.tokens = [0, 0]  # of all calls of the model: input and output
        self._begun = False
        self._part = ""  # "text", "reasoning" or "tool", while one is open
        self._number = 0  # of the part
        self._call = ToolCall("", "")  # of a tool part
        self._input = ""  # what is known of its input

    def write(self, event: Event) -> Iterator[Item]:
        """Yield what goes out for an event."""
        if not self._begun:
            self._begun = True
            yield from self.begin()
        part = _PARTS.get(type(event), "")
        if self._part and (part != self._part or isinstance(event, ToolCall)):
            yield from self.close(self._part)
            self._part = ""
        if isinstance(event, ToolCall):
            self._call, self._input = event, ""
        if part and not self._part:
            self._part = part
            self._number += 1
            yield from self.open(part)
        match event:
            case ToolInput(text):
                self._input += text
                yield from self.delta(part, text)
            case Text(text) | Reasoning(text):
                yield from self.delta(part, text)
            case ToolResult():
                yield from self.result(event)
            case Usage(tokens_in, tokens_out):
                self.tokens = [self.tokens[0] + tokens_in, self.tokens[1] + tokens_out]
            case Finish(reason):
                yield from self.finish(reason)
            case Failure():
                yield from self.fail(event)

    @property
    def part_id(self) -> str:
        """Return the id of the part that is open."""
        return f"{self.request.id}-{self._number}"

    def input(self) -> Any:
        """Return the whole input of the tool call. A tool without parameters may get an empty text."""
        return json.loads(self._input or "{}")

    @classmethod
    def refusal(cls, failure: Failure) -> tuple[str, str]:
        """Return media type and body of a response about an error before the stream."""
        return "text/plain", f"{failure.name}: {failure.message}\n" if failure.name else f"{failure.message}\n"

    def read(self, body: Json) -> Request:
        """Read the body of a request."""
        raise NotImplementedError

    def begin(self) -> Iterator[Item]:
        """Yield what precedes the first event."""
        yield from ()

    def open(self, part: str) -> Iterator[Item]:
        """Yield the beginning of a part."""
        yield from ()

    def delta(self, part: str, text: str) -> Iterator[Item]:
        """Yield a piece of a part."""
        raise NotImplementedError

    def close(self, part: str) -> Iterator[Item]:
        """Yield the end of a part."""
        yield from ()

    def result(self, result: ToolResult) -> Iterator[Item]:
        """Yield the result of a tool."""
        raise NotImplementedError

    def finish(self, reason: str) -> Iterator[Item]:
        """Yield the end of the answer."""
        raise NotImplementedError

    def fail(self, failure: Failure) -> Iterator[Item]:
        """Yield an error that ends the answer."""
        raise NotImplementedError


class Plain(Protocol):
    """Events `token`, `reasoning`, `tool`, `result`, then `end` or `error`. A tool's input comes in one piece."""

    path = "/chat"

    def read(self, body: Json) -> Request:
        """Read `{"messages": [{"role": "user", "text": "…"}, …], "id": "…"}`. The id is optional."""
        request = Request(_checked_id(body.get("id") or _new_id()))
        for number, message in enumerate(_list(body["messages"])):
            role = ("user", "assistant")[number % 2]
            match message:
                case {"role": given, "text": str(text)} if given == role and text.strip():
                    request.add_text(role, text)
                case _:
                    raise ValueError(f"Message {number + 1} must be from the {role} and have a text.")
        return request

    def delta(self, part: str, text: str) -> Iterator[Item]:
        if part != "tool":
            yield {"event": "token" if part == "text" else part, "data": {"text": text}}

    def close(self, part: str) -> Iterator[Item]:
        if part == "tool":
            yield {
                "event": "tool",
                "data": {"id": self._call.id, "name": self._call.name, "input": self._shown_input()},
            }

    def result(self, result: ToolResult) -> Iterator[Item]:
        yield {"event": "result", "data": {"id": result.id, "output": result.output, "failed": result.failed}}

    def finish(self, reason: str) -> Iterator[Item]:
        usage = {"inputTokens": self.tokens[0], "outputTokens": self.tokens[1]} if any(self.tokens) else None
        yield {"event": "end", "data": {"stopReason": reason, "usage": usage}}

    def fail(self, failure: Failure) -> Iterator[Item]:
        yield {"event": "error", "data": {"errorType": failure.name, "errorMessage": failure.message}}

    def _shown_input(self) -> Any:
        try:
            return self.input()
        except ValueError:  # cut off by an error or the maximum of tokens
            return self._input


class OpenAI(Protocol):
    """Chunks of a chat completion: https://platform.openai.com/docs/api-reference/chat-streaming

    A client would run every tool call that it sees, so calls of this function's own tools are left out.
    """

    path = "/v1/chat/completions"

    def read(self, body: Json) -> Request:
        self.streams = bool(body.get("stream"))
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._model = str(body.get("model") or "")
        self._index = -1  # of the tool call
        self._created = int(time.time())
        if body.get("n") not in (None, 1):
            raise ValueError("Only n=1 is supported.")
        if (body.get("response_format") or {}).get("type", "text") != "text":
            raise ValueError("Only the response format text is supported.")
        choice = body.get("tool_choice") or "auto"
        if choice not in ("auto", "none"):
            raise ValueError('Only the tool choices "auto" and "none" are supported.')
        functions = [tool["function"] for tool in body.get("tools") or () if choice == "auto"]
        request = Request(f"chatcmpl-{_new_id()}", tools=[*map(_tool_spec, functions)])
        stop = body.get("stop")
        given = {
            "maxTokens": body.get("max_completion_tokens") or body.get("max_tokens"),
            "temperature": body.get("temperature"),
            "topP": body.get("top_p"),
            "stopSequences": [stop] if isinstance(stop, str) else stop,
        }
        request.settings = {name: value for name, value in given.items() if value is not None}
        _read_messages(request, body["messages"])
        return request

    def begin(self) -> Iterator[Item]:
        yield self._chunk({"role": "assistant", "content": ""})

    def open(self, part: str) -> Iterator[Item]:
        if part == "tool" and self._is_clients(self._call):
            self._index += 1
            yield self._call_chunk({"id": self._call.id, "type": "function"}, name=self._call.name, arguments="")

    def delta(self, part: str, text: str) -> Iterator[Item]:
        if part != "tool":
            # DeepSeek's name, which clients have come to read.
            yield self._chunk({"content" if part == "text" else "reasoning_content": text})
        elif self._is_clients(self._call):
            yield self._call_chunk({}, arguments=text)

    def result(self, result: ToolResult) -> Iterator[Item]:
        yield from ()

    def finish(self, reason: str) -> Iterator[Item]:
        yield self._chunk({}, _reason(reason, "tool_calls", "content_filter", "stop"))
        if self._with_usage:
            yield {"data": {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}}
        yield {"data": "[DONE]"}

    def fail(self, failure: Failure) -> Iterator[Item]:
        yield {"data": self._error(failure)}

    def whole(self, events: Iterable[Event]) -> Json:
        """Return the completion for a client that does not stream."""
        message: Json = {"role": "assistant", "content": None}
        calls: list[Json] = []
        reason = ""
        for event in events:
            for item in self.write(event):
                chunk = item["data"]
                for choice in chunk["choices"] if isinstance(chunk, dict) else ():
                    reason = choice["finish_reason"] or reason
                    for name, piece in choice["delta"].items():
                        if name == "tool_calls" and "id" in piece[0]:
                            calls.append({name: piece[0][name] for name in ("id", "type", "function")})
                        elif name == "tool_calls":
                            calls[-1]["function"]["arguments"] += piece[0]["function"]["arguments"]
                        elif name != "role":
                            message[name] = (message.get(name) or "") + piece
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    @classmethod
    def refusal(cls, failure: Failure) -> tuple[str, str]:
        return "application/json", json.dumps(cls._error(failure))

    @staticmethod
    def _error(failure: Failure) -> Json:
        kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(failure.status, "server_error")
        return {"error": {"message": failure.message, "type": kind, "param": None, "code": failure.name or None}}

    def _is_clients(self, call: ToolCall) -> bool:
        return any(tool["name"] == call.name for tool in self.request.tools)

    def _head(self, kind: str) -> Json:
        return {"id": self.request.id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(self, delta: Json, reason: str | None = None) -> Item:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"data": {**self._head("chat.completion.chunk"), "choices": [choice]}}

    def _call_chunk(self, of: Json, **function: str) -> Item:
        return self._chunk({"tool_calls": [{"index": self._index, **of, "function": function}]})

    def _usage(self) -> Json:
        tokens_in, tokens_out = self.tokens
        return {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        }


class UIMessages(Protocol):
    """The UI message stream of Vercel's AI SDK: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol

    A step is one call of the model, so another one begins after the results of tools.
    """

    path = "/api/chat"
    headers: ClassVar[dict[str, str]] = {"x-vercel-ai-ui-message-stream": "v1"}
    _new_step = False

    def read(self, body: Json) -> Request:
        request = Request(f"msg-{_new_id()}")
        for message in _list(body["messages"]):
            if message["role"] not in ("system", "user", "assistant"):
                raise ValueError(f"A message has the unknown role {message['role']!r}.")
            results: list[Json] = []
            for part in message["parts"]:
                kind = part["type"]
                if kind == "file":
                    raise ValueError("Files are not supported.")
                if kind in ("step-start", "text"):
                    request.add("user", *results)
                    results = []
                if kind == "text" and message["role"] == "system":
                    request.system += f"{part['text']}\n"
                elif kind == "text":
                    request.add_text(message["role"], part["text"])
                elif (kind == "dynamic-tool" or kind.startswith("tool-")) and part["state"].startswith("output-"):
                    # A call without an answer, because the stream broke off, cannot be sent to the model.
                    name = part["toolName"] if kind == "dynamic-tool" else kind.removeprefix("tool-")
                    request.add("assistant", _tool_use(part["toolCallId"], name, part.get("input")))
                    failed = part["state"] != "output-available"
                    output = part.get("errorText") or "denied" if failed else part["output"]
                    results.append(_tool_result(part["toolCallId"], output, failed))
            request.add("user", *results)
        return request

    def begin(self) -> Iterator[Item]:
        yield self._chunk("start", messageId=self.request.id)
        yield self._chunk("start-step")

    def open(self, part: str) -> Iterator[Item]:
        if self._new_step:
            self._new_step = False
            yield self._chunk("finish-step")
            yield self._chunk("start-step")
        if part == "tool":
            yield self._chunk("tool-input-start", toolCallId=self._call.id, toolName=self._call.name)
        else:
            yield self._chunk(f"{part}-start", id=self.part_id)

    def delta(self, part: str, text: str) -> Iterator[Item]:
        if part == "tool":
            yield self._chunk("tool-input-delta", toolCallId=self._call.id, inputTextDelta=text)
        else:
            yield self._chunk(f"{part}-delta", id=self.part_id, delta=text)

    def close(self, part: str) -> Iterator[Item]:
        if part != "tool":
            yield self._chunk(f"{part}-end", id=self.part_id)
            return
        call = {"toolCallId": self._call.id, "toolName": self._call.name}
        try:
            yield self._chunk("tool-input-available", **call, input=self.input())
        except ValueError:  # cut off by an error or the maximum of tokens
            yield self._chunk("tool-input-error", **call, input=self._input, errorText="The input is not JSON.")

    def result(self, result: ToolResult) -> Iterator[Item]:
        self._new_step = True
        if result.failed:
            yield self._chunk("tool-output-error", toolCallId=result.id, errorText=_as_text(result.output))
        else:
            yield self._chunk("tool-output-available", toolCallId=result.id, output=result.output)

    def finish(self, reason: str) -> Iterator[Item]:
        tokens_in, tokens_out = self.tokens
        usage = {"inputTokens": tokens_in, "outputTokens": tokens_out, "totalTokens": tokens_in + tokens_out}
        if reason == "cancelled":
            yield self._chunk("abort", reason="stopped by the user")
        else:
            yield self._chunk("finish-step")
            finish = _reason(reason, "tool-calls", "content-filter", "other")
            yield self._chunk("finish", finishReason=finish, messageMetadata={"usage": usage})
        yield {"data": "[DONE]"}

    def fail(self, failure: Failure) -> Iterator[Item]:
        yield self._chunk("error", errorText=failure.message)
        yield {"data": "[DONE]"}

    @staticmethod
    def _chunk(kind: str, **of: Any) -> Item:
        return {"data": {"type": kind, **of}}


class AGUI(Protocol):
    """Events of the Agent User Interaction protocol: https://docs.ag-ui.com/concepts/events"""

    path = "/ag-ui"

    def read(self, body: Json) -> Request:
        self._run = {"threadId": str(body["threadId"]), "runId": _checked_id(body["runId"])}
        request = Request(self._run["runId"], tools=[*map(_tool_spec, body.get("tools") or ())])
        for context in body.get("context") or ():
            request.system += f"{context['description']}: {context['value']}\n"
        _read_messages(request, body["messages"])
        return request

    def begin(self) -> Iterator[Item]:
        yield self._event("RUN_STARTED", **self._run)

    def open(self, part: str) -> Iterator[Item]:
        if part == "text":
            yield self._event("TEXT_MESSAGE_START", messageId=self.part_id, role="assistant")
        elif part == "tool":
            yield self._event("TOOL_CALL_START", toolCallId=self._call.id, toolCallName=self._call.name)
        else:
            yield self._event("REASONING_START", messageId=self.part_id)
            yield self._event("REASONING_MESSAGE_START", messageId=self.part_id, role="reasoning")

    def delta(self, part: str, text: str) -> Iterator[Item]:
        if part == "tool":
            yield self._event("TOOL_CALL_ARGS", toolCallId=self._call.id, delta=text)
        else:
            kind = "TEXT_MESSAGE_CONTENT" if part == "text" else "REASONING_MESSAGE_CONTENT"
            yield self._event(kind, messageId=self.part_id, delta=text)

    def close(self, part: str) -> Iterator[Item]:
        if part == "text":
            yield self._event("TEXT_MESSAGE_END", messageId=self.part_id)
        elif part == "tool":
            yield self._event("TOOL_CALL_END", toolCallId=self._call.id)
        else:
            yield self._event("REASONING_MESSAGE_END", messageId=self.part_id)
            yield self._event("REASONING_END", messageId=self.part_id)

    def result(self, result: ToolResult) -> Iterator[Item]:
        of = {"messageId": f"{self.request.id}-{result.id}", "toolCallId": result.id}
        yield self._event("TOOL_CALL_RESULT", **of, content=_as_text(result.output), role="tool")

    def finish(self, reason: str) -> Iterator[Item]:
        tokens_in, tokens_out = self.tokens
        usage = {"inputTokens": tokens_in, "outputTokens": tokens_out, "totalTokens": tokens_in + tokens_out}
        outcome = {"type": "cancelled" if reason == "cancelled" else "success"}
        result = {"stopReason": reason}
        yield self._event("RUN_FINISHED", **self._run, outcome=outcome, result=result, usage=[usage])

    def fail(self, failure: Failure) -> Iterator[Item]:
        yield self._event("RUN_ERROR", message=failure.message, code=failure.name)

    @staticmethod
    def _event(kind: str, **of: Any) -> Item:
        return {"data": {"type": kind, **of}}


PROTOCOLS: dict[str, type[Protocol]] = {protocol.path: protocol for protocol in (Plain, OpenAI, UIMessages, AGUI)}
_PARTS: dict[type, str] = {Text: "text", Reasoning: "reasoning", ToolCall: "tool", ToolInput: "tool"}


def _new_id() -> str:
    return os.urandom(16).hex()  # uuid takes longer to import


def _checked_id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 128 or not value.isprintable():
        raise ValueError("The id of an answer must be a text of 1 to 128 characters.")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("The request needs a list of messages that starts and ends with the user's.")
    return value


def _reason(reason: str, tool_calls: str, content_filter: str, other: str) -> str:
    """Return the finish reason for a stop reason of Bedrock.

    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_MessageStopEvent.html
    """
    return {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": tool_calls,
        "guardrail_intervened": content_filter,
        "content_filtered": content_filter,
    }.get(reason, other)


def _read_messages(request: Request, messages: Any) -> None:
    """Read the messages of OpenAI and AG-UI, which differ in how they spell names."""
    for number, message in enumerate(_list(messages), start=1):
        match message["role"]:
            case "system" | "developer":
                request.system += f"{_text(message['content'])}\n"
            case "user":
                request.add_text("user", _text(message["content"]))
            case "assistant":
                request.add_text("assistant", _text(message.get("content") or ""))
                for call in message.get("tool_calls") or message.get("toolCalls") or ():
                    function = call["function"]
                    given = json.loads(function["arguments"] or "{}")
                    request.add("assistant", _tool_use(call["id"], function["name"], given))
            case "tool":
                call_id = message.get("tool_call_id") or message["toolCallId"]
                request.add("user", _tool_result(call_id, _text(message["content"]), bool(message.get("error"))))
            case "reasoning" | "activity":  # of AG-UI, for the front end alone
                pass
            case role:
                raise ValueError(f"Message {number} has the unknown role {role!r}.")


def _text(content: Any) -> str:
    """Return the text of a message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return content
    if any(part["type"] != "text" for part in content):
        raise ValueError("Only texts are supported, no images, files or sounds.")
    return "".join(part["text"] for part in content)


def _tool_spec(function: Json) -> Json:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "name": function["name"],
        "description": function.get("description") or function["name"],
        "inputSchema": {"json": schema},
    }


def _tool_use(call_id: str, name: str, given: Any) -> Json:
    return {"toolUse": {"toolUseId": call_id, "name": name, "input": given or {}}}


def _tool_result(call_id: str, output: Any, failed: bool) -> Json:
    content = [{"text": _as_text(output)}]
    return {"toolResult": {"toolUseId": call_id, "content": content, "status": "error" if failed else "success"}}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
