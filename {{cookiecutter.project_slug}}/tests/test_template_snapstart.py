"""Rules for SnapStart in `template.yaml`: what it works with, who uses it, and what it costs."""

import re
from collections.abc import Iterator
from typing import Any

from local.aws_limits import AWS_LIMITS
from tests.conftest import Template, number

LIMITS = AWS_LIMITS["snapstart"]


def snapped(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and properties of each function that has SnapStart."""
    for name, of in template.functions.items():
        if (of.get("SnapStart") or {}).get("ApplyOn") == "PublishedVersions":
            yield name, of


def test_snapstart_is_supported(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html#snapstart-runtimes
    for name, of in snapped(template):
        runtime = str(of.get("Runtime"))
        python = re.fullmatch(r"python3\.(\d+)", runtime)
        oldest = int(LIMITS["python"].rpartition(".")[2])
        supported = int(python[1]) >= oldest if python else re.match(r"java|dotnet|\$", runtime)
        assert of.get("PackageType") == "Image" or supported, (
            f"{name}: remove SnapStart, which {runtime} does not have, or use an image or {LIMITS['python']} or later"
        )
        other = {"FileSystemConfigs", "ProvisionedConcurrencyConfig"} & of.keys()
        assert not other, f"{name}: remove {sorted(other)}, which cannot be combined with SnapStart"
        most = LIMITS["ephemeral_storage"]
        size = number((of.get("EphemeralStorage") or {}).get("Size", most), most)
        assert size <= most, f"{name}: set Size of EphemeralStorage to at most {most}, or remove SnapStart"


def test_callers_reach_the_snapshot(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/snapstart-activate.html
    functions = dict(snapped(template))
    for name in functions:
        alias = [alias for function, alias in template.aliases if function == name]
        assert alias, f"{name}: set AutoPublishAlias: live, because only published versions have snapshots"
    for name, (_, target) in template.urls.items():
        if target and target[0] in functions:
            assert target[1], f"{name}: set Qualifier to the alias, because $LATEST has no snapshot"


def test_old_snapshots_are_decided(template: Template) -> None:
    # https://aws.amazon.com/lambda/pricing/#SnapStart_Pricing
    for name, of in snapped(template):
        assert of.get("VersionDeletionPolicy") or "AutoPublishAlias" not in of, (
            f"{name}: set VersionDeletionPolicy: Delete, or Retain to keep and pay for the snapshots of older versions"
        )
