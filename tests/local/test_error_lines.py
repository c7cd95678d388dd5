"""Errors name a line of the function's code and a remedy in what `make dev` prints and in what the inspector shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.local.inspected import inspected
from tests.runtime.test_error_lines import IMPORTS, MISTAKES


@pytest.mark.slow
@pytest.mark.parametrize(("code", "message", "line"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistake(code: str, message: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    path = tmp_path / "served" / "handlers" / "served.py"
    with inspected(tmp_path / "served", code) as served:
        path.write_text(IMPORTS + code, encoding="utf-8")  # without what `inspected` adds
        stream = served.subscribe()
        response = served.call()
        if response.status == 502:
            response.read()
        error = stream.until("end")[-1]["error"]
        (record,) = served.journal.records.values()
    lines = (IMPORTS + code).splitlines()
    number = 1 if line == "x = 1" else 1 + lines.index(next(text for text in lines if line in text))
    where = f'File "{path}", line {number}, in '
    for shown in (record.log.replace("\xa0", " "), error["body"].replace('\\"', '"')):  # the terminal's, the page's
        assert where in shown
        assert "{os}" in message or message.replace("app.", "served.") in shown
