"""Answer boto3's InvokeWithResponseStream on loopback with messages of Amazon's event stream encoding."""

import binascii
import http.server
import struct
import threading

import boto3


def message(kind: str, payload: bytes) -> bytes:
    """Return one message of type `event` (https://smithy.io/2.0/aws/amazon-eventstream.html)."""
    headers = b""
    for name, value in ((":message-type", "event"), (":event-type", kind)):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    whole = prelude + headers + payload
    return whole + struct.pack(">I", binascii.crc32(whole))


def invoke(body: bytes) -> list[dict[str, object]]:
    """Return the events that boto3 reads where Lambda answers with `body`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-type", "application/vnd.amazon.eventstream")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = boto3.client(
            "lambda",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            aws_access_key_id="example",
            aws_secret_access_key="example",
        )
        events = list(client.invoke_with_response_stream(FunctionName="stream")["EventStream"])
        server.shutdown()
    return events
