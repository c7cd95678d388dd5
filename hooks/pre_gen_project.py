"""Refuse answers that cannot work, each with its rule and a remedy, before a file is written."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Cookiecutter inserts the answers here. They are read as data; no answer is ever part of the code.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""
# The same answers before cookiecutter evaluated Jinja in them. Cruft does not provide these.
UNRENDERED = r"""
{{ _cookiecutter | default({}) | tojson }}
"""
# What AWS allows, as in local/aws_limits.toml of a project.
LIMITS = r"""
{{ cookiecutter | aws_limits | tojson }}
"""

Answers = dict[str, Any]


def _aws_limits() -> dict[str, Any]:
    """Return what AWS allows. Cookiecutter runs a copy of this file from another folder, and inserts it there."""
    if __name__ == "__main__":
        return dict(json.loads(LIMITS))
    [path] = Path(__file__).parents[1].glob("{*/local/aws_limits.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


AWS = _aws_limits()

CHOICES = {
    "example": ("hello", "sse", "fastapi", "bedrock", "agent", "mcp"),
    "runtime": ("managed", "provided.al2023", "container"),
    "python_version": ("3.13", "3.14", "3.12", "3.15"),
    "architecture": ("arm64", "x86_64"),
    "front_door": ("function-url", "cloudfront", "rest-api"),
    "url_auth": ("AWS_IAM", "jwt", "NONE"),
    "cors_credentials": ("no", "yes"),
    "cold_start": ("standard", "snapstart"),
    "observability": ("basic", "full", "opentelemetry"),
    "deployment": ("all-at-once", "canary"),
    "deploy_pipeline": ("github-actions", "none"),
}
# The form of a region's name, so that new regions are accepted: an area, an optional partition or country, a point of
# the compass, a number.
# https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html
REGION = r"([a-z]{2}|eusc)(-(gov|iso[a-z]?|[a-z]{2}))?-(central|(north|south)(east|west)?|east|west)-[1-9][0-9]?"
# The retention periods that CloudWatch Logs offers, in days.
RETENTIONS = tuple(AWS["log_retention"]["days"])
SLUG_LENGTH = 40
RESERVED_SLUGS = frozenset(
    (
        # A project cannot depend on itself, so these packages could not be installed.
        *("botocore", "debugpy", "h11", "mypy", "pytest", "pyyaml", "rich", "ruff", "types-pyyaml", "watchfiles"),
        # Their dependencies, for the same reason.
        *("anyio", "ast-serialize", "colorama", "idna", "iniconfig", "jmespath", "librt", "markdown-it-py"),
        *("mdurl", "mypy-extensions", "packaging", "pathspec", "pluggy", "pygments", "python-dateutil"),
        *("six", "typing-extensions", "urllib3"),
        # SAM's own stack, which holds the bucket for deployments.
        "aws-sam-cli-managed-default",
        # Windows does not allow folders with these names.
        *("aux", "con", "nul", "prn", *(f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10))),
    )
)
# Paths that the post_gen_project hook removes unless the options have the answers of one of its rows.
TEMPORARY_PATHS = (
    ({"example": None}, "examples"),
    ({"runtime": "container"}, "Dockerfile"),
    ({"runtime": "container"}, ".dockerignore"),
    ({"runtime": "provided.al2023"}, "interpreter.sh"),
    ({"front_door": "rest-api"}, "events/rest.json"),
    ({"url_auth": "jwt"}, "local/issuer.py"),
    ({"url_auth": "jwt"}, "runtime/front_door/__init__.py"),
    ({"front_door": "cloudfront", "url_auth": "NONE"}, "runtime/front_door/__init__.py"),
    ({"url_auth": "jwt"}, "runtime/front_door/entry.py"),
    ({"front_door": "cloudfront", "url_auth": "NONE"}, "runtime/front_door/entry.py"),
    ({"url_auth": "jwt"}, "runtime/front_door/guard.py"),
    ({"url_auth": "jwt"}, "runtime/front_door/keys.py"),
    ({"front_door": "cloudfront", "url_auth": "NONE"}, "runtime/front_door/origin.py"),
    ({"front_door": "cloudfront", "url_auth": "jwt"}, "runtime/front_door/origin.py"),
    ({"url_auth": "jwt"}, "runtime/front_door/packages.txt"),
    ({"url_auth": "jwt"}, "runtime/front_door/sign_in.html"),
    ({"url_auth": "jwt"}, "runtime/front_door/tokens.py"),
    ({"observability": "opentelemetry"}, "tests/test_traces.py"),
    ({"url_auth": "jwt"}, "tests/test_front_door.py"),
    ({"url_auth": "jwt"}, "tests/test_template_tokens.py"),
    ({"deploy_pipeline": "github-actions"}, ".github/dependabot.yml"),
    ({"deploy_pipeline": "github-actions"}, ".github/workflows/ci.yml"),
    ({"deploy_pipeline": "github-actions"}, ".github/workflows/deploy.yml"),
    ({"deploy_pipeline": "github-actions"}, ".github/workflows/environment.yml"),
    ({"deploy_pipeline": "github-actions"}, "pipeline/__main__.py"),
    ({"deploy_pipeline": "github-actions"}, "pipeline/oidc.yaml"),
    ({"deploy_pipeline": "github-actions"}, "tests/test_pipeline.py"),
)
# Options whose answer may also come as a number, as YAML reads 512.
NUMERIC = ("memory", "timeout", "reserved_concurrency", "log_retention")
OTHER_TEXTS = ("project_slug", "region", "bedrock_model", "cors_origins", "jwt_issuer", "jwt_audience")
TEXT_LENGTHS = {"project_name": 64, "description": 256}
# Embeddings, overrides and isolates: they can make a line read differently from its content.
BIDIRECTIONAL = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
# Spelled so that cookiecutter, which renders this file too, does not evaluate them.
JINJA = tuple("{" + mark for mark in ("{", "%", "#"))
ISSUER_LENGTH = 255
# Browsers leave these out of the Origin header.
DEFAULT_PORTS = {"http": "80", "https": "443"}
# How many faults of one answer are listed.
MAX_LISTED = 3
# How much of an answer a message shows.
MAX_SHOWN = 80


class Problem(NamedTuple):
    """A message about one answer."""

    option: str
    message: str


def find_problems(answers: Answers, unrendered: Answers | None = None) -> list[Problem]:
    """Return everything that is wrong with `answers`."""
    given = {option: str(answer) for option, answer in answers.items()}
    wrong_types = [*_types(answers)]
    others = [
        *_texts(given, unrendered or {}),
        *_slug(given),
        *_region(given),
        *_choices(given),
        *_origins(given),
        *_number(given, "memory", AWS["memory"], "MB", "512"),
        *_number(given, "timeout", AWS["timeout"], "seconds", "120"),
        *_concurrency(given),
        *_model(given),
        *_retention(given),
        *_tokens(given),
        *_pairs(given),
    ]
    named = {problem.option for problem in wrong_types}
    return [*wrong_types, *(problem for problem in others if problem.option not in named)]


def problems(answers: Answers, unrendered: Answers | None = None) -> list[str]:
    """Return a message for each thing that is wrong with `answers`: rule, value and remedy."""
    return [problem.message for problem in find_problems(answers, unrendered)]


def threatened_paths(answers: Answers, folder: Path) -> list[str]:
    """Return a message for each path of the user's in `folder` that generating over it would delete."""
    kept = {path for chosen, path in TEMPORARY_PATHS if chosen.items() <= answers.items()}
    removed = dict.fromkeys(path for _, path in TEMPORARY_PATHS if path not in kept)
    return [f"{path}. Rename it, generate, and rename it back" for path in removed if (folder / path).exists()]


def evaluated(text: str, option: str = "answer") -> list[str]:
    """Return a message if cookiecutter would evaluate the text, or GitHub where it becomes part of a workflow."""
    if not any(mark in text for mark in JINJA):
        return []
    rule = f"must not contain {', '.join(JINJA)}, which templates and workflows evaluate"
    return [_message(option, rule, _shown(text), "Remove them")]


def refusal(found: list[str]) -> str:
    """Return the problems as one text for the user."""
    return "\n".join(["These answers cannot work, so nothing was generated:", *(f"  {line}" for line in found)])


def _types(answers: Answers) -> Iterator[Problem]:
    # YAML and JSON read an unquoted no, 3.10 or nothing at all as something other than text.
    for option in (*CHOICES, *TEXT_LENGTHS, *OTHER_TEXTS, *NUMERIC):
        answer = answers.get(option, "")
        accepted = (str, int) if option in NUMERIC else (str,)
        if not isinstance(answer, accepted) or isinstance(answer, bool):
            yield _problem(option, "must be text", _shown(answer), "Write the answer in quotes")


def _slug(given: dict[str, str]) -> Iterator[Problem]:
    # It names a folder, a Python project and a CloudFormation stack.
    slug = given.get("project_slug", "")
    example = f"Example: {_similar_slug(slug)}"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug, re.ASCII):
        rule = "must be lower-case letters and digits, in words joined by single hyphens, starting with a letter"
        yield _problem("project_slug", rule, _shown(slug), example)
    elif len(slug) > SLUG_LENGTH:
        got = f"{len(slug)} in {_shown(slug)}"
        yield _problem("project_slug", f"must have at most {SLUG_LENGTH} characters", got, example)
    elif slug in RESERVED_SLUGS:
        yield _problem("project_slug", "must not be a reserved name", _shown(slug), example)


def _similar_slug(text: str) -> str:
    """Return a good slug that is like the text."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).lstrip("-0123456789")[:SLUG_LENGTH].rstrip("-") or "lambda-stream"
    return f"{slug}-stream" if slug in RESERVED_SLUGS else slug


def _texts(given: dict[str, str], unrendered: Answers) -> Iterator[Problem]:
    for option, length in TEXT_LENGTHS.items():
        text = given.get(option, "")
        if not text.strip():
            yield _problem(option, "must not be empty", _shown(text), "Example: Lambda Stream")
        if len(text) > length:
            got = f"{len(text)} in {_shown(text)}"
            yield _problem(option, f"must have at most {length} characters", got, "Shorten it")
        # Control, surrogate and unassigned characters, line and paragraph separators: YAML or TOML cannot hold them.
        odd = sorted({char for char in text if unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")})
        if odd:
            got = f"{_named(odd)} in {_shown(text)}"
            yield _problem(option, "must be one line of printable characters", got, "Example: Lambda Stream")
        turning = sorted(set(text) & BIDIRECTIONAL)
        if turning:
            got = f"{_named(turning)} in {_shown(text)}"
            yield _problem(option, "must not contain characters that change the direction of text", got, "Remove them")
        if any(quote in text for quote in "\"'`"):
            remedy = "Use typographic quotes: \u2019 \u201c \u201d"
            yield _problem(option, "must not contain straight quotes or backquotes", _shown(text), remedy)
        if option == "description" and re.match(r"\s*(<|~~~)", text):
            rule = "must not begin with < or ~~~, which would hide the rest of README.md"
            yield _problem(option, rule, _shown(text), "Remove them")
        typed = str(unrendered.get(option, text))
        for message in evaluated(text, option) or evaluated(typed, option):
            yield Problem(option, message)


def _region(given: dict[str, str]) -> Iterator[Problem]:
    region = given.get("region", "")
    if not re.fullmatch(REGION, region, re.ASCII):
        yield _problem("region", "must be the name of an AWS region", _shown(region), "Example: us-east-1")


def _choices(given: dict[str, str]) -> Iterator[Problem]:
    for option, choices in CHOICES.items():
        if given.get(option) not in choices:
            rule = f"must be one of {', '.join(choices)}"
            yield _problem(option, rule, _shown(given.get(option, "")), f"Example: {choices[0]}")


def _origins(given: dict[str, str]) -> Iterator[Problem]:
    option, answer = "cors_origins", given.get("cors_origins", "")
    if not answer:
        return
    origins = [origin.strip(" ") for origin in answer.split(",")]
    if len(origins) > AWS["cors"]["origins"]:
        yield _problem(option, f"allows at most {AWS['cors']['origins']} origins", str(len(origins)), "Example: *")
    if "*" in origins and len(origins) > 1:
        yield _problem(option, "must not combine * with other origins", _shown(answer), "Example: *")
    found = [_problem(option, rule, _shown(origin), example) for origin in origins for rule, example in _fault(origin)]
    yield from found[:MAX_LISTED]
    if len(found) > MAX_LISTED:
        got = f"{len(found) - MAX_LISTED} more that are not"
        yield _problem(option, "must be valid origins", got, "Example: *")


def _fault(origin: str) -> Iterator[tuple[str, str]]:
    """Yield rule and remedy if no browser could send this origin."""
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    pattern = r"(?P<scheme>https?)://(?P<host>" + label + r"(\." + label + r")*)(:(?P<port>[1-9][0-9]{0,4}))?"
    parts = re.fullmatch(pattern, origin, re.ASCII)
    if origin == "*":
        return
    if parts is None or int(parts["port"] or 0) > 65535:
        rule = "must be scheme://host or scheme://host:port in lower case, without a path or a final slash"
        yield rule, "Example: https://www.example.com"
    elif len(origin) > AWS["cors"]["origin_length"]:
        yield (
            f"must have at most {AWS['cors']['origin_length']} characters in an origin",
            "Example: https://www.example.com",
        )
    elif parts["port"] == DEFAULT_PORTS[parts["scheme"]]:
        rule = f"must not name port {parts['port']}, which browsers leave out of an {parts['scheme']} origin"
        yield rule, f"Example: {parts['scheme']}://{parts['host']}"


def _model(given: dict[str, str]) -> Iterator[Problem]:
    # https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
    model = given.get("bedrock_model", "")
    word = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if not re.fullmatch(word + r"(\." + word + r"){1,3}(:[a-z0-9]{1,16}){0,2}", model, re.ASCII):
        rule = "must be the id of a model or inference profile as the Bedrock console shows it, not an ARN"
        yield _problem("bedrock_model", rule, _shown(model), "Example: global.amazon.nova-2-lite-v1:0")


def _retention(given: dict[str, str]) -> Iterator[Problem]:
    days = given.get("log_retention", "")
    if days not in map(str, RETENTIONS):
        rule = f"must be a number of days that CloudWatch offers: {', '.join(map(str, RETENTIONS))}"
        yield _problem("log_retention", rule, _shown(days), "Example: 30")


def _tokens(given: dict[str, str]) -> Iterator[Problem]:
    # https://openid.net/specs/openid-connect-discovery-1_0.html#IssuerDiscovery
    issuer, audience = given.get("jwt_issuer", ""), given.get("jwt_audience", "")
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    pattern = r"https://" + label + r"(\." + label + r")+(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~-]+)*/?"
    if len(issuer) > ISSUER_LENGTH or not re.fullmatch(pattern, issuer, re.ASCII):
        rule = "must be an https:// URL without a query, exactly as the tokens have it in iss"
        example = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_EXAMPLE"
        yield _problem("jwt_issuer", rule, _shown(issuer), f"Example: {example}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._~:/-]{0,254}", audience, re.ASCII):
        rule = "must be the audience that the tokens have in aud, or a client id, without spaces"
        yield _problem("jwt_audience", rule, _shown(audience), "Example: my-client")


def _concurrency(given: dict[str, str]) -> Iterator[Problem]:
    if given.get("reserved_concurrency"):
        limits = {"least": 1, "most": AWS["concurrency"]["highest"]}
        yield from _number(given, "reserved_concurrency", limits, "invocations", "10, or leave it empty")


def _pairs(given: dict[str, str]) -> Iterator[Problem]:
    """Yield answers that are valid alone and cannot work together."""
    if given.get("front_door") == "rest-api" and (_whole(given.get("timeout", "")) or 0) > AWS["rest_api"]["timeout"]:
        # https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode.html
        most = AWS["rest_api"]["timeout"]
        rule = f"must be at most {most} seconds with front_door=rest-api, which ends a stream then"
        remedy = f"Use {most} or less, or function-url"
        yield _problem("timeout", rule, _shown(given["timeout"]), remedy)
    signing = given.get("front_door") == "cloudfront" and given.get("url_auth") == "AWS_IAM"
    if signing and given.get("example") in ("fastapi", "bedrock", "agent", "mcp"):
        # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-restricting-access-to-lambda.html
        rule = (
            f"cannot be combined with front_door=cloudfront and example={given['example']}: the URL then requires "
            "x-amz-content-sha256 of each body, which ordinary clients do not send"
        )
        yield _problem("url_auth", rule, _shown("AWS_IAM"), "Use jwt, or NONE to let anyone in")
    not_built, version = AWS["python"]["not_built"], given.get("python_version")
    if given.get("runtime") == "managed" and f"python{version}" in not_built["names"]:
        rule = f"cannot be combined with runtime=managed: `sam build` does not build it yet ({not_built['source']})"
        yield _problem("python_version", rule, _shown(version), "Use 3.14, or runtime=provided.al2023 or container")
    if given.get("cold_start") == "snapstart" and given.get("runtime") == "provided.al2023":
        # https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html#snapstart-runtimes
        rule = "cannot be combined with runtime=provided.al2023: Lambda takes no snapshots of OS-only runtimes"
        yield _problem("cold_start", rule, _shown("snapstart"), "Use standard, or runtime=managed or container")
    if given.get("cors_credentials") == "yes":
        # https://fetch.spec.whatwg.org/#cors-protocol-and-credentials
        origins = given.get("cors_origins", "")
        if not origins:
            rule = "requires cors_origins to name the pages that may send credentials"
            remedy = "Use no, or set cors_origins=https://www.example.com"
            yield _problem("cors_credentials", rule, _shown("yes"), remedy)
        elif "*" in (origin.strip(" ") for origin in origins.split(",")):
            rule = "cannot be combined with cors_origins=*: browsers refuse credentials for any origin"
            yield _problem("cors_credentials", rule, _shown("yes"), "Use no, or name the origins")


def _number(given: dict[str, str], option: str, limits: dict[str, Any], unit: str, example: str) -> Iterator[Problem]:
    text, least, most = given.get(option, ""), limits["least"], limits["most"]
    number = _whole(text)
    if number is None or not least <= number <= most:
        rule = f"must be a whole number of {unit} from {least} to {most}, without a leading zero"
        yield _problem(option, rule, _shown(text), f"Example: {example}")


def _whole(text: str) -> int | None:
    # int() would accept 0512, 1_000 and digits of other scripts, which YAML reads as something else.
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,5}", text, re.ASCII) else None


def _problem(option: str, rule: str, got: str, remedy: str) -> Problem:
    return Problem(option, _message(option, rule, got, remedy))


def _message(option: str, rule: str, got: str, remedy: str) -> str:
    return f"`{option}` {rule}, got {got}. {remedy}"


def _named(characters: list[str]) -> str:
    names = [f"U+{ord(char):04X}" for char in characters]
    more = f" and {len(names) - MAX_LISTED} others" if len(names) > MAX_LISTED else ""
    return " ".join(names[:MAX_LISTED]) + more


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return json.dumps(shown, ensure_ascii=True) if isinstance(value, str) else shown


def main() -> int:
    """Return the exit status: 1 if something was refused."""
    answers = json.loads(ANSWERS)
    found = problems(answers, json.loads(UNRENDERED))
    if found:
        print(refusal(found), file=sys.stderr)
        return 1
    threatened = threatened_paths(answers, Path())
    if threatened:
        heading = "These files of yours would be deleted, so nothing was generated:"
        print("\n  ".join([heading, *threatened]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
