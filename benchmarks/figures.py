"""The figures from the samples, and the target of each in comparison with the peers."""

from statistics import median
from typing import NamedTuple

from .measure import HUGE, MANY_LARGE, Measurements, Samples
from .peers import AGAINST, AWSLAMBDARIC, FLOOR, HAYATE, OURS

_TOLERANCE = 0.02  # by which a figure may be worse than that of another version


class Figure(NamedTuple):
    """A measured quantity.

    Attributes:
        name: What was measured.
        unit: Unit of the values.
        values: The median by name of the peer.
        targets: The targeted ratio of our value to the peer's, by name of the peer.
        more_is_better: Whether the target is a minimum rather than a maximum.
        limit: The maximum of our own value, or None.
    """

    name: str
    unit: str
    values: dict[str, float]
    targets: dict[str, float]
    more_is_better: bool = False
    limit: float | None = None


class Verdict(NamedTuple):
    """The ratio to one peer's figure and its target. For a figure with a limit: the value and the limit."""

    peer: str
    ratio: float
    target: float
    more_is_better: bool

    @property
    def met(self) -> bool:
        return self.ratio >= self.target if self.more_is_better else self.ratio <= self.target


def figures(measured: Measurements) -> list[Figure]:
    """Return all figures. Those of memory are missing if the system does not report it."""
    found = [
        Figure(
            "cold start",
            "ms",
            _medians(measured.cold_start, 1e-6),
            {AWSLAMBDARIC: 0.80, HAYATE: 0.40, FLOOR: 1.6},
        ),
        Figure(
            "warm, one chunk of 100 bytes",
            "µs",
            _medians(measured.warm, 1e-3),
            {AWSLAMBDARIC: 0.65, HAYATE: 0.45, FLOOR: 1.6},
        ),
        Figure(
            "1,000 chunks of 100 bytes",
            "ms",
            _medians(measured.many_small, 1e-6),
            {HAYATE: 0.40, FLOOR: 1.3},
        ),
        Figure(
            "throughput, chunks of 64 KiB",
            "MB/s",
            {name: MANY_LARGE.total / 1e6 / (median(times) / 1e9) for name, times in measured.many_large.items()},
            {HAYATE: 1.3, FLOOR: 0.9},
            more_is_better=True,
        ),
    ]
    if measured.memory:
        memory = _medians(measured.memory, 1e-6)
        huge = _medians(measured.memory_huge, 1e-6)
        growth = {name: huge[name] - memory[name] for name in huge}
        found += [
            Figure("peak memory", "MB", memory, {AWSLAMBDARIC: 0.90, HAYATE: 0.60}),
            Figure(f"memory that {HUGE.total / 1e6:.0f} MB streamed add", "MB", growth, {}, limit=2.0),
        ]
    return [_against(figure) for figure in found] if AGAINST in measured.cold_start else found


def _against(figure: Figure) -> Figure:
    """The same figure, compared with the other version of our runtime only."""
    if figure.limit is not None:
        return figure
    return figure._replace(targets={AGAINST: 1 - _TOLERANCE if figure.more_is_better else 1 + _TOLERANCE})


def verdicts(figure: Figure) -> list[Verdict]:
    """Compare our value with each peer's for which there is a target."""
    ours = figure.values[OURS]
    if figure.limit is not None:
        return [Verdict("", ours, figure.limit, figure.more_is_better)]
    return [
        Verdict(peer, ours / figure.values[peer], target, figure.more_is_better)
        for peer, target in figure.targets.items()
    ]


def _medians(samples: Samples, scale: float) -> dict[str, float]:
    return {name: median(values) * scale for name, values in samples.items()}
