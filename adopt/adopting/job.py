"""One run of the template: what it would do, shown before, and then doing it."""

from __future__ import annotations

import difflib
import os
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .document import Document, to_value
from .edits import Insertion, remove
from .errors import Refusal
from .folder import Folder, Manifest, merge, sources_of, write_file
from .plan import Template, Wish, make_plan, references

_TEMPLATES = ("template.yaml", "template.yml", "template.json")
_FILES_OF_ADOPTION = "{{workspace(cookiecutter)}}"
_PROJECT = "{{cookiecutter.project_slug}}"

# What an answer may be, as a pattern and for people, and an example.
_RULES = {
    "function": (r"[A-Za-z0-9]{0,255}", "the logical ID of a function: letters and digits", "HelloFunction"),
    "folder": (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "a folder's name: letters, digits, _, . and -", "streaming"),
    "url_auth": ("AWS_IAM|NONE", "AWS_IAM or NONE", "AWS_IAM"),
    "undo": ("yes|no", "yes or no", "no"),
    "template_file": (r"[^\0]{1,4096}", "the path of a SAM template", "template.yaml"),
}

_ADOPTED = """
{function} streams from its next deployment on: `sam build && sam deploy`, as before.

  make -C {folder} dev      serves it on localhost, chunks live
  {folder}/README.md        what was added, what the handler may return, how to go back

Commit {folder}/ together with {template}.
"""
_PATCH = """
{template} is JSON, which this does not edit. Apply the patch above, which is also in {patch}:

  patch -p1 < {patch}
"""


@dataclass(frozen=True)
class Answers:
    """The answers to the options, and where everything is.

    Attributes:
        function: Logical ID; empty for the only function.
        template_file: Path of the SAM template.
        url_auth: `AWS_IAM` or `NONE`.
        folder: Name of the folder to lay down.
        undo: Whether to take the function back.
        application: The folder of the application.
        checkout: This template's repository.
    """

    function: str
    template_file: str
    url_auth: str
    folder: str
    undo: bool
    application: Path
    checkout: Path

    @classmethod
    def from_context(cls, context: dict[str, Any]) -> Answers:
        """Return the answers in cookiecutter's context.

        Raises:
            Refusal: One of them is not allowed.
        """
        given = {key: str(value) for key, value in context.items()}
        for option, (pattern, allowed, example) in _RULES.items():
            _match(option, given.get(option, ""), pattern, allowed, example)
        return cls(
            function=given["function"],
            template_file=given["template_file"],
            url_auth=given["url_auth"],
            folder=given["folder"],
            undo=given["undo"] == "yes",
            application=Path(given["_output_dir"]),
            checkout=Path(given["_repo_dir"]).resolve().parent,
        )


@dataclass
class Job:
    """What is to be done.

    Attributes:
        template: The SAM template.
        before: Its text.
        after: Its text afterwards.
        folder: The folder of this template in the application.
        manifest: What it will say of itself; None if the folder goes.
        sources: The files to write into it; None to leave them as they are.
        outdated: Which of them differ from what is there.
        patches: Patch files to write, with their text.
        notes: What a user should know.
        done: What to say at the end.
        already: Why there may be nothing to do.
        writes_template: Whether the template is edited; one in JSON is not.
    """

    template: Path
    before: str
    after: str
    folder: Folder
    manifest: Manifest | None
    sources: dict[str, Path] | None = None
    outdated: list[str] = field(default_factory=list)
    patches: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    done: str = ""
    already: str = ""
    writes_template: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.before == self.after and not self.outdated and self.manifest == self.folder.manifest

    @property
    def diff(self) -> str:
        """What changes in the template."""
        return unified_diff(self.template.name, self.before, self.after)

    @property
    def summary(self) -> str:
        """What would be done, for people."""
        if self.is_empty:
            return f"Nothing to do: {self.already}.\n"
        folder = self.folder.path.name
        parts = [self.diff] if self.before != self.after else []
        if self.manifest is None:
            parts.append(f"{folder}/ is removed.\n")
        elif self.outdated:
            action = "is added" if self.folder.manifest is None else "is updated"
            parts.append(f"{folder}/ {action}: {len(self.outdated)} files.\n")
        parts += [f"Note: {note}\n" for note in self.notes]
        return "\n".join(parts)

    def run(self) -> str:
        """Do it; return what to say.

        Raises:
            Refusal: The template was changed since it was read.
        """
        if read_template(self.template) != self.before:
            raise Refusal(f"{self.template.name} was changed in the meantime, so nothing was done. Run this again")
        if self.is_empty:
            return ""
        if self.manifest is None:
            self._write_template()
            left = self.folder.remove()
            return (
                f"\n{self.folder.path.name}/ was kept, since these files are yours: {', '.join(left)}\n" if left else ""
            )
        for name, text in self.patches.items():
            write_file(self.folder.path / name, text.encode())
        if self.sources is not None:
            # The template comes last: what it will refer to has to be there.
            self.folder.write(self.sources, self.outdated, self.manifest)
            self._write_template()
        else:
            self._write_template()
            self.folder.write_manifest(self.manifest)
        return self.done

    def _write_template(self) -> None:
        if self.writes_template and self.before != self.after:
            write_file(self.template, self.after.encode(), like=self.template)


def prepare(answers: Answers, is_new: bool = False) -> Job:
    """Return what is to be done for `answers`.

    Args:
        answers: What the user wants.
        is_new: Whether cookiecutter has just made the folder.

    Raises:
        Refusal: It cannot be done.
    """
    folder = Folder(answers.application / answers.folder, is_new)
    template = _find_template(answers)
    path = Path(os.path.relpath(template, answers.application)).as_posix()
    if folder.manifest is not None and folder.manifest.template != path:
        raise Refusal(
            f"{answers.folder}/ belongs to {folder.manifest.template}, not to {path}. Give another folder for this"
            " template, for example folder=streaming-2"
        )
    document = Document(read_template(template), path)
    prepared = _prepare_undo if answers.undo else _prepare_adoption
    return prepared(answers, folder, template, document)


def workspace_name(answers: Answers, job: Job) -> str:
    """Return the name of the folder that cookiecutter is to make: the real one, unless that is there already."""
    is_new = job.folder.manifest is None and not answers.undo
    return answers.folder if is_new else f".{answers.folder}-{secrets.token_hex(4)}"


def read_template(path: Path) -> str:
    """Return the text of a template, with its line breaks as they are.

    Raises:
        Refusal: It cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(f"{path.name} is not UTF-8. Convert it first, for example with `iconv -t UTF-8`") from None
    except OSError as error:
        raise Refusal(f"{path.name} cannot be read: {error.strerror}") from None


def unified_diff(name: str, before: str, after: str) -> str:
    """Return the difference as `patch -p1` and `git apply` take it."""
    lines = difflib.unified_diff(_lines(before), _lines(after), f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _prepare_adoption(answers: Answers, folder: Folder, template: Path, document: Document) -> Job:
    project = answers.checkout / _PROJECT
    if b"\r" in (project / "runtime" / "bootstrap").read_bytes():
        raise Refusal(
            f"{project} has Windows line endings, so Lambda cannot start the runtime. Get the template again with "
            "git 2.10 or later, which keeps them out, or adopt from its address"
        )
    layer = (answers.application / answers.folder / "runtime").resolve()
    wish = Wish(
        answers.function,
        answers.url_auth,
        Path(os.path.relpath(layer, template.parent.resolve())).as_posix(),
        str(project / "runtime"),
    )
    sources = sources_of(
        ("", answers.checkout / "adopt" / _FILES_OF_ADOPTION),
        ("runtime", project / "runtime"),
        ("local", project / "local"),
    )
    outdated = folder.outdated(sources)
    plan = make_plan(document, wish)
    function = plan.function
    after = plan.editor.text() if plan.editor.changed else document.text
    old = folder.manifest or Manifest(document.name)
    manifest = replace(old, functions={**old.functions}, patches={**old.patches}, files={**old.files})
    done = _ADOPTED.format(function=function, folder=answers.folder, template=document.name)
    job = Job(template, document.text, after, folder, manifest, sources, outdated, notes=plan.notes, done=done)
    job.already = f"{function} streams already, and {answers.folder}/ is up to date"
    if document.is_json:
        job.writes_template = False
        if plan.editor.changed:
            name = f"{function}.patch"
            job.patches[name] = unified_diff(document.name, document.text, after)
            manifest.patches[function] = name
            patch = f"{answers.folder}/{name}"
            job.done = _PATCH.format(template=document.name, patch=patch) + done
        return job
    alone, shared, scaffolds = _sort(plan.editor.insertions, plan.shared)
    if plan.editor.changed:
        manifest.functions[function] = merge(old.functions.get(function, []), alone)
        manifest.shared = merge(old.shared, shared)
        manifest.scaffolds = merge(old.scaffolds, scaffolds)
    return job


def _prepare_undo(answers: Answers, folder: Folder, template: Path, document: Document) -> Job:
    manifest = folder.manifest or Manifest(document.name)
    function = answers.function or (manifest.adopted[0] if len(manifest.adopted) == 1 else "")
    if function not in manifest.adopted:
        known = ", ".join(manifest.adopted) or "none"
        if function in Template(document).functions or not (function or manifest.adopted):
            already = f"{function} was not adopted" if function else "no function was adopted"
            return Job(template, document.text, document.text, folder, folder.manifest, already=already)
        raise Refusal(f"function = '{function}' was not adopted. Adopted here: {known}. Name one with function=NAME")
    left = [name for name in manifest.adopted if name != function]
    removed = (
        list(manifest.functions.get(function, []))
        if left
        else [
            *manifest.functions.get(function, []),
            *manifest.shared,
        ]
    )
    after, gone = remove(document, removed, manifest.scaffolds)
    _refuse_dangling(document, after)
    if document.is_json:
        _refuse_applied_patch(answers, document, manifest.patches[function])
    new = None
    if left:
        new = replace(
            manifest,
            functions={name: these for name, these in manifest.functions.items() if name != function},
            patches={name: patch for name, patch in manifest.patches.items() if name != function},
            scaffolds=[scaffold for scaffold in manifest.scaffolds if scaffold not in gone],
        )
    return Job(template, document.text, after, folder, new)


def _refuse_dangling(document: Document, after: str) -> None:
    """Refuse to remove what another part of the template refers to."""
    before, now = to_value(document.root), to_value(Document(after, document.name).root)
    gone = {*before["Resources"]} - {*(now.get("Resources") or {})}
    used = sorted(gone & {*references(now)})
    if used:
        raise Refusal(
            f"Other parts of {document.name} refer to {', '.join(used)}, which would be removed. Remove these"
            " references first, then run this again"
        )


def _refuse_applied_patch(answers: Answers, document: Document, patch: str) -> None:
    raise Refusal(
        f"{document.name} is JSON, which this does not edit. Undo the patch yourself, then delete {answers.folder}/:\n"
        f"  patch -p1 --reverse < {answers.folder}/{patch}"
    )


def _find_template(answers: Answers) -> Path:
    names = _TEMPLATES if answers.template_file == _TEMPLATES[0] else (answers.template_file,)
    for name in names:
        if (answers.application / name).is_file():
            return answers.application / name
    raise Refusal(
        f"{answers.application} has no {' or '.join(names)}. Run this in the folder of your SAM application, or name"
        " its template with template_file=PATH"
    )


def _sort(
    insertions: list[Insertion], shared: set[tuple[str, ...]]
) -> tuple[list[Insertion], list[Insertion], list[Insertion]]:
    """Return the insertions for the function alone, those for all functions, and those that only hold others."""
    scaffolds = [one for one in insertions if one.kind == "scaffold"]
    for_all = [one for one in insertions if (*one.path, one.key) in shared]
    return [one for one in insertions if one not in scaffolds and one not in for_all], for_all, scaffolds


def _lines(text: str) -> list[str]:
    """Return the lines as `patch` counts them."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)


def _match(option: str, value: str, pattern: str, allowed: str, example: str) -> None:
    if not re.fullmatch(pattern, value, re.ASCII | re.DOTALL):
        shown = value if len(value) <= 80 else value[:80] + "…"
        raise Refusal(f"`{option}` must be {allowed}, got {shown!a}. Example: {option}={example}")
