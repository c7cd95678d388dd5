"""`python -m benchmarks --against FOLDER` compares two versions of the runtime."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import figures, verdicts
from benchmarks.measure import Measurements
from benchmarks.peers import AGAINST, OURS, versions
from tests.helpers.support import TEMPLATE


def test_both_versions_are_compiled(tmp_path: Path) -> None:
    ours, other = versions(TEMPLATE / "runtime", TEMPLATE / "runtime", tmp_path / "build")
    assert (ours.name, other.name) == (OURS, AGAINST)
    for peer in (ours, other):
        folder = Path(peer.command[0]).parent
        assert {path.name for path in folder.iterdir()} == {"bootstrap", "streaming_runtime"}
        assert list((folder / "streaming_runtime" / "__pycache__").glob("wire.*.pyc"))
    assert ours.command != other.command


def test_two_percent_are_tolerated() -> None:
    same, slower = {OURS: [1000], AGAINST: [1000]}, {OURS: [1021], AGAINST: [1000]}
    measured = Measurements(same, slower, same, slower, slower, slower)
    found = {figure.name: verdicts(figure) for figure in figures(measured)}
    met = {name: [verdict.met for verdict in of] for name, of in found.items()}
    assert list(met.values()) == [[True], [False], [True], [False], [False], [True]]
    assert {verdict.peer for of in found.values() for verdict in of} == {AGAINST, ""}
