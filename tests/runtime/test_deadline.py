"""The deadline shortly before Lambda's own: where it can come, what it leaves behind, and what it does not touch."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import cast

import pytest
from _pytest.mark.structures import ParameterSet
from tests.helpers.protocol import DEADLINE_MESSAGE, ERROR_TYPE
from tests.helpers.sandbox import EARLY, MARGIN, UNTRACED, Ended, Sandbox
from tests.helpers.scripted_api import INIT_ERROR, Deaf, due, event, response_head

from local.aws_limits import AWS_LIMITS
from streaming_runtime import deadline
from streaming_runtime.deadline import SENDING, Deadline

# An item of so many bytes fits into no system's buffers: its sender waits until the other side reads.
ENOUGH = 20_000_000


def check_error(ended: Ended, number: int) -> None:
    """Fail unless the invocation failed before anything was sent."""
    post = ended.posts[number]
    assert post.target.endswith("/error")
    assert post.headers[ERROR_TYPE] == "StreamDeadlineExceeded"
    assert re.fullmatch(DEADLINE_MESSAGE, json.loads(post.body)["errorMessage"])


def check_trailers(ended: Ended, number: int, body: bytes) -> None:
    """Fail unless the response failed after `body`."""
    post = ended.posts[number]
    assert post.target.endswith("/response")
    assert post.body == body
    assert post.trailers[ERROR_TYPE] == "StreamDeadlineExceeded"


def check_each_place(sandbox: Sandbox, code: str) -> None:
    """Let the deadline come in the handler, before the first item, between two items, and after the last."""
    kinds = ["plain", "before", "between", "after"]
    ended = sandbox.run(code, *(due(json.dumps(kind).encode()) for kind in kinds), environment=EARLY)
    assert len(ended.posts) == 4
    check_error(ended, 0)
    check_error(ended, 1)
    check_trailers(ended, 2, b"x")
    check_trailers(ended, 3, b"x")
    assert ended.output.count("[ERROR] StreamDeadlineExceeded: ") == 4
    assert ended.output.count("# here") == 4
    # The `finally` block runs before the report.
    assert ended.output.startswith("cleaned up\n[ERROR]")
    assert ended.output.count("cleaned up\n[ERROR]") == 4


WAITS = {
    "sync": ("def", "time.sleep(60)"),
    "async": ("async def", "await asyncio.sleep(60)"),
    "blocking async": ("async def", "time.sleep(60)"),
}
waits = pytest.mark.parametrize(("definition", "wait"), WAITS.values(), ids=list(WAITS))


def slow_but(values: dict[str, str], *names: str) -> list[ParameterSet]:
    """Make parameters of `values`, of which only those with these `names` run in `make check`."""
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
    # Without the log: if the deadline comes while the process starts, it is not ended and would keep the log open.
    "process": "subprocess.run(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)",
    "queue": "queue.get()",
    "loop": "compute()",
    "own event loop": "asyncio.run(asyncio.sleep(60))",
}
SYNC = """
    import asyncio, os, queue, select, socket, subprocess, threading, time
    lock, event, queue, pair, pipe = threading.Lock(), threading.Event(), queue.Queue(), socket.socketpair(), os.pipe()
    lock.acquire()
    def handler(kind, context):
        return globals()[kind]()
    def compute():
        # Outside the try block: in Python 3.12 and 3.13, an exception that a signal raises while a loop jumps back to
        # its start is not caught by a block that begins there. This holds for Ctrl-C too.
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
    def after():
        yield b"x"
        plain()
    """


@pytest.mark.parametrize("wait", slow_but(SYNC_WAITS, "sleep", "loop"))
def test_deadline_in_sync_code(sandbox: Sandbox, wait: str) -> None:
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
    "yielding loop": "while True: await asyncio.sleep(0)",
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
        # Outside the try block: in Python 3.12 and 3.13, an exception that a signal raises while a loop jumps back to
        # its start is not caught by a block that begins there. This holds for Ctrl-C too.
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
    async def after():
        yield b"x"
        await plain()
    """


@pytest.mark.parametrize("wait", slow_but(ASYNC_WAITS, "sleep", "blocking"))
def test_deadline_in_async_code(sandbox: Sandbox, wait: str) -> None:
    """Code that awaits is cancelled, and the exception is raised in code that blocks."""
    check_each_place(sandbox, ASYNC.format(wait=wait))


BLOCKING = {
    "task": "task = asyncio.create_task(block())\n    await asyncio.sleep(5)",
    "callback": "asyncio.get_running_loop().call_soon(time.sleep, 60)\n    await asyncio.sleep(5)",
    "task group": "async with asyncio.TaskGroup() as group:\n        group.create_task(block())",
}


@pytest.mark.traced
@pytest.mark.parametrize("blocking", BLOCKING.values(), ids=list(BLOCKING))
def test_deadline_while_the_loop_is_blocked(sandbox: Sandbox, blocking: str) -> None:
    """A handler is ended although it is other code that blocks the event loop."""
    code = (
        "import asyncio, time\nasync def block():\n    time.sleep(60)\n"
        f"async def handler(event, context):\n    {blocking}\n"
    )
    check_error(sandbox.run(code, due(), environment=EARLY), 0)


def test_deadline_in_waiting_task_group(sandbox: Sandbox) -> None:
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
    ended = sandbox.run(code, due(), environment=EARLY)
    check_error(ended, 0)
    assert ended.output.startswith("cleaned up\n")


ENDLESS = {
    "sync": "def handler(e, c):\n    try:\n        while True:\n            yield b'x'\n",
    "async without suspending": "async def handler(e, c):\n    try:\n        while True:\n            yield b'x'\n",
    "iterator in C": "import itertools\ndef handler(e, c):\n    try:\n        yield from itertools.repeat(b'x')\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", ENDLESS.values(), ids=list(ENDLESS))
def test_endless_stream_ends_between_chunks(sandbox: Sandbox, code: str) -> None:
    # coverage.py sometimes holds a lock, which the deadline's exception would leave locked.
    code += "    finally:\n        print('cleaned up')\n"
    soon = due(milliseconds=100)  # in 400 ms it would send more than h11 reads in a second
    ended = sandbox.run(code, soon, soon, environment=EARLY | UNTRACED)
    assert len(ended.posts) == 2
    for number, post in enumerate(ended.posts):
        check_trailers(ended, number, b"x" * len(post.body))
        assert post.raw.startswith(response_head(ended.host) + b"1\r\nx\r\n" * len(post.body) + b"0\r\n")
    assert ended.output.count("cleaned up") == 2


@pytest.mark.slow
@waits
def test_event_stream_ends_with_error_event(sandbox: Sandbox, definition: str, wait: str) -> None:
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
    ended = sandbox.run(code, due(b"0"), due(b"1"), environment=EARLY)
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


def test_other_errors_end_with_error_event(sandbox: Sandbox) -> None:
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
@pytest.mark.traced
@pytest.mark.parametrize("kind", ["sync", "async", "sync event stream", "async event stream"])
def test_slow_reader_times_out(sandbox: Sandbox, kind: str) -> None:
    """A client that stops reading does not keep the invocation: the connection is aborted."""
    code = f"""
        import asyncio  # before the time starts, since it could take all of it
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
    # The time must be enough to encode so much text.
    running = sandbox.start(code, due(b"1", 2000), event(b"2"), posts=[deaf], environment=EARLY)
    log = running.log_until(b"cleaned up\n")
    deaf.released.set()
    ended = running.end()
    assert re.match(rb"\[ERROR\] StreamDeadlineExceeded: " + DEADLINE_MESSAGE.encode() + rb"\r", log)
    assert log.count(b"[ERROR]") == 1
    assert b"Caused by RuntimeApiError: " in log
    assert not ended.posts[0].whole
    assert ended.bodies[1] == b'"served"'


def test_unconfirmed_response_times_out(sandbox: Sandbox) -> None:
    deaf = Deaf()
    running = sandbox.start(
        "def handler(e, c):\n    return e\n", due(b"1"), event(b"2"), posts=[deaf], environment=EARLY
    )
    log = running.log_until(b"\n")
    deaf.released.set()
    assert log.startswith(b"[ERROR] StreamDeadlineExceeded: ")
    assert running.end().bodies[1] == b"2"


@pytest.mark.traced
@pytest.mark.slow
@pytest.mark.parametrize(("definition", "wait"), [*WAITS.values()][:2], ids=[*WAITS][:2])
def test_blocked_heartbeat_times_out(sandbox: Sandbox, definition: str, wait: str) -> None:
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
                # Wait until the buffer has no room for another ping.
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
    running = sandbox.start(code, due(b"1", 2000), event(b"2"), posts=[deaf], environment=EARLY)
    try:
        log = running.log_until(b"closed\n")
    finally:
        deaf.released.set()
    assert log.startswith(b"[ERROR] StreamDeadlineExceeded: ")
    assert running.end().bodies[1] == b'"served"'


NOT_ARMED: dict[str, tuple[dict[str, str], int]] = {
    "turned off": ({MARGIN: "0"}, 200),
    "turned off by 000": ({MARGIN: "000"}, 200),
    "deadline in the past": (EARLY, -1000),
}


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "milliseconds"), NOT_ARMED.values(), ids=list(NOT_ARMED))
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_no_deadline_without_margin_or_time(
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


# What is left is at most half of the time, in whole milliseconds; both ends are rounded.
MARGINS: dict[str, tuple[dict[str, str], int, int, int]] = {
    "default": ({}, 1300, 300, 500),
    "set": ({MARGIN: "250"}, 700, 50, 250),
    "more than all the time": (EARLY, 600, 50, 301),
    "more than half of it": ({MARGIN: "500"}, 600, 50, 301),
}


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "milliseconds", "least", "most"), MARGINS.values(), ids=list(MARGINS))
def test_margin_is_at_most_half_the_time(
    sandbox: Sandbox, environment: dict[str, str], milliseconds: int, least: int, most: int
) -> None:
    code = "import time\ndef handler(e, c):\n    time.sleep(60)\n"
    ended = sandbox.run(code, due(milliseconds=milliseconds), environment=environment)
    check_error(ended, 0)
    found = re.match(DEADLINE_MESSAGE, json.loads(ended.posts[0].body)["errorMessage"])
    assert found
    assert least <= int(found[1]) <= most


def test_timer_is_set_to_the_margin(sandbox: Sandbox) -> None:
    """The times are long, so that the two calls, between which time passes, agree to a thousandth."""
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
def test_non_numeric_margin_fails_init(sandbox: Sandbox, value: str) -> None:
    ended = sandbox.run("def handler(e, c):\n    pass\n", event(), environment={MARGIN: value})
    assert ended.targets == [INIT_ERROR]
    report = json.loads(ended.posts[0].body)
    message = f"{MARGIN} must be milliseconds, or 0 for no deadline, not {value!r}"
    assert (report["errorType"], report["errorMessage"]) == ("ValueError", message)


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_timer_does_not_reach_next_invocation(sandbox: Sandbox, definition: str) -> None:
    code = f"""
        import asyncio  # before the time starts, since it could take all of it
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
    ended = sandbox.run(code, due(b"1"), due(b"2"), event(b"3"), environment=EARLY)
    assert ended.bodies[0] == b"null"
    assert json.loads(ended.bodies[1])["errorType"] == "ValueError"
    assert ended.bodies[2] == b"[0.0, 0.0]"
    assert "StreamDeadlineExceeded" not in ended.output


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_handlers_own_sigalrm_is_kept(sandbox: Sandbox, definition: str) -> None:
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
    assert sandbox.run(code, due(), environment=EARLY).bodies == [b"[1, true]"]


@pytest.mark.slow
@waits
def test_retry_loop_is_ended(sandbox: Sandbox, definition: str, wait: str) -> None:
    """`except Exception` does not catch the deadline's exception, so a loop that tries again ends."""
    code = f"""
        import asyncio, time
        {definition} handler(event, context):
            while True:
                try:
                    {wait}
                except Exception:
                    print("once more")
        """
    ended = sandbox.run(code, due(), environment=EARLY)
    check_error(ended, 0)
    assert "once more" not in ended.output


def test_deadline_exception_bases(sandbox: Sandbox) -> None:
    """The exception is public, and `except Exception` does not catch it."""
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


@pytest.mark.traced
@pytest.mark.slow
@waits
@pytest.mark.parametrize("before", [False, True], ids=["first", "later"])
def test_swallowed_deadline_ends_next_item(sandbox: Sandbox, definition: str, wait: str, before: bool) -> None:
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
    ended = sandbox.run(code, due(), due(), environment=EARLY)
    check_trailers(ended, 0, b"beforex" if before else b"x")
    check_trailers(ended, 1, b"beforex" if before else b"x")


@pytest.mark.slow
@waits
def test_hanging_close_leaves_response_whole(sandbox: Sandbox, definition: str, wait: str) -> None:
    iterate, close = ("iter", "close") if definition == "def" else ("aiter", "aclose")
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
    ended = sandbox.run(code, due(), due(), environment=EARLY)
    assert [(post.body[-1:], post.whole, post.trailers) for post in ended.posts] == [(b"x", True, {})] * 2
    assert ended.output.count("[ERROR] StreamDeadlineExceeded: ") == ended.output.count("# here") == 2


@pytest.mark.slow
@waits
def test_hang_after_error_is_ended(sandbox: Sandbox, definition: str, wait: str) -> None:
    code = f"""
        import asyncio, time
        {definition} handler(event, context):
            try:
                yield "x"
                raise ValueError("it broke")
            finally:
                {wait}
        """
    ended = sandbox.run(code, due(), due(), environment=EARLY)
    check_trailers(ended, 0, b"x")
    check_trailers(ended, 1, b"x")
    assert ended.output.count("Caused by ValueError: it broke") == 2


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_slow_error_report_is_completed(sandbox: Sandbox, definition: str) -> None:
    code = f"""
        import sys, time
        class SlowLog:
            def write(self, text):
                time.sleep(0.12)
            def flush(self):
                pass
        {definition} handler(event, context):
            sys.stdout = SlowLog()
            while True:  # nearly always, the time is up while the runtime sends
                yield b"x"
        """
    ended = sandbox.run(code, due(), environment=EARLY)
    check_trailers(ended, 0, b"x" * len(ended.posts[0].body))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("definition", "wait"),
    [("def", "time.sleep(0.12)"), ("async def", "await asyncio.sleep(0)")],
    ids=["sync", "async"],
)
def test_finally_block_after_broken_send(sandbox: Sandbox, definition: str, wait: str) -> None:
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
    running = sandbox.start(code, due(milliseconds=2000), posts=[deaf], environment=EARLY)
    try:
        log = running.log_until(b"end\n")
    finally:
        deaf.released.set()
    running.end()
    assert log.count(b"[ERROR]") == 1
    assert b"cleaned up" in log


def test_report_gets_full_send_time() -> None:
    """A send that ended late does not count against the report that follows it."""
    aborted: list[None] = []
    deadline = Deadline(int(time.time() * 1000) + 1000, lambda: aborted.append(None))
    deadline.activity = SENDING
    deadline.expire(None)
    deadline.settle(deadline.error())  # the item was sent after all
    deadline.activity = SENDING
    deadline.expire(None)
    assert not aborted
    deadline.expire(None)
    assert aborted


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_deadline_while_encoding_an_item(sandbox: Sandbox, definition: str) -> None:
    """Encoding is the handler's code and not a part of sending, so the exception is raised in it."""
    code = f"""
        import asyncio  # before the time starts, since it could take all of it
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
    ended = sandbox.run(code, due(), environment=EARLY)
    assert ended.posts[0].trailers[ERROR_TYPE] == "StreamDeadlineExceeded"
    assert ended.output.count("# here") == 1


@pytest.mark.slow
def test_deadline_while_heartbeat_starts(sandbox: Sandbox) -> None:
    """It does not come between the start of the thread and the code that stops it."""
    code = """
        import time
        from streaming_runtime import EventSourceResponse, event_stream
        start = event_stream.start_new_thread
        def start_slowly(*arguments):
            start(*arguments)
            time.sleep(1)
        def handler(event, context):
            event_stream.start_new_thread = start_slowly
            return "served" if event == 2 else EventSourceResponse(["x"], ping=60)
        """
    ended = sandbox.run(code, due(b"1"), event(b"2"), environment=EARLY)
    assert ended.bodies[1] == b'"served"'
    check_trailers(ended, 0, ended.bodies[0])


@pytest.mark.slow
def test_deadline_while_an_event_is_sent(sandbox: Sandbox) -> None:
    """The event is sent to its end, and the response then ends."""
    code = """
        import time
        from streaming_runtime import EventSourceResponse, deadline, event_stream
        acquire = event_stream.Heartbeat.acquire
        def acquire_slowly(heartbeat):
            acquire(heartbeat)
            while sent and not deadline._timer.current.passed:
                time.sleep(0.001)
        event_stream.Heartbeat.acquire = acquire_slowly
        sent = []
        def events():
            for number in range(3):
                yield str(number)
                sent.append(number)
        def handler(event, context):
            return EventSourceResponse(events(), ping=60)
        """
    ended = sandbox.run(code, due(b"1"), environment=EARLY)
    check_trailers(ended, 0, ended.bodies[0])
    assert b"data: 1\n\nevent: error\n" in ended.bodies[0]


def test_late_signal_is_ignored() -> None:
    assert deadline._timer.current is None
    deadline._timer._on_alarm(signal.SIGALRM, None)


def test_late_cancel_call_does_not_block_next() -> None:
    called: list[Callable[[], object]] = []
    loop = cast(asyncio.AbstractEventLoop, SimpleNamespace(call_soon_threadsafe=called.append))
    watched = Deadline(int(time.time() * 1000) + 1000, lambda: None)
    watched.activity = deadline.HANDLER
    for _ in range(2):
        watched.watch(loop, None)
        watched.expire(None)
    assert len(called) == 2


def test_waiting_loop_is_not_raised_in() -> None:
    called: list[Callable[[], object]] = []
    loop = SimpleNamespace(call_soon_threadsafe=called.append)
    watched = Deadline(int(time.time() * 1000) + 1000, lambda: None)
    watched.watch(cast(asyncio.AbstractEventLoop, loop), None)
    watched.activity = deadline.HANDLER
    # A frame of the event loop itself, in which the signal arrives while the loop waits.
    frame = cast(FrameType, SimpleNamespace(f_globals={"__name__": "selectors"}))
    watched.expire(frame)
    watched.expire(frame)
    assert len(called) == 1


def test_deadline_as_handler_returns(sandbox: Sandbox) -> None:
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


def test_deadline_before_task_runs(sandbox: Sandbox) -> None:
    code = """
        import asyncio, time
        begin = asyncio.BaseEventLoop.run_until_complete
        def begin_late(loop, task):
            time.sleep(0.3)  # the time is up here, while the task has not run yet
            return begin(loop, task)
        async def wait():
            await asyncio.sleep(60)
        async def look():
            return len(asyncio.all_tasks())
        def handler(event, context):
            asyncio.BaseEventLoop.run_until_complete = begin_late if event == 1 else begin
            return wait() if event == 1 else look()
        """
    ended = sandbox.run(code, due(b"1"), event(b"2"), environment=EARLY)
    check_error(ended, 0)
    assert ended.bodies[1] == b"1"


def test_longest_timeout_arms_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the longest timeout of a function, half an hour, on a clock that only the test moves."""
    most = AWS_LIMITS["timeout"]["most"]
    armed: list[tuple[float, float]] = []
    monkeypatch.setattr("streaming_runtime.deadline.time.time", lambda: 1_000_000.0)
    monkeypatch.setattr(
        "streaming_runtime.deadline._signal.setitimer", lambda _, delay, repeat=0.0: armed.append((delay, repeat))
    )
    monkeypatch.setattr("streaming_runtime.deadline._signal.getsignal", lambda _: deadline._timer._on_alarm)
    monkeypatch.setattr(deadline._timer, "_margin", 0.5)
    one = Deadline(int((1_000_000 + most) * 1000), lambda: None)
    with one:
        assert deadline._timer.current is one
        monkeypatch.setattr("streaming_runtime.deadline.time.time", lambda: 1_000_000.0 + most - 0.5)
        assert str(one.error()) == "the handler was still running 500 ms before the Lambda timeout"
    assert armed == [(most - 0.5, 0.05), (0, 0.0)]
    assert deadline._timer.current is None
