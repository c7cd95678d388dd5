#!/usr/bin/env bash
# Lambda's Runtime Interface Emulator answers 200 where a function failed midway through its stream.
#
# AWS documents two trailers for an error after the first byte (runtimes-custom, "Response streaming"). The emulator
# that aws-sam-cli 1.170.0 brings along drops them: its caller gets status 200, what had been streamed, and no sign of
# the error. A runtime that exits midway is told by 502.
. "$(dirname "$0")/lib/packages.sh"
packages aws-sam-cli==1.170.0

cat > bootstrap <<PY
#!$(command -v python)
import os, socket

def exchange(data, size=65536):
    host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(data)
        return connection.recv(size)

next_event = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"
head = exchange(next_event).decode().partition("\r\n\r\n")[0]
[request_id] = [line.split(": ")[1] for line in head.splitlines() if line.lower().startswith("lambda-runtime-aws-request-id")]
exchange((
    f"POST /2018-06-01/runtime/invocation/{request_id}/response HTTP/1.1\r\nHost: x\r\n"
    "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n"
    "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n"
    "5\r\nfirst\r\n0\r\n"
    "Lambda-Runtime-Function-Error-Type: ValueError\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n"
).encode())
exchange(next_event)
PY
chmod +x bootstrap
machine=$(uname -m)
emulator=$(python -c 'import pathlib, samcli; print(pathlib.Path(samcli.__file__).parent)')/local/rapid/aws-lambda-rie-${machine/aarch64/arm64}
read -r url_port api_port < <(python -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))')
"$emulator" --runtime-interface-emulator-address "127.0.0.1:$url_port" --runtime-api-address "127.0.0.1:$api_port" \
    ./bootstrap app.handler > emulator.log 2>&1 &
trap 'kill $!; wait $! 2>/dev/null || true; rm -rf "$folder"' EXIT
answer=$(curl --silent --retry 20 --retry-connrefused --retry-delay 1 --max-time 60 --write-out ' %{http_code}' \
    --data '{}' "http://127.0.0.1:$url_port/2015-03-31/functions/function/invocations")
echo "The caller gets: $answer"
test "$answer" = "first 200"
