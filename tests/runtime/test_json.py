"""The JSON form of a handler's result: awslambdaric's encoding of decimals, and values without JSON form."""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.protocol import JSON_REMEDY
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import event, response_head

from streaming_runtime.errors import RuntimeFault
from streaming_runtime.marshalling import reply_to


def encoded(value: object) -> str:
    reply = reply_to(value)
    assert (reply.content_type, reply.metadata, len(reply.items)) == ("application/json", None, 1)
    return bytes(reply.items[0]).decode()


class Colour(IntEnum):
    RED = 1


class Price(Decimal):
    pass


VALUES: dict[str, tuple[object, str]] = {
    "trailing zero": (Decimal("1.10"), "1.10"),
    "exponent": (Decimal("1E+2"), "1E+2"),
    "negative zero": (Decimal("-0"), "-0"),
    "tiny": (Decimal("1E-400"), "1E-400"),
    "more digits than a float": (
        Decimal("0.1234567890123456789012345678901234567890"),
        "0.1234567890123456789012345678901234567890",
    ),
    "huge": (Decimal("9" * 5000), "9" * 5000),
    "NaN": (Decimal("NaN"), "NaN"),
    "negative NaN": (Decimal("-NaN"), "NaN"),
    "signaling NaN": (Decimal("sNaN"), "NaN"),
    "infinity": (Decimal("Infinity"), "Infinity"),
    "negative infinity": (Decimal("-Infinity"), "-Infinity"),
    "subclass": (Price("2.50"), "2.50"),
    "nested": ({"a": [Decimal("1.0"), {"b": (Decimal("2.0"), "x")}]}, '{"a": [1.0, {"b": [2.0, "x"]}]}'),
    "between NaNs": ([Decimal("NaN"), Decimal("1.0"), Decimal("NaN"), Decimal("2.0")], "[NaN, 1.0, NaN, 2.0]"),
    "beside empty text": (["", Decimal("1.0"), ""], '["", 1.0, ""]'),
    "beside text like a placeholder": (
        ["0" * 32, Decimal("1.0"), '"' + "0" * 32 + '"', Decimal("2.0")],
        '["' + "0" * 32 + '", 1.0, "\\"' + "0" * 32 + '\\"", 2.0]',
    ),
    "many": ([Decimal(n) for n in range(5000)], json.dumps(list(range(5000)))),
    "float NaN": (float("nan"), "NaN"),
    "float infinity": ([float("inf"), float("-inf")], "[Infinity, -Infinity]"),
    "float": ([1.0, 1e100, 1e-7], "[1.0, 1e+100, 1e-07]"),
    "large int": (2**70, "1180591620717411303424"),
    "not ASCII": ({"ä": "\u2028😀"}, '{"ä": "\u2028😀"}'),
    "control characters": ("\0\x1f\x7f\n", '"\\u0000\\u001f\x7f\\n"'),
    "bytes inside": ({"a": b"\xc3\xa4"}, '{"a": "ä"}'),
    "enum": (Colour.RED, "1"),
    "keys": ({None: 1, True: 2, 1.5: 3, 4: 5}, '{"null": 1, "true": 2, "1.5": 3, "4": 5}'),
    "ordered": (OrderedDict([("b", 1), ("a", 2)]), '{"b": 1, "a": 2}'),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=list(VALUES))
def test_json_encoding(value: object, expected: str) -> None:
    assert encoded(value) == expected


class Point(NamedTuple):
    x: int
    y: int


def test_named_tuple_is_an_array() -> None:
    """As any tuple is. With awslambdaric it is an object."""
    assert encoded([Point(1, 2)]) == "[[1, 2]]"


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: list[Any] = []
for _ in range(200_000):
    DEEP = [DEEP]
REFUSED: dict[str, tuple[object, str]] = {
    "datetime": ({"at": datetime(2026, 1, 1)}, f"Object of type datetime is not JSON serializable{JSON_REMEDY}"),
    "date": ([date(2026, 1, 1)], f"Object of type date is not JSON serializable{JSON_REMEDY}"),
    "set": ({"a": {1}}, f"Object of type set is not JSON serializable{JSON_REMEDY}"),
    "bytes beyond UTF-8": ({"a": b"\xff"}, "'utf-8' codec can't decode byte 0xff"),
    "UUID": (UUID(int=0), f"Object of type UUID is not JSON serializable{JSON_REMEDY}"),
    "complex beside decimals": ([Decimal(1), 1j], f"Object of type complex is not JSON serializable{JSON_REMEDY}"),
    "key": ({(1, 2): 3}, "keys must be str, int, float, bool or None, not tuple"),
    "decimal as a key": ({Decimal(1): 3}, "keys must be str, int, float, bool or None, not "),
    "circle": (CIRCLE, "Circular reference detected"),
    "circle with a decimal": ({"a": Decimal(1), "b": CIRCLE}, "Circular reference detected"),
    "too deep": (DEEP, "maximum recursion depth exceeded"),
    "lone surrogate": ("\ud800", "'utf-8' codec can't encode character"),
    "int of too many digits": (10**5000, "Exceeds the limit"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=list(REFUSED))
def test_unmarshallable_value_names_remedy(value: object, message: str) -> None:
    with pytest.raises(RuntimeFault) as refused:
        reply_to(value)
    assert refused.value.error_type == "Runtime.MarshalError"
    assert str(refused.value).startswith(f"Unable to marshal response: {message}")


class Broken(dict[str, int]):
    def items(self) -> Any:
        raise LookupError("no items")


def test_error_in_value_is_a_marshal_error() -> None:
    with pytest.raises(RuntimeFault, match=r"^Unable to marshal response: no items$"):
        reply_to(Broken(a=1))


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])) | DECIMALS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def same(value: Any, read: Any) -> bool:
    if isinstance(value, Decimal):
        return str(Decimal(read)) == str(value)  # it is read as an int if it has neither point nor exponent
    if isinstance(value, list):
        return len(value) == len(read) and all(map(same, value, read))
    if isinstance(value, dict):
        return value.keys() == read.keys() and all(same(value[name], read[name]) for name in value)
    return type(value) is type(read) and bool(value == read)


@pytest.mark.slow
@given(JSON.filter(lambda value: not (isinstance(value, dict) and "statusCode" in value)))
def test_json_round_trip_keeps_digits(value: Any) -> None:
    read = json.loads(encoded(value), parse_float=Decimal, parse_int=lambda text: int(text) if text != "-0" else text)
    assert same(value, read)


def test_marshal_error_spares_next_invocation(sandbox: Sandbox) -> None:
    code = """
        from decimal import Decimal
        def handler(event, context):
            return {"total": Decimal("1.10") if event else {1}}
        """
    ended = sandbox.run(code, event(), event(b"1"))
    report = json.loads(ended.posts[0].body)
    assert report["errorType"] == "Runtime.MarshalError"
    assert report["stackTrace"][0].endswith("line 3, in handler\n    def handler(event, context):\n")
    assert ended.posts[1].raw == response_head(ended.host, "application/json") + b'f\r\n{"total": 1.10}\r\n0\r\n\r\n'
