"""The function itself, called as Lambda's runtime calls it, and through the URL."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import app
from local.probe import probe

EVENTS = Path(__file__).parent.parent / "events"


@pytest.mark.parametrize("event", sorted(EVENTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_event_gives_ten_lines_and_an_end(event: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "INTERVAL", 0)
    response = app.handler(json.loads(event.read_text(encoding="utf-8")), None)
    assert isinstance(response.content, Iterator)
    text = "".join(map(str, response.content))
    assert [line.split()[0] for line in text.splitlines()] == [*map(str, range(1, 11)), "end"]
    assert response.headers == {"content-type": "text/plain; charset=utf-8"}


def test_the_function_streams(serve: Callable[..., str]) -> None:
    result = probe(serve(STREAM_INTERVAL="0.05"))
    assert result.status == 200
    assert result.streamed
    body = b"".join(data for _, data in result.chunks).decode()
    assert [line.split()[0] for line in body.splitlines()] == [*map(str, range(1, 11)), "end"]
