"""The inspector's page in a real browser: what a user sees, and that hostile data stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect
from tests.local.conftest import luminance, needs_chromium
from tests.local.inspected import Inspected, inspected
from tests.local.test_journal import fill

from local import journal
from local.journal import RING, Journal

pytestmark = [pytest.mark.slow, needs_chromium]
GATED = """
    def handler(event, context):
        if event["rawPath"] == "/fail":
            raise KeyError("too early")
        return StreamingResponse(chunks(), 404 if event["rawPath"] == "/missing" else 200, {"X-One": "1"}, "text/plain")

    def chunks():
        while (byte := wait()) != b".":
            if byte == b"!":
                raise KeyError("midway")
            if byte == b"L":
                print("a line")
            yield b"chunk " + byte
    """
TELLING = """
    import json

    def handler(event, context):
        tell(json.dumps(event).encode() + b"\\n")
        return "done"
    """
# Returns each text on the page with its computed colour and background colour.
TEXTS = """() => {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
        if (!text || element.closest("script, title") || !element.checkVisibility()) continue;
        let ground = element;
        while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
        const style = getComputedStyle(element);
        found.push([text, element.closest("svg") ? style.fill : style.color, getComputedStyle(ground).backgroundColor]);
    }
    return found;
}"""
Start = Callable[..., Inspected]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Serve a handler's source and its inspector; `events` are the test events."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ExitStack() as stack:

        def serve(source: str = GATED, *, events: dict[str, Any] | None = None, **options: Any) -> Inspected:
            folder = tmp_path / f"served {len(list(tmp_path.iterdir()))}"
            served = stack.enter_context(inspected(folder, source, **options))
            for name, event in (events or {}).items():
                served.events.mkdir(exist_ok=True)
                (served.events / name).write_text(json.dumps(event), encoding="utf-8")
            return served

        yield serve


class Visit:
    """A page in an otherwise empty browser, and its problems and requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self.requests.append(request.url))
        page.expose_function("violated", lambda directive: self.problems.append(f"policy: {directive}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => violated(event.violatedDirective))"
        )

    def _dismiss(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, served: Inspected) -> Page:
        """Open the inspector; return when it is subscribed."""
        self.page.goto(served.inspector)
        expect(self.page.locator("#connection")).to_have_text("live")
        return self.page


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A visit that fails on any problem, or on a request to anything but the inspector."""
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        visit = Visit(context.new_page())
        yield visit
        origin = "/".join(visit.page.url.split("/")[:3])
        assert origin.startswith("http://127.0.0.1:")
        own = [url for url in visit.requests if url.startswith(f"{origin}/")]
        assert [url for url in visit.requests if url not in own and url != "data:,"] == []
        asked = {re.sub(r"(/search)\?.*|(/invocations)/.*", r"\1\2", url.removeprefix(origin)) for url in own}
        assert {"/", "/events", "/invocations"} == asked - {"/requests", "/search"}
    assert visit.problems == []


def rows(page: Page) -> Any:
    return page.get_by_role("option")


def test_bars_appear_while_streaming(start: Start, visit: Visit) -> None:
    served = start()
    page = visit.open(served)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#curl")).to_have_text(f"curl --no-buffer {served.url}")
    client = served.begin("/slow?a=b")
    expect(page.locator("#name")).to_have_text("GET /slow?a=b")
    expect(page.locator("#status")).to_have_text("waiting")
    expect(page.locator("#empty")).to_be_hidden()
    for number in range(1, 4):
        served.gate.write(b"%d" % number)
        expect(page.locator("#bars rect")).to_have_count(number)
        expect(page.locator("#status")).to_have_text("200 streaming")
        expect(page.locator("#body")).to_have_text("".join(f"chunk {n}" for n in range(1, number + 1)))
    served.gate.write(b".")
    expect(page.locator("#status")).to_have_text("200")
    assert client.getresponse().read() == b"chunk 1chunk 2chunk 3"


def test_figures_match_response(start: Start, visit: Visit) -> None:
    served = start()
    page = visit.open(served)
    client = served.begin()
    for number in range(1, 4):
        served.gate.write(b"%d" % number)
        expect(page.locator("#bars rect")).to_have_count(number)
    served.gate.write(b".")
    expect(page.locator("#status")).to_have_text("200")
    client.getresponse().read()
    (record,) = served.journal.records.values()
    times = [entry[0] for entry in record.entries]

    first, total = page.locator("#first-byte").inner_text(), page.locator("#total").inner_text()
    assert in_seconds(first) == pytest.approx(times[0], abs=0.01)
    assert in_seconds(total) == pytest.approx(record.ended_at, abs=0.01)
    expect(page.locator("#chunks")).to_have_text("3")
    expect(page.locator("#bytes")).to_have_text("21 B")
    longest, median = page.locator("#gaps").inner_text().split(" / ")
    pauses = sorted([times[1] - times[0], times[2] - times[1]])
    assert in_seconds(longest) == pytest.approx(pauses[1], abs=0.01)
    assert in_seconds(median) == pytest.approx(sum(pauses) / 2, abs=0.01)
    expect(rows(page).locator(".figures")).to_have_text(f"{first} · {total} · 21 B")
    expect(page.locator("#response")).to_contain_text("x-one: 1")
    page.locator("#waterfall").focus()
    page.keyboard.press("End")
    expect(page.locator("#reading")).to_contain_text(f"chunk 3: 7 bytes at {times[2]:.3f} s")
    page.keyboard.press("Home")
    expect(page.locator("#waterfall")).to_have_attribute("aria-valuetext", f"chunk 1: 7 bytes at {times[0]:.3f} s")
    expect(page.locator("#bars rect").first).to_have_class("chunk current")


def in_seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) / {"ms": 1000, "s": 1}[unit]


def test_errors_are_shown(start: Start, visit: Visit) -> None:
    served = start()
    page = visit.open(served)
    assert served.call("/fail").status == 502
    expect(page.locator("#status")).to_have_text("502")
    expect(page.locator("#error-type")).to_have_text("KeyError")
    expect(page.locator("#error-effect")).to_have_text("answered with 502")
    expect(page.locator("#error-body")).to_contain_text("too early")
    client = served.begin("/later")
    expect(page.locator("#name")).to_have_text("GET /later")
    expect(page.locator("#error")).to_be_hidden()
    served.gate.write(b"1!")
    expect(page.locator("#status")).to_have_text("200 aborted")
    expect(page.locator("#error-effect")).to_have_text("after the response started: the connection was aborted")
    expect(page.locator("#error-body")).to_contain_text("midway")
    expect(page.locator("#body")).to_have_text("chunk 1")
    expect(rows(page).locator(".state")).to_have_text(["200 aborted", "502"])
    client.close()


def test_log_is_shown_per_invocation(start: Start, visit: Visit) -> None:
    served = start()
    page = visit.open(served)
    client = served.begin("/loud")
    served.gate.write(b"L")
    expect(page.locator("#log")).to_have_text("a line")
    expect(page.locator("#status")).to_have_text("200 streaming")
    served.gate.write(b".")
    client.getresponse().read()
    client = served.begin("/quiet")
    expect(page.locator("#name")).to_have_text("GET /quiet")
    expect(page.locator("#log")).to_be_empty()
    served.gate.write(b".")
    client.getresponse().read()
    rows(page).nth(1).click()
    expect(page.locator("#name")).to_have_text("GET /loud")
    expect(page.locator("#log")).to_have_text("a line")
    expect(page.locator("#follow")).not_to_be_checked()


def test_event_sent_and_resent(start: Start, visit: Visit) -> None:
    events = {"a.json": {"name": "ö"}, "b.json": [1, 2]}
    served = start(TELLING, events=events)
    page = visit.open(served)
    for button, count in (("a.json", 1), ("b.json", 2), ("Send again", 3)):
        page.get_by_role("button", name=button).click()
        event = events.get(button, [1, 2])
        text = json.dumps(event).encode() + b"\n"
        assert served.told.read(len(text)) == text
        expect(rows(page)).to_have_count(count)
        expect(page.locator("#status")).to_have_text("200")
        expect(page.locator("#request")).to_have_text(json.dumps(event, indent=2, ensure_ascii=False))
        expect(page.locator("#body")).to_have_text('"done"')
    expect(page.locator("#notice")).to_have_text("Sent event [1,2]")


def test_shortened_event_cannot_be_resent(start: Start, visit: Visit) -> None:
    served = start(
        "def handler(event, context):\n    return len(event['body'])\n", events={"a.json": {"body": "a" * 70_000}}
    )
    page = visit.open(served)
    page.get_by_role("button", name="a.json").click()
    expect(page.locator("#body")).to_have_text("70000")
    expect(page.locator("#request")).to_contain_text("(70000 characters, too many to show)")
    expect(page.locator("#again")).to_be_disabled()


def test_throttled_event_shows_reason(start: Start, visit: Visit) -> None:
    served = start("def handler(event, context):\n    wait()\n", events={"a.json": 1}, limit=1)
    page = visit.open(served)
    page.get_by_role("button", name="a.json").click()
    expect(page.locator("#notice")).to_have_text("Sent a.json")  # while it runs
    page.get_by_role("button", name="a.json").click()
    expect(page.locator("#notice")).to_have_text("a.json was refused: the concurrency limit of 1 is reached")
    served.gate.write(b".")
    expect(page.locator("#status")).to_have_text("200")
    # The browser logs an error status.
    assert [problem[:48] for problem in visit.problems] == ["console: Failed to load resource: the server res"]
    visit.problems.clear()


def test_keyboard_navigation(start: Start, visit: Visit) -> None:
    served = start(TELLING, events={"a.json": {"which": "older"}, "b.json": {"which": "newer"}})
    page = visit.open(served)

    def tab_to(selector: str) -> None:
        for _ in range(20):
            if page.locator(selector).evaluate("(element) => element === document.activeElement"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{selector} cannot be reached")

    for count, name in ((1, "a.json"), (2, "b.json")):
        tab_to(f"button:text-is('{name}')")
        page.keyboard.press("Enter")
        expect(rows(page)).to_have_count(count)
        expect(page.locator("#status")).to_have_text("200")
    tab_to("#invocations")
    expect(rows(page).nth(0)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(1)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#request")).to_contain_text("older")
    expect(page.locator("#invocations")).to_have_attribute(
        "aria-activedescendant", rows(page).nth(1).get_attribute("id") or ""
    )
    page.keyboard.press("ArrowUp")
    expect(page.locator("#request")).to_contain_text("newer")
    page.keyboard.press("End")
    tab_to("#again")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(3)
    expect(rows(page).nth(0)).to_have_attribute("aria-selected", "true")
    for expected in ("older", "newer", "older"):
        text = json.dumps({"which": expected}).encode() + b"\n"
        assert served.told.read(len(text)) == text


def test_text_contrast(start: Start, visit: Visit) -> None:
    served = start(events={"a.json": 1})
    page = visit.open(served)
    clients = []
    # One after the other, because a byte in the gate is for any handler that waits there.
    for path, bytes_, state in (
        ("/fail", b"", "502"),
        ("/missing", b"L.", "404"),
        ("/breaks", b"1!", "200 aborted"),
        ("/streams", b"1", "200 streaming"),
    ):
        clients.append(served.begin(path))
        served.gate.write(bytes_)
        expect(rows(page).filter(has_text=path).locator(".state")).to_have_text(state)
    clients.append(served.begin("/waits"))
    expect(rows(page).filter(has_text="/waits").locator(".state")).to_have_text("waiting")
    rows(page).filter(has_text="/fail").click()
    expect(page.locator("#error-body")).to_contain_text("too early")
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        texts = page.evaluate(TEXTS)
        assert {
            "live",
            "waiting",
            "404",
            "200 streaming",
            "502",
            "KeyError",
            "Send again",
            "Logs",
            "a.json",
            "Follow newest",
        } <= {text for text, *_ in texts}
        for text, colour, ground in texts:
            bright, dull = sorted([luminance(colour), luminance(ground)], reverse=True)
            assert (bright + 0.05) / (dull + 0.05) >= 4.5, (scheme, text, colour, ground)
        grounds[scheme] = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds["dark"] < 0.1 < 0.8 < grounds["light"]
    served.gate.write(b"..")
    for client in clients:
        client.close()


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script><i>&lt;"


def test_hostile_data_is_shown_as_text(start: Start, visit: Visit) -> None:
    source = f"""
        HOSTILE = {HOSTILE!r}

        def handler(event, context):
            return StreamingResponse(chunks(), 200, {{"X-Hostile": HOSTILE}}, "text/html")

        def chunks():
            print(HOSTILE)
            yield HOSTILE
            raise type(HOSTILE, (Exception,), {{}})(HOSTILE)
        """
    served = start(source, name=HOSTILE, events={"<i>x<img src=y>.json": HOSTILE})
    page = visit.open(served)
    expect(page.locator("#function")).to_have_text(HOSTILE)
    path = "/<img/src=x/onerror=alert(3)>?<i>"
    client = served.begin(path, **{"user-agent": HOSTILE})
    expect(page.locator("#status")).to_have_text("200 aborted")
    client.close()
    expect(page.locator("#name")).to_have_text(f"GET {path}")
    expect(rows(page).locator(".path")).to_have_text(path)
    expect(page.locator("#body")).to_have_text(HOSTILE)
    expect(page.locator("#log")).to_contain_text(HOSTILE)
    expect(page.locator("#error-body")).to_contain_text(HOSTILE)
    expect(page.locator("#response")).to_contain_text(f"x-hostile: {HOSTILE}")
    expect(page.locator("#request")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="<i>x<img src=y>.json").click()
    expect(rows(page)).to_have_count(2)
    expect(page.locator("#name")).to_have_text(f'event "{HOSTILE}"')
    expect(page.locator("#status")).to_have_text("200 aborted")
    assert page.locator("img, i").count() == 0
    assert page.evaluate("document.scripts.length") == 1
    assert page.title().startswith(HOSTILE)


def test_page_reconnects_after_restart(start: Start, visit: Visit) -> None:
    served = start(TELLING)
    page = visit.open(served)
    served.call("/before").read()
    expect(page.locator("#name")).to_have_text("GET /before")
    served.stop()
    expect(page.locator("#connection")).to_have_text("reconnecting")
    again = start(TELLING, port=int(served.inspector.rstrip("/").rpartition(":")[2]), events={"new.json": 1})
    assert again.inspector == served.inspector
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#url")).to_have_text(again.url)
    expect(rows(page)).to_have_count(0)
    expect(page.get_by_role("button", name="new.json")).to_be_visible()
    again.call("/after").read()
    expect(page.locator("#name")).to_have_text("GET /after")
    expect(page.locator("#status")).to_have_text("200")
    assert all("net::ERR_" in problem for problem in visit.problems)
    visit.problems.clear()


def test_late_page_and_reload(start: Start, visit: Visit) -> None:
    served = start()
    client = served.begin("/early")
    served.gate.write(b"12")
    response = client.getresponse()
    (record,) = served.journal.records.values()
    record._start -= 100  # as if it started 100 s ago
    page = visit.open(served)
    expect(page.locator("#name")).to_have_text("GET /early")
    expect(page.locator("#chunks")).to_have_text("2")
    expect(page.locator("#total")).to_have_text(re.compile(r"1\d\d\.\d\d s"))
    served.gate.write(b".")
    response.read()
    expect(page.locator("#status")).to_have_text("200")
    page.reload()
    expect(page.locator("#status")).to_have_text("200")
    expect(page.locator("#body")).to_have_text("chunk 1chunk 2")


ECHO = """
    import json

    def handler(event, context):
        print("heard", event["rawPath"])
        name = event["headers"].get("x-fail")
        if name:
            raise type(name, (Exception,), {})("no")
        yield json.dumps([event["requestContext"]["http"]["method"], event["rawPath"], event.get("body")])
    """


def test_request_of_any_form(start: Start, visit: Visit) -> None:
    served = start(ECHO)
    page = visit.open(served)
    page.get_by_role("button", name="Request …").click()
    page.locator("#method").select_option("PUT")
    page.locator("#path").fill("/some/path?tag=x")
    page.locator("#headers").fill("content-type: text/plain\nx-one: 1\nx-two: a:b")
    page.locator("#content").fill("ünï")
    page.get_by_role("button", name="Send request").click()
    expect(page.locator("#body")).to_have_text('["PUT", "/some/path", "\\u00fcn\\u00ef"]')
    expect(page.locator("#name")).to_have_text("PUT /some/path?tag=x")
    for part in ('"x-one": "1"', '"x-two": "a:b"', '"tag": "x"', '"content-length": "5"', '"isBase64Encoded": false'):
        expect(page.locator("#request")).to_contain_text(part)
    page.locator("#path").fill("no slash")
    page.get_by_role("button", name="Send request").click()
    expect(page.locator("#notice")).to_contain_text("was refused: the path must begin with /, got 'no slash'")
    page.locator("#path").fill("/a b")
    page.get_by_role("button", name="Send request").click()
    expect(page.locator("#notice")).to_contain_text("was refused: Illegal target characters")
    assert [problem[:48] for problem in visit.problems] == ["console: Failed to load resource: the server res"] * 2
    visit.problems.clear()


def test_search_and_saved_files(start: Start, visit: Visit, tmp_path: Path) -> None:
    served = start(ECHO)
    page = visit.open(served)
    for path in ("/one", "/two"):
        assert served.call(path).read()
        expect(page.locator("#name")).to_have_text(f"GET {path}")
    expect(page.locator("#status")).to_have_text("200")
    expect(page.locator("#kept")).to_have_text(f"The last {RING:,} are kept.")
    for words, count in (("one", 1), ("heard 200", 2), ("get nothing", 0), ("", 2)):
        page.locator("#search").fill(words)
        expect(rows(page).locator("visible=true").locator(".path")).to_have_count(count)
    saved = {}
    for button in ("Save event", "Save HAR"):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        download.value.save_as(tmp_path / "saved")
        saved[download.value.suggested_filename] = json.loads((tmp_path / "saved").read_text(encoding="utf-8"))
    assert saved["get-two.json"]["rawPath"] == "/two"
    [entry] = saved["get-two.har"]["log"]["entries"]
    assert entry["request"]["url"] == f"{served.url}two"
    assert (entry["response"]["status"], entry["response"]["content"]["text"]) == (200, '["GET", "/two", null]')
    assert entry["timings"]["wait"] + entry["timings"]["receive"] == pytest.approx(entry["time"])


def test_notice_and_long_error_stay_in_place(start: Start, visit: Visit) -> None:
    served = start(ECHO, events={"a.json": {"rawPath": "/", "headers": {"x-fail": "Error" * 60}, "requestContext": {}}})
    page = visit.open(served)
    before = page.locator("main").bounding_box()
    page.get_by_role("button", name="a.json").click()
    expect(page.locator("#error-type")).to_have_text("Error" * 60)
    expect(page.locator("#notice")).to_contain_text("Sent a.json")
    assert page.locator("main").bounding_box() == before
    assert page.evaluate("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")


def test_client_that_left_is_no_warning(start: Start, visit: Visit) -> None:
    served = start()
    page = visit.open(served)
    client = served.begin()
    served.gate.write(b"1")
    expect(page.locator("#status")).to_have_text("200 streaming")
    client.close()
    served.gate.write(b"2.")
    expect(page.locator("#status")).to_have_text("200 client disconnected")
    expect(page.locator("#status")).to_have_class("good")


TRACED = """
    from opentelemetry import trace

    tracer = trace.get_tracer("app")

    def handler(event, context):
        with tracer.start_as_current_span("retrieve <b>documents</b>"):
            pass
        yield wait()
        with tracer.start_as_current_span("model"):
            yield wait()
            if event["rawPath"] == "/fails":
                raise ValueError("it broke")
    """


@pytest.mark.parametrize(("width", "height"), [(1200, 900), (390, 844)], ids=["desktop", "phone"])
def test_trace_is_shown(start: Start, visit: Visit, monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
    """Spans of the published SDK beside the chunks, on their scale, in both colour schemes."""
    monkeypatch.setenv("STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS", "5000")
    served = start(TRACED)
    page = visit.open(served)
    page.set_viewport_size({"width": width, "height": height})
    for path, state in (("/whole", "200"), ("/fails", "200 aborted")):
        client = served.begin(path)
        served.gate.write(b"12")
        expect(page.locator("#status")).to_have_text(state)
        client.close()
        expect(page.locator("#trace-count")).to_have_text("3 spans")
    spans = page.locator("#spans li")
    expect(spans.locator("code")).to_have_text(["Served", "retrieve <b>documents</b>", "model"])
    figures = [re.sub(r"[\d.]+ m?s", "T", text) for text in spans.locator("small:not(.bad)").all_inner_texts()]
    assert figures == ["at T · T · first byte after T · status 200", "at T · T", "at T · T"]
    expect(spans.locator(".bad")).to_have_text(["ValueError: it broke"] * 2)
    (failed,) = [record for record in served.journal.records.values() if record.end and record.end.error_type]
    first = re.search(r"first byte after (.*?) ·", spans.first.inner_text())
    assert first is not None
    assert 0 < in_seconds(first[1]) <= failed.entries[0][0]  # as the local URL has measured it, from the request on

    # The bars are on the scale of the chunks: the span of the whole stream covers them.
    whole, chunks = spans.first.locator(".failed").bounding_box(), page.locator("#bars rect").all()
    assert whole is not None
    for box in (chunk.bounding_box() for chunk in chunks):
        assert box is not None
        assert whole["x"] - 4 <= box["x"] + box["width"] / 2 <= whole["x"] + whole["width"] + 4
    for element in ("document.documentElement", "document.querySelector('main')"):
        assert page.evaluate(f"{element}.scrollWidth - {element}.clientWidth") <= 0
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        shown = [text for text in page.evaluate(TEXTS) if text[0] in ("model", "3 spans", "ValueError: it broke")]
        assert len(shown) == 4
        for text, colour, ground in shown:
            bright, dull = sorted([luminance(colour), luminance(ground)], reverse=True)
            assert (bright + 0.05) / (dull + 0.05) >= 4.5, (scheme, text, colour, ground)
    rows(page).nth(1).click()
    expect(page.locator("#spans .bad")).to_have_count(0)
    page.reload()  # a page that comes later is told of the spans too
    expect(page.locator("#trace-count")).to_have_text("3 spans")


def test_ten_thousand_invocations(start: Start, visit: Visit) -> None:
    """However many there are, the page has elements for the rows in view, and details of what it shows."""
    kept = Journal()
    fill(kept, RING + 40)
    served = start(ECHO, journal=kept)
    page = visit.open(served)

    def assert_bounded() -> None:
        assert rows(page).count() < 40
        assert page.evaluate("document.querySelectorAll('*').length") < 700
        assert page.evaluate("[...invocations.values()].filter(({loaded}) => loaded).length") == 1
        assert page.evaluate("[invocations.size, matching.length]")[0] == RING

    expect(page.locator("#name")).to_have_text(f"GET /{RING + 39}?a=b")
    expect(rows(page).first).to_have_attribute("aria-setsize", f"{RING}")
    assert_bounded()
    page.locator("#invocations").press("End")
    expect(page.locator("#name")).to_have_text("GET /40?a=b")
    expect(page.locator("#log")).to_have_text("Line 40.")
    expect(rows(page).last).to_have_attribute("aria-posinset", f"{RING}")
    assert_bounded()

    before = len(visit.requests)
    page.locator("#search").press_sequentially("line 7123. 200 aborted")
    expect(page.locator("#name")).to_have_text("GET /7123?a=b")
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#body")).to_have_text("chunk" * 10)
    assert len(visit.requests) - before < 8  # not one for each letter
    page.locator("#search").fill("aborted")
    expect(rows(page).last).to_have_attribute("aria-setsize", f"{RING // 2}")
    expect(page.locator("#name")).to_have_text("GET /7123?a=b")
    page.locator("#search").fill("")
    expect(rows(page).last).to_have_attribute("aria-setsize", f"{RING}")

    page.get_by_label("Follow newest").check()
    served.call("/new").read()
    expect(page.locator("#name")).to_have_text("GET /new")
    expect(page.locator("#status")).to_have_text("200")
    assert_bounded()  # the oldest one is forgotten
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    assert session.send("Runtime.getHeapUsage")["usedSize"] < 40_000_000


def test_dropped_details_are_named(start: Start, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BUDGET", 5000)
    kept = Journal()
    fill(kept, 60)
    dropped = sum(summary.get("dropped", False) for summary in kept.archive.summaries.values())
    page = visit.open(start(journal=kept))
    assert 0 < dropped < 10
    expect(page.locator("#kept")).to_have_text(
        f"The last 10,000 are kept. The {dropped} oldest have no details (limit: 32 MB)."
    )
    page.locator("#invocations").press("End")
    expect(page.locator("#name")).to_have_text("GET /0?a=b")
    expect(page.locator("#dropped")).to_be_visible()
    expect(page.locator("#bytes")).to_have_text("50 B")
    expect(page.locator("#again")).to_be_disabled()
    page.locator("#invocations").press("Home")
    expect(page.locator("#dropped")).to_be_hidden()


def test_comparison_of_two_invocations(start: Start, visit: Visit) -> None:
    served = start()
    page = visit.open(served)
    for path, chunks in (("/one", 2), ("/missing", 1)):
        client = served.begin(path, **{"X-Asked": path})
        for number in range(1, chunks + 1):
            served.gate.write(b"%d" % number)
            expect(page.locator("#bars rect")).to_have_count(number)
        served.gate.write(b".")
        client.getresponse().read()
        expect(page.locator("#name")).to_have_text(f"GET {path}")
        expect(page.locator("#status")).not_to_have_class("busy")
    rows(page).nth(1).click()
    page.get_by_role("button", name="Compare …").click()
    expect(page.locator("#comparison")).to_be_hidden()
    expect(page.locator("#notice")).to_have_text("Choose the invocation to compare this one with.")
    rows(page).nth(0).click()
    expect(page.locator("#base-name")).to_contain_text("GET /one at ")
    expect(page.locator("#other-name")).to_contain_text("GET /missing at ")
    table = {
        row.locator("th").inner_text(): [*row.locator("td").all_inner_texts(), row.get_attribute("class")]
        for row in page.locator("#differences tr").all()
    }
    assert table["Status"] == ["200", "404", "≠ differs", "differs"]
    assert table["Chunks"] == ["2", "1", "≠ -1", "differs"]
    assert table["Bytes"] == ["14 B", "7 B", "≠ -7 B", "differs"]
    assert table["Body"] == ["chunk 2", "(ends)", "≠ from character 8", "differs"]
    assert table["Request x-asked"] == ["/one", "/missing", "≠ differs", "differs"]
    assert table["Response x-one"] == ["1", "1", "", ""]
    assert table["Chunk 2"][1:] == ["\u2013", "≠ ", "differs"]
    assert re.fullmatch(r"[\d.]+ ms · 7 B", table["Chunk 1"][0] or "")
    marked = sum(values[-1] == "differs" for values in table.values())
    expect(page.locator("#compared")).to_contain_text(f"{marked} of {len(table)} rows differ")
    bars = [page.locator("#strips path").nth(number).get_attribute("d") or "" for number in range(2)]
    assert [path.count("M") for path in bars] == [2, 1]
    page.get_by_role("button", name="End comparison").click()
    expect(page.locator("#comparison")).to_be_hidden()
