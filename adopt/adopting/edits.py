"""Insertions into a document, and their removal: no other character changes.

Both are checked by parsing the result. It has to equal the document before, plus or minus what was inserted; whatever
YAML can do that is not foreseen here leads to a refusal rather than to a changed application.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import yaml

from . import rendering
from .document import (
    BREAKS,
    Alias,
    Data,
    Document,
    content_end,
    entry,
    is_empty,
    is_plain,
    mapping_data,
    scalar_data,
    sequence_data,
    to_data,
    to_value,
)
from .errors import Refusal

Path = tuple[str, ...]
Kind = Literal["entry", "scaffold", "item", "chain"]

#: The variable in which the runtime's bootstrap looks for a wrapper that it has to start.
CHAINED = "STREAMING_RUNTIME_EXEC_WRAPPER"
_NOTHING: Data = ("tag:yaml.org,2002:null", "")


@dataclass(frozen=True)
class Insertion:
    """A text that was inserted, and how to find it in a file that has been edited since.

    Attributes:
        kind: `entry` of a mapping; `scaffold`, an entry that only holds others; `item` of a sequence; `chain`, the new
            value of a key whose old value went to a key of its own.
        path: Keys that lead to the mapping or sequence.
        key: Key of the entry; for an item the text of its value.
        text: What was inserted.
        anchor: Where in `text` the key or the value begins.
    """

    kind: Kind
    path: Path
    key: str
    text: str
    anchor: int

    @property
    def where(self) -> str:
        """The place for people."""
        return ".".join(self.path if self.kind == "item" else (*self.path, self.key))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Insertion:
        """Return an insertion as `to_json` described it."""
        return cls(value["kind"], tuple(value["path"]), value["key"], value["text"], value["anchor"])


class Editor:
    """Collects additions to a document, then writes them all.

    Attributes:
        insertions: What was inserted, in the order of the calls.
    """

    def __init__(self, document: Document) -> None:
        self.insertions: list[Insertion] = []
        self._document = document
        self._expected = document.data
        self._places: list[tuple[int, int]] = []  # offset, and a column to order by what is at the same offset

    @property
    def changed(self) -> bool:
        """Whether anything is to be inserted."""
        return bool(self.insertions)

    def add(self, path: Path, entries: dict[str, Any]) -> None:
        """Add entries to the mapping at `path`, which is made where it is missing.

        Raises:
            Refusal: The mapping is computed, or shared with another part of the document.
        """
        for key, value in entries.items():
            self._expected = _with_entry(self._expected, path, key, rendering.to_data(value, self._document.is_json))
        self._insert(path, entries)

    def append(self, path: Path, value: rendering.Intrinsic) -> None:
        """Add an item to the end of the sequence at `path`, which is made where it is missing.

        Raises:
            Refusal: The sequence is computed, or shared with another part of the document.
        """
        document = self._document
        self._expected = _with_item(self._expected, path, rendering.to_data(value, document.is_json))
        text = rendering.flow(value, document.is_json)
        node = document.find(*path)
        if node is None:
            self._insert(path[:-1], {path[-1]: [value]})
        elif is_empty(node):
            self._refuse_shared(path)
            column = self._column(path[:-1]) + self._step(path[:-1])
            self._lines("item", path, text, [f"- {text}"], node, column, -column, anchor=2)
        elif not is_plain(node, yaml.SequenceNode):
            raise Refusal(_computed(path))
        elif isinstance(node, yaml.SequenceNode) and node.flow_style:
            self._refuse_shared(path)
            self._flow_text("item", path, text, text, 0, node)
        else:
            self._refuse_shared(path)
            first: int = node.value[0].start_mark.index
            dash = document.text.rfind("-", 0, first)
            column = dash - document.line_start(dash)
            self._lines("item", path, text, [f"- {text}"], node, column, -column, anchor=2)

    def chain(self, path: Path, key: str, new_value: str) -> None:
        """Give `key` of the mapping at `path` another value, and `CHAINED` its old one, by an insertion between them.

        Raises:
            Refusal: The mapping is computed, or shared with another part of the document.
        """
        document = self._document
        self._refuse_shared(path)
        mapping = document.find(*path)
        pair = entry(mapping, key)
        assert isinstance(mapping, yaml.MappingNode)
        assert pair is not None
        self._expected = _chained(self._expected, path, key, rendering.to_data(new_value, document.is_json))
        colon = document.text.index(":", pair[0].end_mark.index) + 1
        if mapping.flow_style:
            quote = '"' if document.is_json else ""
            text = f" {rendering.flow(new_value, document.is_json)}, {quote}{CHAINED}{quote}:"
        else:
            indentation = " " * pair[0].start_mark.column
            text = f" {rendering.item(new_value)}{self._break(colon)}{indentation}{CHAINED}:"
        self._place(Insertion("chain", path, key, text, 0), colon, 0)

    def text(self) -> str:
        """Return the document with everything inserted.

        Raises:
            Refusal: The document is written in a way that an insertion would have changed.
        """
        pieces, end = [], 0
        order = sorted(range(len(self.insertions)), key=lambda index: (self._places[index], index))
        for index in order:
            offset = self._places[index][0]
            pieces += [self._document.text[end:offset], self.insertions[index].text]
            end = offset
        text = "".join([*pieces, self._document.text[end:]])
        _check(text, self._expected, self._document, "add to")
        return text

    def _insert(self, path: Path, entries: dict[str, Any]) -> None:
        existing = self._existing(path)
        self._refuse_shared(existing)
        node = self._document.find(*existing)
        missing = path[len(existing) :]
        if isinstance(node, yaml.MappingNode) and node.flow_style:
            for name in reversed(missing):
                entries = {name: entries}
            for key, value in entries.items():
                self._flow_entry(existing, key, value, node)
            return
        assert node is not None
        column, step = self._column(existing), self._step(existing)
        order = -column
        for depth, name in enumerate(missing):
            above = path[: len(existing) + depth]
            self._lines("scaffold", above, name, [f"{name}:"], node, column + depth * step, order)
        column += len(missing) * step
        for key, value in entries.items():
            if isinstance(value, list):
                self._lines("scaffold", path, key, [f"{key}:"], node, column, order)
                for part in value:
                    text = rendering.flow(part)
                    self._lines("item", (*path, key), text, [f"- {text}"], node, column + step, order, anchor=2)
            else:
                self._lines("entry", path, key, rendering.block(key, value, step), node, column, order)

    def _existing(self, path: Path) -> Path:
        """Return the longest beginning of `path` that leads to a mapping, or to where one can be written."""
        for length in range(len(path) + 1):
            node = self._document.find(*path[:length])
            if node is None:
                above = to_value(self._document.find(*path[: length - 1]))
                if isinstance(above, dict) and path[length - 1] in above:
                    raise Refusal(
                        f"{'.'.join(path[:length])} comes from a merge key (<<) or an anchor, and adding to it would"
                        " replace it. Write it out there, then run this again"
                    )
                return path[: length - 1]
            if is_empty(node) or isinstance(node, Alias):
                return path[:length]
            if not is_plain(node, yaml.MappingNode):
                raise Refusal(_computed(path[:length]))
        return path

    def _refuse_shared(self, path: Path) -> None:
        for length in range(len(path) + 1):
            node = self._document.find(*path[:length])
            anchor = self._document.anchor_of(node) if node is not None else None
            if anchor is not None:
                raise Refusal(
                    f"{'.'.join(path[:length])} is shared with other parts of {self._document.name} through the anchor"
                    f" '{anchor}', so what is added here would be added there too. Write it out instead of using the"
                    " anchor, then run this again"
                )

    def _column(self, path: Path) -> int:
        """Return the column of the keys of the mapping at `path`."""
        node = self._document.find(*path)
        if isinstance(node, yaml.MappingNode) and node.value:
            column: int = node.value[0][0].start_mark.column
            return column
        return self._column(path[:-1]) + self._step(path[:-1])

    def _step(self, path: Path) -> int:
        """Return by how much mappings around `path` are indented more than what holds them."""
        for length in range(len(path), -1, -1):
            node = self._document.find(*path[:length])
            if isinstance(node, yaml.MappingNode) and not node.flow_style:
                for key, value in node.value:
                    if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
                        step: int = value.value[0][0].start_mark.column - key.start_mark.column
                        if step > 0:
                            return step
        return 2

    def _break(self, offset: int) -> str:
        """Return the line break to use at `offset`: that of the line before, else the file's first."""
        text = self._document.text
        if text[:offset].endswith("\r\n"):
            return "\r\n"
        return text[offset - 1] if offset and text[offset - 1] in "\r\n" else self._document.line_break

    def _lines(
        self,
        kind: Kind,
        path: Path,
        key: str,
        lines: list[str],
        node: yaml.Node,
        column: int,
        order: int,
        anchor: int = 0,
    ) -> None:
        """Insert whole lines at the end of the block `node`, or below its key where it is empty."""
        offset, behind_text = self._line_place(node, -order)
        line_break, indentation = self._break(offset), " " * column
        text = line_break.join(indentation + line for line in lines)
        if behind_text:
            text, anchor = line_break + text, anchor + len(line_break)
        else:
            text += line_break
        self._place(Insertion(kind, path, key, text, anchor + column), offset, order)

    def _line_place(self, node: yaml.Node, column: int) -> tuple[int, bool]:
        """Return where to insert lines after `node`, and whether that is behind text that no line break ends."""
        document = self._document
        end, block_text = content_end(node)
        whole = end < len(document.text) or document.text[-1] in BREAKS
        after = (end if whole else None) if block_text else document.next_line(end)
        while after is not None and _is_comment(document.text, after, column):
            after = document.next_line(after)
        if after is not None:
            return after, False
        if block_text or isinstance(node, yaml.MappingNode):
            # Behind the last line it would change that line, and might become a part of its text.
            return self._before_last(node, column), False
        return len(document.text), True

    def _before_last(self, node: Any, column: int) -> int:
        """Return where the line of the last entry or item of a block begins, or the comment that is right above it."""
        document = self._document
        *others, last = node.value
        place = document.line_start((last[0] if isinstance(last, tuple) else last).start_mark.index)
        if not others:
            return place
        bound, _ = content_end(others[-1][1] if isinstance(others[-1], tuple) else others[-1])
        # Comments further right are about the entry before.
        while (above := document.line_start(place - 1)) >= bound and _is_comment(document.text, above, column):
            if _is_comment(document.text, above, column + 1):
                break
            place = above
        return place

    def _flow_entry(self, path: Path, key: str, value: Any, node: yaml.MappingNode) -> None:
        if not self._document.is_json:
            self._flow_text("entry", path, key, f"{key}: {rendering.flow(value)}", 0, node)
            return
        column, step = self._flow_column(node), self._json_step()
        if column is None:
            text = rendering.flow(value, is_json=True)
        else:
            text = rendering.indented_json(value, step, column, self._document.line_break)
        self._flow_text("entry", path, key, f'"{key}": {text}', 0, node)

    def _flow_text(self, kind: Kind, path: Path, key: str, text: str, anchor: int, node: yaml.CollectionNode) -> None:
        """Insert an entry or item behind the last one of a flow collection."""
        column = self._flow_column(node)
        separator = ", " if column is None else f",{self._document.line_break}{' ' * column}"
        if node.value:
            last = node.value[-1]
            offset, _ = content_end(last[1] if isinstance(last, tuple) else last)
        else:
            offset = node.end_mark.index - 1
            if (offset, 0) not in self._places:
                separator = ""
        self._place(Insertion(kind, path, key, separator + text, anchor + len(separator)), offset, 0)

    def _flow_column(self, node: yaml.CollectionNode) -> int | None:
        """Return the column of the last entry of a flow collection if it begins a line."""
        if not node.value:
            return None
        last = node.value[-1]
        start = (last[0] if isinstance(last, tuple) else last).start_mark
        before = self._document.text[self._document.line_start(start.index) : start.index]
        return None if before.strip(" \t") or not node.start_mark.line < start.line else len(before)

    def _json_step(self) -> int:
        root = self._document.root
        return root.value[0][0].start_mark.column or 2 if root.value else 2

    def _place(self, insertion: Insertion, offset: int, order: int) -> None:
        self.insertions.append(insertion)
        self._places.append((offset, order))


def remove(document: Document, insertions: list[Insertion], scaffolds: list[Insertion]) -> tuple[str, list[Insertion]]:
    """Return the document without `insertions`, and without those of `scaffolds` that would be left empty.

    What is there no longer is passed over.

    Returns:
        The text, and the scaffolds that were removed.

    Raises:
        Refusal: Something has been changed since, so that it cannot be told what was there before.
    """
    spans: list[tuple[int, int]] = []
    expected = document.data
    for insertion in insertions:
        span = _span(document, insertion)
        if span is not None:
            spans.append(span)
            expected = _without(expected, insertion)
    gone = []
    # The innermost first.
    for scaffold in sorted(scaffolds, key=lambda one: -len(one.path)):
        held = _at(expected, (*scaffold.path, scaffold.key))
        if held is not None and not held[1] and (span := _span(document, scaffold)) is not None:
            spans.append(span)
            gone.append(scaffold)
            expected = _without(expected, scaffold)
    pieces, end = [], 0
    for start, stop in sorted(spans):
        pieces.append(document.text[end:start])
        end = max(end, stop)
    text = "".join([*pieces, document.text[end:]])
    _check(text, expected, document, "remove from")
    return text, gone


def _span(document: Document, insertion: Insertion) -> tuple[int, int] | None:
    """Return from where to where the text of an insertion stands now; None if its key or item is gone."""
    found = document.find(*insertion.path)
    if insertion.kind == "item":
        nodes = found.value if isinstance(found, yaml.SequenceNode) else []
        starts = [
            node.start_mark.index
            for node in nodes
            if document.text[node.start_mark.index : node.end_mark.index] == insertion.key
        ]
        start = starts[-1] if starts else None
    else:
        pair = entry(found, insertion.key)
        start = None if pair is None else pair[0].start_mark.index
        if pair is not None and insertion.kind == "chain":
            start = document.text.index(":", pair[0].end_mark.index) + 1
    if start is None:
        return None
    # A tool may have converted the line breaks of the whole file since.
    variants = _conversions(insertion)
    bare = insertion.text.rstrip("\r\n")
    if insertion.text != bare:
        # The last line of a file without a last break, since what was inserted behind it is gone.
        line_break = insertion.text[len(bare) :]
        if document.text.endswith(line_break + bare):
            variants.append((line_break + bare, insertion.anchor + len(line_break)))
    for text, anchor in variants:
        first = start - anchor
        if first >= 0 and document.text.startswith(text, first):
            stop = first + len(text)
            # The first one of a flow collection goes with the separator of the next one.
            separator = re.compile(r",\s*").match(document.text, stop) if text[:1] not in ("", ",", " ", "\n") else None
            return first, separator.end() if separator and not anchor else stop
    raise Refusal(
        f"{insertion.where} in {document.name} was changed since, so it is not clear what to remove. What was added:\n"
        f"{insertion.text.strip()}\nRestore that or remove all of it by hand, then run this again"
    )


def _conversions(insertion: Insertion) -> list[tuple[str, int]]:
    variants = [(insertion.text, insertion.anchor)]
    before, after = insertion.text[: insertion.anchor], insertion.text[insertion.anchor :]
    if before.startswith(","):
        variants.append((after, 0))  # what was before it in a flow collection is gone
    for line_break in ("\n", "\r\n"):
        start, rest = (part.replace("\r\n", "\n").replace("\n", line_break) for part in (before, after))
        variants.append((start + rest, len(start)))
    return variants


def _check(text: str, expected: Data, document: Document, action: str) -> None:
    try:
        same = _normal(Document(text, document.name).data) == _normal(expected)
    except Refusal:
        same = False
    if not same:
        raise Refusal(
            f"{document.name} is written in a way that this cannot {action} without changing something else. Lay it out"
            " in plain block style around the function, without anchors, then run this again"
        )


def _computed(path: Path) -> str:
    return (
        f"{'.'.join(path)} is computed or empty, so nothing can be added to it here. Write it out as a plain mapping or"
        " list, then run this again"
    )


def _is_comment(text: str, start: int, column: int) -> bool:
    """Whether a comment stands alone on the line at `start`, in this column or further right."""
    indentation = 0
    while text.startswith(" ", start + indentation):
        indentation += 1
    return indentation >= column and text.startswith("#", start + indentation)


# The same changes, on what the documents mean.


def _with(data: Data, path: Path, change: Callable[[Data], Data], empty: Data) -> Data:
    """Return `data` with the collection at `path` replaced by what `change` makes of it, or of `empty` if absent."""
    if not path:
        return change(data)
    tag, content = data if isinstance(data[1], dict) else mapping_data({})
    key = scalar_data(path[0])
    below = content.get(key)
    if below is None or not isinstance(below[1], (dict, list)):
        below = empty if len(path) == 1 else mapping_data({})
    return tag, {**content, key: _with(below, path[1:], change, empty)}


def _with_entry(data: Data, path: Path, key: str, value: Data) -> Data:
    return _with(data, path, lambda mapping: (mapping[0], {**mapping[1], scalar_data(key): value}), mapping_data({}))


def _with_item(data: Data, path: Path, value: Data) -> Data:
    return _with(data, path, lambda sequence: (sequence[0], [*sequence[1], value]), sequence_data([]))


def _chained(data: Data, path: Path, key: str, new_value: Data) -> Data:
    def change(mapping: Data) -> Data:
        old = mapping[1][scalar_data(key)]
        return mapping[0], {**mapping[1], scalar_data(key): new_value, scalar_data(CHAINED): old}

    return _with(data, path, change, mapping_data({}))


def _at(data: Data, path: Path) -> Data | None:
    for key in path:
        if not isinstance(data[1], dict) or scalar_data(key) not in data[1]:
            return None
        data = data[1][scalar_data(key)]
    return data


def _without(data: Data, insertion: Insertion) -> Data:
    def change(container: Data) -> Data:
        tag, content = container
        key = scalar_data(insertion.key)
        if insertion.kind == "item":
            node = yaml.compose(insertion.key, Loader=yaml.SafeLoader)
            assert node is not None
            item = to_data(node)
            index = max(index for index, other in enumerate(content) if other == item)
            return tag, [*content[:index], *content[index + 1 :]]
        if insertion.kind == "chain":
            chained = scalar_data(CHAINED)
            kept = {name: value for name, value in content.items() if name != chained}
            return tag, {**kept, key: content[chained]}
        return tag, {name: value for name, value in content.items() if name != key}

    return _with(data, insertion.path, change, mapping_data({}))


def _normal(data: Data) -> Data:
    """Return `data` with each empty collection as the empty value that is left when its last entry is removed."""
    tag, content = data
    if not content and isinstance(content, (dict, list)):
        return _NOTHING
    if isinstance(content, dict):
        return tag, {key: _normal(value) for key, value in content.items()}
    if isinstance(content, list):
        return tag, [_normal(value) for value in content]
    return _NOTHING if tag == _NOTHING[0] else data
