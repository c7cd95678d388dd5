"""`make pipeline`: deploy what GitHub's workflows need in AWS, and store the names of it in GitHub's variables.

Each environment gets a stack of its own from oidc.yaml, deployed with your shell's AWS credentials.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.session import Session

PROJECT = Path(__file__).parent.parent
ENVIRONMENTS = ("preview", "staging", "production")
PROVIDER = "token.actions.githubusercontent.com"
# Parameter of oidc.yaml, and the pattern that shows that the template uses this service.
SERVICES = {
    "Bedrock": r"\bbedrock:",
    "CloudFront": r"Type: AWS::CloudFront::",
    "CodeDeploy": r"^ *DeploymentPreference:",
    "CloudWatch": r"Type: AWS::CloudWatch::",
    "DynamoDb": r"Type: AWS::(DynamoDB::|Serverless::SimpleTable\b)",
    "Events": r"Type: (AWS::Events::|(Schedule|EventBridgeRule|CloudWatchEvent)\b)",
    "EventSource": r"Type: (AWS::Lambda::EventSourceMapping|SQS|Kinesis|DynamoDB|DocumentDB|MSK|MQ|SelfManagedKafka)\b",
    "Image": r"PackageType: Image",
    "Logs": r"Type: AWS::Logs::",
    "RestApi": r"Type: (AWS::(ApiGateway(V2)?|Serverless::(Http)?Api)|(Http)?Api)\b",
    "Scheduler": r"Type: (AWS::Scheduler::|ScheduleV2\b)",
    "Secrets": r"Type: AWS::SecretsManager::",
    "Sns": r"Type: (AWS::SNS::|SNS\b)",
    "Sqs": r"Type: (AWS::SQS::|SQS\b)",
    "Waf": r"Type: AWS::WAFv2::",
    "XRay": r"^ *(Tracing|TracingEnabled): ",
}
# Variable of a GitHub environment, and the output of oidc.yaml that it holds.
VARIABLES = {
    "DEPLOY_ROLE_ARN": "DeployRoleArn",
    "CLOUDFORMATION_ROLE_ARN": "CloudFormationRoleArn",
    "PERMISSIONS_BOUNDARY_ARN": "PermissionsBoundaryArn",
    "ARTIFACT_BUCKET": "ArtifactBucket",
    "IMAGE_REPOSITORY": "ImageRepository",
}
DIGEST_LENGTH = 10
# The readable part of a stack's name. With it `<stack>-<region>`, the name of CloudFront's access control, has at most
# 64 characters for every environment, region and pull request.
SLUG_LENGTH = 16


class SetUpError(Exception):
    """The pipeline cannot be set up. The message says why, and what to do."""


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub.

    Attributes:
        name: `owner/name`, as GitHub spells it.
        owner_id: GitHub's numeric id of the owner; empty if unknown.
        id: GitHub's numeric id of the repository; empty if unknown.
    """

    name: str
    owner_id: str = ""
    id: str = ""


def services(template: str) -> dict[str, str]:
    """Return `yes` or `no` for each of `SERVICES`: whether the stack of `template` uses it."""
    return {name: "yes" if re.search(pattern, template, re.MULTILINE) else "no" for name, pattern in SERVICES.items()}


def name_prefix(environment: str, project: str) -> str:
    """Return the start of the names of all resources of one environment of a project.

    IAM policies match names by this prefix, so no other environment or project may have a name that starts with it:
    the environment comes first, and a digest stands for the project, whatever its length. No project's own name starts
    with a capital letter, so stacks that are deployed by hand are apart too. CloudFormation keeps at least the first 24
    characters of a stack's name in the names that it generates; this prefix has at most 22.
    """
    digest = hashlib.sha256(project.encode()).hexdigest()[:DIGEST_LENGTH]
    return f"{environment.capitalize()}-{digest}-"


def stack_name(environment: str, project: str) -> str:
    """Return the name of an environment's stack. Previews append `-` and the number of the pull request."""
    name = name_prefix(environment, project) + project[:SLUG_LENGTH].rstrip("-")
    return f"{name}-pr" if environment == "preview" else name


def parameters(environment: str, project: str, repository: str, ids: tuple[str, str], branch: str) -> dict[str, str]:
    """Return the parameters of oidc.yaml, except the services and the OIDC provider."""
    preview = environment == "preview"
    stack = stack_name(environment, project)
    return {
        "Environment": environment,
        "Repository": repository,
        "OwnerId": ids[0],
        "RepositoryId": ids[1],
        "Branch": "" if preview else branch,
        "StackName": f"{stack}-*" if preview else stack,
        "NamePrefix": name_prefix(environment, project),
    }


class GitHub:
    """A repository's variables: printed, and set with `gh` if it is installed and signed in."""

    def __init__(self, repository: str) -> None:
        """`repository` is `owner/name`."""
        self._repository = repository
        self._known_environments: set[str] = set()
        self.available = shutil.which("gh") is not None and self._run("auth", "status").returncode == 0

    def repository(self, owner_id: str = "", repository_id: str = "") -> Repository:
        """Return the repository as GitHub knows it, or as given if `gh` cannot be asked.

        Args:
            owner_id: Numeric id of the owner, if the user gave it.
            repository_id: Numeric id of the repository, if the user gave it.

        Raises:
            SetUpError: GitHub does not know the repository, or knows it by other ids.
        """
        if not self.available:
            return Repository(self._repository, owner_id, repository_id)
        path = f"repos/{self._repository}"
        name = self._ask("api", path, "--jq", ".full_name")
        known = tuple(self._ask("api", path, "--jq", '"\\(.owner.id) \\(.id)"').split())
        for option, given, actual in zip(("OWNER_ID", "REPOSITORY_ID"), (owner_id, repository_id), known, strict=True):
            if given and given != actual:
                raise SetUpError(f"{option} of {name} is {actual} on GitHub, got {given}: leave the option out")
        self._repository = name
        return Repository(name, *known)

    def get(self, name: str) -> str:
        """Return a variable of the repository; empty if it is not set or `gh` cannot be asked."""
        return self._run("variable", "get", name, "--repo", self._repository).stdout.strip() if self.available else ""

    def set(self, name: str, value: str, environment: str = "") -> None:
        """Set a variable of the repository, or of one of its environments, which is created if it does not exist."""
        print(f"  {name}={value}")
        if not self.available:
            return
        if environment:
            self._create_environment(environment)
        scope = ("--env", environment) if environment else ()
        self._ask("variable", "set", name, "--repo", self._repository, *scope, "--body", value)

    def _create_environment(self, name: str) -> None:
        # PUT resets the protection rules of an environment that exists, required reviewers among them.
        if name in self._known_environments:
            return
        path = f"repos/{self._repository}/environments/{name}"
        found = self._run("api", path, "--silent")
        if found.returncode and "HTTP 404" not in found.stderr:
            raise SetUpError(f"gh could not read the environment {name} of {self._repository}: {found.stderr.strip()}")
        if found.returncode:
            self._ask("api", "--method", "PUT", path, "--silent")
        self._known_environments.add(name)

    def _ask(self, *arguments: str) -> str:
        done = self._run(*arguments)
        if done.returncode:
            command = " ".join(("gh", *arguments))
            raise SetUpError(
                f"`{command}` failed: {done.stderr.strip()}\n"
                f"Check that {self._repository} exists, and that you may administer it (`gh auth status`)."
            )
        return done.stdout.strip()

    @staticmethod
    def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["gh", *arguments], capture_output=True, check=False, text=True)


class Aws:
    """The AWS account of the shell's credentials, in one region."""

    def __init__(self, region: str) -> None:
        """`region` is where the project is deployed."""
        self.region = region
        session = Session()
        self._iam: Any = session.create_client("iam", region_name=region)
        self._cloudformation: Any = session.create_client("cloudformation", region_name=region)

    def deploy(self, stack: str, values: Mapping[str, str]) -> dict[str, str]:
        """Deploy oidc.yaml as `stack` with these parameters, and return the stack's outputs.

        Raises:
            SetUpError: The stack belongs to something else, or cannot be deployed.
        """
        given = dict(values)
        existing = self._describe(stack)
        if existing is None:
            # An existing stack keeps the value that it had, since the provider may be one of its own resources.
            given["ProviderArn"] = self._provider()
        else:
            _check_owner(stack, existing, values)
        command = [
            *("sam", "deploy", "--config-env", "pipeline", "--template-file", str(PROJECT / "pipeline" / "oidc.yaml")),
            *("--stack-name", stack, "--region", self.region, "--capabilities", "CAPABILITY_IAM"),
            *("--no-confirm-changeset", "--no-fail-on-empty-changeset", "--parameter-overrides"),
            *(f"{name}={value}" for name, value in given.items() if value),
        ]
        if subprocess.run(command, cwd=PROJECT, check=False).returncode:
            raise SetUpError(f"the stack {stack} could not be deployed: the reason is printed above")
        outputs = (self._describe(stack) or {}).get("Outputs", [])
        return {output["OutputKey"]: output["OutputValue"] for output in outputs}

    def _describe(self, stack: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        return found

    def _provider(self) -> str:
        """Return the ARN of the account's OIDC provider for GitHub; empty if it has none."""
        providers = self._iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]
        return next((found["Arn"] for found in providers if found["Arn"].endswith(f"/{PROVIDER}")), "")


def _check_owner(stack: str, existing: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Raise SetUpError unless the stack is this repository's: the other project's pipeline would stop working."""
    old = {found["ParameterKey"]: found.get("ParameterValue", "") for found in existing.get("Parameters", [])}
    rename = "Change `stack_name` in samconfig.toml"
    if "Repository" not in old:
        raise SetUpError(f"this account has a stack {stack} that is not a deployment pipeline. {rename}.")
    key = "RepositoryId" if old.get("RepositoryId") and values["RepositoryId"] else "Repository"
    if old[key].casefold() != values[key].casefold():
        raise SetUpError(
            f"the stack {stack} of this account belongs to {old['Repository']}, not to {values['Repository']}. "
            f"{rename}, or delete that stack if the repository was renamed."
        )


def set_up(
    environments: list[str], github: GitHub, aws: Aws, project: str, repository: Repository, branch: str
) -> None:
    """Deploy a stack for each environment, and set the variables that the workflows read."""
    used = services((PROJECT / "template.yaml").read_text(encoding="utf-8"))
    drift = {entry["environment"]: entry for entry in json.loads(github.get("DRIFT") or "[]")}
    for environment in environments:
        ids = (repository.owner_id, repository.id)
        values = parameters(environment, project, repository.name, ids, branch)
        outputs = aws.deploy(f"pipeline-{project}-{environment}", {**values, **used})
        stack = stack_name(environment, project)
        print(f"\nVariables of the environment {environment}:")
        github.set("AWS_REGION", aws.region, environment)
        github.set("STACK_NAME", stack, environment)
        for name, output in VARIABLES.items():
            if output in outputs:
                github.set(name, outputs[output], environment)
        if role := outputs.get("DriftRoleArn"):
            drift[environment] = {"environment": environment, "role": role, "region": aws.region, "stack": stack}
    ready = {*github.get("ENVIRONMENTS").split(), *environments}
    print("\nVariables of the repository:")
    github.set("ENVIRONMENTS", " ".join(name for name in ENVIRONMENTS if name in ready))
    if drift:
        github.set("DRIFT", json.dumps(list(drift.values())))
    if github.available:
        print(f"\nThe variables are set in {repository.name}.")
    else:
        print(f"\nSet these variables in the settings of {repository.name}: gh is not installed or not signed in.")


def configuration() -> tuple[str, str]:
    """Return the name and the region of the project, from samconfig.toml."""
    samconfig = tomllib.loads((PROJECT / "samconfig.toml").read_text(encoding="utf-8"))
    try:
        found = samconfig["default"]["global"]["parameters"]
        return str(found["stack_name"]), str(found["region"])
    except KeyError as error:
        raise SetUpError(f"samconfig.toml has no {error} in [default.global.parameters]") from None


def origin() -> str:
    """Return `owner/name` of the remote repository `origin`; empty if it is not on GitHub."""
    command = ["git", "remote", "get-url", "origin"]
    url = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, text=True).stdout.strip()
    match = re.fullmatch(r"(?:https://(?:[^@/]+@)?|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    return match[1] if match else ""


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    parser.add_argument("--repository", default="", help="owner/name on GitHub (default: git's remote origin)")
    parser.add_argument("--environments", default=" ".join(ENVIRONMENTS), help="environments to set up (default: all)")
    parser.add_argument("--branch", default="main", help="branch that staging and production are deployed from")
    parser.add_argument("--owner-id", default="", help="GitHub's numeric id of the owner (default: ask gh)")
    parser.add_argument("--repository-id", default="", help="GitHub's numeric id of the repository (default: ask gh)")
    options = parser.parse_args(arguments)
    try:
        repository = _repository(options.repository or origin())
        environments = options.environments.split()
        if unknown := sorted({*environments} - {*ENVIRONMENTS}):
            raise SetUpError(f"unknown environment {' '.join(unknown)}: choose from {', '.join(ENVIRONMENTS)}")
        project, region = configuration()
        github = GitHub(repository)
        known = github.repository(options.owner_id, options.repository_id)
        if not github.available:
            print(_unverified(known), file=sys.stderr)
        set_up(environments, github, Aws(region), project, known, options.branch)
    except NoCredentialsError as error:
        print(f"make pipeline: {error}: run `aws configure` or `aws sso login`, or set AWS_PROFILE", file=sys.stderr)
        return 1
    except (SetUpError, BotoCoreError, ClientError) as error:
        print(f"make pipeline: {error}", file=sys.stderr)
        return 1
    return 0


def _repository(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", name):
        return name
    given = f"REPOSITORY must be owner/name, got {name!r}" if name else "the repository on GitHub is not known"
    raise SetUpError(f"{given}: run `make pipeline REPOSITORY=owner/name`")


def _unverified(repository: Repository) -> str:
    """Return what to tell a user whose repository could not be looked up on GitHub."""
    text = (
        f"gh is not installed or not signed in, so GitHub was not asked about {repository.name}.\n"
        "The roles trust exactly this spelling: if GitHub writes the name in another case, no workflow can deploy.\n"
    )
    if not (repository.owner_id and repository.id):
        text += (
            "Without the ids, the roles also trust a repository that takes over this name later. Sign in with\n"
            "`gh auth login`, or give OWNER_ID= and REPOSITORY_ID=.\n"
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
