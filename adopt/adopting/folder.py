"""The folder that is laid into the application: which of its files are this template's, and what was adopted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .edits import Insertion
from .errors import Refusal

MANIFEST = "adopted.json"
# Made when the folder's own programs run.
CACHES = ("__pycache__", ".pycache")
_COMMENT = "Written by the `adopt` template. Keep it in version control: without it nothing can be undone."


@dataclass
class Manifest:
    """What was added to the application.

    Attributes:
        template: Path of the SAM template, from the application's folder on.
        functions: What was inserted for each adopted function.
        patches: Patch file of each function whose template is JSON.
        shared: Insertions that are for all functions.
        scaffolds: Insertions that only hold others.
        files: Digest of each file of the folder as it was written.
    """

    template: str
    functions: dict[str, list[Insertion]] = field(default_factory=dict)
    patches: dict[str, str] = field(default_factory=dict)
    shared: list[Insertion] = field(default_factory=list)
    scaffolds: list[Insertion] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def adopted(self) -> list[str]:
        """The logical IDs of the adopted functions."""
        return sorted({*self.functions, *self.patches})

    def to_json(self) -> str:
        """Return the text of the file."""
        content = {
            "comment": _COMMENT,
            "template": self.template,
            "functions": {name: _to_json(these) for name, these in sorted(self.functions.items())},
            "patches": dict(sorted(self.patches.items())),
            "shared": _to_json(self.shared),
            "scaffolds": _to_json(self.scaffolds),
            "files": dict(sorted(self.files.items())),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the manifest with this text.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: It is not one.
        """
        content: dict[str, Any] = json.loads(text)
        return cls(
            template=str(content["template"]),
            functions={name: _from_json(these) for name, these in content["functions"].items()},
            patches=dict(content["patches"]),
            shared=_from_json(content["shared"]),
            scaffolds=_from_json(content["scaffolds"]),
            files=dict(content["files"]),
        )


class Folder:
    """A folder of the application, which may not be there yet.

    Attributes:
        path: Where it is, or will be.
        manifest: What it says of itself; None if it is not there.
    """

    def __init__(self, path: Path, is_new: bool = False) -> None:
        """Read what is there.

        Args:
            path: Where it is, or will be.
            is_new: Whether cookiecutter has just made it, so that it holds nothing of the user's.

        Raises:
            Refusal: Something else is there.
        """
        self.path = path
        self.manifest: Manifest | None = None
        if is_new or not os.path.lexists(path):
            return
        try:
            self.manifest = Manifest.from_json((path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Refusal(
                f"{path.name}/ exists and is not from this template: it has no {MANIFEST}. If it is yours, choose"
                " another name, for example folder=streaming-runtime. Otherwise restore that file from version control"
            ) from None
        except NotADirectoryError:
            raise Refusal(f"{path.name} is a file. Choose another name with folder=NAME") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refusal(
                f"{path.name}/{MANIFEST} cannot be read ({error!r}). Restore it from version control"
            ) from None

    def outdated(self, sources: dict[str, Path]) -> list[str]:
        """Return the files that are missing here, differ from their source, or have none any more.

        Raises:
            Refusal: One of them was edited, or is not this template's.
        """
        recorded = self.manifest.files if self.manifest else {}
        found = []
        edited = []
        for name in sorted({*sources, *recorded}):
            path = self.path / name
            here = digest(path.read_bytes()) if path.is_file() else None
            wanted = digest(sources[name].read_bytes()) if name in sources else None
            if here == wanted:
                continue
            found.append(name)
            if here is not None and here != recorded.get(name):
                edited.append(name)
        if edited and self.manifest is not None:
            raise Refusal(
                f"These files in {self.path.name}/ were edited, and would be overwritten or deleted:"
                f" {', '.join(edited)}. Move your changes elsewhere and restore them from version control, then run"
                " this again"
            )
        return found

    def write(self, sources: dict[str, Path], outdated: list[str], manifest: Manifest) -> None:
        """Write the outdated files from their sources, delete those without one, and write the manifest."""
        for name in outdated:
            if name in sources:
                write_file(self.path / name, sources[name].read_bytes(), sources[name])
            else:
                (self.path / name).unlink(missing_ok=True)
        manifest.files = {name: digest(source.read_bytes()) for name, source in sources.items()}
        self.write_manifest(manifest)

    def write_manifest(self, manifest: Manifest) -> None:
        """Write what was added to the application."""
        write_file(self.path / MANIFEST, manifest.to_json().encode())

    def remove(self) -> list[str]:
        """Delete the files that are this template's and unchanged; return the others, which stay."""
        assert self.manifest is not None
        for name, written in self.manifest.files.items():
            path = self.path / name
            if path.is_file() and digest(path.read_bytes()) == written:
                path.unlink()
        (self.path / MANIFEST).unlink(missing_ok=True)
        for folder in [path for path in self.path.rglob("*") if path.name in CACHES]:
            shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
        left = sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir())
        if not left:
            shutil.rmtree(self.path, ignore_errors=True)
        return left


def sources_of(*folders: tuple[str, Path]) -> dict[str, Path]:
    """Return the files of source folders by the path that each has in the application's folder."""
    return {
        (Path(prefix) / path.relative_to(folder)).as_posix(): path
        for prefix, folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in CACHES for part in path.parts)
    }


def digest(content: bytes) -> str:
    """Return a digest that is the same for both kinds of line breaks, since git may convert them."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def write_file(path: Path, content: bytes, like: Path | None = None) -> None:
    """Write a file whole or not at all, with the mode of `like`; where `path` is a link, the file that it leads to."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        if like is not None:
            shutil.copymode(like, temporary)
        else:
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def merge(before: list[Insertion], after: list[Insertion]) -> list[Insertion]:
    """Return both lists, without those of `before` that one of `after` replaces."""
    same: Callable[[Insertion], tuple[Any, ...]] = lambda one: (one.kind, one.path, one.key)  # noqa: E731
    new = {same(one) for one in after}
    return [*(one for one in before if same(one) not in new), *after]


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _to_json(insertions: list[Insertion]) -> list[dict[str, Any]]:
    return [insertion.to_json() for insertion in insertions]


def _from_json(values: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[Insertion]:
    return [Insertion.from_json(value) for value in values]
