"""Draws the figures as a chart for a light or a dark page, the same bytes for the same figures."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Canvas

from .figures import Figure
from .peers import AWSLAMBDARIC, FLOOR, HAYATE, OURS

# Each of these can be read on white and on GitHub's dark background.
_TEXT = "#768390"
_COLOURS = {OURS: "#2f81f7", AWSLAMBDARIC: "#d9822b", HAYATE: "#a371d6", FLOOR: "#8b949e"}
_BAR_HEIGHT = 0.24  # inches
_GAP = 0.42  # inches between figures: room for the name of the next

_STYLE = {
    "svg.hashsalt": "benchmarks",  # for the ids within, which are random else
    "svg.fonttype": "none",  # text stays text: smaller, and a new figure is a small change
    "font.size": 10,
    "text.color": _TEXT,
    "ytick.color": _TEXT,
}


def draw(figures: Sequence[Figure], titles: Mapping[str, str], file: Path) -> None:
    """Draws `figures`, those that compare peers, into `file`; `titles` are the peers' by their names."""
    shown = [figure for figure in figures if figure.limit is None]
    heights = [len(figure.values) * _BAR_HEIGHT for figure in shown]
    height = sum(heights) + len(shown) * _GAP + 0.5
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(8, height))
        canvas.text(0.02, 1 - 0.2 / height, _title(), size=12, weight="bold", va="center")
        top = height - 0.45
        for figure, bars in zip(shown, heights, strict=True):
            top -= _GAP
            axes = canvas.add_axes((0.24, (top - bars) / height, 0.64, bars / height))
            _draw(axes, figure, titles)
            top -= bars
        canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _draw(axes: matplotlib.axes.Axes, figure: Figure, titles: Mapping[str, str]) -> None:
    names = list(figure.values)
    bars = axes.barh(
        [titles[name] for name in names],
        list(figure.values.values()),
        height=0.8,
        color=[_COLOURS[name] for name in names],
    )
    axes.bar_label(bars, fmt=lambda value: f"{value:,.{1 if value < 100 else 0}f} {figure.unit}", padding=4)
    direction = "more is better" if figure.more_is_better else "less is better"
    axes.set_title(f"{figure.name} ({direction})", loc="left", size=10, weight="bold", color=_TEXT, pad=4)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first at the top
    axes.tick_params(length=0)
    axes.get_xaxis().set_visible(False)
    axes.set_frame_on(False)


def _title() -> str:
    return f"streaming_runtime and its peers on CPython {platform.python_version()}"
