"""`python -m local.build Admin`: print what the Makefile needs to build the package of one function.

The template alone decides: `name=value` for the folder of the code, the Python version, the architecture, and whether
the package gets the streaming runtime. A value without a meaning for the function is empty. Nothing is printed if the
package cannot contain a requirement. Without a name, only the requirements are checked, those of each function.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .requirements import problem
from .template import Template, TemplateError

_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
_TEMPLATE = Path("template.yaml")


@dataclass(frozen=True)
class Package:
    """The package of a function.

    Attributes:
        code: Folder of the code, relative to the template.
        python: Version of Python, such as `3.13`.
        release: Release of the Python to put into the package; empty if Lambda has its own.
        architecture: Lambda's name of it.
        streams: Whether the package gets the streaming runtime.
        aws_services: `all` if what botocore knows of unused AWS services stays; else empty.
    """

    code: str
    python: str
    release: str
    architecture: str
    streams: bool
    aws_services: str

    def settings(self) -> dict[str, str]:
        """Return the values by the names that the Makefile has for them."""
        return {
            "code": self.code,
            "python_version": self.python,
            "bundled": self.release,
            "architecture": self.architecture,
            "machine": _MACHINES[self.architecture],
            "runtime": "runtime" if self.streams else "",
            "aws_services": self.aws_services,
        }


def package_of(template: Template, name: str) -> Package:
    """Return the package of the function with the logical ID `name`.

    Raises:
        TemplateError: The message says what is wrong and what to do.
    """
    settings = template.build_settings(name)
    code = settings.code.rstrip("/") or "/"
    if re.search(r"[\s$#'\"\\]", code):
        raise TemplateError(f"{name}: CodeUri must be a folder without blanks and quotes in its name, got {code!r}")
    if not (template.path.parent / code).is_dir():
        raise TemplateError(f"{name}: CodeUri must be a folder beside {template.path}, got {code!r}")
    if settings.architecture not in _MACHINES:
        raise TemplateError(f"{name}: Architectures must be arm64 or x86_64, got {settings.architecture!r}")
    if settings.aws_services not in ("", "all"):
        raise TemplateError(f"{name}: AwsServices of Metadata must be all, or left out, got {settings.aws_services!r}")
    if managed := re.fullmatch(r"python(3\.\d+)", settings.runtime):
        return Package(code, managed[1], "", settings.architecture, settings.has_wrapper, settings.aws_services)
    if not settings.runtime.startswith("provided"):
        raise TemplateError(f"{name}: Runtime must be python3.… or provided.al2023, got {settings.runtime!r}")
    release = re.fullmatch(r"(3\.\d+)\.\w+", settings.release)
    if release is None:
        example = 'PythonVersion: "3.13.18"'
        raise TemplateError(f"{name}: Metadata must name a release, such as {example}, got {settings.release!r}")
    return Package(code, release[1], settings.release, settings.architecture, True, settings.aws_services)


def refusal(template: Template, name: str) -> str | None:
    """Return why the function with the logical ID `name` cannot have its requirements; None if it can."""
    root = template.path.parent.resolve()
    try:
        package = package_of(template, name)
        code, python, machine = Path(package.code), package.python, _MACHINES[package.architecture]
        extra = Path(package.settings()["runtime"], "front_door", "packages.txt")
    except TemplateError:  # an image, or nothing that this builds
        try:
            code, python, machine = Path(os.path.relpath(template.function(name).code, root)), "", ""
        except TemplateError:
            return None
        extra = Path()
    return problem(root, code / "requirements.txt", python, machine, extra)


def main(arguments: list[str]) -> int:
    """Print the settings of a function, and return the exit status."""
    label = f"build-{arguments[0]}: " if arguments else ""
    try:
        template = Template(_TEMPLATE)
        packages = [package_of(template, name) for name in arguments]
        refusals = filter(None, (refusal(template, name) for name in arguments or template.names))
        if (refused := next(refusals, None)) is not None:
            raise TemplateError(refused)
    except TemplateError as error:
        print(f"{label}{error}", file=sys.stderr)
        return 1
    for package in packages:
        print(" ".join(f"{key}={value}" for key, value in package.settings().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
