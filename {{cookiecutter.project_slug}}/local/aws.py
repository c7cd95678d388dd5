"""The AWS region and credentials that a function sees on this machine, from where SAM CLI takes them.

The shell comes first, then the profile, then `samconfig.toml`.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: AWS's own placeholder for an account, as its documentation uses it.
ACCOUNT = "123456789012"
_DEFAULT_REGION = "us-east-1"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
#: Environment variables that name a profile.
PROFILE_VARIABLES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")


class CredentialsError(Exception):
    """A profile's credentials cannot be used; the message says why."""


@dataclass(frozen=True)
class AwsConfig:
    """Where a function runs and as whom.

    Attributes:
        region: The AWS region.
        profile: The profile that `samconfig.toml` names; None for the shell's, or the default one.
    """

    region: str = _DEFAULT_REGION
    profile: str | None = None


def find_aws_config(folder: Path) -> AwsConfig:
    """Return the configuration for a project whose `template.yaml` is in `folder`.

    Raises:
        OSError: `samconfig.toml` cannot be read.
        ValueError: It is not TOML.
    """
    if folder.parts[-2:] == (".aws-sam", "build"):  # a built template
        folder = folder.parent.parent
    parameters = _sam_parameters(folder / "samconfig.toml")
    profile = parameters.get("profile") if not any(map(os.environ.get, PROFILE_VARIABLES)) else None
    region = (
        os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or _profile_region(profile)
        or parameters.get("region")
        or _DEFAULT_REGION
    )
    return AwsConfig(region, profile)


def credentials(profile: str | None) -> dict[str, str]:
    """Return environment variables with a profile's credentials; none if the shell or no file has credentials.

    Args:
        profile: Name of the profile; None for the shell's, or the default one.

    Raises:
        CredentialsError: The profile does not exist, or its credentials cannot be obtained.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID") or not _has_profiles(profile):
        return {}
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    session = Session(profile=profile)
    try:
        # Leave instance metadata to the function: a lookup lasts seconds on a machine without it.
        session.get_component("credential_provider").remove("iam-role")
        found = session.get_credentials()
        frozen = found.get_frozen_credentials() if found is not None else None
    except (BotoCoreError, ClientError) as error:
        raise CredentialsError(str(error)) from error
    if frozen is None:
        return {}
    values = zip(_KEYS, (frozen.access_key, frozen.secret_key, frozen.token), strict=True)
    return {name: value for name, value in values if value}


def _sam_parameters(path: Path) -> dict[str, str]:
    """Return what `samconfig.toml` sets for all commands, and what it sets for `sam deploy` above that."""
    try:
        source: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    found: dict[str, str] = {}
    for command in ("global", "deploy"):
        table = source
        for key in ("default", command, "parameters"):
            table = table.get(key) if isinstance(table, dict) else None
        found |= {key: value for key, value in (table or {}).items() if isinstance(value, str)}
    return found


def _has_profiles(profile: str | None) -> bool:
    """Return whether a profile is named, or a file may have a default one; importing botocore takes 0.1 s."""
    files = (
        os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config",
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
    )
    return bool(
        profile
        or any(map(os.environ.get, PROFILE_VARIABLES))
        or any(Path(file).expanduser().exists() for file in files)
    )


def _profile_region(profile: str | None) -> str | None:
    if not _has_profiles(profile):
        return None
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        region: str | None = Session(profile=profile).get_scoped_config().get("region")
    except BotoCoreError:  # the first process that needs its credentials reports it
        return None
    return region
