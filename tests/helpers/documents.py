"""The documents of this repository and of its projects, and the commands in them."""

from __future__ import annotations

import re

from tests.helpers.rendering import render
from tests.helpers.support import ROOT, TEMPLATE, Answers, defaults

DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "AGENTS.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
# The pages of a project beside its README. They are the same for all answers.
PAGES = (*sorted((TEMPLATE / "docs").glob("*.md")), TEMPLATE / "AGENTS.md")
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_COMMANDS = re.compile(r"^( *)```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_PROGRAMS = "apt-get|aws|cookiecutter|cruft|curl|docker|gh|git|make|pip|pipx|python|sam|uv"
_INLINE = re.compile(rf"`((?:{_PROGRAMS})\s[^`]+)`")


def document(path: str) -> str:
    """Return a document of this repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def readme(answers: Answers) -> str:
    """Return a project's README and its pages, always with the same region."""
    text = render("README.md", {**defaults(), **answers, "region": "us-east-1"})
    return "\n".join([text, *(page.read_text(encoding="utf-8") for page in PAGES)])


def blocks(text: str) -> list[str]:
    """Return the blocks of commands in a document, without comments."""
    found = (re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in _COMMANDS.findall(text))
    return [re.sub(r"[ \t]+#.*", "", re.sub(r" *\\\n *", " ", block)) for block in found]


def scripts(text: str) -> list[str]:
    """Return what a reader is to type: the blocks, then each command in a sentence that has arguments."""
    sentences = (" ".join(command.split()) for command in _INLINE.findall(FENCE.sub("", text)))
    return [*blocks(text), *(f"{command}\n" for command in sentences if len(command.split()) > 2)]


def commands(text: str) -> set[str]:
    """Return each command of a document, and those that a comment offers as an alternative."""
    found = {command for script in scripts(text) for command in script.splitlines() if command}
    return found | set(re.findall(r"# or: ([^;\n]+)", "\n".join(FENCE.findall(text))))


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of the first table in a Markdown text, without its header."""
    lines = text.splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("|"))
    end = next((at for at, line in enumerate(lines[begin:], begin) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[begin + 2 : end]]
