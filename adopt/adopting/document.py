"""A YAML or JSON document in which every node knows its place in the text.

PyYAML's marks count the characters of the text, so what is inserted at a mark leaves all other characters as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from .errors import Refusal

#: What PyYAML ends a line at.
BREAKS = "\r\n\x85\u2028\u2029"
_CORE = "tag:yaml.org,2002:"

#: A node as a value that can be compared: its tag, and a text, a list or a dictionary.
Data = tuple[str, Any]


class Alias(yaml.ScalarNode):
    """A reference to an anchored node, in its own place rather than in that of the node.

    Attributes:
        target: The anchored node.
    """

    id = "alias"

    def __init__(self, name: str, target: yaml.Node, start_mark: yaml.Mark, end_mark: yaml.Mark) -> None:
        super().__init__("alias", name, start_mark, end_mark)
        self.target = target


class _Composer(yaml.SafeLoader):
    """Composes nodes, and keeps aliases apart from what they stand for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.aliased: dict[int, str] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if not self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        target = super().compose_node(parent, index)
        assert target is not None
        self.aliased[id(target)] = event.anchor
        return Alias(event.anchor, target, event.start_mark, event.end_mark)


class Document:
    """A template's text and its nodes.

    Attributes:
        text: The whole text, line breaks as they are in the file.
        name: What messages call the file.
        is_json: Whether the text is JSON.
        root: The outermost mapping.
        data: The same as a value that can be compared.
        line_break: The file's first line break.
    """

    def __init__(self, text: str, name: str) -> None:
        """Parse `text`.

        Raises:
            Refusal: It cannot be parsed, is not one mapping, has a key twice or contains itself.
        """
        self.text = text
        self.name = name
        self.is_json = _is_json(text)
        composer = _Composer(text)
        try:
            root = composer.get_single_node()
        except (yaml.YAMLError, RecursionError) as error:
            raise Refusal(f"{name} cannot be parsed. Fix it first, for example with `sam validate`:\n{error}") from None
        finally:
            composer.dispose()
        if not isinstance(root, yaml.MappingNode):
            raise Refusal(f"{name} must hold a mapping with `Resources`, as a SAM template does")
        self.root = root
        self.data = to_data(root)
        self._aliased = composer.aliased
        first = min((index for index in map(text.find, "\r\n") if index >= 0), default=None)
        self.line_break = "\n" if first is None else "\r\n" if text.startswith("\r\n", first) else text[first]

    def anchor_of(self, node: yaml.Node) -> str | None:
        """Return the name of the anchor through which `node` also stands elsewhere in the document."""
        return node.value if isinstance(node, Alias) else self._aliased.get(id(node))

    def line_start(self, index: int) -> int:
        """Return where the line begins that holds the character at `index`."""
        while index and (self.text[index - 1] not in BREAKS or self.text.startswith("\r\n", index - 1)):
            index -= 1
        return index

    def next_line(self, index: int) -> int | None:
        """Return where the line after that of `index` begins; None if no line break follows."""
        while index < len(self.text):
            if self.text[index] in BREAKS:
                return index + (2 if self.text.startswith("\r\n", index) else 1)
            index += 1
        return None

    def find(self, *path: str) -> yaml.Node | None:
        """Return the node at `path`, a key for each mapping on the way, where all of them are written out."""
        node: yaml.Node | None = self.root
        for key in path:
            pair = entry(node, key)
            node = pair[1] if pair else None
        return node


def entry(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return key and value of a mapping's entry that is written in the mapping itself."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value == key:
                return key_node, value_node
    return None


def is_plain(node: yaml.Node | None, kind: type[yaml.Node]) -> bool:
    """Whether `node` is a plain mapping or sequence, so neither an alias nor an intrinsic function."""
    suffix = "map" if kind is yaml.MappingNode else "seq"
    if not isinstance(node, kind) or isinstance(node, Alias) or node.tag != _CORE + suffix:
        return False
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        key = node.value[0][0].value
        return not (isinstance(key, str) and (key == "Ref" or key.startswith("Fn::")))
    return True


def is_empty(node: yaml.Node | None) -> bool:
    """Whether `node` is the value of a key after which nothing is written."""
    written = isinstance(node, yaml.ScalarNode) and node.start_mark.index != node.end_mark.index
    return isinstance(node, yaml.ScalarNode) and node.tag == _CORE + "null" and not written


def content_end(node: yaml.Node) -> tuple[int, bool]:
    """Return where the text of `node` ends, and whether it is block text (`|` or `>`), which ends before a line."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    block_text = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return node.end_mark.index, block_text


def to_data(node: yaml.Node) -> Data:
    """Turn a node into a value that equals that of another node with the same meaning.

    Raises:
        Refusal: A mapping has a key twice, or contains itself.
    """
    return _to_data(node, ())


def to_value(node: yaml.Node | None) -> Any:
    """Turn a node into texts, lists and dictionaries as CloudFormation reads it: merge keys and short forms resolved.

    Every scalar is text, but for an absent one, which is None.
    """
    if isinstance(node, Alias):
        return to_value(node.target)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _CORE + "null"):
        return None
    if isinstance(node, yaml.MappingNode):
        value: Any = dict(_merged(node))
    elif isinstance(node, yaml.SequenceNode):
        value = [to_value(item) for item in node.value]
    else:
        value = node.value
    if node.tag.startswith("!"):
        name = node.tag[1:]
        if name == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}
    return value


def scalar_data(text: str) -> Data:
    """Return what `to_data` makes of a plain text."""
    return (_CORE + "str", text)


def mapping_data(entries: dict[str, Data]) -> Data:
    """Return what `to_data` makes of a mapping with these entries."""
    return (_CORE + "map", {scalar_data(key): value for key, value in entries.items()})


def sequence_data(items: list[Data]) -> Data:
    """Return what `to_data` makes of a sequence of these items."""
    return (_CORE + "seq", items)


def boolean_data(value: bool) -> Data:
    """Return what `to_data` makes of `true` and `false`."""
    return (_CORE + "bool", str(value).lower())


def _is_json(text: str) -> bool:
    try:
        json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return False
    return True


def _to_data(node: yaml.Node, above: tuple[int, ...]) -> Data:
    if isinstance(node, Alias):
        return _to_data(node.target, above)
    if id(node) in above:
        line = node.start_mark.line + 1
        raise Refusal(f"line {line}: an anchored value contains itself, which SAM cannot read either. Write it out")
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Data] = {}
        for key_node, value_node in node.value:
            key = _to_data(key_node, above)
            key = key if isinstance(key[1], str) else (key[0], repr(key[1]))
            if key in mapping:
                line = key_node.start_mark.line + 1
                raise Refusal(f"line {line}: the key '{key[1]}' is there twice in one mapping. Remove one of the two")
            mapping[key] = _to_data(value_node, above)
        return node.tag, mapping
    if isinstance(node, yaml.SequenceNode):
        return node.tag, [_to_data(item, above) for item in node.value]
    return node.tag, node.value


def _merged(node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    own = [(key, value) for key, value in node.value if key.tag != _CORE + "merge"]
    for key, value in node.value:
        if key.tag == _CORE + "merge":
            sources = to_value(value)
            for source in reversed(sources if isinstance(sources, list) else [sources]):
                if isinstance(source, dict):
                    yield from source.items()
    for key, value in own:
        yield str(to_value(key)), to_value(value)
