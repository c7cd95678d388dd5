"""The runtime works without importing `json`, and like it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import event

from streaming_runtime import errors, importer, wire

# What awslambdaric has loaded before the function, so that a function's own modules of these names never mattered.
NAMES = ("collections", "copyreg", "enum", "functools", "json", "keyword", "operator", "re", "reprlib", "types")


@pytest.mark.parametrize("body", [b"1", b"2", b"3", b"4"], ids=["stream", "error", "metadata", "value"])
def test_json_is_not_imported(sandbox: Sandbox, body: bytes) -> None:
    code = """
        import sys
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            if event == 2:
                raise ValueError("ä\\n\\ud800")
            if event == 4:
                return {"a": [1.5, None, True]}
            names = [*sys.modules]
            return StreamingResponse([" ".join(names)]) if event == 3 else iter(names)
        """
    variables = {"STREAMING_RUNTIME_PYTHON": sandbox.python_without_site()}
    ended = sandbox.run(code, event(body), event(b"3"), environment=variables)
    modules = set(ended.bodies[-1].rpartition(bytes(8))[2].decode().split())
    assert "streaming_runtime.wire" in modules
    assert not {"json", "re", "enum"} & modules


@pytest.mark.traced
@pytest.mark.parametrize("used", [False, True], ids=["unused", "imported"])
def test_module_named_like_standard_library(sandbox: Sandbox, used: bool) -> None:
    for name in NAMES:
        (sandbox.task / f"{name}.py").write_text("raise RuntimeError(__name__)\n")
    code = f"import {', '.join(NAMES)}\n" if used else ""
    ended = sandbox.run(code + "def handler(e, c):\n    return {'a': [1.5]}\n", event())
    assert ended.bodies == [b'{"a": [1.5]}'], ended.output


PLAIN = st.recursive(
    st.none() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_json_equals_json(value: Any) -> None:
    assert wire.plain_json(value) == json.dumps(value)
    assert wire.plain_json(value, ",", ":") == json.dumps(value, separators=(",", ":"))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=10,
)


@given(ANY)
def test_from_json_equals_json(value: Any) -> None:
    text = json.dumps(value)
    for blanks in ("", " \n"):
        assert repr(wire.from_json((blanks + text + blanks).encode())) == repr(json.loads(text))


@given(ANY)
def test_encode_json_equals_json(value: Any) -> None:
    assert wire.encode_json(value, str) == json.dumps(value, ensure_ascii=False)


@given(st.text(st.characters()))
def test_type_header_equals_unicode_escape(name: str) -> None:
    assert errors.type_header(name)[1] == name.encode("unicode_escape").decode()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "-0.0"])
def test_from_json_constants(text: str) -> None:
    scanned = wire.from_json(text.encode())
    assert math.copysign(1, scanned) == math.copysign(1, json.loads(text))
    assert repr(scanned) == repr(json.loads(text))


MALFORMED = [
    b"",
    b"{",
    b'{"a": }',
    b"[1,]",
    b'"a',
    b'"\n"',
    b"nul",
    b"1 2",
    b"{}x",
    b"\xff",
    b'"\\ud8"',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:8]))
@pytest.mark.own_interpreter  # the message is that of this interpreter's json
def test_malformed_event_message(sandbox: Sandbox, body: bytes) -> None:
    ended = sandbox.run("def handler(e, c):\n    pass\n", event(body))
    report = json.loads(ended.posts[0].body)
    with pytest.raises((ValueError, RecursionError)) as expected:
        json.loads(body.decode())
    assert report["errorType"] == "Runtime.UnmarshalError"
    assert report["errorMessage"].startswith("Unable to unmarshal input: ")
    if not isinstance(expected.value, RecursionError):  # whose text says where it happened
        assert report["errorMessage"] == f"Unable to unmarshal input: {expected.value}"


def test_finder_of_protected_modules() -> None:
    finder = importer._StandardLibraryFinder()
    spec = finder.find_spec("json")
    assert spec is not None
    assert spec.origin == json.__file__
    assert finder.find_spec("app") is None
