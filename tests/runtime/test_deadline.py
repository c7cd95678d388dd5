"""The end in order shortly before Lambda's own: where it comes, what it leaves, and what it does not touch."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import time
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import cast

import pytest
from _pytest.mark.structures import ParameterSet
from tests.runtime.conftest import PATIENCE, UNTRACED, Deaf, Ended, Running, Sandbox, due, event, response_head

from streaming_runtime import deadline
from streaming_runtime.deadline import SENDING, Deadline

MARGIN = "STREAMING_RUNTIME_DEADLINE_MARGIN_MS"
# Bytes of an item that no system's buffers hold: who sends it waits for the other side.
ENOUGH = 20_000_000
# More than any deadline here: the time is up when half of it is over.
HUGE = {MARGIN: "3600000"}
MESSAGE = r"the handler was still running (\d+) ms before the Lambda timeout"


def check_error(ended: Ended, number: int) -> None:
    """The invocation failed before anything was sent."""
    post = ended.posts[number]
    assert post.target.endswith("/error")
    assert post.headers["lambda-runtime-function-error-type"] == "StreamDeadlineExceeded"
    assert re.fullmatch(MESSAGE, json.loads(post.body)["errorMessage"])


def check_trailers(ended: Ended, number: int, body: bytes) -> None:
    """The response broke off behind `body`."""
    post = ended.posts[number]
    assert post.target.endswith("/response")
    assert post.body == body
    assert post.trailers["lambda-runtime-function-error-type"] == "StreamDeadlineExceeded"


def check_each_place(sandbox: Sandbox, code: str) -> None:
    """The deadline comes in the handler, before the first item, between two, and behind the last."""
    kinds = ["plain", "before", "between", "behind"]
    ended = sandbox.run(code, *(due(json.dumps(kind).encode()) for kind in kinds), environment=HUGE)
    assert len(ended.posts) == 4
    check_error(ended, 0)
    check_error(ended, 1)
    check_trailers(ended, 2, b"x")
    check_trailers(ended, 3, b"x")
    assert ended.output.count("[ERROR] StreamDeadlineExceeded: ") == 4
    assert ended.output.count("# here") == 4
    # First the `finally` block, then the report.
    assert ended.output.startswith("cleaned up\n[ERROR]")
    assert ended.output.count("cleaned up\n[ERROR]") == 4


def log_until(running: Running, text: bytes) -> bytes:
    """What the runtime logs, up to and with `text`."""
    assert running.process.stdout is not None
    descriptor, log = running.process.stdout.fileno(), b""
    while text not in log:
        assert select.select([descriptor], [], [], PATIENCE)[0], log
        log += os.read(descriptor, 65536)
    return log


def slow_but(values: dict[str, str], *names: str) -> list[ParameterSet]:
    """`values` as parameters, of which all but those of these `names` are left to the whole suite."""
    return [
        pytest.param(value, id=name, marks=[] if name in names else [pytest.mark.slow])
        for name, value in values.items()
    ]


SYNC_WAITS = {
    "sleep": "time.sleep(60)",
    "lock": "lock.acquire()",
    "condition": "event.wait()",
    "receive": "pair[0].recv(1)",
    "select": "select.select([pair[0]], [], [])",
    "read": "os.read(pipe[0], 1)",
    # Not with the log: if the deadline comes as the process starts, nobody ends that, and it would keep the log open.
    "process": "subprocess.run(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)",
    "queue": "queue.get()",
    "loop": "compute()",
    "asyncio of its own": "asyncio.run(asyncio.sleep(60))",
}
SYNC = """
    import asyncio, os, queue, select, socket, subprocess, threading, time
    lock, event, queue, pair, pipe = threading.Lock(), threading.Event(), queue.Queue(), socket.socketpair(), os.pipe()
    lock.acquire()
    def handler(kind, context):
        return globals()[kind]()
    def compute():
        # Not within the try block: an exception that a signal raises just when a loop jumps back to its start passes
        # the block by if that begins there, Ctrl-C's too (Python 3.12 and 3.13).
        while True:
            time.monotonic()
    def plain():
        try:
            {wait}  # here
        finally:
            print("cleaned up")
    def before():
        plain()
        yield b"x"
    def between():
        yield b"x"
        plain()
        yield b"y"
    def behind():
        yield b"x"
        plain()
    """


@pytest.mark.parametrize("wait", slow_but(SYNC_WAITS, "sleep", "loop"))
def test_sync_code_is_raised_in_where_it_waits(sandbox: Sandbox, wait: str) -> None:
    check_each_place(sandbox, SYNC.format(wait=wait))


ASYNC_WAITS = {
    "sleep": "await asyncio.sleep(60)",
    "event": "await asyncio.Event().wait()",
    "queue": "await asyncio.Queue().get()",
    "socket": "await asyncio.get_running_loop().sock_recv(pair[0], 1)",
    "timeout": "async with asyncio.timeout(60): await asyncio.sleep(60)",
    "task": "await asyncio.create_task(asyncio.sleep(60))",
    "shield": "await asyncio.shield(asyncio.sleep(60))",
    "gather": "await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))",
    "loop that yields to others": "while True: await asyncio.sleep(0)",
    "blocking": "time.sleep(60)",
    "blocking computation": "compute()",
    "blocking task": "await asyncio.create_task(block())",
}
ASYNC = """
    import asyncio, socket, time
    pair = socket.socketpair()
    pair[0].setblocking(False)
    def handler(kind, context):
        return globals()[kind]()
    async def block():
        time.sleep(60)
    def compute():
        # Not within the try block: an exception that a signal raises just when a loop jumps back to its start passes
        # the block by if that begins there, Ctrl-C's too (Python 3.12 and 3.13).
        while True:
            time.monotonic()
    async def plain():
        try:
            {wait}  # here
        finally:
            await asyncio.sleep(0)
            print("cleaned up")
    async def before():
        await plain()
        yield b"x"
    async def between():
        yield b"x"
        await plain()
        yield b"y"
    async def behind():
        yield b"x"
        await plain()
    """


@pytest.mark.parametrize("wait", slow_but(ASYNC_WAITS, "sleep", "blocking"))
def test_async_code_is_cancelled_where_it_waits_and_raised_in_where_it_blocks(sandbox: Sandbox, wait: str) -> None:
    check_each_place(sandbox, ASYNC.format(wait=wait))


BESIDE = {
    "task": "task = asyncio.create_task(block())",
    "callback": "asyncio.get_running_loop().call_soon(time.sleep, 60)",
}


@pytest.mark.parametrize("blocking", BESIDE.values(), ids=list(BESIDE))
def test_a_handler_beside_which_something_blocks_the_event_loop_is_ended_too(sandbox: Sandbox, blocking: str) -> None:
    code = f"""
        import asyncio, time
        async def block():
            time.sleep(60)
        async def handler(event, context):
            {blocking}
            await asyncio.sleep(5)
        """
    ended = sandbox.run(code, due(), environment=HUGE)
    check_error(ended, 0)


def test_the_deadline_in_a_task_group_is_reported_by_its_name(sandbox: Sandbox) -> None:
    code = """
        import asyncio, time
        async def block():
            time.sleep(60)
        async def handler(event, context):
            async with asyncio.TaskGroup() as group:
                group.create_task(block())
        """
    ended = sandbox.run(code, due(), environment=HUGE)
    check_error(ended, 0)


def test_a_task_group_that_waits_is_cancelled(sandbox: Sandbox) -> None:
    code = """
        import asyncio
        async def child():
            try:
                await asyncio.sleep(60)
            finally:
                print("cleaned up")
        async def handler(event, context):
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        """
    ended = sandbox.run(code, due(), environment=HUGE)
    check_error(ended, 0)
    assert ended.output.startswith("cleaned up\n")


ENDLESS = {
    "sync": "def handler(e, c):\n    try:\n        while True:\n            yield b'x'\n",
    "async that never suspends": "async def handler(e, c):\n    try:\n        while True:\n            yield b'x'\n",
    "iterator in C": "import itertools\ndef handler(e, c):\n    try:\n        yield from itertools.repeat(b'x')\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", ENDLESS.values(), ids=list(ENDLESS))
def test_a_stream_without_end_is_ended_between_two_whole_chunks(sandbox: Sandbox, code: str) -> None:
    # coverage.py holds a lock at times, which an exception that comes just then would leave locked.
    code += "    finally:\n        print('cleaned up')\n"
    soon = due(milliseconds=100)  # in four times as long it sends more than h11 reads in a second
    ended = sandbox.run(code, soon, soon, environment=HUGE | UNTRACED)
    assert len(ended.posts) == 2
    for number, post in enumerate(ended.posts):
        check_trailers(ended, number, b"x" * len(post.body))
        assert post.raw.startswith(response_head(ended.host) + b"1\r\nx\r\n" * len(post.body) + b"0\r\n")
    assert ended.output.count("cleaned up") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("definition", "wait"),
    [("def", "time.sleep(60)"), ("async def", "await asyncio.sleep(60)"), ("async def", "time.sleep(60)")],
    ids=["sync", "async", "async that blocks"],
)
def test_an_event_stream_ends_with_an_event_of_type_error_and_trailers(
    sandbox: Sandbox, definition: str, wait: str
) -> None:
    code = f"""
        import asyncio, time
        from streaming_runtime import EventSourceResponse
        def handler(event, context):
            return EventSourceResponse(events(event))
        {definition} events(event):
            if event:
                yield "one"
            {wait}
            yield
        """
    ended = sandbox.run(code, due(b"0"), due(b"1"), environment=HUGE)
    check_error(ended, 0)
    post = ended.posts[1]
    _, _, body = post.body.partition(bytes(8))
    found = re.fullmatch(
        rb'data: one\n\nevent: error\ndata: {"errorType": "StreamDeadlineExceeded"}\n\n',
        body,
    )
    assert found
    check_trailers(ended, 1, post.body)
    last = body.removeprefix(b"data: one\n\n")
    assert b"%x\r\n%b\r\n0\r\nLambda-Runtime-Function-Error-Type: " % (len(last), last) in post.raw


def test_other_errors_end_with_an_error_event(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import EventSourceResponse
        def handler(event, context):
            return EventSourceResponse(events())
        def events():
            yield "one"
            raise KeyError
        """
    assert sandbox.run(code, due()).posts[0].body.endswith(b'event: error\ndata: {"errorType": "KeyError"}\n\n')


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async", "sync event stream", "async event stream"])
def test_what_a_client_does_not_take_is_broken_off(sandbox: Sandbox, kind: str) -> None:
    code = f"""
        import asyncio  # lest the runtime does while the time passes, which may take all of it
        from streaming_runtime import EventSourceResponse, StreamingResponse
        def handler(event, context):
            if event == 2:
                return "served"
            return {"EventSourceResponse" if "event" in kind else "StreamingResponse"}(items())
        {"async " if "async" in kind else ""}def items():
            try:
                while True:
                    yield "x" * {ENOUGH}
            finally:
                print("cleaned up")
        """
    deaf = Deaf()
    # Time enough to make an event of so much text.
    running = sandbox.start(code, due(b"1", 2000), event(b"2"), posts=[deaf], environment=HUGE)
    log = log_until(running, b"cleaned up\n")
    deaf.released.set()
    ended = running.end()
    assert re.match(rb"\[ERROR\] StreamDeadlineExceeded: " + MESSAGE.encode() + rb"\r", log)
    assert log.count(b"[ERROR]") == 1
    assert b"Caused by RuntimeApiError: " in log
    assert not ended.posts[0].whole
    assert ended.bodies[1] == b'"served"'


def test_a_response_whose_end_the_api_does_not_confirm_is_broken_off(sandbox: Sandbox) -> None:
    deaf = Deaf()
    running = sandbox.start(
        "def handler(e, c):\n    return e\n", due(b"1"), event(b"2"), posts=[deaf], environment=HUGE
    )
    log = log_until(running, b"\n")
    deaf.released.set()
    assert log.startswith(b"[ERROR] StreamDeadlineExceeded: ")
    assert running.end().bodies[1] == b"2"


@pytest.mark.traced
@pytest.mark.slow
@pytest.mark.parametrize(
    ("definition", "wait"), [("def", "time.sleep(60)"), ("async def", "await asyncio.sleep(60)")], ids=["sync", "async"]
)
def test_a_heartbeat_that_a_client_does_not_take_is_broken_off(sandbox: Sandbox, definition: str, wait: str) -> None:
    code = f"""
        import asyncio, os, select, socket, time
        from streaming_runtime import EventSourceResponse
        class Events:
            def __{"a" if "async" in definition else ""}iter__(self):
                return events()
            {definition} {"a" if "async" in definition else ""}close(self):
                print("closed")
        {definition} events():
            while True:
                # Until the heartbeat finds no room for a ping.
                while not connection or select.select([], connection, [], 0)[1]:
                    time.sleep(0.001)
                    find_connection()
                {wait}
            yield
        connection = []
        def find_connection():
            for name in () if connection else os.listdir("/proc/self/fd"):
                try:
                    candidate = socket.socket(fileno=os.dup(int(name)))
                    candidate.getpeername()
                except OSError:
                    continue
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
                connection.append(candidate)
        def handler(event, context):
            return EventSourceResponse(Events(), 0.0001) if event == 1 else "served"
        """
    deaf = Deaf()
    running = sandbox.start(code, due(b"1", 2000), event(b"2"), posts=[deaf], environment=HUGE)
    try:
        log = log_until(running, b"closed\n")
    finally:
        deaf.released.set()
    assert log.startswith(b"[ERROR] StreamDeadlineExceeded: ")
    assert running.end().bodies[1] == b'"served"'


NOT_ARMED: dict[str, tuple[dict[str, str], int]] = {
    "turned off": ({MARGIN: "0"}, 200),
    "turned off in more digits": ({MARGIN: "000"}, 200),
    "deadline in the past": (HUGE, -1000),
}


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "milliseconds"), NOT_ARMED.values(), ids=list(NOT_ARMED))
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_without_margin_or_time_nothing_is_interrupted(
    sandbox: Sandbox, definition: str, environment: dict[str, str], milliseconds: int
) -> None:
    code = f"""
        import signal
        {definition} handler(event, context):
            armed = signal.getitimer(signal.ITIMER_REAL)
            while context.get_remaining_time_in_millis():
                pass
            return armed
        """
    ended = sandbox.run(code, due(milliseconds=milliseconds), environment=environment)
    assert ended.bodies == [b"[0.0, 0.0]"]


# At most half of the time, in whole milliseconds, of which both ends are rounded.
MARGINS: dict[str, tuple[dict[str, str], int, int, int]] = {
    "default": ({}, 1300, 300, 500),
    "set": ({MARGIN: "250"}, 700, 50, 250),
    "more than the time there is": (HUGE, 600, 50, 301),
    "more than half of it": ({MARGIN: "500"}, 600, 50, 301),
}


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "milliseconds", "least", "most"), MARGINS.values(), ids=list(MARGINS))
def test_the_time_left_is_the_margin_or_half_of_what_there_was(
    sandbox: Sandbox, environment: dict[str, str], milliseconds: int, least: int, most: int
) -> None:
    code = "import time\ndef handler(e, c):\n    time.sleep(60)\n"
    ended = sandbox.run(code, due(milliseconds=milliseconds), environment=environment)
    check_error(ended, 0)
    found = re.match(MESSAGE, json.loads(ended.posts[0].body)["errorMessage"])
    assert found
    assert least <= int(found[1]) <= most


def test_the_timer_is_set_to_the_margin_before_the_deadline(sandbox: Sandbox) -> None:
    """Long ones, that it may be told to a thousandth: both times run on between the two calls."""
    code = """
        import signal
        def handler(event, context):
            left = context.get_remaining_time_in_millis()
            return left - signal.getitimer(signal.ITIMER_REAL)[0] * 1000
        """
    ended = sandbox.run(code, due(milliseconds=800_000), environment={MARGIN: "300000"})
    assert abs(json.loads(ended.bodies[0]) - 300_000) < 100


@pytest.mark.own_interpreter
@pytest.mark.parametrize("value", ["", "-1", "0.5", "1e3", " 500", "half a second", "٣x", "²"])
def test_a_margin_that_is_no_number_is_an_init_error(sandbox: Sandbox, value: str) -> None:
    ended = sandbox.run("def handler(e, c):\n    pass\n", event(), environment={MARGIN: value})
    assert [request.target for request in ended.requests] == ["/2018-06-01/runtime/init/error"]
    report = json.loads(ended.posts[0].body)
    message = f"{MARGIN} must be milliseconds, or 0 for no deadline, not {value!r}"
    assert (report["errorType"], report["errorMessage"]) == ("ValueError", message)


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_the_timer_of_an_invocation_does_not_reach_the_next(sandbox: Sandbox, definition: str) -> None:
    code = f"""
        import asyncio  # lest the runtime does while the time passes, which may take all of it
        import signal
        contexts = []
        {definition} handler(event, context):
            contexts.append(context)
            if event == 2:
                raise ValueError
            if event == 3:
                armed = signal.getitimer(signal.ITIMER_REAL)
                while contexts[1].get_remaining_time_in_millis():
                    pass
                return armed
        """
    ended = sandbox.run(code, due(b"1"), due(b"2"), event(b"3"), environment=HUGE)
    assert ended.bodies[0] == b"null"
    assert json.loads(ended.bodies[1])["errorType"] == "ValueError"
    assert ended.bodies[2] == b"[0.0, 0.0]"
    assert "StreamDeadlineExceeded" not in ended.output


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_a_handler_that_uses_the_signal_keeps_it(sandbox: Sandbox, definition: str) -> None:
    code = f"""
        import signal
        alarms = []
        def own(number, frame):
            alarms.append(number)
        signal.signal(signal.SIGALRM, own)
        {definition} handler(event, context):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while not alarms or context.get_remaining_time_in_millis():
                pass
            return [len(alarms), signal.getsignal(signal.SIGALRM) is own]
        """
    assert sandbox.run(code, due(), environment=HUGE).bodies == [b"[1, true]"]


RETRIES = {
    "sync": "def handler(e, c):\n    while True:\n        try:\n            time.sleep(60)\n",
    "async": "async def handler(e, c):\n    while True:\n        try:\n            await asyncio.sleep(60)\n",
    "async that blocks": "async def handler(e, c):\n    while True:\n        try:\n            time.sleep(60)\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", RETRIES.values(), ids=list(RETRIES))
def test_a_loop_that_retries_on_errors_is_left(sandbox: Sandbox, code: str) -> None:
    retry = "        except Exception:\n            print('once more')\n"
    ended = sandbox.run("import asyncio, time\n" + code + retry, due(), environment=HUGE)
    check_error(ended, 0)
    assert "once more" not in ended.output


def test_the_exception_is_public_and_no_exception_of_the_common_kind(sandbox: Sandbox) -> None:
    code = """
        import sys
        import streaming_runtime
        before = "EventSourceResponse" in vars(streaming_runtime)
        def handler(event, context):
            from streaming_runtime import StreamDeadlineExceeded
            return [before, [base.__name__ for base in StreamDeadlineExceeded.__mro__]]
        """
    ended = sandbox.run(code, event())
    assert json.loads(ended.bodies[0]) == [False, ["StreamDeadlineExceeded", "BaseException", "object"]]


SWALLOWED = {
    "sync": ("def", "time.sleep(60)"),
    "async": ("async def", "await asyncio.sleep(60)"),
    "async that blocks": ("async def", "time.sleep(60)"),
}


@pytest.mark.traced
@pytest.mark.slow
@pytest.mark.parametrize(("definition", "wait"), SWALLOWED.values(), ids=list(SWALLOWED))
@pytest.mark.parametrize("before", [False, True], ids=["first", "later"])
def test_a_stream_that_swallows_the_deadline_is_ended_at_its_next_item(
    sandbox: Sandbox, definition: str, wait: str, before: bool
) -> None:
    code = f"""
        import asyncio, time
        {definition} handler(event, context):
            if {before}:
                yield "before"
            try:
                {wait}
            except BaseException:
                pass
            for _ in range(100):
                yield "x"
        """
    ended = sandbox.run(code, due(), due(), environment=HUGE)
    check_trailers(ended, 0, b"beforex" if before else b"x")
    check_trailers(ended, 1, b"beforex" if before else b"x")


CLOSING = {
    "sync": ("iter", "def", "close", "time.sleep(60)"),
    "async": ("aiter", "async def", "aclose", "await asyncio.sleep(60)"),
    "async that blocks": ("aiter", "async def", "aclose", "time.sleep(60)"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("iterate", "definition", "close", "wait"), CLOSING.values(), ids=list(CLOSING))
def test_what_hangs_while_it_is_closed_is_ended_and_the_response_left_whole(
    sandbox: Sandbox, iterate: str, definition: str, close: str, wait: str
) -> None:
    code = f"""
        import asyncio, time
        from streaming_runtime import StreamingResponse
        class Items:
            def __{iterate}__(self):
                return items()
            {definition} {close}(self):
                {wait}  # here
        {definition} items():
            yield "x"
        def handler(event, context):
            return StreamingResponse(Items())
        """
    ended = sandbox.run(code, due(), due(), environment=HUGE)
    assert [(post.body[-1:], post.whole, post.trailers) for post in ended.posts] == [(b"x", True, {})] * 2
    assert ended.output.count("[ERROR] StreamDeadlineExceeded: ") == ended.output.count("# here") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("definition", "wait"),
    [("def", "time.sleep(60)"), ("async def", "await asyncio.sleep(60)"), ("async def", "time.sleep(60)")],
    ids=["sync", "async", "async that blocks"],
)
def test_what_hangs_after_its_own_error_is_ended(sandbox: Sandbox, definition: str, wait: str) -> None:
    code = f"""
        import asyncio, time
        {definition} handler(event, context):
            try:
                yield "x"
                raise ValueError("it broke")
            finally:
                {wait}
        """
    ended = sandbox.run(code, due(), due(), environment=HUGE)
    check_trailers(ended, 0, b"x")
    check_trailers(ended, 1, b"x")
    assert ended.output.count("Caused by ValueError: it broke") == 2


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_a_report_that_takes_long_to_make_is_not_broken_off(sandbox: Sandbox, definition: str) -> None:
    code = f"""
        import sys, time
        class SlowLog:
            def write(self, text):
                time.sleep(0.12)
            def flush(self):
                pass
        {definition} handler(event, context):
            sys.stdout = SlowLog()
            while True:  # the time is up while the runtime sends, nearly always
                yield b"x"
        """
    ended = sandbox.run(code, due(), environment=HUGE)
    check_trailers(ended, 0, b"x" * len(ended.posts[0].body))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("definition", "wait"),
    [("def", "time.sleep(0.12)"), ("async def", "await asyncio.sleep(0)")],
    ids=["sync", "async"],
)
def test_a_finally_block_is_not_interrupted_after_a_send_was_broken_off(
    sandbox: Sandbox, definition: str, wait: str
) -> None:
    code = f"""
        import asyncio, time
        {definition} handler(event, context):
            try:
                while True:
                    yield "x" * {ENOUGH}
            finally:
                try:
                    {wait}
                    print("cleaned up")
                finally:
                    print("end")
        """
    deaf = Deaf()
    running = sandbox.start(code, due(milliseconds=2000), posts=[deaf], environment=HUGE)
    try:
        log = log_until(running, b"end\n")
    finally:
        deaf.released.set()
    running.end()
    assert log.count(b"[ERROR]") == 1
    assert b"cleaned up" in log


# A send that came to an end late must not count against the report that follows it.
def test_the_report_has_as_much_time_as_any_send() -> None:
    broken_off: list[None] = []
    deadline = Deadline(int(time.time() * 1000) + 1000, lambda: broken_off.append(None))
    deadline.activity = SENDING
    deadline.expire(None)
    deadline.settle(deadline.error())  # the item was sent after all
    deadline.activity = SENDING
    deadline.expire(None)
    assert not broken_off
    deadline.expire(None)
    assert broken_off


# Encoding is the handler's code, and not a part of sending.
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_what_hangs_while_an_item_is_encoded_is_raised_in(sandbox: Sandbox, definition: str) -> None:
    code = f"""
        import asyncio  # lest the runtime does while the time passes, which may take all of it
        import time
        from streaming_runtime import StreamingResponse
        class Response(StreamingResponse):
            def encode(self, item):
                time.sleep(5 if item else 0)  # here
                return b"x"
        def handler(event, context):
            return Response(items())
        {definition} items():
            yield 0
            yield 1
        """
    ended = sandbox.run(code, due(), environment=HUGE)
    assert ended.posts[0].trailers["lambda-runtime-function-error-type"] == "StreamDeadlineExceeded"
    assert ended.output.count("# here") == 1


@pytest.mark.slow
def test_the_deadline_does_not_come_between_the_start_of_a_heartbeat_and_whoever_is_to_stop_it(
    sandbox: Sandbox,
) -> None:
    code = """
        import threading, time
        from streaming_runtime import EventSourceResponse
        start = threading.Thread.start
        def start_slowly(self):
            start(self)
            time.sleep(1)
        def handler(event, context):
            if event == 2:
                return [thread.name for thread in threading.enumerate()]
            threading.Thread.start = start_slowly
            return EventSourceResponse(["x"], ping=60)
        """
    ended = sandbox.run(code, due(b"1"), event(b"2"), environment=HUGE)
    assert ended.bodies[1] == b'["MainThread"]'
    check_trailers(ended, 0, ended.bodies[0])


def test_a_signal_that_comes_late_reaches_nobody() -> None:
    assert deadline._timer.current is None
    deadline._timer._on_alarm(signal.SIGALRM, None)


def test_a_task_is_cancelled_though_a_call_for_the_one_before_came_too_late() -> None:
    called: list[Callable[[], object]] = []
    loop = cast(asyncio.AbstractEventLoop, SimpleNamespace(call_soon_threadsafe=called.append))
    watched = Deadline(int(time.time() * 1000) + 1000, lambda: None)
    watched.activity = deadline.HANDLER
    for _ in range(2):
        watched.watch(loop, None)
        watched.expire(None)
    assert len(called) == 2


def test_an_event_loop_that_waits_is_not_raised_in() -> None:
    called: list[Callable[[], object]] = []
    loop = SimpleNamespace(call_soon_threadsafe=called.append)
    watched = Deadline(int(time.time() * 1000) + 1000, lambda: None)
    watched.watch(cast(asyncio.AbstractEventLoop, loop), None)
    watched.activity = deadline.HANDLER
    # A frame of the event loop's own, as the signal finds it while that waits.
    frame = cast(FrameType, SimpleNamespace(f_globals={"__name__": "selectors"}))
    watched.expire(frame)
    watched.expire(frame)
    assert len(called) == 1


def test_the_deadline_in_the_very_moment_in_which_the_handler_is_done_is_reported(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import StreamDeadlineExceeded, invocation
        leave = invocation._HandlerSection.__exit__
        def late(*arguments):
            leave(*arguments)
            invocation._HandlerSection.__exit__ = leave
            raise StreamDeadlineExceeded("late")
        def handler(event, context):
            if event == 1:
                invocation._HandlerSection.__exit__ = late
            return "served"
        """
    ended = sandbox.run(code, event(b"1"), event(b"2"))
    assert ended.bodies == [b'"served"', b'"served"']
    assert ended.output.startswith("[ERROR] StreamDeadlineExceeded: late")


def test_the_deadline_does_not_come_between_the_call_of_async_code_and_its_task(sandbox: Sandbox) -> None:
    code = """
        import asyncio, time
        begin = asyncio.BaseEventLoop.run_until_complete
        def begin_late(loop, task):
            time.sleep(0.3)  # the time is up here, where there is a task that has not run yet
            return begin(loop, task)
        async def wait():
            await asyncio.sleep(60)
        async def look():
            return len(asyncio.all_tasks())
        def handler(event, context):
            asyncio.BaseEventLoop.run_until_complete = begin_late if event == 1 else begin
            return wait() if event == 1 else look()
        """
    ended = sandbox.run(code, due(b"1"), event(b"2"), environment=HUGE)
    check_error(ended, 0)
    assert ended.bodies[1] == b"1"
