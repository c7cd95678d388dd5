"""Takes the samples. The peers take turns in each round, so that disturbances of the machine affect all of them."""

import gc
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from .peers import Peer
from .process import Payload, Runtime

#: Samples by name of the peer.
Samples = dict[str, list[int]]

ONE_SMALL = Payload(1, 100)
MANY_SMALL = Payload(1000, 100)
MANY_LARGE = Payload(1000, 64 * 1024)
HUGE = Payload(3052, 64 * 1024)  # 200 MB


class Rounds(NamedTuple):
    """How many samples to take."""

    cold_starts: int = 25
    processes: int = 5
    invocations: int = 1000  # of one small chunk, by each process
    many_small: int = 30  # invocations by each process
    many_large: int = 8
    huge: int = 2


QUICK = Rounds(cold_starts=5, processes=2, invocations=200, many_small=10, many_large=3, huge=1)


class Measurements(NamedTuple):
    """Times in nanoseconds, memory in bytes."""

    cold_start: Samples
    warm: Samples
    many_small: Samples
    many_large: Samples
    memory: Samples
    memory_huge: Samples


def measure(peers: Sequence[Peer], event: bytes, rounds: Rounds) -> Measurements:
    """Measure all `peers`. Peers that cannot stream are left out of the measurements of streams."""
    gc.disable()  # the server is a part of this process
    streaming = [peer for peer in peers if peer.streams]
    cold_start = _cold_starts(peers, event, rounds.cold_starts)
    warm, memory = _invocations(peers, ONE_SMALL, event, rounds.processes, rounds.invocations, block=50)
    many_small, _ = _invocations(streaming, MANY_SMALL, event, rounds.processes, rounds.many_small)
    many_large, _ = _invocations(streaming, MANY_LARGE, event, rounds.processes, rounds.many_large)
    _, memory_huge = _invocations(streaming, HUGE, event, rounds.processes, rounds.huge)
    return Measurements(cold_start, warm, many_small, many_large, memory, memory_huge)


def _cold_starts(peers: Sequence[Peer], event: bytes, count: int) -> Samples:
    _say(f"{count} cold starts of each")
    samples: Samples = defaultdict(list)
    for round_ in range(count + 1):
        for peer in peers:
            with Runtime(peer, ONE_SMALL, event) as runtime:
                if round_:  # the first round fills the system's file cache
                    samples[peer.name].append(runtime.cold_start)
    return samples


def _invocations(
    peers: Sequence[Peer], payload: Payload, event: bytes, processes: int, count: int, block: int = 1
) -> tuple[Samples, Samples]:
    """Measure `count` invocations by each of `processes` processes of each peer, and their peak memory.

    The peers take turns with `block` invocations each. The others wait for their next event.
    """
    _say(f"{payload}: {processes} processes of each, {count:,} invocations by each")
    times: Samples = defaultdict(list)
    memory: Samples = defaultdict(list)
    for _ in range(processes):
        with ExitStack() as stack:
            runtimes = {peer.name: stack.enter_context(Runtime(peer, payload, event)) for peer in peers}
            for runtime in runtimes.values():
                runtime.check()
            for _ in range(0, count, block):
                for name, runtime in runtimes.items():
                    times[name] += [runtime.invoke() for _ in range(block)]
            for name, runtime in runtimes.items():
                peak = runtime.peak_memory()
                if peak is not None:
                    memory[name].append(peak)
    return times, memory


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
