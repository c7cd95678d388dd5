"""The protocols: what each one reads, and byte for byte what it writes."""

import json
from typing import Any

import pytest

import protocols
from protocols import (
    AGUI,
    Event,
    Failure,
    Finish,
    OpenAI,
    Plain,
    Protocol,
    Reasoning,
    Text,
    ToolCall,
    ToolInput,
    ToolResult,
    UIMessages,
    Usage,
)
from streaming_runtime import EventSourceResponse

# Reasoning, a text, a tool call in pieces and its result, another call of the model, and the end.
TURN: list[Event] = [
    Reasoning("Hm"),
    Text("Let me "),
    Text("see ☀."),
    ToolCall("t1", "add"),
    ToolInput('{"a":'),
    ToolInput(" 1}"),
    Usage(3, 5),
    ToolResult("t1", {"sum": 1}),
    Text("One."),
    Usage(7, 2),
    Finish("end_turn"),
]
TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
ASKED = [{"role": "user", "content": "Why?"}]


@pytest.fixture(autouse=True)
def same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "_new_id", lambda: "1")
    monkeypatch.setattr("protocols.time.time", lambda: 9.5)


def plain(**more: Any) -> Plain:
    return Plain({"messages": [{"role": "user", "text": "Why?"}], "id": "a", **more})


def openai(**more: Any) -> OpenAI:
    return OpenAI({"model": "m", "messages": ASKED, "stream": True, **more})


def ui_messages(*parts: Any, role: str = "user") -> UIMessages:
    return UIMessages({"messages": [{"role": role, "parts": [*(parts or ({"type": "text", "text": "Why?"},))]}]})


def agui(**more: Any) -> AGUI:
    return AGUI({"threadId": "t", "runId": "r", "messages": ASKED, **more})


def sent(protocol: Protocol, *events: Event) -> str:
    """Return what goes out, a line for each event: its type, if it has one, and its data."""
    encoded = [EventSourceResponse.encode(item).decode() for event in events for item in protocol.write(event)]
    assert all(item.endswith("\n\n") for item in encoded)
    return "\n".join(item.strip().replace("\ndata: ", " ").removeprefix("data: ") for item in encoded)


def chunk(delta: str, finish: str = "null") -> str:
    head = '{"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 9, "model": "m", "choices": '
    return f'{head}[{{"index": 0, "delta": {delta}, "finish_reason": {finish}}}]}}'


def test_plain_events() -> None:
    assert sent(plain(), *TURN).split("\n") == [
        'event: reasoning {"text": "Hm"}',
        'event: token {"text": "Let me "}',
        'event: token {"text": "see ☀."}',
        'event: tool {"id": "t1", "name": "add", "input": {"a": 1}}',
        'event: result {"id": "t1", "output": {"sum": 1}, "failed": false}',
        'event: token {"text": "One."}',
        'event: end {"stopReason": "end_turn", "usage": {"inputTokens": 10, "outputTokens": 7}}',
    ]


def test_openai_chunks() -> None:
    """The client's own tool is called; a result comes with its next request."""
    tool = {"type": "function", "function": TOOL}
    protocol = openai(tools=[tool], stream_options={"include_usage": True})
    assert sent(protocol, *TURN[:7], Finish("tool_use")).split("\n") == [
        chunk('{"role": "assistant", "content": ""}'),
        chunk('{"reasoning_content": "Hm"}'),
        chunk('{"content": "Let me "}'),
        chunk('{"content": "see ☀."}'),
        chunk(
            '{"tool_calls": [{"index": 0, "id": "t1", "type": "function", '
            '"function": {"name": "add", "arguments": ""}}]}'
        ),
        chunk(r'{"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\":"}}]}'),
        chunk(r'{"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}'),
        chunk("{}", '"tool_calls"'),
        '{"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 9, "model": "m", "choices": [], '
        '"usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}}',
        "[DONE]",
    ]


def test_openai_leaves_out_own_tools() -> None:
    """A client would run each call that it sees."""
    assert sent(openai(), *TURN).split("\n") == [
        chunk('{"role": "assistant", "content": ""}'),
        chunk('{"reasoning_content": "Hm"}'),
        chunk('{"content": "Let me "}'),
        chunk('{"content": "see ☀."}'),
        chunk('{"content": "One."}'),
        chunk("{}", '"stop"'),
        "[DONE]",
    ]


def test_openai_completion() -> None:
    protocol = openai(tools=[{"type": "function", "function": TOOL}], stream=False)
    assert protocol.whole([*TURN[:7], Finish("tool_use")]) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 9,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me see ☀.",
                    "reasoning_content": "Hm",
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
                    ],
                },
                "finish_reason": "tool_calls",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


def test_ui_message_chunks() -> None:
    assert sent(ui_messages(), *TURN).split("\n") == [
        '{"type": "start", "messageId": "msg-1"}',
        '{"type": "start-step"}',
        '{"type": "reasoning-start", "id": "msg-1-1"}',
        '{"type": "reasoning-delta", "id": "msg-1-1", "delta": "Hm"}',
        '{"type": "reasoning-end", "id": "msg-1-1"}',
        '{"type": "text-start", "id": "msg-1-2"}',
        '{"type": "text-delta", "id": "msg-1-2", "delta": "Let me "}',
        '{"type": "text-delta", "id": "msg-1-2", "delta": "see ☀."}',
        '{"type": "text-end", "id": "msg-1-2"}',
        '{"type": "tool-input-start", "toolCallId": "t1", "toolName": "add"}',
        r'{"type": "tool-input-delta", "toolCallId": "t1", "inputTextDelta": "{\"a\":"}',
        '{"type": "tool-input-delta", "toolCallId": "t1", "inputTextDelta": " 1}"}',
        '{"type": "tool-input-available", "toolCallId": "t1", "toolName": "add", "input": {"a": 1}}',
        '{"type": "tool-output-available", "toolCallId": "t1", "output": {"sum": 1}}',
        '{"type": "finish-step"}',
        '{"type": "start-step"}',
        '{"type": "text-start", "id": "msg-1-4"}',
        '{"type": "text-delta", "id": "msg-1-4", "delta": "One."}',
        '{"type": "text-end", "id": "msg-1-4"}',
        '{"type": "finish-step"}',
        '{"type": "finish", "finishReason": "stop", '
        '"messageMetadata": {"usage": {"inputTokens": 10, "outputTokens": 7, "totalTokens": 17}}}',
        "[DONE]",
    ]


def test_agui_events() -> None:
    assert sent(agui(), *TURN).split("\n") == [
        '{"type": "RUN_STARTED", "threadId": "t", "runId": "r"}',
        '{"type": "REASONING_START", "messageId": "r-1"}',
        '{"type": "REASONING_MESSAGE_START", "messageId": "r-1", "role": "reasoning"}',
        '{"type": "REASONING_MESSAGE_CONTENT", "messageId": "r-1", "delta": "Hm"}',
        '{"type": "REASONING_MESSAGE_END", "messageId": "r-1"}',
        '{"type": "REASONING_END", "messageId": "r-1"}',
        '{"type": "TEXT_MESSAGE_START", "messageId": "r-2", "role": "assistant"}',
        '{"type": "TEXT_MESSAGE_CONTENT", "messageId": "r-2", "delta": "Let me "}',
        '{"type": "TEXT_MESSAGE_CONTENT", "messageId": "r-2", "delta": "see ☀."}',
        '{"type": "TEXT_MESSAGE_END", "messageId": "r-2"}',
        '{"type": "TOOL_CALL_START", "toolCallId": "t1", "toolCallName": "add"}',
        r'{"type": "TOOL_CALL_ARGS", "toolCallId": "t1", "delta": "{\"a\":"}',
        '{"type": "TOOL_CALL_ARGS", "toolCallId": "t1", "delta": " 1}"}',
        '{"type": "TOOL_CALL_END", "toolCallId": "t1"}',
        r'{"type": "TOOL_CALL_RESULT", "messageId": "r-t1", "toolCallId": "t1", "content": "{\"sum\": 1}", '
        '"role": "tool"}',
        '{"type": "TEXT_MESSAGE_START", "messageId": "r-4", "role": "assistant"}',
        '{"type": "TEXT_MESSAGE_CONTENT", "messageId": "r-4", "delta": "One."}',
        '{"type": "TEXT_MESSAGE_END", "messageId": "r-4"}',
        '{"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "outcome": {"type": "success"}, '
        '"result": {"stopReason": "end_turn"}, "usage": [{"inputTokens": 10, "outputTokens": 7, "totalTokens": 17}]}',
    ]


ERROR = Failure("throttlingException", "Too many.", 429)
LATE = Failure("StreamDeadlineExceeded", "Too late.")


def test_error_midway() -> None:
    """It closes the part that is open, and is the last event."""
    begun = Text("Be")
    assert sent(plain(), begun, ERROR).split("\n")[1:] == [
        'event: error {"errorType": "throttlingException", "errorMessage": "Too many."}'
    ]
    assert sent(openai(), begun, ERROR).split("\n")[2:] == [
        '{"error": {"message": "Too many.", "type": "rate_limit_error", "param": null, "code": "throttlingException"}}'
    ]
    assert sent(openai(), begun, LATE).split("\n")[2:] == [
        '{"error": {"message": "Too late.", "type": "server_error", "param": null, "code": "StreamDeadlineExceeded"}}'
    ]
    assert sent(ui_messages(), begun, ERROR).split("\n")[4:] == [
        '{"type": "text-end", "id": "msg-1-1"}',
        '{"type": "error", "errorText": "Too many."}',
        "[DONE]",
    ]
    assert sent(agui(), begun, ERROR).split("\n")[3:] == [
        '{"type": "TEXT_MESSAGE_END", "messageId": "r-1"}',
        '{"type": "RUN_ERROR", "message": "Too many.", "code": "throttlingException"}',
    ]


def test_stopped_answer() -> None:
    begun, end = Text("Be"), Finish("cancelled")
    assert sent(plain(), begun, end).endswith('event: end {"stopReason": "cancelled", "usage": null}')
    assert sent(openai(), begun, end).endswith(f"{chunk('{}', chr(34) + 'stop' + chr(34))}\n[DONE]")
    assert sent(ui_messages(), begun, end).endswith('{"type": "abort", "reason": "stopped by the user"}\n[DONE]')
    assert '"outcome": {"type": "cancelled"}' in sent(agui(), begun, end)


@pytest.mark.parametrize(
    ("reason", "openai_reason", "ui_reason"),
    [
        ("end_turn", "stop", "stop"),
        ("stop_sequence", "stop", "stop"),
        ("max_tokens", "length", "length"),
        ("model_context_window_exceeded", "length", "length"),
        ("tool_use", "tool_calls", "tool-calls"),
        ("guardrail_intervened", "content_filter", "content-filter"),
        ("content_filtered", "content_filter", "content-filter"),
        ("malformed_model_output", "stop", "other"),
    ],
)
def test_finish_reasons(reason: str, openai_reason: str, ui_reason: str) -> None:
    assert f'"finish_reason": "{openai_reason}"' in sent(openai(), Finish(reason))
    assert f'"finishReason": "{ui_reason}"' in sent(ui_messages(), Finish(reason))
    assert f'"result": {{"stopReason": "{reason}"}}' in sent(agui(), Finish(reason))


def test_failed_tool() -> None:
    failed = ToolResult("t1", "No such file.", failed=True)
    assert '"output": "No such file.", "failed": true' in sent(plain(), failed)
    assert '{"type": "tool-output-error", "toolCallId": "t1", "errorText": "No such file."}' in sent(
        ui_messages(), failed
    )
    assert '"content": "No such file."' in sent(agui(), failed)


def test_cut_tool_input() -> None:
    cut: list[Event] = [ToolCall("t1", "add"), ToolInput('{"a":'), Finish("max_tokens")]
    assert r'"input": "{\"a\":"' in sent(plain(), *cut)
    assert (
        r'{"type": "tool-input-error", "toolCallId": "t1", "toolName": "add", "input": "{\"a\":", '
        '"errorText": "The input is not JSON."}'
    ) in sent(ui_messages(), *cut)


def test_two_tools_in_turn() -> None:
    """Each is a part of its own; one without parameters has an empty input."""
    protocol = openai(tools=[{"type": "function", "function": TOOL}])
    calls: list[Event] = [ToolCall("t1", "add"), ToolInput("{}"), ToolCall("t2", "add"), ToolInput("")]
    lines = sent(protocol, *calls).split("\n")
    assert ['"index": 1, "id": "t2"' in line for line in lines] == [False, False, False, True, False]
    assert '"toolName": "add", "input": {}}' in sent(ui_messages(), *calls, Finish("tool_use"))


# A conversation with a tool call and its result, in the format of each protocol.
CALL = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
HISTORY: dict[str, Any] = {
    "openai": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Add"}, {"type": "text", "text": " it."}]},
        {"role": "assistant", "content": "Sure.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "t1", "content": "1"},
    ],
    "agui": [
        {"id": "0", "role": "system", "content": "Be brief."},
        {"id": "1", "role": "user", "content": "Add it."},
        {"id": "2", "role": "reasoning", "content": "Hm"},
        {"id": "3", "role": "assistant", "content": "Sure.", "toolCalls": [CALL]},
        {"id": "4", "role": "tool", "toolCallId": "t1", "content": "1"},
    ],
    "ui_messages": [
        {"role": "system", "parts": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "text": "Add it."}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "step-start"},
                {"type": "reasoning", "text": "Hm"},
                {"type": "text", "text": "Sure."},
                {
                    "type": "tool-add",
                    "toolCallId": "t1",
                    "state": "output-available",
                    "input": {"a": 1},
                    "output": "1",
                },
            ],
        },
    ],
}
READ = [
    {"role": "user", "content": [{"text": "Add it."}]},
    {
        "role": "assistant",
        "content": [{"text": "Sure."}, {"toolUse": {"toolUseId": "t1", "name": "add", "input": {"a": 1}}}],
    },
    {
        "role": "user",
        "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "1"}], "status": "success"}}],
    },
]


def test_history_with_tool_call() -> None:
    for protocol in (
        openai(messages=HISTORY["openai"]),
        agui(messages=HISTORY["agui"]),
        UIMessages({"messages": HISTORY["ui_messages"]}),
    ):
        assert protocol.request.messages == READ, protocol
        assert protocol.request.system == "Be brief.\n"


def test_ui_message_with_several_steps() -> None:
    """Each step's results come before the model's next text; a call without an answer is left out."""
    call = {"type": "dynamic-tool", "toolName": "add", "toolCallId": "t1", "input": {}}
    assistant = [
        {**call, "state": "output-error", "errorText": "No."},
        {"type": "step-start"},
        {"type": "text", "text": "It failed."},
        {**call, "toolCallId": "t2", "state": "input-available"},
    ]
    asked = {"role": "user", "parts": [{"type": "text", "text": "Why?"}]}
    request = UIMessages({"messages": [asked, {"role": "assistant", "parts": assistant}, asked]}).request
    assert [message["role"] for message in request.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert request.messages[2]["content"] == [
        {"toolResult": {"toolUseId": "t1", "content": [{"text": "No."}], "status": "error"}}
    ]


def test_openai_settings() -> None:
    given = {"max_tokens": 9, "temperature": 0, "top_p": 0.5, "stop": "."}
    settings = {"maxTokens": 9, "temperature": 0, "topP": 0.5, "stopSequences": ["."]}
    assert openai(**given).request.settings == settings
    assert openai(max_completion_tokens=7, stop=["a", "b"]).request.settings == {
        "maxTokens": 7,
        "stopSequences": ["a", "b"],
    }
    tools = [{"type": "function", "function": {"name": "add"}}]
    spec = {"name": "add", "description": "add", "inputSchema": {"json": {"type": "object", "properties": {}}}}
    assert openai(tools=tools).request.tools == [spec]
    assert openai(tools=tools, tool_choice="none").request.tools == []


def test_agui_tools_and_context() -> None:
    request = agui(tools=[TOOL], context=[{"description": "Page", "value": "home"}]).request
    assert request.tools == [{"name": "add", "description": "Adds.", "inputSchema": {"json": {"type": "object"}}}]
    assert (request.id, request.system) == ("r", "Page: home\n")


USER = {"role": "user", "text": "Why?"}


@pytest.mark.parametrize(
    ("protocol", "body", "message"),
    [
        (Plain, {"messages": []}, "starts and ends with the user's"),
        (Plain, {"messages": "Why?"}, "needs a list of messages"),
        (Plain, {}, "another format than Plain ('messages')"),
        (Plain, {"messages": [USER, {"role": "assistant", "text": "Because."}]}, "starts and ends with the user's"),
        (Plain, {"messages": [USER, USER]}, "Message 2 must be from the assistant and have a text."),
        (Plain, {"messages": [{"role": "user", "text": " \n"}]}, "Message 1 must be from the user and have a text."),
        (Plain, {"messages": [{"role": "user", "text": 1}]}, "Message 1 must be from the user and have a text."),
        (Plain, {"messages": [None]}, "Message 1 must be from the user and have a text."),
        (Plain, {"messages": [USER], "id": "x" * 129}, "The id of an answer must be"),
        (OpenAI, {"messages": ["Why?"]}, "another format than OpenAI"),
        (OpenAI, {"messages": [{"role": "user", "content": ""}]}, "starts and ends with the user's"),
        (OpenAI, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Only texts are supported"),
        (OpenAI, {"messages": [{"role": "function"}]}, "Message 1 has the unknown role 'function'."),
        (OpenAI, {"messages": ASKED, "n": 2}, "Only n=1"),
        (OpenAI, {"messages": ASKED, "response_format": {"type": "json_object"}}, "response format"),
        (OpenAI, {"messages": ASKED, "tool_choice": "required"}, "tool choices"),
        (UIMessages, {"messages": [{"role": "user", "parts": [{"type": "file"}]}]}, "Files are not supported."),
        (UIMessages, {"messages": [{"role": "tool", "parts": []}]}, "unknown role 'tool'"),
        (AGUI, {"messages": ASKED, "threadId": "t"}, "another format than AGUI ('runId')"),
        (AGUI, {"messages": ASKED, "threadId": "t", "runId": 1}, "The id of an answer must be"),
    ],
)
def test_invalid_request(protocol: type[Protocol], body: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        protocol(body)
    assert message in str(caught.value)


def test_refusals() -> None:
    failure = Failure("", "No.", 400)
    error = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}
    assert OpenAI.refusal(failure) == ("application/json", json.dumps({"error": error}))
    assert Plain.refusal(failure) == AGUI.refusal(failure) == ("text/plain", "No.\n")
    assert UIMessages.refusal(ERROR) == ("text/plain", "throttlingException: Too many.\n")
