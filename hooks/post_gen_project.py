"""Leaves the files of the chosen example and pipeline, and says what comes next and what may not work.

Nothing is installed, fetched or committed here: a failure would delete the project.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

Answers = dict[str, Any]

NEXT_STEPS = """
Your project is in {project_slug}/. It needs uv (https://docs.astral.sh/uv/) and, to build and deploy, the SAM CLI.

  cd {project_slug}
  make dev        the function URL on localhost, chunks live
  make check      lint, types, template, tests
  make deploy     the same handler on Lambda, streaming
"""

PUBLIC = """
Anyone on the internet may call what is deployed, and you pay for each call ({reason}).
"""

# What only one answer to an option leaves in the project: option, answer, path.
OPTIONAL_PATHS = (
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

# A folder for each example but the first, whose files are in place: they are laid over those.
EXAMPLES = Path("examples")

# Commercial regions where Lambda has function URLs and CloudFormation can make them.
# https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html
REGIONS = frozenset(
    (
        *("af-south-1", "ap-east-1", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1"),
        *("ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ca-central-1", "eu-central-1", "eu-north-1"),
        *("eu-south-1", "eu-west-1", "eu-west-2", "eu-west-3", "me-south-1", "sa-east-1"),
        *("us-east-1", "us-east-2", "us-west-1", "us-west-2"),
    )
)
# Inference profiles of Bedrock begin with where they may run; the value is how the regions begin that may call them.
# Template.yaml has the same names, since the policy for a profile is another than that for a model.
# https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html
PROFILES = {
    "apac": ("ap-",),
    "au": ("ap-southeast-",),
    "ca": ("ca-",),
    "eu": ("eu-",),
    "global": ("af-", "ap-", "ca-", "eu-", "il-", "me-", "mx-", "sa-", "us-east-", "us-west-"),
    "jp": ("ap-northeast-",),
    "us": ("us-east-", "us-west-", "ca-"),
    "us-gov": ("us-gov-",),
}
# An account has 1,000 invocations at once unless its quota is raised, to tens of thousands at most. Of these 100 stay
# unreserved. A new account often has less, and less memory.
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
USUAL_CONCURRENCY = 900
USUAL_MEMORY = 3008
# Of a longer answer a warning shows the beginning.
SHOWN = 80


def choose_example(example: str) -> None:
    """Leaves in the current folder, which is the project's, the files of one example and of no other."""
    chosen = EXAMPLES / example
    if chosen.is_dir():
        shutil.copytree(chosen, ".", dirs_exist_ok=True)
    shutil.rmtree(EXAMPLES)


def remove_what_was_not_chosen(answers: Answers) -> None:
    """Leaves in the current folder no path that belongs to another answer."""
    for option, answer, path in OPTIONAL_PATHS:
        if answers[option] != answer:
            Path(path).unlink()
            for folder in list(Path(path).parents)[:-1]:
                if not any(folder.iterdir()):
                    folder.rmdir()


def next_steps(answers: Answers) -> str:
    """What to tell whoever has just answered so."""
    text = NEXT_STEPS.format(project_slug=answers["project_slug"])
    for option, answer in (("url_auth", "NONE"), ("front_door", "cloudfront")):
        if answers[option] == answer:
            text += PUBLIC.format(reason=f"{option}: {answer}")
    return text


def warnings(answers: Answers) -> list[str]:
    """What may not work with `answers`, a message each: where a rule depends on the account, or may have changed."""
    given = {option: str(answer) for option, answer in answers.items()}
    return list(_doubts(given))


def will_stay(answers: Answers, folder: Path) -> bool:
    """Whether `folder` is a project for someone: cruft also makes some to compare, below a temporary folder."""
    by_cruft = "_output_dir" not in answers
    above = folder.parent
    return not (by_cruft and above.name.startswith("tmp") and above.parent == Path(tempfile.gettempdir()).resolve())


def _doubts(given: dict[str, str]) -> Iterator[str]:
    region, model = given["region"], given["bedrock_model"]
    if region not in REGIONS:
        rule = "is not known here as a region that has Lambda function URLs, though AWS may have added it"
        yield _warning("region", region, rule, "look it up before you deploy, or take us-east-1")
    if given["front_door"] == "rest-api" and given["cors_origins"]:
        rule = "holds for the function URL alone, not for the REST API"
        yield _warning("cors_origins", given["cors_origins"], rule, "let the handler send the CORS headers there")
    if given["example"] == "bedrock":
        yield from _doubts_of_model(model, region)
    if given["reserved_concurrency"] and int(given["reserved_concurrency"]) > USUAL_CONCURRENCY:
        rule = f"is more than an account can reserve before its quota is raised, which is {USUAL_CONCURRENCY}"
        yield _warning("reserved_concurrency", given["reserved_concurrency"], rule, "ask AWS for the quota first")
    if int(given["memory"]) > USUAL_MEMORY:
        rule = f"is more than some new accounts may use, which is {USUAL_MEMORY} MB"
        yield _warning("memory", given["memory"], rule, "ask AWS for the quota first")


def _doubts_of_model(model: str, region: str) -> Iterator[str]:
    first, *others = model.partition(":")[0].split(".")
    if first in PROFILES:
        if not region.startswith(PROFILES[first]):
            rule = f"is an inference profile that is not known to be callable from {region}"
            yield _warning("bedrock_model", model, rule, "take one that begins with global., or that region's own")
    # Not a version such as that of zai.glm-4.7.
    elif len(others) > 2 or (len(others) == 2 and not others[1][0].isdigit()):
        rule = f"looks like an inference profile, but {first}. is none that is known here"
        remedy = "name the profile and the model behind it in the policy in template.yaml"
        yield _warning("bedrock_model", model, rule, remedy)


def _warning(option: str, value: str, rule: str, remedy: str) -> str:
    # Nothing to escape: in these options the other hook refuses quotes and whatever else is odd.
    shown = value if len(value) <= SHOWN else value[:SHOWN] + "…"
    return f'{option} = "{shown}" {rule}: {remedy}'


if __name__ == "__main__":
    given = json.loads(ANSWERS)
    choose_example(given["example"])
    remove_what_was_not_chosen(given)
    if will_stay(given, Path.cwd()):
        # At once, so that the warnings come last where both go to one place.
        print(next_steps(given), flush=True)
    for line in warnings(given):
        print(f"Warning: {line}", file=sys.stderr)
