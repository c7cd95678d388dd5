"""Hostile answers are refused with a message, or keep their value in every file and change nothing else."""

import ast
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from hooks.post_gen_project import PROFILES, REGIONS, warnings
from hooks.pre_gen_project import AWS, CHOICES, RETENTIONS, problems, refusal
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.helpers.combinations import command
from tests.helpers.rendering import RENDERED, load, render, render_hook
from tests.helpers.support import ROOT, Answers, defaults

# With a seed for each part, every run has the same examples.
FIXED = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))

# Creates the file `CANARY` in the working folder if something evaluates it.
CANARY = "evaluated"
SHELL = f"touch {CANARY}"
PAYLOADS = [
    # YAML: another resource, another key, tags, anchors, documents, comments, flow and block scalars.
    "\n  Evil:\n    Type: AWS::IAM::User",
    "x\nResources:\n  Evil:\n    Type: AWS::IAM::User\n",
    *(
        "512\n      Role: arn:aws:iam::1:role/admin",
        "30\n\n  Evil:\n    Type: AWS::IAM::User",
        "512 #",
        "!!python/object:os.x",
    ),
    *(
        "'",
        '"',
        '"\nEvil: "',
        "{a: b}",
        "[a",
        "&a x",
        "*a",
        "| x",
        "> x",
        "---",
        "...",
        "%YAML 1.2",
        "a: b",
        "- a",
        "? a",
    ),
    *(
        "yes",
        "no",
        "on",
        "null",
        "~",
        "1e5",
        "0x1F",
        "0o17",
        "012",
        "1_000",
        ".inf",
        ".nan",
        "2026-11-26",
        "12:30:45",
        "<<",
    ),
    *("!Ref AWS::AccountId", "!Sub ${Evil}", "${AWS::AccountId}", "${!Literal}", "Fn::Sub", "{{resolve:ssm:secret}}"),
    # TOML: another key, another table, quotes that end the string, escapes.
    *(
        '"\n[default.deploy.parameters]\nrole_arn = "evil',
        '"""',
        "'''",
        "\\",
        "\\u0041",
        "\\n",
        '\\"',
        "[tool.evil]",
        "a = 1",
    ),
    # Jinja and GitHub's expressions.
    "{{ cycler.__init__.__globals__.os.system('" + SHELL + "') }}",
    "{% set x = cycler.__init__.__globals__.os.system('" + SHELL + "') %}",
    *(
        "{{ 7 * 7 }}",
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "${{ secrets.TOKEN }}",
        "{{ cookiecutter }}",
        "{% raw %}",
        "{" * 3,
    ),
    # Shell, Make and Python.
    *(
        f"$({SHELL})",
        f"`{SHELL}`",
        f"; {SHELL} #",
        f"| {SHELL}",
        f"&& {SHELL}",
        f"\n{SHELL}\n",
        "$$(X)",
        "$(shell x)",
        "~root",
    ),
    f'"""\nimport os\nos.system("{SHELL}")\nr"""',
    *(f'" + __import__("os").system("{SHELL}") + "', f"'); __import__('os').system('{SHELL}'); ('"),
    # Paths.
    *(
        "../evil",
        "../../tmp/evil",
        "/tmp/evil",
        "a/b",
        "..",
        ".",
        "a\\b",
        "C:\\evil",
        "con",
        "a\x00b",
        "~/evil",
        "file:///etc/passwd",
    ),
    # JSON, HTML, Markdown.
    *(
        '", "x": "',
        "</script><script>alert(1)</script>",
        "<!-- ",
        "~~~",
        "<pre>",
        "<?",
        "<![CDATA[",
        "[a]: b",
        "    x",
        "# x",
        "| a |",
    ),
    # Unicode: line ends of some readers, marks of direction and order, lookalikes, invisible characters.
    *(
        "\r",
        "\r\n",
        "\x0b",
        "\x0c",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\u200b",
        "\u202e",
        "\u2066",
        "\u00a0",
        "\u3000",
    ),
    *(
        "\ud800",
        "\udfff",
        "\ufffe",
        "\uffff",
        "\ue000",
        "\U0010ffff",
        "\u0378",
        "\x1b[2J",
        "\x7f",
        "\u0301" * 20,
        "٣٠",
        "\uff15\uff11\uff12",
    ),
    *(
        "👩‍🚀",
        "🇩🇪",
        "İ",
        "ß",
        "\ufb01",
        "\uff35\uff33",
        "\uff55\uff53-east-1",
        "us\u2010east\u20101",
        "\u0430mazon.nova",
        "\U0001d7dd\U0001d7d9\U0001d7da",
        "流れ",
    ),
    # Too long.
    *(
        "x" * 257,
        "x" * 70_000,
        "9" * 5000,
        "\n" * 3000,
        "," * 2000,
        "https://a.com," * 200,
        "a." * 3000,
        "-" * 500,
        "🚀" * 256,
    ),
]

VALID: dict[str, st.SearchStrategy[str]] = {
    "project_name": st.sampled_from(["Lambda Stream", "Füße 流れ поток 🚀", "3 Streams"]),
    "project_slug": st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True),
    "description": st.sampled_from(["It streams", "a: b # c - [d] & *e !f % \\n <i> $(id) ${HOME} }}", "100 %"]),
    "region": st.sampled_from([*sorted(REGIONS), "us-gov-west-1", "eu-central-2"]),
    "cors_origins": st.sampled_from(["", "*", "https://example.com, http://localhost:5173", "https://a.b.c:8443"]),
    "memory": st.integers(AWS["memory"]["least"], AWS["memory"]["most"]).map(str),
    "timeout": st.integers(AWS["timeout"]["least"], AWS["timeout"]["linted"]["most"]).map(str),
    "bedrock_model": st.sampled_from(
        ["amazon.nova-lite-v1:0", "us-gov.a.b", "zai.glm-4.7", "global.amazon.nova-2-lite-v1:0"]
    ),
    "reserved_concurrency": st.just("") | st.integers(1, 99_999).map(str),
    "log_retention": st.sampled_from(RETENTIONS).map(str),
    "jwt_issuer": st.sampled_from(["https://example.com", "https://a.b:8443/realms/x/"]),
    "jwt_audience": st.sampled_from(["a", "https://api.example.com/"]),
}
# Text that only the rule of length checks; printable text is hostile only by its position.
PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cn", "Co", "Zl", "Zp"), exclude_characters="\"'`")
)


# Payloads that are valid texts: only quoting keeps them from having an effect.
TAME = [payload for payload in PAYLOADS if not problems({**defaults(), "description": payload})]


def hostile(option: str) -> st.SearchStrategy[str]:
    """Return a payload, a good answer with a payload before, after or inside it, or any text."""
    if option in ("project_name", "description"):
        tame = st.sampled_from(TAME)
        return st.one_of(*(tame, st.lists(tame, max_size=4).map(" ".join), PRINTABLE, PRINTABLE), any_text(option))
    return any_text(option) | VALID[option]


def any_text(option: str) -> st.SearchStrategy[str]:
    payload = st.sampled_from(PAYLOADS)
    parts = st.tuples(VALID[option], payload, st.integers(0, 30))
    return st.one_of(
        *(payload, parts.map(lambda given: given[0] + given[1]), parts.map(lambda given: given[1] + given[0])),
        parts.map(lambda given: given[0][: given[2]] + given[1] + given[0][given[2] :]),
        *(st.text(), st.text(st.characters()), st.lists(payload, max_size=4).map("".join), st.integers().map(str)),
    )


@st.composite
def answered(draw: st.DrawFn) -> Answers:
    """Draw all answers, of which up to three are hostile."""
    chosen = {option: draw(st.sampled_from(choices)) for option, choices in CHOICES.items()}
    if chosen["front_door"] == "cloudfront" and chosen["example"] not in ("hello", "sse"):
        chosen["url_auth"] = "NONE"
    if chosen["runtime"] == "managed" and chosen["python_version"] == "3.15":
        chosen["python_version"] = "3.14"
    texts = st.just({"project_name", "description"})
    attacked = draw(texts | st.sets(st.sampled_from(sorted(VALID)), min_size=1, max_size=2))
    free = {option: draw(hostile(option) if option in attacked else good) for option, good in VALID.items()}
    if free["cors_origins"].strip() in ("", "*"):
        chosen["cors_credentials"] = "no"
    return {**defaults(), **chosen, **free}


# Answers that occur nowhere else in a file, so that their traces can be recognized.
SENTINELS = {
    "project_name": "Sentinel Name",
    "project_slug": "sentinel-slug",
    "description": "sentinel description",
    "region": "sentinel-south-9",
    "cors_origins": "https://sentinel.example",
    "memory": "7919",
    "timeout": "887",
    "bedrock_model": "sentinel.model-v1:0",
    "reserved_concurrency": "65537",
    "log_retention": "2922",
    "jwt_issuer": "https://issuer.sentinel.net",
    "jwt_audience": "sentinel-audience",
}


def profile(answers: Answers) -> str:
    """Return the prefix by which a model's name is an inference profile's."""
    first = str(answers["bedrock_model"]).partition(".")[0]
    return f"{first}." if first in PROFILES else ""


def with_sentinels(answers: Answers) -> Answers:
    """Return the answers with a sentinel for each free one: empty for empty, a profile for a profile."""
    sentinels = {option: text if answers[option] else "" for option, text in SENTINELS.items()}
    return {**answers, **sentinels, "bedrock_model": profile(answers) + SENTINELS["bedrock_model"]}


@cache
def baseline(file: str, answers: frozenset[tuple[str, str]]) -> tuple[Any, list[tuple[str, str]]]:
    """Return a file's content with these answers, and for README.md its visible blocks."""
    text = render(file, dict(answers))
    return load(file, text), below_the_description(text) if file == "README.md" else []


def restored(part: Any, answers: Answers) -> Any:
    """Return the expected value: one with sentinels, replaced by the answers."""
    if isinstance(part, dict):
        return {key: restored(value, answers) for key, value in part.items()}
    if part == [SENTINELS["cors_origins"]]:
        return [origin.strip(" ") for origin in answers["cors_origins"].split(",")]
    if isinstance(part, list):
        return [restored(value, answers) for value in part]
    if isinstance(part, int) and not isinstance(part, bool):
        numbers = {int(text): option for option, text in SENTINELS.items() if text.isdigit()}
        # As in a timeout in milliseconds, or a tenth of it.
        factors = [factor for factor in (1, 100, 1000) if part % factor == 0 and part // factor in numbers]
        return int(answers[numbers[part // factors[0]]]) * factors[0] if factors else part
    if isinstance(part, str):
        values = {text: answers[option] for option, text in SENTINELS.items()}
        values[SENTINELS["bedrock_model"]] = answers["bedrock_model"].removeprefix(profile(answers))
        return re.sub("|".join(map(re.escape, values)), lambda found: str(values[found[0]]), part)
    return part


def below_the_description(readme: str) -> list[tuple[str, str]]:
    """Return kinds and contents of the Markdown blocks after the name and the description."""
    tokens = MarkdownIt("commonmark").parse(readme)
    begin = next(
        (at for at, token in enumerate(tokens) if token.content.startswith("What the handler of this AWS")), None
    )
    assert begin is not None, "the description takes the rest of README.md with it"
    return [(token.type, token.content) for token in tokens[begin:]]


def assert_same_code(hook: str, answers: Answers) -> None:
    """Fail unless a hook that is rendered with these answers is the same program and reads the answers as data."""
    code = (ROOT / "hooks" / f"{hook}.py").read_text(encoding="utf-8")
    rendered = render_hook(hook, answers)
    for before in re.split(r"\{\{ _?cookiecutter (?:\| default\(\{\}\) |\| aws_limits )?\| tojson \}\}", code):
        assert rendered.startswith(before)
        rendered = rendered.removeprefix(before)
        literal = rendered.partition("\n")[0]
        rendered = rendered.removeprefix(literal)
        if literal:
            read = json.loads(ast.literal_eval(f'r"""\n{literal}\n"""'))
            assert read == AWS or {option: read[option] for option in answers} == answers
    assert rendered == ""


def survives(answers: Answers) -> str:
    """Fail unless the answers are refused with a message or unchanged in every file; return which."""
    for hook in ("pre_gen_project", "post_gen_project"):
        assert_same_code(hook, answers)
    found = problems(answers)
    for message in found:
        assert message.isprintable()
        assert re.match(r"`\w+` .+, got .+\. .", message)
        assert len(message) < 1200
    if found:
        assert len(found) < 20
        assert refusal(found).count("\n") == len(found)
        return "refused"
    for message in warnings(answers):
        assert message.isprintable()
    shape = frozenset(with_sentinels(answers).items())
    for file in RENDERED:
        text = render(file, answers)
        usual, blocks = baseline(file, shape)
        assert load(file, text) == restored(usual, answers), file
        if file == "README.md":
            assert text.startswith(f"# {answers['project_name']}\n\n{answers['description']}\n")
            assert below_the_description(text) == [(kind, restored(content, answers)) for kind, content in blocks]
    return "accepted"


def survived(examples: int, part: int, attack: Callable[[Answers], str]) -> Counter[str]:
    """Attack with this many examples; return how many were accepted and how many refused."""
    counts: Counter[str] = Counter()

    @seed(part)
    @settings(FIXED, max_examples=examples)
    @given(answered())
    def each(answers: Answers) -> None:
        try:
            counts[attack(answers)] += 1
        except BaseException as failure:
            failure.add_note(f"These are the answers; to get the project:\n  {command(answers)!a}")
            raise

    each()
    return counts


def test_every_free_answer_is_fuzzed() -> None:
    assert VALID.keys() == SENTINELS.keys() == defaults().keys() - CHOICES.keys()


@pytest.mark.parametrize(
    ("part", "examples"), [(0, 100), *(pytest.param(part, 500, marks=pytest.mark.slow) for part in (1, 2, 3, 4))]
)
def test_hostile_answers_render_safely(part: int, examples: int) -> None:
    counts = survived(examples, part, survives)
    print(dict(counts))
    assert counts.total() >= examples
    assert min(counts["accepted"], counts["refused"]) > examples / 6


@pytest.mark.parametrize(("part", "examples"), [(0, 8), pytest.param(1, 60, marks=pytest.mark.slow)])
def test_hostile_answers_generate_safely(
    part: int, examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: Path
) -> None:
    configuration = tmp_path / "config.yaml"
    configuration.write_text(f"replay_dir: {tmp_path / 'replay'}\n", encoding="utf-8")
    number = iter(range(10_000_000))

    def bakes(answers: Answers) -> str:
        work = tmp_path / str(next(number))
        out = work / "deep" / "out"
        out.mkdir(parents=True)
        monkeypatch.chdir(work)
        good = not problems(answers)
        try:
            cookiecutter(
                str(template), no_input=True, extra_context=answers, output_dir=str(out), config_file=str(configuration)
            )
        except FailedHookException as failure:
            shown = str(failure)
            assert shown.replace("\n", "").isprintable()
            assert not good
        else:
            assert good
        written = {os.path.relpath(path, out) for path in work.rglob("*")} - {".", ".."}
        if not good:
            assert written == set()
            return "refused"
        project = out / answers["project_slug"]
        assert {path.partition("/")[0] for path in written} == {answers["project_slug"]}
        assert not [path for path in written if CANARY in path]
        for file in RENDERED:
            assert (project / file).read_text(encoding="utf-8") == render(file, answers)
        return "accepted"

    counts = survived(examples, part, bakes)
    print(dict(counts))
    assert not Path("/tmp/evil").exists()
