"""Ordinary clients through a stand-in for CloudFront, with the distribution that template.yaml describes.

They work where the function checks a secret. Where CloudFront signs, they get 403, and generation refuses the examples
that need them.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from pydantic import AnyUrl
from tests.helpers.cloudfront import distribution
from tests.helpers.issuers import AUDIENCE, REDIRECT
from tests.helpers.rendering import load, render
from tests.helpers.support import TEMPLATE, defaults, environment, user_environment
from tests.local.conftest import TIMEOUT, function, needs_chromium

from front_door.origin import Origin
from local.function_url import running
from local.issuer import running_issuer
from local.journal import Observer

SECRET = "s" * 20 + "é" * 20
FORM = """
from typing import Annotated
from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from streaming_runtime import AsgiHandler

app = FastAPI()

@app.get("/form", response_class=HTMLResponse)
async def form():
    return '<form method="post" enctype="multipart/form-data"><input name="name"><button>Send</button></form>'

@app.post("/form")
async def sent(request: Request, name: Annotated[str, Form()]):
    answer = RedirectResponse(request.url_for("seen").include_query_params(name=name), 303)
    answer.set_cookie("seen", "yes")
    return answer

@app.get("/seen")
async def seen(request: Request, name: str):
    event = request.scope["aws.event"]
    return {
        "name": name, "cookie": request.cookies.get("seen"), "url": str(request.url),
        "headers": sorted(event["headers"]), "domain": event["requestContext"]["domainName"],
    }

handler = AsgiHandler(app)
"""
Serve = Callable[..., tuple[str, str]]


@pytest.fixture
def through(tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve a function behind a distribution; return the URLs of the distribution and of the function."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def serve(url_auth: str, *folders: str, source: str = "", **variables: str) -> tuple[str, str]:
        code = tmp_path / url_auth
        shutil.copytree(TEMPLATE / "runtime", code, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in folders:
            shutil.copytree(TEMPLATE / folder / "src", code, dirs_exist_ok=True)
        if source:
            (code / "app.py").write_text(textwrap.dedent(source), encoding="utf-8")
        answers = {**defaults(), "front_door": "cloudfront", "url_auth": url_auth}
        template = load("template.yaml", render("template.yaml", answers))
        of = template["Resources"]["StreamFunction"]["Properties"]
        own = {"PYTHONDONTWRITEBYTECODE": "1", **variables}
        if url_auth != "AWS_IAM":
            own |= {"FRONT_DOOR_HANDLER": "app.handler", "ORIGIN_SECRET": f"{'o' * 40} {SECRET}"}
        served = function(code=code, handler=of["Handler"], environment=own)
        url = stack.enter_context(running(served, 10, Observer()))
        return stack.enter_context(distribution(template, url, SECRET)), url

    return serve


def ask(url: str, path: str = "", body: str | None = None, **headers: str) -> tuple[int, Any, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)) as connection:
        connection.request("GET" if body is None else "POST", f"/{path}", body, named)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


@pytest.mark.slow
def test_mcp_client_through_a_secret(through: Serve) -> None:
    from mcp import Client

    url, _ = through("NONE", "examples/mcp")
    seen: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async def converse() -> Any:
        async with asyncio.timeout(TIMEOUT), Client(f"{url}mcp") as client:
            return await client.call_tool("count_primes", {"limit": 100}, progress_callback=report)

    assert asyncio.run(converse()).structured_content == {"result": 25}
    assert seen == [*range(1, 11)]


class Tokens:
    """The storage of a client that is registered with the issuer."""

    def __init__(self) -> None:
        self.tokens: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        from mcp.shared.auth import OAuthClientInformationFull

        return OAuthClientInformationFull(
            client_id=AUDIENCE, redirect_uris=[AnyUrl(REDIRECT)], token_endpoint_auth_method="none", issuer=self.issuer
        )

    async def set_client_info(self, info: Any) -> None:
        raise AssertionError(info)

    issuer = ""


@pytest.mark.slow
def test_mcp_client_signs_in(through: Serve) -> None:
    """It finds the issuer by the function's metadata, and calls a tool with the token."""
    import httpx
    from mcp import Client
    from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client
    from mcp.shared.auth import OAuthClientMetadata

    with running_issuer(AUDIENCE) as issuer:
        url, _ = through("jwt", "examples/mcp", JWT_ISSUER=issuer.url, JWT_AUDIENCE=AUDIENCE)
        storage, answers = Tokens(), []
        storage.issuer = issuer.url

        async def open_page(address: str) -> None:
            async with httpx.AsyncClient(trust_env=False) as user:
                form = {**dict(parse_qsl(urlsplit(address).query)), "username": "Ada"}
                answer = await user.post(address.partition("?")[0], data=form)
            answers.append(dict(parse_qsl(urlsplit(answer.headers["location"]).query)))

        async def come_back() -> AuthorizationCodeResult:
            return AuthorizationCodeResult(**answers[-1])

        async def converse() -> Any:
            metadata = OAuthClientMetadata(
                redirect_uris=[AnyUrl(REDIRECT)], client_name="test", token_endpoint_auth_method="none"
            )
            provider = OAuthClientProvider(f"{url}mcp", metadata, storage, open_page, come_back)
            async with (
                asyncio.timeout(TIMEOUT),
                create_mcp_http_client(auth=provider) as http,
                Client(streamable_http_client(f"{url}mcp", http_client=http)) as client,
            ):
                return await client.call_tool("count_primes", {"limit": 100})

        assert asyncio.run(converse()).structured_content == {"result": 25}
        assert len(answers) == 1
        assert storage.tokens.access_token.count(".") == 2


OPENAI = """
import sys
from openai import OpenAI, PermissionDeniedError
client = OpenAI(base_url=sys.argv[1] + "v1", api_key="key", max_retries=0)
try:
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Why?"}], stream=True)
    print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
except PermissionDeniedError as error:
    print(error.status_code)
"""


@pytest.mark.slow
def test_clients_where_cloudfront_signs(through: Serve) -> None:
    """What the secret is for: the same clients where CloudFront signs, and the OpenAI client with both."""
    python = environment("clients") / "python"

    def openai(url: str) -> str:
        command: list[str | Path] = [python, "-c", OPENAI, url]
        done = subprocess.run(
            command, env=user_environment(), capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout).strip()

    chat = ("examples/chat", "examples/bedrock")
    signed, _ = through("AWS_IAM", *chat, LOCAL_STANDIN="1", STREAM_INTERVAL="0")
    secret, _ = through("NONE", *chat, LOCAL_STANDIN="1", STREAM_INTERVAL="0")
    assert openai(signed) == "403"
    assert openai(secret).startswith("This is a **stand-in**, not a model")
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert ask(signed, "chat", urlencode({"a": "b"}), **form)[0] == 403
    assert ask(signed)[0] == ask(secret)[0] == 200  # the page


@pytest.mark.slow
def test_token_through_a_secret(through: Serve) -> None:
    """The caller's `Authorization` arrives, and the challenge names the distribution."""
    with running_issuer(AUDIENCE) as issuer:
        variables = {"JWT_ISSUER": issuer.url, "JWT_AUDIENCE": AUDIENCE}
        source = (
            "def handler(event, context):\n    return event['requestContext']['authorizer']['jwt']['claims']['aud']"
        )
        url, direct = through("jwt", source=source, **variables)
        token = f"Bearer {issuer.token('Ada')}"
        assert ask(url, body="{}", authorization=token)[::2] == (200, f'"{AUDIENCE}"'.encode())
        status, headers, _ = ask(url)
        challenge = headers["x-amzn-remapped-www-authenticate"]
        assert (status, challenge) == (401, f'Bearer resource_metadata="{url}.well-known/oauth-protected-resource"')
        assert ask(direct, authorization=token, x_origin_secret="guess" * 9)[0] == 403


EVENT: dict[str, Any] = {"headers": {"host": "url.on.aws"}, "requestContext": {"domainName": "url.on.aws"}}


@pytest.mark.parametrize("given", [None, "", "wrong" * 8, SECRET[:-1], f"{SECRET}x", f"{'o' * 40} {SECRET}"])
def test_wrong_secret_is_refused(given: str | None) -> None:
    headers = {"host": "url.on.aws", "x-forwarded-host": "evil.example.com"}
    event: dict[str, Any] = {**EVENT, "headers": headers | ({} if given is None else {"x-origin-secret": given})}
    answer = Origin(f"{'o' * 40} {SECRET}").answer(event)
    assert answer is not None
    assert answer["statusCode"] == 403
    assert event["headers"]["host"] == event["requestContext"]["domainName"] == "url.on.aws"


@pytest.mark.parametrize("event", [None, [], "text", {}, {"headers": None}, {"Records": []}, EVENT], ids=str)
def test_event_without_secret_is_refused(event: Any) -> None:
    assert Origin(SECRET).answer(event) is not None


def test_event_of_the_distribution() -> None:
    """Names are compared without case, as a REST API writes them; a distribution without the function sets no host."""
    event: dict[str, Any] = {"headers": {"Host": "url.on.aws", "X-Origin-Secret": SECRET}}
    assert Origin(SECRET).answer(event) is None
    assert event == {"headers": {"Host": "url.on.aws"}}
    event = {"headers": {"Host": "url.on.aws", "X-Forwarded-Host": "x.cloudfront.net:443", "X-Origin-Secret": SECRET}}
    assert Origin(SECRET).answer(event) is None
    assert event["headers"]["Host"] == "x.cloudfront.net:443"
    assert event["requestContext"] == {"domainName": "x.cloudfront.net", "domainPrefix": "x"}


@pytest.mark.parametrize(
    "secrets", ["", " ", "short", "{{resolve:secretsmanager:arn:SecretString}}", f"{SECRET} short"]
)
def test_secret_that_cannot_work(secrets: str) -> None:
    with pytest.raises(ValueError, match="ORIGIN_SECRET must be one or more secrets of at least 32 characters"):
        Origin(secrets)


def test_front_door_without_a_check() -> None:
    """A function whose checks are not configured does not start."""
    code = "import front_door.entry"
    plain = {**os.environ, "PYTHONPATH": str(TEMPLATE / "runtime"), "FRONT_DOOR_HANDLER": "json.dumps"}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=False)
    assert "requires ORIGIN_SECRET or JWT_ISSUER" in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", f"{code}, sys; print('jwt' in sys.modules)"],
        env={**plain, "ORIGIN_SECRET": "s" * 32},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "False\n", done.stderr


# Last, because its browser has an event loop in this thread.
@pytest.mark.slow
@needs_chromium
def test_browser_through_a_secret(through: Serve, browser: Any) -> None:
    """A form, a redirect by `url_for`, a cookie, and the page /docs."""
    url, direct = through("NONE", source=FORM)
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT * 1000)
    page.goto(f"{url}form")
    page.locator("input").fill("Ada ☀")
    page.get_by_role("button", name="Send").click()
    page.wait_for_url(lambda at: "/seen" in at)
    found = json.loads(page.locator("body").inner_text())
    host = urlsplit(url).netloc
    assert (found["name"], found["url"].partition("/seen")[0]) == ("Ada ☀", f"http://{host}")
    assert found["cookie"] == "yes"
    assert found["domain"] == "127.0.0.1"
    assert "x-origin-secret" not in found["headers"]

    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    assets = Path(spec.origin).parent / "static"
    page.route("https://cdn.jsdelivr.net/**", lambda route: route.fulfill(path=assets / Path(route.request.url).name))
    page.route("https://fastapi.tiangolo.com/**", lambda route: route.abort())
    page.goto(f"{url}docs")
    page.locator("#operations-default-sent_form_post").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_placeholder("name").fill("Grace")
    with page.expect_response(lambda response: response.request.method == "POST") as posted:
        page.get_by_role("button", name="Execute").click()
    assert posted.value.status == 303
    assert posted.value.headers["location"] == f"{url}seen?name=Grace"
    page.close()

    # Past the distribution, and with a host that the caller chose.
    for past in (direct, url):
        status, _, body = ask(past, "seen?name=x", x_origin_secret="guess" * 9, x_forwarded_host="evil.example.com")
        if past == url:
            assert (status, json.loads(body)["url"]) == (200, f"{url}seen?name=x")
        else:
            assert (status, body) == (403, b"This address answers only its CloudFront distribution.\n")
