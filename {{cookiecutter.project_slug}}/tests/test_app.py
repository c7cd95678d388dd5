"""The function itself, called as Lambda's runtime calls it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import app

EVENTS = Path(__file__).parent.parent / "events"


@pytest.mark.parametrize("event", sorted(EVENTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_event_gives_ten_lines_and_an_end(event: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "INTERVAL", 0)
    response = app.handler(json.loads(event.read_text(encoding="utf-8")), None)
    assert isinstance(response.content, Iterator)
    text = "".join(map(str, response.content))
    assert [line.split()[0] for line in text.splitlines()] == [*map(str, range(1, 11)), "end"]
    assert response.headers == {"content-type": "text/plain; charset=utf-8"}
