"""A stand-in for a CloudFront distribution in front of a function URL, by its documented rules.

https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/RequestAndResponseBehaviorCustomOrigin.html
https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-restricting-access-to-lambda.html
"""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# What CloudFront does not forward, whatever the origin request policy says.
REMOVED = {
    *("connection", "expect", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade", "x-real-ip"),
}
EXCEPT_HOST = "b689b0a8-53d0-40ab-baf2-68738e2966ac"  # AllViewerExceptHostHeader
WITH_BODY = ("POST", "PUT", "PATCH")
# Runs the function of a viewer request once for each line of standard input.
_RUNNER = """
const handler = new Function(`${process.argv[1]}; return handler`)();
require("readline").createInterface({input: process.stdin})
  .on("line", (line) => console.log(JSON.stringify(handler(JSON.parse(line)))));
"""


class ViewerFunction:
    """A CloudFront Function, in the Node.js that Playwright brings."""

    def __init__(self, code: str) -> None:
        from playwright._impl._driver import compute_driver_executable

        node = compute_driver_executable()[0]
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [node, "-e", _RUNNER, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, method: str, uri: str, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers of a request after the function."""
        # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/functions-event-structure.html
        request: dict[str, Any] = {
            "method": method,
            "uri": uri,
            "querystring": {},
            "headers": {name: {"value": value} for name, value in headers.items()},
            "cookies": {},
        }
        event = {"version": "1.0", "context": {"eventType": "viewer-request"}, "viewer": {}, "request": request}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            print(json.dumps(event), file=self._process.stdin, flush=True)
            changed = json.loads(self._process.stdout.readline())["headers"]
        assert changed["host"]["value"] == headers["host"], "Host is read-only"
        return {name: of["value"] for name, of in changed.items()}

    def close(self) -> None:
        self._process.communicate(timeout=30)


@contextmanager
def distribution(template: dict[str, Any], origin: str, secret: str = "") -> Iterator[str]:
    """Serve the distribution of a template until the block ends; the block gets its URL.

    Args:
        template: The template, whose distribution has one origin and one behavior.
        origin: The function URL, as it is on localhost.
        secret: What AWS has put in the place of the reference to the secret.
    """
    resources = template["Resources"]
    config = resources["StreamDistribution"]["Properties"]["DistributionConfig"]
    [source], behavior = config["Origins"], config["DefaultCacheBehavior"]
    assert behavior["OriginRequestPolicyId"] == EXCEPT_HOST
    reference = {"Sub": "{{resolve:secretsmanager:${StreamOriginSecret}:SecretString}}"}
    custom = {}
    for header in source.get("OriginCustomHeaders", []):
        assert header["HeaderValue"] == reference
        custom[header["HeaderName"]] = secret
    functions = []
    for of in behavior.get("FunctionAssociations", []):
        assert of["EventType"] == "viewer-request"
        functions.append(
            ViewerFunction(resources[of["FunctionARN"]["GetAtt"].partition(".")[0]]["Properties"]["FunctionCode"])
        )

    class Viewer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def answer(self) -> None:
            size = int(self.headers.get("content-length", 0))
            body = self.rfile.read(size) if size else b""
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                body = _chunks(self.rfile)
            if self.command not in behavior["AllowedMethods"]:
                self.refuse(403)
                return
            headers: dict[str, str] = {}
            for name, value in self.headers.items():
                headers[name.lower()] = ", ".join(filter(None, (headers.get(name.lower(), ""), value)))
            for function in functions:
                headers = function(self.command, self.path.partition("?")[0], headers)
            if "OriginAccessControlId" in source:
                given = headers.get("x-amz-content-sha256")
                if self.command in WITH_BODY and given != hashlib.sha256(body).hexdigest():
                    # CloudFront signs what the viewer sent, and Lambda compares it with the body.
                    self.refuse(403)
                    return
                headers["authorization"] = "AWS4-HMAC-SHA256 Credential=cloudfront"
            forwarded = {name: value for name, value in headers.items() if name not in (*REMOVED, "host")}
            forwarded["x-forwarded-for"] = ", ".join(filter(None, (headers.get("x-forwarded-for"), "203.0.113.7")))
            forwarded |= {"via": "2.0 d111111abcdef8.cloudfront.net (CloudFront)", "x-amz-cf-id": "id", **custom}
            with closing(http.client.HTTPConnection(urlsplit(origin).netloc, timeout=60)) as connection:
                connection.request(self.command, self.path, body or None, forwarded)
                self.forward(connection.getresponse())

        def forward(self, response: http.client.HTTPResponse) -> None:
            self.send_response_only(response.status, response.reason)
            has_size = "content-length" in response.headers
            bodiless = self.command == "HEAD" or response.status in (204, 304)
            for name, value in response.getheaders():
                if name.lower() not in REMOVED:
                    self.send_header(name, value)
            self.send_header("via", "1.1 d111111abcdef8.cloudfront.net (CloudFront)")
            if not has_size and not bodiless:
                self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            while not bodiless and (data := response.read1()):
                self.wfile.write(data if has_size else b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.flush()
            if not has_size and not bodiless:
                self.wfile.write(b"0\r\n\r\n")

        def refuse(self, status: int) -> None:
            self.send_response_only(status)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Viewer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="CloudFront")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for function in functions:
            function.close()


def _chunks(file: Any) -> bytes:
    body = b""
    while size := int(file.readline().partition(b";")[0], 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return body
