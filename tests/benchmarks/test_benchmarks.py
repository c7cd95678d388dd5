"""The benchmark measures what it says: runtimes that are at work and send what they have to."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from benchmarks.examples import Taken, summary
from tests.helpers.interpreters import other_interpreters
from tests.helpers.support import ROOT, TEMPLATE, run

# In a process of its own, since measuring ties a process to one processor.
PROGRAM = """
import json, sys
from benchmarks.measure import Rounds, measure
from benchmarks.peers import AWSLAMBDARIC, FLOOR, OURS, Peer
from benchmarks.server import RuntimeFailed

bootstrap = sys.argv[1]
ours = Peer(OURS, "", (bootstrap,), "app.stream")
whole = Peer(AWSLAMBDARIC, "", (sys.executable, "-m", "awslambdaric", "app.whole"), "app.whole", streams=False)
floor = Peer(FLOOR, "", (sys.executable, "-c", "import floor"))
measured = measure([ours, whole, floor], b"{}", Rounds(1, 1, 50, 1, 1, 1))
samples = {name: {peer: len(times) for peer, times in getattr(measured, name).items()} for name in measured._fields}
positive = all(time > 0 for name in measured._fields for times in getattr(measured, name).values() for time in times)
try:
    measure([Peer(OURS, "", (bootstrap,), "app.whole")], b"{}", Rounds(1, 1, 1, 1, 1, 1))
    failure = ""
except RuntimeFailed as error:
    failure = str(error)
print(json.dumps([samples, positive, failure]))
"""


class Matching(str):
    """A pattern that is equal to each string that it matches."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self, other) is not None

    __hash__ = str.__hash__


@pytest.mark.slow
def test_each_peer_is_measured(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATE / "runtime", tmp_path / "src")
    done = run(sys.executable, "-c", PROGRAM, tmp_path / "src" / "bootstrap", cwd=ROOT)
    samples, positive, failure = json.loads(done.stdout)
    every = dict.fromkeys(("streaming_runtime", "awslambdaric", "floor"), 1)
    streaming = dict.fromkeys(("streaming_runtime", "floor"), 1)
    assert samples == {
        "cold_start": every,
        "warm": dict.fromkeys(every, 50),
        "many_small": streaming,
        "many_large": streaming,
        "memory": every,
        "memory_huge": streaming,
    }
    assert positive
    assert failure == "streaming_runtime sent 1 chunks, 100000 bytes"


@pytest.mark.slow
def test_bake_is_measured(tmp_path: Path) -> None:
    program = "import sys; from benchmarks.bake import main; sys.exit(main(rounds=1) > 1)"
    done = run(sys.executable, "-c", program, cwd=ROOT)
    header, command, process, verdict = done.stdout.splitlines()
    assert "as the median of 1 rounds" in header
    for line in (command, process):
        assert len(re.findall(r"\d+ ms", line)) == 3
    assert "target of under 1.5" in verdict


@pytest.mark.slow
def test_applications_are_measured(tmp_path: Path) -> None:
    """The figures go to the output and into the document's table, and what is not at hand is left out with a line."""
    document = tmp_path / "page.md"
    document.write_text("<!-- applications -->\n\n| old |\n\nafter\n")
    program = (
        "import sys; from benchmarks.applications import CASES, Rounds, main; "
        "sys.exit(main(['--document', sys.argv[1]], [CASES[1], *CASES[7:]], Rounds(1, 1, 1, 1)) > 1)"
    )
    path = str(Path(sys.executable).parent)
    done = run(sys.executable, "-c", program, document, cwd=ROOT, PATH=path, LAMBDA_WEB_ADAPTER="")
    figure = r"[\d.,]+ ms"
    both, floor = f"streaming_runtime {figure} +uvicorn {figure}", f"floor {figure}"
    assert [re.sub(r" (meets|MISSES) ", " VERDICT ", line) for line in done.stdout.splitlines()] == [
        Matching(f"FastAPI, 1,000 chunks +{both} +{floor} .*of floor: VERDICT 1.0"),
        Matching(f"sse-starlette, 1,000 events +{both}"),
        Matching(f"FastAPI, 1,000 events +{both}"),
        Matching(f"FastAPI, start to first answer +{both} +{floor}.*"),
    ]
    assert "left out: Lambda Web Adapter, because neither LAMBDA_WEB_ADAPTER nor PATH names it" in done.stderr
    header, line, *rows = document.read_text().partition("\n\n")[2].removesuffix("\n\nafter\n").splitlines()
    assert header.startswith("| figure (median) | streaming_runtime | floor | uvicorn alone | Lambda Web Adapter |")
    assert line.count("---") == 7
    assert [row.split(" | ")[0] for row in rows] == [
        "| FastAPI, 1,000 chunks",
        "| sse-starlette, 1,000 events",
        "| FastAPI, 1,000 events",
        "| FastAPI, start to first answer",
    ]


@pytest.mark.slow
def test_scale_is_measured(tmp_path: Path) -> None:
    """Each curve has a row for each point, and one that does not fit into the time is left out."""
    document = tmp_path / "page.md"
    document.write_text("before\n\n<!-- scale -->\nold\n<!-- end of scale -->\n\nafter\n")
    program = (
        "import sys; from benchmarks.scale import Points, main; "
        "sys.exit(main(['--document', sys.argv[1]], Points((1, 20, 10**9), (1000, 90_000), (1, 3))))"
    )
    done = run(sys.executable, "-c", program, document, cwd=ROOT)
    figure, times = r"[\d.,]+", r"[\d.,]+ ms"
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| \d", line)]
    assert rows == [
        *(Matching(rf"\| {count} (\| {times} ){{3}}\| {figure} µs \|") for count in (1, 20)),
        "| 1,000,000,000 | - | - | - | - |",
        *(Matching(rf"\| {size} KB \| {times} \| {times} \|") for size in (1, 90)),
        *(Matching(rf"\| {count} \| {times} \| {times} \| {figure} \|") for count in (1, 3)),
    ]
    begin, end = "before\n\n<!-- scale -->\n\n", "\n\n<!-- end of scale -->\n\nafter\n"
    assert document.read_text() == f"{begin}{done.stdout.rstrip()}{end}"


@pytest.mark.slow
def test_examples_are_measured() -> None:
    """An example is built, and answers."""
    interpreters = {f"3.{sys.version_info.minor}": sys.executable, **other_interpreters()}
    python = next((interpreters[version] for version in ("3.13", "3.12", "3.14") if version in interpreters), None)
    if python is None:
        pytest.skip("no interpreter that a project can name")
    command = (sys.executable, "-m", "benchmarks.examples", "--rounds", "1", "--python", python, "bedrock")
    done = run(*command, cwd=ROOT)
    assert re.fullmatch(r"bedrock   first byte [\d,]+ ms(  processor [\d,]+ ms)?\n", done.stdout)


def test_examples_are_compared() -> None:
    taken = {"ours": [Taken(300, 200), Taken(100, None)], "against": [Taken(400, 250), Taken(400, 250)]}
    expected = "mcp       first byte 200 ms, against 400 ms, ratio 0.50  processor 200 ms, against 250 ms, ratio 0.80"
    assert summary("mcp", taken) == expected
