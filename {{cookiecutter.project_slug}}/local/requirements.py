"""The one rule for requirements: a package contains each of them, or neither the build nor a local run starts."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Amazon Linux 2023 has glibc 2.34: https://docs.aws.amazon.com/linux/al2023/ug/compare-with-al2.html
_PLATFORM = "manylinux_2_34"
_INCLUDE = re.compile(r"(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)")
_EDITABLE = re.compile(r"(?:-e|--editable)\b")
# `name @ URL`, a URL or path, or the name of an archive in this folder.
_DIRECT = re.compile(
    r"(?:[\w.\[\],\s-]+@\s*)?([^\s;]*[/:][^\s;]*|\.{1,2}$|[^\s;@]+\.(?:whl|zip|tar\.\w+|tgz)(?![\w.-]))"
)
# What uv says if no server answers. Then nothing is known of the requirements.
_NO_NETWORK = re.compile(r"Failed to fetch|error sending request|network was disabled")


def refused(file: Path, is_image: bool = False, including: tuple[Path, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield each line that no package can contain, and why, from a file of requirements and those that it includes.

    Files in `including` are being read already: uv allows files that include each other.
    """
    if file.resolve() in including:
        return
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    for line in text.replace("\\\n", " ").splitlines():
        stated = re.sub(r"(^|\s)#.*", "", line).strip()
        if included := _INCLUDE.match(stated):
            if "://" not in included[1]:
                yield from refused(file.parent / included[1], is_image, (*including, file.resolve()))
        elif _EDITABLE.match(stated):
            yield stated, "an editable one: the package would contain only a path of this machine"
        elif not stated.startswith("-") and (direct := _DIRECT.match(stated)):
            location = re.sub(r"[#?].*|\[[\w,\s-]*\]$", "", direct[1])
            if not location.endswith(".whl"):
                yield stated, "a local folder or an archive of source code"
            elif location.startswith("../"):
                yield stated, "a wheel outside of the project, of which the build has a copy"
            elif is_image and not location.startswith(("http://", "https://")):
                yield stated, "a local wheel, which the build of an image does not have"


def _requires(file: Path) -> bool:
    return file.is_file() and bool(re.search(r"^\s*[^\s#]", file.read_text(encoding="utf-8"), re.MULTILINE))


def problem(root: Path, file: Path, python: str, machine: str, extra: Path | None = None) -> str | None:
    """Return why the requirements in `file` cannot be in a package, with the remedy; None if they can be.

    Args:
        root: The project's folder, to which the files and the paths in them are relative.
        file: The requirements.
        python: Version of Python on Lambda, such as `3.13`; empty for an image, which pip installs.
        machine: Lambda's processor, such as `aarch64`.
        extra: Requirements that are installed together with them.
    """
    remedy = f"Use a release that has a wheel, or copy the code into {file.parent}/."
    for stated, reason in refused(root / file, is_image=not python):
        return f"{file} has a requirement that Lambda cannot use, {stated!r}: {reason}. {remedy}"
    files = [f"--requirement={each}" for each in (file, extra) if each is not None and _requires(root / each)]
    if not python or not files:
        return None
    with tempfile.TemporaryDirectory() as target:
        command = ["uv", "pip", "install", "--dry-run", "--quiet", f"--target={target}", "--only-binary=:all:"]
        command += [f"--python-version={python}", f"--python-platform={machine}-{_PLATFORM}", *files]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if not done.returncode or _NO_NETWORK.search(done.stderr):
        return None
    return f"{file} has a requirement without a wheel for Python {python} on {machine}. {remedy}\n{done.stderr.strip()}"
