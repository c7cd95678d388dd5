"""Refuses answers that could not work, each with its rule and a remedy, before a file is written."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Cookiecutter puts the answers in here. They are read as data; no answer is ever part of the code.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""
# The same as they were given: cookiecutter evaluates what looks like Jinja on its command line. Cruft does not tell.
UNRENDERED = r"""
{{ _cookiecutter | default({}) | tojson }}
"""

Answers = dict[str, Any]

CHOICES = {
    "example": ("hello", "sse", "fastapi", "bedrock", "mcp"),
    "runtime": ("managed", "provided.al2023", "container"),
    "python_version": ("3.13", "3.14", "3.12"),
    "architecture": ("arm64", "x86_64"),
    "front_door": ("function-url", "cloudfront", "rest-api"),
    "url_auth": ("AWS_IAM", "NONE"),
    "cors_credentials": ("no", "yes"),
    "observability": ("basic", "full"),
    "deployment": ("all-at-once", "canary"),
    "deploy_pipeline": ("github-actions", "none"),
}
# What the name of a region looks like, new ones included: an area, perhaps a partition or a country, a point of the
# compass, a number.
# https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html
REGION = r"([a-z]{2}|eusc)(-(gov|iso[a-z]?|[a-z]{2}))?-(central|(north|south)(east|west)?|east|west)-[1-9][0-9]?"
# Days that CloudWatch Logs keeps a log: these and no others.
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
RETENTIONS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400),
    *(545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
# An account has 1,000 invocations at once unless its quota is raised, to tens of thousands at most.
MOST_CONCURRENCY = 99_999
SLUG_LENGTH = 40
RESERVED_SLUGS = frozenset(
    (
        # A project cannot depend on itself, so these packages could not be installed.
        *("botocore", "h11", "mypy", "pytest", "pyyaml", "rich", "ruff", "types-pyyaml", "watchfiles"),
        # Nor could these, which those depend on.
        *("anyio", "ast-serialize", "colorama", "idna", "iniconfig", "jmespath", "librt", "markdown-it-py"),
        *("mdurl", "mypy-extensions", "packaging", "pathspec", "pluggy", "pygments", "python-dateutil"),
        *("six", "typing-extensions", "urllib3"),
        # SAM's own stack, in which it keeps the bucket for deployments.
        "aws-sam-cli-managed-default",
        # Windows has no folders of these names.
        *("aux", "con", "nul", "prn", *(f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10))),
    )
)
# What the post_gen_project hook removes again, unless the option has that answer: option, answer, path.
PASSING = (
    ("example", None, "examples"),
    ("runtime", "container", "Dockerfile"),
    ("runtime", "container", ".dockerignore"),
    ("runtime", "provided.al2023", "interpreter.sh"),
    ("front_door", "rest-api", "events/rest.json"),
    ("deploy_pipeline", "github-actions", ".github/dependabot.yml"),
    ("deploy_pipeline", "github-actions", ".github/workflows/ci.yml"),
    ("deploy_pipeline", "github-actions", ".github/workflows/deploy.yml"),
    ("deploy_pipeline", "github-actions", ".github/workflows/environment.yml"),
    ("deploy_pipeline", "github-actions", "pipeline/__main__.py"),
    ("deploy_pipeline", "github-actions", "pipeline/oidc.yaml"),
    ("deploy_pipeline", "github-actions", "tests/test_pipeline.py"),
)
TEXT_LENGTHS = {"project_name": 64, "description": 256}
# Embeddings, overrides and isolates: with them a line can read as something else than it is.
BIDIRECTIONAL = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
# Spelt so that cookiecutter, which renders this file too, does not take them for its own.
JINJA = tuple("{" + mark for mark in ("{", "%", "#"))
ORIGINS = 100
ORIGIN_LENGTH = 253
# A browser leaves it out of the origin that it sends.
DEFAULT_PORTS = {"http": "80", "https": "443"}
# How many faults of one answer are named.
SHOWN = 3


def problems(answers: Answers, unrendered: Answers | None = None) -> list[str]:
    """Everything that is wrong with `answers`, a message each: option, value, rule and remedy."""
    given = {option: str(answer) for option, answer in answers.items()}
    reserved = given.get("reserved_concurrency")
    return [
        *_texts(given, unrendered or {}),
        *_slug(given),
        *_region(given),
        *_choices(given),
        *_origins(given),
        *_number(given, "memory", 128, 10240, "MB", "512"),
        *_number(given, "timeout", 1, 900, "seconds", "120"),
        *(
            _number(given, "reserved_concurrency", 1, MOST_CONCURRENCY, "invocations", "10, or nothing")
            if reserved
            else ()
        ),
        *_model(given),
        *_retention(given),
        *_pairs(given),
    ]


def losses(answers: Answers, folder: Path) -> list[str]:
    """What someone has in `folder`, over which the template is to be laid, and would lose: a message each."""
    return [
        f"{path} is there, and the template would remove it: rename it, generate, and rename it back"
        for option, answer, path in PASSING
        if answers[option] != answer and (folder / path).exists()
    ]


def evaluated(text: str, option: str = "answer") -> list[str]:
    """What is wrong with a text that cookiecutter would evaluate, or GitHub where it becomes a part of a workflow."""
    if not any(mark in text for mark in JINJA):
        return []
    rule = f"must not hold {', '.join(JINJA)}, which templates and workflows would evaluate"
    return [_problem(option, text, rule, "it without them")]


def refusal(found: list[str]) -> str:
    """The problems as one text for people."""
    return "\n".join(["These answers cannot work, so nothing was generated:", *(f"  {line}" for line in found)])


def _slug(given: dict[str, str]) -> Iterator[str]:
    # It names a folder, a Python project and a CloudFormation stack.
    slug = given.get("project_slug", "")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug, re.ASCII):
        rule = "must be lower-case letters and digits, in words joined by single hyphens, and start with a letter"
        yield _problem("project_slug", slug, rule, "lambda-stream")
    elif len(slug) > SLUG_LENGTH:
        rule = f"must be at most {SLUG_LENGTH} characters long, and has {len(slug)}"
        yield _problem("project_slug", slug, rule, slug[:12].rstrip("-"))
    elif slug in RESERVED_SLUGS:
        yield _problem("project_slug", slug, "is a reserved name", f"{slug}-stream")


def _texts(given: dict[str, str], unrendered: Answers) -> Iterator[str]:
    for option, length in TEXT_LENGTHS.items():
        text = given.get(option, "")
        if not text.strip():
            yield _problem(option, text, "must not be empty", "Lambda Stream")
        if len(text) > length:
            rule = f"must be at most {length} characters long, and has {len(text)}"
            yield _problem(option, text, rule, "fewer words")
        # Control, surrogate and unassigned characters, line and paragraph separators: what YAML or TOML cannot hold.
        odd = sorted({char for char in text if unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")})
        if odd:
            rule = f"must be one line of printable characters, and holds {_named(odd)}"
            yield _problem(option, text, rule, "Lambda Stream")
        turning = sorted(set(text) & BIDIRECTIONAL)
        if turning:
            rule = f"must not hold characters that turn the direction of text, and holds {_named(turning)}"
            yield _problem(option, text, rule, "it without them")
        if any(quote in text for quote in "\"'`"):
            rule = "must not hold straight quotes or backquotes"
            yield _problem(option, text, rule, "typographic quotes: \u2019 \u201c \u201d")
        if option == "description" and re.match(r"\s*(<|~~~)", text):
            rule = "must not begin with < or ~~~, of which Markdown takes the rest of README.md for a part"
            yield _problem(option, text, rule, "it without them")
        typed = str(unrendered.get(option, text))
        yield from evaluated(text, option) or evaluated(typed, option)


def _region(given: dict[str, str]) -> Iterator[str]:
    region = given.get("region", "")
    if not re.fullmatch(REGION, region, re.ASCII):
        yield _problem("region", region, "must be the name of an AWS region", "us-east-1")


def _choices(given: dict[str, str]) -> Iterator[str]:
    for option, choices in CHOICES.items():
        if given.get(option) not in choices:
            yield _problem(option, given.get(option, ""), f"must be one of {', '.join(choices)}", choices[0])


def _origins(given: dict[str, str]) -> Iterator[str]:
    # https://docs.aws.amazon.com/lambda/latest/api/API_Cors.html
    answer = given.get("cors_origins", "")
    if not answer:
        return
    origins = [origin.strip(" ") for origin in answer.split(",")]
    if len(origins) > ORIGINS:
        yield _problem("cors_origins", answer, f"must be at most {ORIGINS} origins, and are {len(origins)}", "*")
    if "*" in origins and len(origins) > 1:
        yield _problem("cors_origins", answer, "must not join * with others, since * already means any", "*")
    found = [_problem("cors_origins", origin or answer, *fault) for origin in origins if (fault := _fault(origin))]
    yield from found[:SHOWN]
    if len(found) > SHOWN:
        yield _problem("cors_origins", answer, f"has {len(found) - SHOWN} more that are no origins", "*")


def _fault(origin: str) -> tuple[str, str] | None:
    """Rule and remedy, where it is no origin that a browser could send."""
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    pattern = r"(?P<scheme>https?)://(?P<host>" + label + r"(\." + label + r")*)(:(?P<port>[1-9][0-9]{0,4}))?"
    parts = re.fullmatch(pattern, origin, re.ASCII)
    if origin == "*":
        return None
    if parts is None or int(parts["port"] or 0) > 65535:
        rule = "must be scheme and host, perhaps a port, in lower case, without a path or a slash at the end"
        return rule, "https://www.example.com"
    if len(origin) > ORIGIN_LENGTH:
        return f"must be at most {ORIGIN_LENGTH} characters long, and has {len(origin)}", "https://www.example.com"
    if parts["port"] == DEFAULT_PORTS[parts["scheme"]]:
        rule = f"must not name port {parts['port']}, which browsers leave out of an {parts['scheme']} origin"
        return rule, f"{parts['scheme']}://{parts['host']}"
    return None


def _model(given: dict[str, str]) -> Iterator[str]:
    # https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
    model = given.get("bedrock_model", "")
    word = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if not re.fullmatch(word + r"(\." + word + r"){1,3}(:[a-z0-9]{1,16}){0,2}", model, re.ASCII):
        rule = "must be the id of a model or an inference profile, such as the Bedrock console shows, and no ARN"
        yield _problem("bedrock_model", model, rule, "global.amazon.nova-2-lite-v1:0")


def _retention(given: dict[str, str]) -> Iterator[str]:
    days = given.get("log_retention", "")
    if days not in map(str, RETENTIONS):
        rule = f"must be a number of days that CloudWatch offers: {', '.join(map(str, RETENTIONS))}"
        yield _problem("log_retention", days, rule, "30")


def _pairs(given: dict[str, str]) -> Iterator[str]:
    """Answers that are good alone and cannot work together."""
    if given.get("front_door") == "cloudfront" and given.get("url_auth") == "NONE":
        # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-restricting-access-to-lambda.html
        rule = "cannot be with front_door = cloudfront, whose signature a URL without authorization does not check"
        yield _problem("url_auth", "NONE", rule, "AWS_IAM: the distribution is open to anyone, the URL to it alone")
    if given.get("cors_credentials") == "yes":
        # https://fetch.spec.whatwg.org/#cors-protocol-and-credentials
        origins = given.get("cors_origins", "")
        if not origins:
            rule = "needs cors_origins, which are the pages that may send them"
            yield _problem("cors_credentials", "yes", rule, "no, or an origin such as https://www.example.com")
        elif "*" in (origin.strip(" ") for origin in origins.split(",")):
            rule = "cannot be with cors_origins = *: browsers refuse credentials for any origin"
            yield _problem("cors_credentials", "yes", rule, "no, or name the origins")


def _number(given: dict[str, str], option: str, least: int, most: int, unit: str, remedy: str) -> Iterator[str]:
    # Not int(): it takes 0512, 1_000 and digits of other scripts, which YAML reads as something else.
    text = given.get(option, "")
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text, re.ASCII) or not least <= int(text) <= most:
        rule = f"must be a whole number of {unit} from {least} to {most}, in digits only and without a leading zero"
        yield _problem(option, text, rule, remedy)


def _problem(option: str, value: str, rule: str, remedy: str) -> str:
    return f"{_shown(option, value)}: {rule}. Try {remedy}"


def _named(characters: list[str]) -> str:
    names = [f"U+{ord(char):04X}" for char in characters]
    return " ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} others" if len(names) > SHOWN else "")


def _shown(option: str, value: str) -> str:
    return f"{option} = {json.dumps(value if len(value) <= 80 else value[:80] + '…', ensure_ascii=True)}"


def main() -> int:
    """Returns the exit status: 1 if there was something to refuse."""
    answers = json.loads(ANSWERS)
    found = problems(answers, json.loads(UNRENDERED))
    if found:
        print(refusal(found), file=sys.stderr)
        return 1
    lost = losses(answers, Path())
    if lost:
        print("\n  ".join(["Something of yours would be lost, so nothing was generated:", *lost]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
