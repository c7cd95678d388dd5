"""The examples' pages in a real browser, served by the examples' own functions behind the local URL.

No test sleeps: a function makes its next event when the test writes a byte into a named pipe.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hooks.post_gen_project import SHARED
from playwright.sync_api import expect
from tests.helpers.gates import Fifo
from tests.helpers.support import TEMPLATE
from tests.local.conftest import TIMEOUT, function, luminance, needs_chromium

from local.function_url import running
from local.journal import Observer

EXAMPLES = TEMPLATE / "examples"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> & \x00 \u202e"

pytestmark = [pytest.mark.slow, needs_chromium]

# What every handler of these tests may use: `wait` returns when the test says so, and replaces the example's clock.
PREAMBLE = """
import os, types
import app

def wait(gate):
    with open(os.path.join(os.environ["GATES"], gate), "rb", buffering=0) as pipe:
        return pipe.read(1)
"""

# An invocation waits at the gate of its first step, because one whose client has disconnected still runs.
JOB = """
app.RETRY = 1

def handler(event, context):
    gate = event["headers"].get("last-event-id", "0")
    def step(seconds):
        if wait(gate) == b"x":
            raise RuntimeError("a step failed")
    app.time = types.SimpleNamespace(sleep=step, strftime=app.time.strftime)
    return app.handler(event, context)
"""

STANDIN = """
import asyncio

async def sleep(seconds):
    wait("tokens")

asyncio.sleep = sleep
handler = app.handler
"""

# Events of an answer, each of which waits for the test.
ANSWER = """
import chat
from protocols import *

async def answer(request):
    for event in EVENTS:
        wait("tokens")
        yield event

def handler(event, context):
    return chat.respond(event, answer)
"""

# A client whose events come from a variable; each waits for the test.
MODEL = """
import json
from botocore.exceptions import ClientError, EventStreamError

class Stream:
    def __iter__(self):
        for event in json.loads(os.environ["MODEL"]):
            wait("tokens")
            if "Error" in event:
                raise EventStreamError(event, "ConverseStream")
            yield event
    def close(self):
        pass

class Client:
    def converse_stream(self, **parameters):
        if "Refuse" in os.environ["MODEL"]:
            error = {"Code": "AccessDeniedException", "Message": "You cannot have it."}
            raise ClientError({"Error": error}, "ConverseStream")
        return {"stream": Stream()}

app.bedrock = Client
handler = app.handler
"""


class Gates:
    """Named pipes in a folder; each byte lets one waiting handler go on."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._open: dict[str, Fifo] = {}

    def make(self, *names: str) -> None:
        for name in names:
            self._open[name] = self._stack.enter_context(closing(Fifo(self._folder / name)))

    def let(self, name: str, data: bytes = b".") -> None:
        self._open[name].write(data)


class Relay:
    """A proxy to the function whose connections a test can cut."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.cut_before: bytes | None = None  # the connection is cut before these bytes of the response
        self.may_end = threading.Event()  # until it is set, a browser does not see a connection end
        self.may_end.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._pairs.append((client, server))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                before, found, _ = data.partition(self.cut_before or b"\0 never")
                sink.sendall(before)
                if found:
                    self.cut_before = None
                    break
        self.may_end.wait(TIMEOUT)
        self._shut(source, sink)

    @staticmethod
    def _shut(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Cut all connections that exist now, but none that a browser opens in the meantime."""
        for pair in list(self._pairs):
            self._shut(*pair)

    def close(self) -> None:
        self._shut(self._listener)
        self._listener.close()
        self.cut()
        for pair in self._pairs:
            for end in pair:
                end.close()


Start = Callable[..., str]


@pytest.fixture
def gates(tmp_path: Path, stack: ExitStack) -> Gates:
    (tmp_path / "gates").mkdir()
    return Gates(tmp_path / "gates", stack)


@pytest.fixture
def start(tmp_path: Path, stack: ExitStack, gates: Gates, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Serve an example with a handler of the test around it; keywords are environment variables."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def serve(example: str, source: str, timeout: float = TIMEOUT, **variables: str) -> str:
        code = tmp_path / "src"
        shutil.copytree(TEMPLATE / "runtime", code, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in filter(None, (SHARED.get(example), example)):
            shutil.copytree(EXAMPLES / folder / "src", code, dirs_exist_ok=True)
        (code / "served.py").write_text(PREAMBLE + textwrap.dedent(source), encoding="utf-8")
        own = {"GATES": str(tmp_path / "gates"), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        environment = {**own, **variables}
        served = function(code=code, timeout=timeout, environment=environment)
        return stack.enter_context(running(served, 10, Observer()))

    return serve


class Watched:
    """A page with its problems and its requests."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[Any] = []
        self.console: list[str] = []
        page.set_default_timeout(TIMEOUT * 1000)
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", lambda message: self.console.append(message.text))
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))

    def open(self, url: str) -> Any:
        self.origin = url
        self.page.goto(url)
        return self.page

    def asked(self, path: str) -> list[Any]:
        return [request for request in self.requests if urlsplit(request.url).path == path]


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """Open a page, which fails the test on any problem and on a request to another origin.

    The browser itself logs `net::ERR_…` for a connection that a test breaks.
    """
    context = browser.new_context(viewport={"width": 900, "height": 760})
    # Keeps every EventSource, so that a test can see whether it is closed.
    context.add_init_script(
        "window.sources = []; window.EventSource = class extends EventSource {"
        " constructor(...args) { super(...args); window.sources.push(this); } };"
    )
    watched = Watched(context.new_page())
    yield watched
    assert [request.url for request in watched.requests if not request.url.startswith((watched.origin, "data:"))] == []
    refused = re.compile(r"net::ERR_(INCOMPLETE_CHUNKED_ENCODING|CONNECTION_\w+)|status of (400|502)")
    assert [text for text in watched.console if not refused.search(text)] == []
    context.close()


def steps(page: Any) -> list[str]:
    return [str(text) for text in page.locator("#steps .number").all_inner_texts()]


def shown(page: Any, last: int) -> None:
    """Expect steps 1 to `last`, each once, and no others."""
    expect(page.locator("#steps .number")).to_have_text([str(number) for number in range(1, last + 1)])


# ---- sse ----


def test_sse_steps_appear_one_by_one(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("0")
    page = watched.open(start("sse", JOB))
    expect(page.locator("#state")).to_have_text("Running")
    assert steps(page) == []
    for number in range(1, 11):
        gates.let("0")
        shown(page, number)
        assert page.locator("#count").inner_text() == f"step {number} of 10"
        assert page.locator("#progress").evaluate("bar => bar.position") == number / 10
    expect(page.locator("#state")).to_have_text("Done")
    assert page.evaluate("sources.map(source => source.readyState)") == [2]  # CLOSED: the page will not reconnect
    assert len(watched.asked("/events")) == 1


def test_sse_resumes_after_cut_connection(start: Start, gates: Gates, watched: Watched, stack: ExitStack) -> None:
    gates.make("0", "3")
    relay = Relay(start("sse", JOB))
    stack.callback(relay.close)
    page = watched.open(relay.url)
    gates.let("0", b"...")
    shown(page, 3)
    relay.cut()
    expect(page.locator("#steps .cut")).to_have_text("the connection broke after step 3; the browser connects again")
    expect(page.locator("#state")).to_have_text("Running")
    gates.let("3", b".......")
    expect(page.locator("#state")).to_have_text("Done")
    shown(page, 10)
    assert page.evaluate("sources.map(source => source.readyState)") == [2]


def test_sse_partial_step_is_repeated(start: Start, gates: Gates, watched: Watched, stack: ExitStack) -> None:
    gates.make("0", "4")
    relay = Relay(start("sse", JOB))
    stack.callback(relay.close)
    relay.cut_before = b'"name": "Name the faces"'  # in the fifth step
    page = watched.open(relay.url)
    gates.let("0", b"....")
    shown(page, 4)  # a browser may drop data that it has not dispatched when the connection breaks
    gates.let("0")
    expect(page.locator("#steps .cut")).to_have_text("the connection broke after step 4; the browser connects again")
    gates.let("4", b"......")
    expect(page.locator("#state")).to_have_text("Done")
    shown(page, 10)


def test_sse_resumes_after_function_error(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("0", "2")
    page = watched.open(start("sse", JOB))
    gates.let("0", b"..")
    shown(page, 2)
    gates.let("0", b"x")
    notes = ["RuntimeError", "the connection broke after step 2; the browser connects again"]
    expect(page.locator("#steps .cut")).to_have_text(notes)
    gates.let("2", b"........")
    expect(page.locator("#state")).to_have_text("Done")
    shown(page, 10)


def test_sse_job_spans_invocations(start: Start, gates: Gates, watched: Watched, stack: ExitStack) -> None:
    gates.make("0", "2")
    gates.let("2", b"........")
    # Two seconds are enough for the runtime's deadline even on a busy machine.
    relay = Relay(start("sse", JOB, timeout=5, STREAMING_RUNTIME_DEADLINE_MARGIN_MS="2000"))
    stack.callback(relay.close)
    relay.may_end.clear()  # a browser may drop data that it has not dispatched when the connection breaks
    page = watched.open(relay.url)
    gates.let("0", b"..")
    notes = page.locator("#steps .cut")  # first the runtime's, which ends an invocation in time, then the browser's
    expect(notes).to_contain_text(["StreamDeadlineExceeded"])
    relay.may_end.set()
    expect(notes).to_contain_text(["StreamDeadlineExceeded", "broke after step 2; the browser connects again"])
    expect(page.locator("#state")).to_have_text("Done")
    shown(page, 10)


def test_sse_gives_up_after_repeated_errors(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("0")
    page = watched.open(start("sse", JOB))
    gates.let("0", b"xxxxxxxxxx")
    expect(page.locator("#state")).to_have_text("The connection breaks again and again")
    assert page.evaluate("sources.map(source => source.readyState)") == [2]
    assert len(watched.asked("/events")) == 6  # the first request and the page's five retries


def test_sse_stop_and_restart_by_keyboard(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("0")
    page = watched.open(start("sse", JOB))
    gates.let("0", b"..")
    shown(page, 2)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "button"
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("Stopped")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("Running")
    assert steps(page) == []
    assert page.evaluate("sources.map(source => source.readyState)") == [2, 1]


def test_sse_hostile_text(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("0")
    page = watched.open(start("sse", f"{JOB}\napp.STEPS = ({HOSTILE!r},)\n"))
    gates.let("0")
    expect(page.locator("#state")).to_have_text("Done")
    assert page.locator("#steps .name").evaluate("name => name.textContent") == HOSTILE
    assert page.title() == "Job"
    assert page.locator("img").count() == 0


def test_sse_response_without_events(start: Start, watched: Watched) -> None:
    source = """
    app.PAGE = app.PAGE.replace("const DELAY = 500", "const DELAY = 1")
    def handler(event, context):
        return app.handler(event, context) if event["rawPath"] == "/" else {"statusCode": 400, "body": "no"}
    """
    page = watched.open(start("sse", source))
    expect(page.locator("#state")).to_have_text("The server sends no events")
    expect(page.locator("#button")).to_have_text("Start again")


# ---- bedrock ----


def ask(page: Any, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def messages(request: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["text"]) for message in json.loads(request.post_data)["messages"]]


def token(text: str) -> dict[str, Any]:
    return {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": text}}}


def model(*events: dict[str, Any]) -> str:
    """Return events of a model, validated by botocore's own model of the service."""
    service = botocore.session.get_session().get_service_model("bedrock-runtime")
    output: Any = service.operation_model("ConverseStream").output_shape
    shape = output.members["stream"]
    for event in events:
        if "Error" not in event:
            report = ParamValidator().validate(event, shape)
            assert not report.has_errors(), report.generate_report()
            assert set(event) <= set(shape.members)
    return json.dumps(events)


STOP = {"messageStop": {"stopReason": "end_turn"}}


def test_chat_tokens_appear_one_by_one(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    page = watched.open(start("bedrock", STANDIN, LOCAL_STANDIN="1"))
    ask(page, "Why?")
    answer = page.locator("#talk .assistant")
    expect(page.locator("#talk .user")).to_have_text("Why?")
    sentence = "This is a stand-in, not a model (LOCAL_STANDIN is 1)."
    words = sentence.split()
    for number in range(1, len(words) + 1):
        expect(answer).to_have_text(re.compile(rf"^{re.escape(' '.join(words[:number]))}\s*$"))
        assert answer.get_attribute("aria-busy") == "true"
        gates.let("tokens")
    gates.let("tokens", b"." * 200)
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(answer).to_contain_text("bedrock:InvokeModelWithResponseStream")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()


def test_chat_history_is_sent(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    usage = {"usage": {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}, "metrics": {"latencyMs": 9}}
    events = model({"messageStart": {"role": "assistant"}}, token("Bec"), token("äuse ☀"), STOP, {"metadata": usage})
    gates.let("tokens", b"." * 15)
    page = watched.open(start("bedrock", MODEL, MODEL=events))
    for number, question in enumerate(["Why? ☀", "How\nso?"], start=1):
        ask(page, question)
        expect(page.locator("#talk .assistant").nth(number - 1)).to_have_text("Becäuse ☀")
        expect(page.locator("#state")).to_have_text("3 tokens in, 5 out")
    first, second = watched.asked("/chat")
    assert messages(first) == [("user", "Why? ☀")]
    assert messages(second) == [("user", "Why? ☀"), ("assistant", "Becäuse ☀"), ("user", "How\nso?")]
    page.locator("#reset").click()
    expect(page.locator("#talk")).to_contain_text("Ask something.")
    expect(page.locator("#talk p")).to_have_count(1)
    ask(page, "Again?")
    expect(page.locator("#talk .assistant")).to_have_text("Becäuse ☀")
    assert messages(watched.asked("/chat")[2]) == [("user", "Again?")]


# A response that arrives byte by byte: everything that the format allows, and an unfinished event.
DRIBBLE = r"""
    const text = ": ping\n\nevent: token\r\ndata: {\"text\":\r\ndata:\"☀\"}\r\n\r\ndata: {}\n\nid: 1\nnothing\n\n"
        + 'event: end\ndata: {"stopReason": "end_turn"}\n\nevent: token\ndata: {"text": "x"}\n';
    const bytes = new TextEncoder().encode(text);
    window.fetch = async () => new Response(new ReadableStream({
        start(controller) { bytes.forEach((byte) => controller.enqueue(Uint8Array.of(byte))); controller.close(); }
    }));
"""


def test_chat_response_in_any_pieces(start: Start, watched: Watched) -> None:
    page = watched.open(start("bedrock", STANDIN))
    page.evaluate(f"() => {{ {DRIBBLE} }}")
    ask(page, "Why?")
    expect(page.locator("#talk .assistant")).to_have_text("☀")
    expect(page.locator("#talk .assistant")).to_have_attribute("aria-busy", "false")
    assert page.locator("#talk p:visible").count() == 2


def test_chat_hostile_text(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    gates.let("tokens", b"." * 10)
    events = model(token(HOSTILE), token("\n\nevent: end\ndata: {}\n\n"), STOP)
    page = watched.open(start("bedrock", MODEL, MODEL=events))
    ask(page, HOSTILE)
    answer = page.locator("#talk .assistant")
    expect(answer).to_have_attribute("aria-busy", "false")
    assert answer.locator("p").evaluate_all("all => all.map(p => p.textContent)") == [HOSTILE, "event: end\ndata: {}"]
    assert page.locator("#talk .user").evaluate("asked => asked.textContent") == HOSTILE.strip()
    assert page.title() == "Chat"
    assert page.locator("#talk img, #talk script").count() == 0


def test_chat_error_after_tokens(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    gates.let("tokens", b"..")
    error = {"Error": {"Code": "throttlingException", "Message": f"Too many. {HOSTILE}"}}
    page = watched.open(start("bedrock", MODEL, MODEL=model(token("Be"), error)))
    ask(page, "Why?")
    told = page.get_by_role("alert")
    expect(told).to_contain_text("throttlingException: Too many. <img")
    assert page.locator("#talk .assistant").inner_text() == "Be"
    assert page.locator("#talk .assistant").get_attribute("aria-busy") == "false"
    assert page.title() == "Chat"


def test_chat_unanswered_question_resent(start: Start, watched: Watched) -> None:
    page = watched.open(start("bedrock", MODEL, MODEL='"Refuse"'))
    for number in (1, 2):
        if number == 1:
            page.locator("#text").fill("Why?")
        page.locator("#send").click()
        expect(page.get_by_role("alert")).to_have_count(number)
        expect(page.get_by_role("alert").last).to_have_text("502: AccessDeniedException: You cannot have it.")
        expect(page.locator("#text")).to_have_value("Why?")
    assert [messages(request) for request in watched.asked("/chat")] == [[("user", "Why?")]] * 2


def test_chat_refused_request(start: Start, watched: Watched) -> None:
    page = watched.open(start("bedrock", MODEL, MODEL="[]"))
    ask(page, "x" * 100_001)
    expect(page.get_by_role("alert")).to_have_text("400: The conversation is too long; start a new one.")


def test_chat_incomplete_answer(start: Start, gates: Gates, watched: Watched, stack: ExitStack) -> None:
    gates.make("tokens")
    gates.let("tokens")
    relay = Relay(start("bedrock", MODEL, MODEL=model(token("Be"), STOP)))
    stack.callback(relay.close)
    page = watched.open(relay.url)
    ask(page, "Why?")
    expect(page.locator("#talk .assistant")).to_have_text("Be")
    relay.cut()
    expect(page.get_by_role("alert")).to_have_text("The connection failed or broke off.")


def test_chat_stop_button(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    gates.let("tokens", b"..")
    page = watched.open(start("bedrock", MODEL, MODEL=model(token("Be"), token("cause"), token(" not"), STOP)))
    page.locator("#text").fill("Why?")
    page.locator("#send").press("Enter")
    expect(page.locator("#talk .assistant")).to_have_text("Because")
    assert page.evaluate("document.activeElement.id") == "stop"
    with page.expect_response("**/stop") as stopped:
        page.keyboard.press("Enter")
    assert stopped.value.status == 204
    assert (
        json.loads(watched.asked("/stop")[0].post_data)["id"] == json.loads(watched.asked("/chat")[0].post_data)["id"]
    )
    expect(page.locator("#talk .note")).to_have_text("Stopped.")
    assert page.evaluate("document.activeElement.id") == "text"
    assert page.get_by_role("alert").count() == 0
    expect(page.locator("#send")).to_be_visible()
    gates.let("tokens")  # the first answer ends with its next event
    gates.let("tokens", b"." * 4)
    ask(page, "And?")
    expect(page.locator("#talk .assistant").last).to_have_text("Because not")
    assert page.locator("#talk .assistant").first.inner_text() == "Because"
    assert messages(watched.asked("/chat")[1]) == [("user", "Why?"), ("assistant", "Because"), ("user", "And?")]


MARKDOWN = """# Why streams *feel* faster

Text with **strong** and `code`,
and [a link](https://example.com/a?b=1).

- one
- two
  more

1. first
2. second

> quoted

```python
for x in y:

    print("**not strong**")
```
After it. [No link](javascript:alert(1)) 2 * 3 * 4"""
DRAWN = [
    "<h3>Why streams <em>feel</em> faster</h3>",
    "<p>Text with <strong>strong</strong> and <code>code</code>,\nand "
    '<a href="https://example.com/a?b=1" target="_blank" rel="noopener noreferrer">a link</a>.</p>',
    "<ul><li>one</li><li>two\n  more</li></ul>",
    "<ol><li>first</li><li>second</li></ol>",
    "<blockquote>quoted</blockquote>",
    '<pre tabindex="0"><code>for x in y:\n\n    print("**not strong**")</code></pre>',
    "<p>After it. [No link](javascript:alert(1)) 2 * 3 * 4</p>",
]


def drawn(page: Any) -> list[str]:
    markup = page.locator("#talk .assistant > *").evaluate_all("all => all.map(one => one.outerHTML)")
    return [text.replace(' class=""', "") for text in markup]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chat_markdown_in_any_pieces(size: int, start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    pieces = [MARKDOWN[i : i + size] for i in range(0, len(MARKDOWN), size)]
    events = f"EVENTS = [*map(Text, {pieces!r}), Finish('end_turn')]"
    page = watched.open(start("bedrock", f"{ANSWER}\n{events}\n"))
    ask(page, "Why?")
    gates.let("tokens", b"." * (len(pieces) + 1))
    expect(page.locator("#talk .assistant")).to_have_attribute("aria-busy", "false")
    assert drawn(page) == DRAWN


def test_chat_code_block_grows(start: Start, gates: Gates, watched: Watched) -> None:
    """Finished blocks stay the same elements, and an unfinished code block is one from its first line on."""
    gates.make("tokens")
    pieces = ["First.\n\n```py\n", "x = 1\n", "y = 2\n", "```\n", "Last"]
    page = watched.open(start("bedrock", f"{ANSWER}\nEVENTS = [*map(Text, {pieces!r}), Finish('end_turn')]\n"))
    ask(page, "Why?")
    gates.let("tokens")
    first, code = page.locator("#talk .assistant > p").first, page.locator("#talk .assistant pre code")
    expect(code).to_have_count(1)
    first.evaluate("element => element.dataset.kept = 'yes'")
    for shown in ("x = 1", "x = 1\ny = 2", "x = 1\ny = 2"):
        gates.let("tokens")
        expect(code).to_have_text(shown)
    gates.let("tokens")
    expect(page.locator("#talk .assistant > p")).to_have_text(["First.", "Last"])
    assert first.get_attribute("data-kept") == "yes"


def test_chat_is_a_live_region(start: Start, gates: Gates, watched: Watched) -> None:
    """A screen reader hears a whole answer: the region is busy while words are added."""
    gates.make("tokens")
    page = watched.open(start("bedrock", f"{ANSWER}\nEVENTS = [Text('Be'), Text('cause.'), Finish('end_turn')]\n"))
    ask(page, "Why?")
    gates.let("tokens")
    answer = page.get_by_role("log").locator(".assistant")
    expect(answer).to_have_text("Be")
    assert answer.get_attribute("aria-busy") == "true"
    expect(page.get_by_role("status")).to_have_text("Answering …")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    gates.let("tokens", b"..")
    expect(answer).to_have_attribute("aria-busy", "false")
    tree = page.locator("body").aria_snapshot()
    for line in ("- log:", "- paragraph: Because.", '- textbox "Your message"', '- button "Send"', "- status"):
        assert line in tree, tree


def test_chat_tools_and_reasoning(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    events = """EVENTS = [Reasoning("Let me "), Reasoning("see."), Text("One moment."), ToolCall("t1", "add"),
        ToolInput('{"a": 1}'), ToolResult("t1", "<b>2</b>"), Text("It is two."), Finish("end_turn")]"""
    gates.let("tokens", b"." * 8)
    page = watched.open(start("bedrock", f"{ANSWER}\n{events}\n"))
    ask(page, "Why?")
    expect(page.locator("#talk .assistant")).to_have_attribute("aria-busy", "false")
    assert drawn(page) == [
        "<details><summary>Reasoning</summary><p>Let me see.</p></details>",
        "<p>One moment.</p>",
        '<p class="tool" data-id="t1">add {"a":1} → &lt;b&gt;2&lt;/b&gt;</p>',
        "<p>It is two.</p>",
    ]


def test_new_chat_stops_answer(start: Start, gates: Gates, watched: Watched) -> None:
    gates.make("tokens")
    gates.let("tokens")
    page = watched.open(start("bedrock", MODEL, MODEL=model(token("Be"), STOP)))
    ask(page, "Why?")
    expect(page.locator("#talk .assistant")).to_have_text("Be")
    page.locator("#reset").click()
    expect(page.locator("#talk p:visible")).to_contain_text(["Ask something."])
    expect(page.locator("#send")).to_be_visible()
    assert page.locator("#text").input_value() == ""


# ---- both ----


@pytest.mark.parametrize(("example", "source"), [("sse", JOB), ("bedrock", STANDIN)], ids=["sse", "bedrock"])
def test_page_layout_and_contrast(
    example: str, source: str, start: Start, gates: Gates, watched: Watched, tmp_path: Path
) -> None:
    gates.make("0", "tokens")
    gates.let("0", b"." * 6)
    gates.let("tokens", b"." * 20)
    page = watched.page
    page.emulate_media(reduced_motion="reduce")
    watched.open(start(example, source, LOCAL_STANDIN="1"))
    if example == "sse":
        shown(page, 6)
    else:
        ask(page, "Why does a stream feel faster? " + "x" * 60)
        expect(page.locator("#talk .assistant")).to_contain_text("stream as a model's")
    for scheme, width in itertools.product(("light", "dark"), (320, 1280)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 720})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for control in page.locator("button:visible, textarea").all():
            assert control.bounding_box()["height"] >= 44  # the recommended size of a touch target
            assert control.get_attribute("aria-label") or control.inner_text()
        body = page.locator("body")
        ground = body.evaluate("body => getComputedStyle(body).backgroundColor")
        text = body.evaluate("body => getComputedStyle(body).color")
        assert (luminance(ground) > luminance(text)) == (scheme == "light"), scheme
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{example}-{scheme}-{width}.png")
