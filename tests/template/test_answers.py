"""Bad answers are refused, each with its own message, and nothing is written."""

import json
import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from cookiecutter.utils import create_env_with_context, work_in
from hooks.post_gen_project import REGIONS, next_steps, warnings
from hooks.pre_gen_project import AWS, CHOICES, JINJA, NUMERIC, RESERVED_SLUGS, RETENTIONS, find_problems, problems
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.support import OPTIONS, ROOT, Answers, Bake, defaults, run

LIMITS = {option: AWS[option] for option in ("memory", "timeout")}
MEMORY, TIMEOUT = LIMITS.values()
SILENCE = str(AWS["cloudfront"]["silence"])
DOCUMENTED, REST_API = str(TIMEOUT["documented_stream"]["most"]), str(AWS["rest_api"]["timeout"])


def between(limit: dict[str, int]) -> str:
    return f"from {limit['least']} to {limit['most']}"


def outside(limit: dict[str, int]) -> list[str]:
    return [str(limit["least"] - 1), str(limit["most"] + 1)]


def above(text: str) -> str:
    return str(int(text) + 1)


NUMBERS = ["", "0", "-1", "0512", "1e3", "1_024", "512.0", " 512", "512 ", "512\n", "+512", "0x200", "५१२", "512MB"]
TEXTS = [
    ("", "must not be empty"),
    ("  ", "must not be empty"),
    ('a "quoted" word', "straight quotes"),
    ("it's", "straight quotes"),
    ("a `command`", "straight quotes"),
    ("two\nlines", "U+000A"),
    ("a trailing newline\n", "U+000A"),
    ("a\ttab", "U+0009"),
    ("a \x1b[31mcolour", "U+001B"),
    ("a \x00 byte", "U+0000"),
    ("a \x85 next line", "U+0085"),
    ("a \u2028 separator", "U+2028"),
    ("a \ud83d surrogate", "U+D83D"),
    ("a {{ cookiecutter }} template", "{{"),
    ("a ${{ secrets.TOKEN }} expression", "{{"),
    ("a {% raw %} block", "{%"),
    ("a {# comment #}", "{#"),
    ("a \u202e turn", "U+202E"),
    ("x" * 257, "got 257 in "),
    ("\x00\x01\x02\x03\x04", "U+0000 U+0001 U+0002 and 2 others"),
]
BAD_SLUGS = [
    "",
    "../evil",
    "a/b",
    "/tmp/evil",
    ".",
    "..",
    ".hidden",
    "a\\b",
    "Capital",
    "under_score",
    "two words",
    "trailing-",
    "-leading",
    "two--hyphens",
    "1st",
    "newline\n",
    "ünïcode",
    "nul\x00byte",
    "x" * 41,
    "x" * 300,
    *sorted(RESERVED_SLUGS),
]
BAD_ORIGINS = [
    "https://example.com/",
    "https://example.com/path",
    "example.com",
    "ftp://example.com",
    "https://",
    "https://Example.com",
    "https://user@example.com",
    "https://example.com?x",
    "https://example.com:0",
    "https://example.com:65536",
    "https://example.com:443",
    "http://localhost:80",
    "null",
    "http://[::1]:3000",
    "https://" + "x" * 64 + ".com",
    "https://example.com,",
    " ",
    "https://*.example.com",
    "https://example.com\n",
    "https://a.com,,https://b.com",
    "*,https://example.com",
    "https://" + "x.com." * 42 + "com",
    ",".join(f"https://a{number}.com" for number in range(101)),
]
BAD_REGIONS = [
    *("", " ", "eu", "us-east", "us-east-0", "us-east-100", "us-east-1a", "US-EAST-1", "us-east-1\n", " us-east-1"),
    *("mars-north-1", "us-up-1", "us--east-1", "us_east_1", "us-east-१", "us-iso-gov-east-1", "aws-global"),
]
BAD_MODELS = [
    *(
        "",
        " ",
        "nova",
        "nova-2-lite",
        "amazon.",
        ".nova",
        "amazon..nova",
        "Amazon.nova",
        "amazon.nova\n",
        "amazon.nova v1",
    ),
    *("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0", "amazon.nova:0:8k:1", "a.b.c.d.e", "*"),
    *("amazon.nova*", "amazon.${AWS::Region}", "amazon.nova/../*", "amazon.-nova", "a" * 64 + ".nova", "amazon.növa"),
]
BAD_DAYS = ["2", "29", "31", "366", "3654", "99999", "never", "-30"]
COGNITO = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"
BAD_ISSUERS = [
    *(
        "",
        "issuer",
        "http://example.com",
        "https://",
        "https://localhost",
        "https://example.com/?x",
        "ftp://example.com",
    ),
    *("https://example.com/a b", "https://example.com\n", "https://Example.com", "https://user@example.com", "*"),
    *("https://example.com#x", "https://example.com//x", f"https://example.com/{'x' * 250}"),
]
BAD_AUDIENCES = ["", " ", "a b", "a\n", "*", "-a", "a,b", "ä", "x" * 256]
BAD = [
    *(("jwt_issuer", issuer, "must be an https:// URL without a query") for issuer in BAD_ISSUERS),
    *(("jwt_audience", audience, "the audience that the tokens have") for audience in BAD_AUDIENCES),
    *(("project_slug", slug, "`project_slug` must ") for slug in BAD_SLUGS),
    *(("memory", number, between(MEMORY)) for number in [*NUMBERS, *outside(MEMORY), "99999999999"]),
    *(("timeout", number, between(TIMEOUT)) for number in [*NUMBERS, *outside(TIMEOUT), "9" * 5000]),
    *(("region", region, "AWS region") for region in BAD_REGIONS),
    *(("bedrock_model", model, "the id of a model or inference profile") for model in BAD_MODELS),
    *(("reserved_concurrency", number, "from 1 to 99999") for number in [*NUMBERS[1:], " ", "100000", "none"]),
    *(("log_retention", days, "a number of days that CloudWatch offers: 1, 3, 5, ") for days in [*NUMBERS, *BAD_DAYS]),
    *(("cors_origins", origins, "`cors_origins` ") for origins in BAD_ORIGINS),
    *((option, text, rule) for option in ("project_name", "description") for text, rule in TEXTS),
    ("project_name", "x" * 65, "got 65 in "),
    *(("description", text, "must not begin with < or ~~~") for text in ("<!-- x", "<pre>", " <?", "~~~", "  ~~~~ x")),
    *((option, value, "must be one of") for option in CHOICES for value in ("", "nothing", "python3.13\n")),
]
# From the Bedrock console and AWS's documentation, with and without a version or a context size.
GOOD_MODELS = [
    *(
        "amazon.nova-lite-v1:0",
        "amazon.nova-premier-v1:0:1000k",
        "amazon.titan-text-express-v1",
        "openai.gpt-oss-120b-1:0",
    ),
    *("anthropic.claude-sonnet-4-6", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "eu.amazon.nova-pro-v1:0"),
    *("deepseek.v3.2", "zai.glm-4.7", "us.deepseek.r1-v1:0", "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    *("meta.llama3-1-8b-instruct-v1:0", "jp.anthropic.claude-haiku-4-5-20251001-v1:0", "ai21.jamba-1-5-large-v1:0"),
]
GOOD = [
    ("project_slug", "a"),
    ("project_slug", "my-stream-2"),
    ("project_slug", "x" * 40),
    ("project_name", "Füße 流れ поток 🚀"),
    ("project_name", "👩‍🚀 Tom\u2019s \u201cbest\u201d stream"),
    ("description", "colons: yes, # hashes, - dashes, @ & * ! % | > [x] {y} ~ \\ / $HOME $(id) ; 100 % $ {z}"),
    ("description", "x" * 256),
    *((option, str(limit[end])) for option, limit in LIMITS.items() for end in ("least", "most")),
    *(("region", region) for region in sorted(REGIONS)),
    *(("region", region) for region in ("eu-central-2", "cn-northwest-1", "us-gov-west-1", "eusc-de-east-1")),
    *(("region", region) for region in ("us-iso-east-1", "eu-isoe-west-1", "mx-central-1", "nz-southwest-12")),
    *(("bedrock_model", model) for model in GOOD_MODELS),
    *(("reserved_concurrency", number) for number in ("", "1", "900", "99999")),
    *(("log_retention", str(days)) for days in RETENTIONS),
    *((option, choice) for option, choices in CHOICES.items() for choice in choices if choice not in ("yes", "3.15")),
    *(("jwt_issuer", issuer) for issuer in ("https://example.com", "https://a.b:8443/realms/x/", COGNITO)),
    *(("jwt_audience", audience) for audience in ("a", "https://api.example.com/", "x" * 255)),
    ("cors_origins", ""),
    ("cors_origins", "*"),
    ("cors_origins", "https://example.com, http://localhost:5173"),
    ("cors_origins", "http://example.com:443,https://example.com:80,https://127.0.0.1:65535"),
    ("cors_origins", ",".join(f"https://a{number}.com" for number in range(100))),
]


PAIRS = [
    *(
        (
            {"front_door": "cloudfront", "example": example},
            f"`url_auth` cannot be combined with front_door=cloudfront and example={example}: the URL then requires "
            "x-amz-content-sha256 of each body, which ordinary clients do not send, "
            'got "AWS_IAM". Use jwt, or NONE to let anyone in',
        )
        for example in ("fastapi", "bedrock", "agent", "mcp")
    ),
    (
        {"cors_credentials": "yes"},
        "`cors_credentials` requires cors_origins to name the pages that may send credentials, "
        'got "yes". Use no, or set cors_origins=https://www.example.com',
    ),
    (
        {"cold_start": "snapstart", "runtime": "provided.al2023"},
        "`cold_start` cannot be combined with runtime=provided.al2023: Lambda takes no snapshots of OS-only runtimes, "
        'got "snapstart". Use standard, or runtime=managed or container',
    ),
    *(
        (
            {"cors_credentials": "yes", "cors_origins": origins},
            "`cors_credentials` cannot be combined with cors_origins=*: browsers refuse credentials for any origin, "
            'got "yes". Use no, or name the origins',
        )
        for origins in ("*", " * ")
    ),
    (
        {"python_version": "3.15"},
        "`python_version` cannot be combined with runtime=managed: `sam build` does not build it yet "
        f'({AWS["python"]["not_built"]["source"]}), got "3.15". Use 3.14, or runtime=provided.al2023 or container',
    ),
    (
        {"front_door": "rest-api", "timeout": above(REST_API)},
        f"`timeout` must be at most {REST_API} seconds with front_door=rest-api, which ends a stream then, "
        f'got "{above(REST_API)}". Use {REST_API} or less, or function-url',
    ),
]
GOOD_PAIRS = [
    {"python_version": "3.15", "runtime": "provided.al2023"},
    {"python_version": "3.15", "runtime": "container", "cold_start": "snapstart"},
    {"front_door": "cloudfront", "example": "sse"},
    {"front_door": "cloudfront", "example": "mcp", "url_auth": "NONE"},
    {"front_door": "cloudfront", "example": "fastapi", "url_auth": "jwt"},
    {"front_door": "rest-api", "example": "mcp"},
    {"front_door": "rest-api", "url_auth": "NONE"},
    {"front_door": "rest-api", "url_auth": "jwt"},
    {"cors_credentials": "yes", "cors_origins": "https://example.com"},
    {"cors_credentials": "no", "cors_origins": "*"},
    {"front_door": "rest-api", "timeout": REST_API},
    {"timeout": str(TIMEOUT["most"])},
    {"cold_start": "standard", "runtime": "provided.al2023"},
    {"cold_start": "snapstart", "runtime": "container", "deployment": "canary"},
]
# Answers, and what the one warning about them says: option and doubt, value, remedy.
WARNINGS: list[tuple[Answers, str, str, str]] = [
    (
        {"observability": "opentelemetry"},
        "`observability` sends no spans of the deployed function",
        "opentelemetry",
        "Set OTEL_EXPORTER_OTLP_ENDPOINT in template.yaml",
    ),
    *(
        ({"region": region}, "`region` is not a region known to have", region, "or use us-east-1")
        for region in ("eu-central-2", "cn-north-1", "us-gov-east-1", "eusc-de-east-1", "nz-southwest-12")
    ),
    *(
        (
            {"front_door": "rest-api", "cors_origins": origins},
            "`cors_origins` applies only to the function URL",
            origins,
            "from the handler",
        )
        for origins in ("*", "https://example.com")
    ),
    *(
        (
            {"example": "bedrock", "bedrock_model": f"{place}.amazon.nova-lite-v1:0", "region": region},
            f"`bedrock_model` is not an inference profile known to be callable from {region}",
            f"{place}.amazon.nova-lite-v1:0",
            "Use one that starts with global., or the region's own",
        )
        for place, region in (
            *(("us", "eu-west-1"), ("eu", "us-east-1"), ("apac", "eu-west-1"), ("jp", "ap-southeast-2")),
            *(("au", "ap-northeast-1"), ("ca", "us-east-1"), ("us-gov", "us-east-1")),
        )
    ),
    *(
        (
            {"example": "bedrock", "bedrock_model": model},
            "`bedrock_model` looks like an inference profile with the unknown prefix atlantis.",
            model,
            "in the policy in template.yaml",
        )
        for model in ("atlantis.amazon.nova-lite-v1:0", "atlantis.deepseek.v3.2")
    ),
    ({"reserved_concurrency": "901"}, "`reserved_concurrency` is above the 900", "901", "Ask AWS for the quota first"),
    ({"memory": "3009"}, "`memory` is above the 3008 MB", "3009", "Ask AWS for the quota first"),
    (
        {"python_version": "3.15", "runtime": "container"},
        "`python_version` is in public preview as an image of AWS",
        "3.15",
        "Use runtime=provided.al2023, or 3.14",
    ),
    (
        {"timeout": above(DOCUMENTED)},
        f"`timeout` is above {DOCUMENTED} seconds, and AWS does not document whether",
        above(DOCUMENTED),
        "Try it on AWS before you rely on it",
    ),
    (
        {"timeout": above(SILENCE), "front_door": "cloudfront"},
        f"`timeout` does not keep a quiet stream open: CloudFront closes it after {SILENCE} seconds",
        above(SILENCE),
        "heartbeats, as event streams do",
    ),
]
# Close to what causes a warning.
UNSUSPICIOUS: list[Answers] = [
    *({"region": region} for region in sorted(REGIONS)),
    {"front_door": "rest-api"},
    {"front_door": "cloudfront", "cors_origins": "*"},
    {"front_door": "cloudfront", "example": "fastapi", "url_auth": "NONE"},
    {"bedrock_model": "us.amazon.nova-lite-v1:0", "region": "eu-west-1"},
    {"bedrock_model": "atlantis.amazon.nova-lite-v1:0"},
    *(
        {"example": "bedrock", "bedrock_model": f"{place}.amazon.nova-lite-v1:0", "region": region}
        for place, region in (
            *(
                ("us", "us-west-2"),
                ("us", "ca-central-1"),
                ("eu", "eu-north-1"),
                ("apac", "ap-south-1"),
                ("ca", "ca-central-1"),
            ),
            *(("jp", "ap-northeast-3"), ("au", "ap-southeast-2"), *(("global", region) for region in sorted(REGIONS))),
        )
    ),
    *(
        {"example": "bedrock", "bedrock_model": model}
        for model in ("amazon.nova-lite-v1:0", "zai.glm-4.7", "deepseek.v3.2")
    ),
    {"reserved_concurrency": "900", "memory": "3008"},
    {"timeout": DOCUMENTED},
    {"timeout": REST_API, "front_door": "rest-api"},
    {"timeout": SILENCE, "front_door": "cloudfront"},
]

# What cookiecutter itself raises for an answer that is not among the choices.
NOT_A_CHOICE = ValueError


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(("option", "value", "rule"), BAD)
def test_bad_answer_has_one_message(option: str, value: str, rule: str) -> None:
    found = problems({**defaults(), option: value})
    assert len(found) == 1 or (option == "cors_origins" and len(found) > 0)
    message = found[0]
    assert message.startswith(f"`{option}` ")
    assert rule in message
    assert ", got " in message
    assert message.isprintable()


# Remedies that are not answers to type.
WORDS = {"Shorten it", "Remove them", "Use typographic quotes: \u2019 \u201c \u201d", "Example: 10, or leave it empty"}


def test_remedy_is_a_good_answer() -> None:
    for option, value, _ in BAD:
        for message in problems({**defaults(), option: value}):
            *_, remedy = re.split(r"\. (?=Shorten|Remove|Use |Example: )", message)
            example = remedy.removeprefix("Example: ")
            assert remedy in WORDS or problems({**defaults(), option: example}) == [], message


@pytest.mark.parametrize("option", defaults())
@pytest.mark.parametrize("value", [None, True, False, 3.12, ["a"], {"a": "b"}, 7])
def test_answer_of_another_type(option: str, value: Any) -> None:
    """A number is accepted where the answer is one; anything else has one message, whatever its text would be."""
    found = problems({**defaults(), option: value})
    if value == 7 and type(value) is int and option in NUMERIC:
        assert [message for message in found if "must be text" in message] == []
    else:
        assert found == [f"`{option}` must be text, got {value!r}. Write the answer in quotes"]


def test_evaluated_expression_is_refused() -> None:
    [message] = problems({**defaults(), "description": "49"}, {"description": "{{ 7 * 7 }}"})
    assert message.startswith("`description` must not contain {{, ")
    assert 'got "{{ 7 * 7 }}"' in message


@pytest.mark.parametrize(("option", "value"), GOOD)
def test_good_answer_has_no_message(option: str, value: str) -> None:
    assert problems({**defaults(), option: value}) == []


@pytest.mark.parametrize(("answers", "message"), PAIRS)
def test_conflicting_answers_have_one_message(answers: Answers, message: str) -> None:
    assert problems({**defaults(), **answers}) == [message]


@pytest.mark.parametrize("answers", GOOD_PAIRS)
def test_compatible_answers_have_no_message(answers: Answers) -> None:
    assert problems({**defaults(), **answers}) == []


@pytest.mark.parametrize(("answers", "doubt", "value", "remedy"), WARNINGS)
def test_doubtful_answer_has_one_warning(answers: Answers, doubt: str, value: str, remedy: str) -> None:
    assert problems({**defaults(), **answers}) == []
    [warning] = warnings({**defaults(), **answers})
    assert warning.startswith(doubt)
    assert f', got "{value}". ' in warning
    assert warning.endswith(remedy)
    assert warning.isprintable()


def test_warning_texts() -> None:
    doubtful = {
        "region": "eu-central-2",
        "front_door": "rest-api",
        "cors_origins": "*",
        "example": "bedrock",
        "bedrock_model": "eu.amazon.nova-lite-v1:0",
        "reserved_concurrency": "901",
        "memory": "3009",
    }
    assert warnings({**defaults(), **doubtful}) == [
        '`region` is not a region known to have Lambda function URLs, got "eu-central-2". Look it up before you '
        "deploy, or use us-east-1",
        '`cors_origins` applies only to the function URL, not to the REST API, got "*". Send the CORS headers from the '
        "handler",
        '`reserved_concurrency` is above the 900 that an account can reserve before its quota is raised, got "901". '
        "Ask AWS for the quota first",
        '`memory` is above the 3008 MB that some new accounts may use, got "3009". Ask AWS for the quota first',
    ]


@pytest.mark.parametrize("answers", [{}, *UNSUSPICIOUS], ids=str)
def test_ordinary_answers_have_no_warning(answers: Answers) -> None:
    assert problems({**defaults(), **answers}) == warnings({**defaults(), **answers}) == []


@pytest.mark.slow
def test_warnings_are_printed_last(template: Path, tmp_path: Path) -> None:
    command = ["cookiecutter", str(template), "--default-config", "--no-input", "-o", str(tmp_path)]
    quiet = run(*command, cwd=tmp_path)
    assert quiet.stderr == ""
    answers = {
        **{"project_slug": "doubtful", "example": "bedrock", "bedrock_model": "jp.amazon.nova-2-lite-v1:0"},
        **{"region": "il-central-1", "front_door": "rest-api", "cors_origins": "*"},
        **{"reserved_concurrency": "5000", "memory": "10240"},
    }
    command += [f"{option}={answer}" for option, answer in answers.items()]
    shown = [f"Warning: {line}" for line in warnings({**defaults(), **answers})]
    assert len(shown) == 5
    assert run(*command, cwd=tmp_path).stderr.splitlines() == shown
    assert (tmp_path / "doubtful" / "template.yaml").is_file()
    # They also come last where both streams go to one place, buffered.
    command = ["sh", "-c", 'exec "$@" 2>&1', "sh", *command, "--overwrite-if-exists"]
    whole = run(*command, cwd=tmp_path, PYTHONUNBUFFERED="").stdout
    assert "make dev" in whole
    assert whole.splitlines()[-5:] == shown


@pytest.mark.slow
@pytest.mark.parametrize("answers", [pair[0] for pair in PAIRS], ids=str)
def test_conflicting_answers_write_nothing(answers: Answers, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = ["cookiecutter", str(ROOT), "--default-config", "--no-input", "-o", str(out)]
    done = run(*command, *(f"{option}={answer}" for option, answer in answers.items()), cwd=tmp_path, check=False)
    assert done.returncode == 1
    [message] = problems({**defaults(), **answers})
    assert done.stdout == f"These answers cannot work, so nothing was generated:\n  {message}\n"
    assert done.stderr == ""
    assert files_below(tmp_path) == {out}


# One per option in `make check`, because each run of cookiecutter costs time.
FIRST_BAD = {option: index for index, (option, _, _) in reversed([*enumerate(BAD)])}


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [pytest.param(*bad, marks=() if FIRST_BAD[bad[0]] == index else pytest.mark.slow) for index, bad in enumerate(BAD)],
)
def test_bad_answer_writes_nothing(option: str, value: str, rule: str, tmp_path: Path) -> None:
    configuration, out = tmp_path / "config.yaml", tmp_path / "deep" / "out"
    configuration.write_text(f"replay_dir: {tmp_path / 'replay'}\n")
    out.mkdir(parents=True)
    with pytest.raises((FailedHookException, NOT_A_CHOICE)) as refused:
        cookiecutter(
            str(ROOT), no_input=True, extra_context={option: value}, output_dir=str(out), config_file=str(configuration)
        )
    if not any(mark in value for mark in JINJA):
        assert rule in str(refused.value) or option in CHOICES
    written = {path for path in files_below(tmp_path) if tmp_path / "replay" not in (path, *path.parents)}
    assert written == {configuration, tmp_path / "deep", out}
    assert not Path("/tmp/evil").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Lambda Stream", "lambda-stream"),
        ("Füße 流れ поток", "fusse-liu-re-potok"),
        ("🚀", "stream"),
        ("3 Streams", "stream-3-streams"),
        ("CON", "stream-con"),
        ("pytest", "stream-pytest"),
        ("a" * 39 + " bc", "a" * 39),
        ("x" * 64, "x" * 40),
    ],
)
def test_slug_from_name(name: str, slug: str, bake: Bake) -> None:
    assert bake(project_name=name).name == slug


@pytest.mark.parametrize(
    ("slug", "proposed"),
    [
        ("My_App", "my-app"),
        ("../evil", "evil"),
        ("3 Füße", "fue"),
        ("--", "lambda-stream"),
        ("pytest", "pytest-stream"),
        ("x" * 41, "x" * 40),
    ],
)
def test_refused_slug_has_a_proposal(slug: str, proposed: str) -> None:
    [message] = problems({**defaults(), "project_slug": slug})
    assert message.endswith(f". Example: {proposed}")


@pytest.mark.parametrize("front_door", CHOICES["front_door"])
@pytest.mark.parametrize("example", CHOICES["example"])
def test_page_that_no_browser_opens(example: str, front_door: str) -> None:
    """The prompt says so, and so do the next steps."""
    assert "no browser can open the page of sse, bedrock or agent" in OPTIONS["__prompts__"]["url_auth"]["AWS_IAM"]
    answers = {**defaults(), "example": example, "front_door": front_door}
    said = "No browser opens the page at the deployed URL" in next_steps({**answers, "url_auth": "AWS_IAM"})
    assert said == (example in ("sse", "agent", "bedrock") and front_door != "cloudfront")
    assert "No browser" not in next_steps({**answers, "url_auth": "NONE"})


def test_all_problems_are_listed() -> None:
    bad = dict.fromkeys(defaults(), "\n")
    assert {problem.option for problem in find_problems({**bad, "cors_origins": "/"})} == set(defaults())


@pytest.mark.slow
@pytest.mark.parametrize("slug", ["../evil", "a/b", "Capital", "x" * 300])
def test_bad_slug_has_no_traceback(slug: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = ["cookiecutter", str(ROOT), "--default-config", "--no-input", "-o", str(out)]
    done = run(*command, f"project_slug={slug}", "memory=0512", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "`project_slug` must " in done.stdout
    assert "`memory` must be a whole number of MB from 128 to 10240, " in done.stdout
    assert 'got "0512"' in done.stdout
    assert files_below(tmp_path) == {out}


@pytest.mark.slow
@pytest.mark.parametrize("answers", [{"project_slug": "../evil"}, {"memory": "0512", "description": "two\nlines"}])
def test_hook_refuses_replayed_answers(answers: Answers, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    replay = tmp_path / "replay.json"
    context = {**OPTIONS, **defaults(), **answers}
    replay.write_text(json.dumps({"cookiecutter": {**context, "__validated": ""}}), encoding="utf-8")
    done = run("cookiecutter", ROOT, "--default-config", "--replay-file", replay, "-o", out, cwd=tmp_path, check=False)
    assert done.returncode == 1
    for option in answers:
        assert f"`{option}` must " in done.stderr
    assert files_below(tmp_path) == {out, replay}


@pytest.mark.parametrize("option", [option for option in defaults() if option not in CHOICES])
@pytest.mark.parametrize(
    "expression",
    [
        "{{ cycler.__init__.__globals__.os.system('touch evaluated') }}",
        "{% if cycler.__init__.__globals__.os.system('touch evaluated') %}{% endif %}",
        "{# 512 #}512",
    ],
)
def test_expression_is_not_evaluated(option: str, expression: str, tmp_path: Path) -> None:
    with pytest.raises(FailedHookException) as refused, work_in(tmp_path):
        cookiecutter(str(ROOT), no_input=True, extra_context={option: expression}, default_config=True)
    assert "`answer` must not contain {{, {%, {#, " in str(refused.value)
    assert f"got {json.dumps(expression)}" in str(refused.value)
    assert files_below(tmp_path) == set()


def test_command_line_expression(tmp_path: Path) -> None:
    command = ["cookiecutter", str(ROOT), "--default-config", "--no-input", "description={{ 6 * 7 }}"]
    done = run(*command, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].startswith("  `answer` must not contain {{, ")
    assert 'got "{{ 6 * 7 }}"' in done.stdout
    assert done.stderr == ""
    assert files_below(tmp_path) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("description", "status"), [("{{ 6 * 7 }}", 1), ("${{ secrets.TOKEN }}", 1), ("Ein Strom 🚀 流", 0)]
)
def test_typed_answer_is_not_rendered(description: str, status: int, template: Path, tmp_path: Path) -> None:
    answers = "\n\n" + description + "\n" * (len(defaults()) - 2)
    done = run("cookiecutter", template, "--default-config", cwd=tmp_path, check=False, answers=answers)
    assert done.returncode == status
    assert ("must not contain {{" in done.stdout) == bool(status)
    generated = tmp_path / "lambda-stream" / "template.yaml"
    assert files_below(tmp_path) == set() if status else f'"{description}"' in generated.read_text(encoding="utf-8")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64) | st.text())
@example("\ufeff")
@example("\ufffe")
@example("\u00a0\u200d\u202e")
def test_accepted_text_survives_quoting(text: str) -> None:
    found = problems({**defaults(), "project_name": text})
    assert all(message.isprintable() for message in found)
    if not found:
        scalar = create_env_with_context({"cookiecutter": OPTIONS}).filters["quoted"](text)
        assert yaml.safe_load(f"key: {scalar}") == {"key": text}
        assert tomllib.loads(f"key = {scalar}") == {"key": text}


def test_tool_names_are_reserved_slugs(project: Path) -> None:
    configuration = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    needs: dict[str, set[str]] = {}
    for package in lock["package"]:
        needs.setdefault(package["name"], set()).update(need["name"] for need in package.get("dependencies", ()))
    found: set[str] = set()
    todo = {requirement.partition(">=")[0] for requirement in chain(*configuration["dependency-groups"].values())}
    while todo:
        found |= todo
        todo = {need for name in todo for need in needs[name]} - found
    assert found <= RESERVED_SLUGS


def test_every_option_has_examples() -> None:
    """The tables above have a good and a bad answer for each option."""
    assert {option for option, _ in GOOD} == {option for option, *_ in BAD} == set(defaults())


def test_choices_match_options_file() -> None:
    lists = {option: tuple(value) for option, value in OPTIONS.items() if isinstance(value, list)}
    assert {option: value for option, value in lists.items() if not option.startswith("_")} == CHOICES


@pytest.mark.parametrize(("hook", "literals"), [("pre_gen_project", 3), ("post_gen_project", 2)])
def test_hooks_render_only_answers(hook: str, literals: int) -> None:
    code = (ROOT / "hooks" / f"{hook}.py").read_text(encoding="utf-8")
    assert [code.count(mark) for mark in ("{{", "{%", "{#")] == [literals, 0, 0]
    assert (
        len(re.findall(r'r"""\n\{\{ _?cookiecutter (\| default\(\{\}\) |\| aws_limits )?\| tojson \}\}\n"""', code))
        == literals
    )
