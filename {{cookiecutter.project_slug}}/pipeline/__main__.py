"""`make pipeline`: deploys what GitHub's workflows need in AWS, and tells GitHub its names.

For each environment a stack of its own from oidc.yaml, in the account and with the rights of your shell's credentials.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.session import Session

PROJECT = Path(__file__).parent.parent
ENVIRONMENTS = ("preview", "staging", "production")
PROVIDER = "token.actions.githubusercontent.com"
# What in the template shows that the stack uses a service; oidc.yaml has a parameter of that name.
SERVICES = {
    "Bedrock": r"\bbedrock:",
    "CloudFront": r"Type: AWS::CloudFront::",
    "CodeDeploy": r"^ *DeploymentPreference:",
    "CloudWatch": r"Type: AWS::CloudWatch::",
    "Image": r"PackageType: Image",
    "Logs": r"Type: AWS::Logs::",
    "RestApi": r"Type: AWS::(ApiGateway|Serverless::Api)\b",
    "Sns": r"Type: AWS::SNS::",
    "XRay": r"^ *(Tracing|TracingEnabled): ",
}
# Variables of a GitHub environment, and the outputs that they are.
VARIABLES = {
    "DEPLOY_ROLE_ARN": "DeployRoleArn",
    "CLOUDFORMATION_ROLE_ARN": "CloudFormationRoleArn",
    "PERMISSIONS_BOUNDARY_ARN": "PermissionsBoundaryArn",
    "ARTIFACT_BUCKET": "ArtifactBucket",
    "IMAGE_REPOSITORY": "ImageRepository",
}
# CloudFormation cuts the stack's name in those that it makes, if they would become too long; never this early.
KEPT = 24


class SetUpError(Exception):
    """The pipeline cannot be set up; the message says why and what to do."""


def services(template: str) -> dict[str, str]:
    """Which services the stack of `template` uses: `yes` or `no` for each of `SERVICES`."""
    return {name: "yes" if re.search(pattern, template, re.MULTILINE) else "no" for name, pattern in SERVICES.items()}


def parameters(environment: str, project: str, repository: str, ids: tuple[str, str], branch: str) -> dict[str, str]:
    """The parameters of oidc.yaml, but for the services and the provider."""
    preview = environment == "preview"
    stack = f"{project}-pr-" if preview else f"{project}-{environment}"
    return {
        "Environment": environment,
        "Repository": repository,
        "OwnerId": ids[0],
        "RepositoryId": ids[1],
        "Branch": "" if preview else branch,
        "StackName": f"{stack}*" if preview else stack,
        "NamePrefix": stack[:KEPT],
    }


class GitHub:
    """The repository's variables, set with `gh` where it is at hand and signed in, and printed in any case."""

    def __init__(self, repository: str) -> None:
        """`repository` is `owner/name`."""
        self._repository = repository
        self.there = shutil.which("gh") is not None and self._run("auth", "status") is not None

    def ids(self) -> tuple[str, str]:
        """GitHub's numbers of the owner and of the repository; empty if they cannot be known."""
        found = self._run("api", f"repos/{self._repository}", "--jq", '"\\(.owner.id) \\(.id)"') if self.there else None
        owner, _, repository = (found or "").strip().partition(" ")
        return owner, repository

    def get(self, name: str) -> str:
        """A variable of the repository; empty if there is none."""
        found = self._run("variable", "get", name, "--repo", self._repository) if self.there else None
        return (found or "").strip()

    def set(self, name: str, value: str, environment: str = "") -> None:
        """Sets a variable of the repository, or of an environment of it, which is made if there is none."""
        print(f"  {name}={value}")
        if not self.there:
            return
        if environment:
            self._run("api", "--method", "PUT", f"repos/{self._repository}/environments/{environment}", "--silent")
        where = ("--env", environment) if environment else ()
        command = ("variable", "set", name, "--repo", self._repository, *where, "--body", value)
        if self._run(*command) is None:
            raise SetUpError(f"gh could not set {name}: set it by hand, in the settings of {self._repository}")

    @staticmethod
    def _run(*arguments: str) -> str | None:
        done = subprocess.run(["gh", *arguments], capture_output=True, check=False, text=True)
        return done.stdout if done.returncode == 0 else None


class Aws:
    """The account of the shell's credentials, in one region."""

    def __init__(self, region: str) -> None:
        """`region` is where the project is deployed."""
        self.region = region
        session = Session()
        self._iam: Any = session.create_client("iam", region_name=region)
        self._cloudformation: Any = session.create_client("cloudformation", region_name=region)

    def outputs(self, stack: str) -> dict[str, str] | None:
        """What `stack` gives; None if there is no such stack."""
        try:
            found = self._cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}

    def provider(self) -> str:
        """The account's OIDC provider for GitHub; empty if it has none."""
        providers = self._iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]
        return next((found["Arn"] for found in providers if found["Arn"].endswith(f"/{PROVIDER}")), "")

    def deploy(self, stack: str, values: Mapping[str, str]) -> dict[str, str]:
        """Deploys oidc.yaml as `stack`; gives its outputs."""
        given = dict(values)
        if self.outputs(stack) is None:
            # Later this keeps the value that it had: the provider may be this stack's own.
            given["ProviderArn"] = self.provider()
        command = [
            *("sam", "deploy", "--config-env", "pipeline", "--template-file", str(PROJECT / "pipeline" / "oidc.yaml")),
            *("--stack-name", stack, "--region", self.region, "--capabilities", "CAPABILITY_IAM"),
            *("--no-confirm-changeset", "--no-fail-on-empty-changeset", "--parameter-overrides"),
            *(f"{name}={value}" for name, value in given.items() if value),
        ]
        if subprocess.run(command, cwd=PROJECT, check=False).returncode:
            raise SetUpError(f"{stack} could not be deployed: what went wrong is above")
        return self.outputs(stack) or {}


def set_up(
    environments: list[str], github: GitHub, aws: Aws, project: str, repository: str, ids: tuple[str, str], branch: str
) -> None:
    """Deploys a stack for each of the environments, and sets the variables."""
    used = services((PROJECT / "template.yaml").read_text(encoding="utf-8"))
    drift = {entry["environment"]: entry for entry in json.loads(github.get("DRIFT") or "[]")}
    for environment in environments:
        values = parameters(environment, project, repository, ids, branch)
        outputs = aws.deploy(f"pipeline-{project}-{environment}", {**values, **used})
        print(f"\nVariables of the environment {environment}:")
        github.set("AWS_REGION", aws.region, environment)
        for name, output in VARIABLES.items():
            if output in outputs:
                github.set(name, outputs[output], environment)
        if role := outputs.get("DriftRoleArn"):
            drift[environment] = {"environment": environment, "role": role, "region": aws.region}
    ready = {*github.get("ENVIRONMENTS").split(), *environments}
    print("\nVariables of the repository:")
    github.set("ENVIRONMENTS", " ".join(name for name in ENVIRONMENTS if name in ready))
    if drift:
        github.set("DRIFT", json.dumps(list(drift.values())))
    print(
        "\nThey are set."
        if github.there
        else "\nSet them in the repository's settings: there is no gh, or it is signed out."
    )


def configuration() -> dict[str, str]:
    """Name and region of the project, as samconfig.toml has them."""
    samconfig = tomllib.loads((PROJECT / "samconfig.toml").read_text(encoding="utf-8"))
    found: dict[str, str] = samconfig["default"]["global"]["parameters"]
    return found


def origin() -> str:
    """`owner/name` of the repository that git calls origin; empty if that is not on GitHub."""
    command = ["git", "remote", "get-url", "origin"]
    url = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, text=True).stdout.strip()
    match = re.fullmatch(r"(?:https://(?:[^@/]+@)?|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    return match[1] if match else ""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    parser.add_argument("--repository", default="", help="owner/name on GitHub (default: git's origin)")
    parser.add_argument("--environments", default=" ".join(ENVIRONMENTS), help="which of them (default: all)")
    parser.add_argument("--branch", default="main", help="branch that staging and production are deployed from")
    parser.add_argument("--owner-id", default="", help="GitHub's number of the owner (default: asked with gh)")
    parser.add_argument("--repository-id", default="", help="GitHub's number of the repository, likewise")
    options = parser.parse_args(arguments)
    try:
        repository = options.repository or origin()
        if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repository):
            given = f", not {repository!r}" if repository else ""
            raise SetUpError(f"which repository on GitHub? Give REPOSITORY=owner/name{given}")
        environments = options.environments.split()
        if unknown := sorted({*environments} - {*ENVIRONMENTS}):
            raise SetUpError(f"no environment {' '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}")
        github = GitHub(repository)
        ids = (options.owner_id, options.repository_id)
        if not all(ids):
            ids = github.ids()
        if not all(ids):
            print(
                "GitHub's numbers are not known, so the roles trust the repository by its name alone: sign in to gh, "
                "or give OWNER_ID= and REPOSITORY_ID=.",
                file=sys.stderr,
            )
        deployed = configuration()
        aws = Aws(deployed["region"])
        set_up(environments, github, aws, deployed["stack_name"], repository, ids, options.branch)
    except NoCredentialsError as error:
        print(f"make pipeline: {error}: take `aws configure`, `aws sso login` or AWS_PROFILE", file=sys.stderr)
        return 1
    except (SetUpError, BotoCoreError, ClientError) as error:
        print(f"make pipeline: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
