"""Remove the files that belong to other answers, print the next steps, and warn about what may not work.

Nothing is installed, downloaded or committed here: a failure would delete the project.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ANSWERS = r"""
{{ cookiecutter | tojson }}
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

NEXT_STEPS = """
Your project is in {project_slug}/. It requires uv (https://docs.astral.sh/uv/) and, to build and deploy, the SAM CLI.

  cd {project_slug}
  make dev        serve the function URL on localhost, chunks live
  make check      lint, check types, validate the template, run the tests
  make deploy     deploy the same handler to Lambda, streaming
"""

PUBLIC = """
Anyone on the internet can call the deployed function, and you pay for each call ({reason}).
"""

SIGNED = """
No browser opens the page at the deployed URL, because browsers do not sign requests (url_auth: AWS_IAM). `make dev`
shows it, and so does a deployment with url_auth=jwt or NONE.
"""
# Examples that serve a page.
WITH_PAGE = ("sse", "agent", "bedrock")

# Paths that only some answers keep in the project: answers and path. A path with several rows requires one of them.
OPTIONAL_PATHS = (
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

# Requirements of the function that an answer adds to those of its example: option, answer, lines.
REQUIREMENTS = (
    ("observability", "opentelemetry", "opentelemetry-exporter-otlp-proto-http>=1.45\nopentelemetry-sdk>=1.45\n"),
)

# Paths of earlier versions. Generating over a project leaves them in place, where they would shadow the runtime.
RETIRED_PATHS = ("src/bootstrap", "src/streaming_runtime")
# One folder for each example except the first, whose files they replace, and one for files that several examples share.
EXAMPLES = Path("examples")
SHARED = {"agent": "chat", "bedrock": "chat"}

# Commercial regions where Lambda has function URLs and CloudFormation can make them.
REGIONS = frozenset(AWS["url"]["regions"])
# Prefixes of Bedrock's inference profiles; the values are the prefixes of the regions that can call them.
PROFILES = {profile: tuple(regions) for profile, regions in AWS["bedrock"]["profiles"].items()}
# What an account can reserve before its quota is raised. A new account often has less, and less memory.
USUAL_CONCURRENCY = AWS["concurrency"]["usual"] - AWS["concurrency"]["unreserved"]
USUAL_MEMORY = AWS["memory"]["new_account"]
# The default, which no issuer can have: https://www.rfc-editor.org/rfc/rfc2606#section-3
EXAMPLE_ISSUER = "https://issuer.example.com"
# How much of an answer a warning shows.
MAX_SHOWN = 80


def choose_example(example: str) -> None:
    """Keep the files of one example in the current folder, which is the project's."""
    for folder in (SHARED.get(example), example):
        if folder and (EXAMPLES / folder).is_dir():
            shutil.copytree(EXAMPLES / folder, ".", dirs_exist_ok=True)
    shutil.rmtree(EXAMPLES)


def add_requirements(answers: Answers) -> None:
    """Add what these answers require to `src/requirements.txt` in the current folder."""
    for option, answer, lines in REQUIREMENTS:
        if answers[option] == answer:
            with Path("src/requirements.txt").open("a", encoding="utf-8", newline="\n") as file:
                file.write(lines)


def remove_unselected_paths(answers: Answers) -> None:
    """Remove the paths that belong to other answers from the current folder."""
    kept = {path for chosen, path in OPTIONAL_PATHS if chosen.items() <= answers.items()}
    for path in {path for _, path in OPTIONAL_PATHS} - kept:
        Path(path).unlink()
        for folder in list(Path(path).parents)[:-1]:
            if not any(folder.iterdir()):
                folder.rmdir()


def next_steps(answers: Answers) -> str:
    """Return what to tell the user after these answers."""
    text = NEXT_STEPS.format(project_slug=answers["project_slug"])
    given = {option: answers[option] for option in ("front_door", "url_auth")}
    if given["url_auth"] == "NONE":
        text += PUBLIC.format(reason="url_auth: NONE")
    elif given == {"front_door": "cloudfront", "url_auth": "AWS_IAM"}:
        text += PUBLIC.format(reason="front_door: cloudfront")
    if answers["example"] in WITH_PAGE and answers["url_auth"] == "AWS_IAM" and answers["front_door"] != "cloudfront":
        text += SIGNED
    return text


def warnings(answers: Answers) -> list[str]:
    """Return a warning for each answer that may not work: where a rule depends on the account or may have changed."""
    return [*_warnings({option: str(answer) for option, answer in answers.items()})]


def retired_paths(folder: Path) -> list[str]:
    """Return a warning if `folder` still has paths of an earlier version of the template."""
    left = [path for path in RETIRED_PATHS if (folder / path).exists()]
    moved = "belong to an earlier version of the template, and runtime/ replaces them"
    return [f"{' and '.join(left)} {moved}. Remove them: git rm -r --quiet {' '.join(left)}"] if left else []


def is_permanent(answers: Answers, folder: Path) -> bool:
    """Return whether `folder` is a user's project: cruft also generates some below a temporary folder to compare."""
    by_cruft = "_output_dir" not in answers
    above = folder.parent
    return not (by_cruft and above.name.startswith("tmp") and above.parent == Path(tempfile.gettempdir()).resolve())


def _warnings(given: dict[str, str]) -> Iterator[str]:
    region, model = given["region"], given["bedrock_model"]
    if region not in REGIONS:
        doubt = "is not a region known to have Lambda function URLs"
        yield _warning("region", doubt, region, "Look it up before you deploy, or use us-east-1")
    if given["front_door"] == "rest-api" and given["cors_origins"]:
        doubt = "applies only to the function URL, not to the REST API"
        yield _warning("cors_origins", doubt, given["cors_origins"], "Send the CORS headers from the handler")
    if given["url_auth"] == "jwt" and given["jwt_issuer"] == EXAMPLE_ISSUER:
        doubt = "is only an example, so the deployed function refuses every caller"
        yield _warning("jwt_issuer", doubt, EXAMPLE_ISSUER, "Set JWT_ISSUER and JWT_AUDIENCE in template.yaml")
    if given["observability"] == "opentelemetry":
        doubt = "sends no spans of the deployed function, because the template cannot know your collector"
        yield _warning("observability", doubt, "opentelemetry", "Set OTEL_EXPORTER_OTLP_ENDPOINT in template.yaml")
    if given["example"] in ("agent", "bedrock"):
        yield from _model_warnings(model, region)
    if given["reserved_concurrency"] and int(given["reserved_concurrency"]) > USUAL_CONCURRENCY:
        doubt = f"is above the {USUAL_CONCURRENCY} that an account can reserve before its quota is raised"
        yield _warning("reserved_concurrency", doubt, given["reserved_concurrency"], "Ask AWS for the quota first")
    if given["runtime"] == "container" and f"python{given['python_version']}" in AWS["python"]["preview"]["names"]:
        doubt = "is in public preview as an image of AWS, and not meant for production"
        yield _warning("python_version", doubt, given["python_version"], "Use runtime=provided.al2023, or 3.14")
    yield from _timeout_warnings(int(given["timeout"]), given["front_door"])
    if int(given["memory"]) > USUAL_MEMORY:
        doubt = f"is above the {USUAL_MEMORY} MB that some new accounts may use"
        yield _warning("memory", doubt, given["memory"], "Ask AWS for the quota first")


def _timeout_warnings(timeout: int, front_door: str) -> Iterator[str]:
    documented, silence = AWS["timeout"]["documented_stream"]["most"], AWS["cloudfront"]["silence"]
    if timeout > documented:
        doubt = f"is above {documented} seconds, and AWS does not document whether a function URL streams for longer"
        yield _warning("timeout", doubt, str(timeout), "Try it on AWS before you rely on it")
    if timeout > silence and front_door == "cloudfront":
        doubt = f"does not keep a quiet stream open: CloudFront closes it after {silence} seconds without data"
        yield _warning("timeout", doubt, str(timeout), "Send the first byte early and heartbeats, as event streams do")


def _model_warnings(model: str, region: str) -> Iterator[str]:
    first, *others = model.partition(":")[0].split(".")
    if first in PROFILES:
        if not region.startswith(PROFILES[first]):
            doubt = f"is not an inference profile known to be callable from {region}"
            remedy = "Use one that starts with global., or the region's own"
            yield _warning("bedrock_model", doubt, model, remedy)
    # Unlike a version such as that of zai.glm-4.7.
    elif len(others) > 2 or (len(others) == 2 and not others[1][0].isdigit()):
        doubt = f"looks like an inference profile with the unknown prefix {first}."
        remedy = "Name the profile and the model behind it in the policy in template.yaml"
        yield _warning("bedrock_model", doubt, model, remedy)


def _warning(option: str, doubt: str, value: str, remedy: str) -> str:
    # Nothing to escape: the other hook refuses quotes and unprintable characters in these options.
    shown = value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "…"
    return f'`{option}` {doubt}, got "{shown}". {remedy}'


if __name__ == "__main__":
    given = json.loads(ANSWERS)
    choose_example(given["example"])
    add_requirements(given)
    remove_unselected_paths(given)
    if is_permanent(given, Path.cwd()):
        # Flushed, so that the warnings come last where both streams go to one place.
        print(next_steps(given), flush=True)
    for line in [*warnings(given), *retired_paths(Path.cwd())]:
        print(f"Warning: {line}", file=sys.stderr)
