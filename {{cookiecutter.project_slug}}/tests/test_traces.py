"""Spans of the function: one for each invocation, and those of its code as parts of it."""

import dataclasses
import http.client
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from local.function_url import running
from local.journal import Observer
from local.template import load_function

PROJECT = Path(__file__).parent.parent
HANDLER = """
from opentelemetry import trace

tracer = trace.get_tracer("app")

def handler(event, context):
    with tracer.start_as_current_span("retrieve"):
        documents = ["one", "two"]
    with tracer.start_as_current_span("answer"):
        for document in documents:
            yield document
            if event["rawPath"] == "/fails":
                raise ValueError("it broke")
"""


class Log(Observer):
    """Keeps what the function logs, and what is logged of its spans."""

    text = ""

    def log(self, text: str, request_id: str) -> None:
        self.text += text

    def after(self, pattern: str) -> str:
        """Return the log once it has the pattern."""
        deadline = time.monotonic() + 30
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.01)
        return self.text


@pytest.mark.parametrize(
    ("path", "error"), [("/", ""), ("/fails", ", ValueError: it broke")], ids=["whole", "fails midway"]
)
def test_spans_of_stream(path: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traced.py").write_text(HANDLER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    function = load_function(PROJECT / "template.yaml", "StreamFunction")
    log = Log()
    with running(dataclasses.replace(function, handler="traced.handler", timeout=30), observer=log) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        if error:
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        else:
            assert response.read() == b"onetwo"
        connection.close()
        text = log.after(r"\[TRACE\]   answer: .*\n")
    spans = [re.sub(r"[0-9]+ ms", "N ms", line[8:]) for line in text.splitlines() if line.startswith("[TRACE] ")]
    whole = f"StreamFunction: N ms, 200, first byte N ms{error}"
    assert spans == [whole, "  retrieve: N ms", f"  answer: N ms{error}"]
