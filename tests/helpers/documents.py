"""The documents of this repository and of its projects, and the commands in them."""

from __future__ import annotations

import re

from tests.helpers.rendering import render
from tests.helpers.support import ROOT, Answers, defaults

DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_COMMANDS = re.compile(r"^( *)```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_PROGRAMS = "apt-get|aws|cookiecutter|cruft|curl|docker|gh|git|make|pip|pipx|python|sam|uv"
_INLINE = re.compile(rf"`((?:{_PROGRAMS})\s[^`]+)`")


def document(path: str) -> str:
    """A document of this repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def readme(answers: Answers) -> str:
    """The README of a project. Its region, which only changes a word, is always the same."""
    return render("README.md", {**defaults(), **answers, "region": "us-east-1"})


def blocks(text: str) -> list[str]:
    """The blocks of commands in a text, without comments."""
    found = (re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in _COMMANDS.findall(text))
    return [re.sub(r"[ \t]+#.*", "", re.sub(r" *\\\n *", " ", block)) for block in found]


def scripts(text: str) -> list[str]:
    """What a document tells a reader to type: its blocks, then each command with arguments in a sentence."""
    sentences = (" ".join(command.split()) for command in _INLINE.findall(_FENCE.sub("", text)))
    return [*blocks(text), *(f"{command}\n" for command in sentences if len(command.split()) > 2)]


def commands(text: str) -> set[str]:
    """Each command of a document, and the alternatives that its comments name."""
    found = {command for script in scripts(text) for command in script.splitlines() if command}
    return found | set(re.findall(r"# or: ([^;\n]+)", "\n".join(_FENCE.findall(text))))
