"""Signing in to a page in a real browser, with the issuer of `make dev`, and streaming with the token."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect
from tests.helpers.gates import Fifo
from tests.helpers.support import TEMPLATE
from tests.local.conftest import TIMEOUT, function, luminance, needs_chromium

from local.function_url import running
from local.issuer import Issuer, running_issuer
from local.journal import Observer

pytestmark = [pytest.mark.slow, needs_chromium]

WAIT = """
import os, types
import app

def wait(seconds):
    with open(os.environ["GATE"], "rb", buffering=0) as gate:
        gate.read(1)
"""
SSE = """
app.time = types.SimpleNamespace(sleep=wait, strftime=app.time.strftime)
handler = app.handler
"""
HELLO = """
app.time = types.SimpleNamespace(sleep=wait, strftime=app.time.strftime)
handler = app.handler
"""
CHAT = "handler = app.handler"
DEVICES: dict[str, dict[str, Any]] = {
    "desktop, light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "desktop, dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone, light": {"viewport": {"width": 360, "height": 640}, "color_scheme": "light", "has_touch": True},
    "phone, dark": {"viewport": {"width": 360, "height": 640}, "color_scheme": "dark", "has_touch": True},
}
Start = Callable[..., tuple[str, Fifo]]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer("my-client") as found:
        yield found


@pytest.fixture
def start(tmp_path: Path, stack: ExitStack, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Serve an example behind the check of tokens; return its URL and the gate of its steps."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def serve(source: str, *folders: str) -> tuple[str, Fifo]:
        code = tmp_path / "src"
        shutil.copytree(TEMPLATE / "runtime", code, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in folders:
            shutil.copytree(TEMPLATE / folder / "src", code, dirs_exist_ok=True)
        (code / "served.py").write_text(WAIT + textwrap.dedent(source), encoding="utf-8")
        gate = stack.enter_context(closing(Fifo(tmp_path / "gate")))
        environment = {
            "GATE": str(gate.path),
            "LOCAL_STANDIN": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FRONT_DOOR_HANDLER": "served.handler",
            "JWT_ISSUER": issuer.url,
            "JWT_AUDIENCE": "my-client",
            "JWT_CLIENT_ID": "my-client",
        }
        served = function(code=code, handler="front_door.entry.handler", environment=environment)
        return stack.enter_context(running(served, 10, Observer())), gate

    return serve


@pytest.fixture
def page(browser: Any, stack: ExitStack) -> Callable[..., Any]:
    def new(device: str = "desktop, light") -> Any:
        context = browser.new_context(**DEVICES[device])
        stack.callback(context.close)
        found = context.new_page()
        found.set_default_timeout(TIMEOUT * 1000)
        return found

    return new


def sign_in(page: Any, url: str, name: str = "Ada") -> None:
    page.goto(url)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text(f"Signed in as {name}")).to_be_visible()


def contrast(page: Any, selector: str) -> float:
    """Return the contrast of an element's text with what is behind it (WCAG 2.2 asks for 4.5)."""
    colours = page.locator(selector).evaluate(
        """(element) => {
            const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
            const rgb = (colour) => {
                canvas.fillStyle = colour;
                canvas.fillRect(0, 0, 1, 1);
                return `rgb(${[...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).join(", ")})`;
            };
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") {
                behind = behind.parentElement ?? behind.getRootNode().host;
            }
            return [rgb(getComputedStyle(element).color), rgb(getComputedStyle(behind).backgroundColor)];
        }"""
    )
    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_page_signs_in_and_streams(device: str, start: Start, page: Callable[..., Any]) -> None:
    url, gate = start(SSE, "examples/sse")
    shown = page(device)
    requests: list[Any] = []
    shown.on("request", lambda request: requests.append(request))
    shown.clock.install()
    shown.goto(url)
    assert shown.title() == "Sign in"
    for selector in ("h1", "#issuer", "#sign-in"):
        assert contrast(shown, selector) >= 4.5, selector
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sign_in(shown, url)
    expect(shown.get_by_role("heading", name="Making a photo album")).to_be_visible()
    for step in (1, 2):
        gate.write(b".")
        expect(shown.locator("#count")).to_have_text(f"step {step} of 10")
    for selector in ("aside div span", "aside div button"):
        assert contrast(shown, selector) >= 4.5, selector
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The token expires while the stream runs: the page says so, and the stream goes on.
    shown.clock.fast_forward(3600_000)
    expect(shown.get_by_role("alert").filter(has_text="Your sign-in has expired")).to_be_visible()
    gate.write(b".")
    expect(shown.locator("#count")).to_have_text("step 3 of 10")
    # The token is nowhere but in memory and in the header.
    stored = json.loads(shown.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"))
    assert stored == [{}, {}, ""]
    assert shown.url == url
    assert [request.url for request in requests if "eyJ" in request.url] == []
    [events] = [request for request in requests if request.url == f"{url}events"]
    assert events.headers["authorization"].startswith("Bearer eyJ")
    shown.get_by_role("button", name="Sign in again").click()
    expect(shown.get_by_label("Name")).to_be_visible()


def test_code_flow_uses_pkce(start: Start, page: Callable[..., Any], issuer: Issuer) -> None:
    url, _ = start(SSE, "examples/sse")
    shown = page()
    with (
        shown.expect_request(f"{issuer.url}/authorize?**") as asked,
        shown.expect_request(f"{issuer.url}/token") as redeemed,
    ):
        sign_in(shown, url)
    query = parse_qs(urlsplit(asked.value.url).query)
    assert (query["response_type"], query["code_challenge_method"], query["redirect_uri"]) == (
        ["code"],
        ["S256"],
        [url],
    )
    form = parse_qs(redeemed.value.post_data)
    assert sorted(form) == ["client_id", "code", "code_verifier", "grant_type", "redirect_uri"]
    assert len(form["code_verifier"][0]) >= 43


def test_chat_page_posts_with_token(start: Start, page: Callable[..., Any]) -> None:
    url, _ = start(CHAT, "examples/chat", "examples/bedrock")
    shown = page("phone, dark")
    sign_in(shown, url)
    shown.get_by_label("Your message").fill("Hi")
    with shown.expect_request(lambda request: request.method == "POST") as posted:
        shown.get_by_role("button", name="Send").click()
    assert posted.value.headers["authorization"].startswith("Bearer ")
    expect(shown.get_by_text("This is a stand-in, not a model")).to_be_visible()


def test_text_is_shown_as_it_arrives(start: Start, page: Callable[..., Any]) -> None:
    url, gate = start(HELLO, "")
    shown = page()
    sign_in(shown, f"{url}some/path?x=1", "Grace")
    assert shown.url == f"{url}some/path?x=1"
    expect(shown.locator("pre")).to_contain_text(" 1 of 10")
    gate.write(b".")
    expect(shown.locator("pre")).to_contain_text(" 2 of 10")


def test_refused_request_shows_expiry(start: Start, page: Callable[..., Any]) -> None:
    url, _ = start(SSE, "examples/sse")
    shown = page()
    sign_in(shown, url)
    status = shown.evaluate("fetch('/events', {headers: {authorization: 'Bearer expired'}}).then(({status}) => status)")
    assert status == 401
    expect(shown.get_by_role("alert").filter(has_text="Your sign-in has expired")).to_be_visible()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?code=x&state=y", "The sign-in failed: the answer is not for this tab"),
        ("?error=access_denied&state=y", "The sign-in failed: the answer is not for this tab"),
    ],
)
def test_answer_of_another_tab_is_refused(query: str, message: str, start: Start, page: Callable[..., Any]) -> None:
    """Otherwise a link could sign its reader in as somebody else."""
    url, _ = start(SSE, "examples/sse")
    shown = page()
    shown.goto(f"{url}{query}")
    expect(shown.get_by_role("alert")).to_have_text(message)
    expect(shown.get_by_role("button", name="Sign in")).to_be_visible()
