"""`python -m local.aws_data FOLDER`: remove what botocore knows of AWS services that a package does not use.

botocore brings files about more than 400 services. It lists and reads some of them before the first call, so that the
ones of other services are two thirds of a package, and a fifth of the time to the first answer. A service stays if its
name is in quotes in any code of the package, as in `client("s3")`; so do the services that credentials come from.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
CREDENTIALS = frozenset({"signin", "sso", "sso-oidc", "sts"})
_OWN = frozenset({"boto3", "botocore", "s3transfer"})
_QUOTED = re.compile(rb"""["']([a-z][a-z0-9.-]*)["']""")


def remove_unused(package: Path) -> tuple[list[str], int]:
    """Remove the services that the code of a package does not name.

    Args:
        package: Folder of the package.

    Returns:
        The services that stay, and how many were removed: none if the package has no botocore.

    Raises:
        OSError: A file cannot be read or removed.
    """
    data = package / "botocore" / "data"
    services = {folder.name: folder for folder in data.glob("*/")} if data.is_dir() else {}
    kept = (_quoted(package) | CREDENTIALS) & services.keys()
    for name in services.keys() - kept:
        shutil.rmtree(services[name])
    if services:
        _cut_endpoints(
            data / "endpoints.json", {*kept, *(prefix for name in kept for prefix in _prefixes(data / name))}
        )
        for record in package.glob("botocore-*.dist-info/RECORD"):
            lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
            record.write_text("".join(line for line in lines if _exists(package, line)), encoding="utf-8")
    return sorted(kept), len(services) - len(kept)


def _quoted(package: Path) -> set[str]:
    """Return every text in quotes that may be the name of a service."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] not in _OWN:
            found.update(text.decode() for text in _QUOTED.findall(path.read_bytes()))
    return found


def _prefixes(service: Path) -> Iterator[str]:
    """Yield the names that endpoints.json may have for a service."""
    for path in service.glob("*/service-2.json*"):
        content = path.read_bytes()
        model = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
        yield str(model["metadata"]["endpointPrefix"])


def _cut_endpoints(path: Path, kept: set[str]) -> None:
    """Keep the regions, and the endpoints of these services. botocore parses this file for each client."""
    endpoints: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for partition in endpoints["partitions"]:
        partition["services"] = {name: of for name, of in partition["services"].items() if name in kept}
    path.write_text(json.dumps(endpoints, separators=(",", ":")), encoding="utf-8")


def _exists(package: Path, line: str) -> bool:
    """Return whether RECORD may keep a line. The hash of a changed file would be wrong."""
    path = line.partition(",")[0]
    return (package / path).exists() and path != "botocore/data/endpoints.json"


def main(arguments: list[str]) -> int:
    """Print what stays in the package, and return the exit status."""
    [folder] = arguments
    kept, removed = remove_unused(Path(folder))
    if removed:
        print(
            f"botocore: kept {', '.join(kept)}, which the code names in quotes or credentials need; removed {removed} "
            "other services. To keep all, set `AwsServices: all` in the function's Metadata."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
