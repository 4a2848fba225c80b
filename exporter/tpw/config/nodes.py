"""YAML as a tree of nodes with their lines, and the state of reading it.

Each value is parsed by the shape of its setting from the text in the file, so the implicit types of YAML (``no`` as false,
``22:00`` as a number in base 60, ``010`` as 8) do not apply, and every problem has its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tpw.config.problems import Problem
from tpw.settings.shapes import BAD
from tpw.settings.words import shortened

MAX_NODES = 100_000
"""More values than any real file has. Bounds the expansion of aliases."""
MAX_DEPTH = 40

_KNOWN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge")
)
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""Line breaks of YAML."""
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


class Origin(NamedTuple):
    """The mark of a node from a flag or an environment variable."""

    name: str
    line: int = -1
    column: int = -1


@dataclass(slots=True)
class Walk:
    """The state of reading one configuration: its problems, and the nodes by key path."""

    file: str
    directory: str = ""
    """Relative paths in the file start here."""
    problems: list[Problem] = field(default_factory=list)
    places: dict[str, Node] = field(default_factory=dict)
    expanded: int = 0

    def problem(self, node: Node | None, path: str, message: str) -> Any:
        """Note a problem at a node. Returns BAD, for the reader to return."""
        mark = None if node is None else node.start_mark
        if isinstance(mark, Origin):
            self.problems.append(Problem(mark.name, 0, 0, path, message))
        elif mark is None:
            self.problems.append(Problem(self.file, 0, 0, path, message))
        else:
            self.problems.append(Problem(self.file, mark.line + 1, mark.column + 1, path, message))
        return BAD

    def problem_at(self, path: str, message: str) -> None:
        """Note a problem at a key path: at its key, or at the nearest enclosing section in the file."""
        place = path
        while place and place not in self.places:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        self.problem(self.places.get(place), path, message)


def parse(text: str, walk: Walk) -> Node | None:
    """The tree of a YAML text. Syntax errors are noted in the walk; None for an empty or unreadable text."""
    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if not _is_shallow(text, loader_class, walk):
            return None
        loader = loader_class(text)
        try:
            node: Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        line = min(
            line, len(lines := _LINE_BREAK.split(text))
        )  # at the end of the text the parser counts one line too many
        message = " ".join(part for part in (error.context, error.problem) if part)
        advice = _syntax_advice(message, lines[line - 1])
        walk.problems.append(Problem(walk.file, line, column, "", f"this is not YAML: {message}{advice}"))
        return None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        walk.problems.append(Problem(walk.file, line, 1, "", "this is not YAML: it contains a control character"))
        return None
    if node is None or not _is_sound(node, walk):
        return None
    return node


def _is_shallow(text: str, loader_class: type[yaml.SafeLoader], walk: Walk) -> bool:
    """Check the depth by the events: building a deep tree recurses in C and would crash the process."""
    depth = 0
    for event in yaml.parse(text, Loader=loader_class):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                mark = event.start_mark
                line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
                walk.problems.append(Problem(walk.file, line, column, "", f"nested deeper than {MAX_DEPTH} levels"))
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return True


def _syntax_advice(message: str, line: str) -> str:
    if line.lstrip(" ").startswith("\t"):
        return " (indent with spaces, not tabs)"
    if "mapping values are not allowed" in message:
        return " (quote a value that contains `: `, or correct the indentation)"
    if "expected a single document" in message:
        return " (a file holds one configuration: remove the `---`)"
    return ""


def _is_sound(root: Node, walk: Walk) -> bool:
    """Refuse unknown tags, and values that contain themselves."""
    sound = True
    done: set[int] = set()
    open_nodes: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, leaving = stack.pop()
        if leaving:
            open_nodes.discard(id(node))
            done.add(id(node))
            continue
        if id(node) in open_nodes:
            walk.problem(node, "", "this value contains itself through an alias")
            return False
        if id(node) in done:
            continue
        if node.tag not in _KNOWN_TAGS:
            walk.problem(node, "", f"the YAML tag `{node.tag}` is not supported: write the value without it")
            sound = False
        open_nodes.add(id(node))
        stack.append((node, True))
        if isinstance(node, MappingNode):
            for key, value in node.value:
                stack.append((value, False))
                stack.append((key, False))
        elif isinstance(node, SequenceNode):
            stack.extend((item, False) for item in node.value)
    return sound


def is_null(node: Node) -> bool:
    """Whether a key has no value (or ``null``, ``~``)."""
    return isinstance(node, ScalarNode) and node.tag == _NULL


def described(node: Node) -> str:
    """A value as a message names it."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "nothing" if is_null(node) else f"`{shortened(node.value)}`"


def entries(node: MappingNode, walk: Walk, path: str) -> Iterator[tuple[str, Node, Node]]:
    """(key, node of the key, node of the value) of a mapping, merge keys (``<<``) resolved, each key once.

    A key that occurs twice is a problem: YAML would silently drop one of them.
    """
    lines: dict[str, int] = {}
    merged: list[tuple[str, Node, Node]] = []
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            sources = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            for source in sources:
                if isinstance(source, MappingNode):
                    merged.extend(entries(source, walk, path))
                else:
                    walk.problem(source, path, "`<<` merges mappings only")
            continue
        if not isinstance(key_node, ScalarNode):
            walk.problem(key_node, path, f"a key is a text, not {described(key_node)}")
            continue
        key = key_node.value
        inner = join(path, key)
        if key in lines:
            first = f"; it is also in line {lines[key]}" if lines[key] > 0 else ""
            walk.problem(key_node, inner, f"this key occurs twice{first}")
            continue
        lines[key] = key_node.start_mark.line + 1
        yield key, key_node, value_node
    for key, key_node, value_node in merged:
        if key not in lines:
            lines[key] = 0
            yield key, key_node, value_node


def join(path: str, key: str) -> str:
    """Key path of a key inside a mapping."""
    return f"{path}.{key}" if path else key


def plain(node: Node, walk: Walk, path: str) -> Any:
    """A free value as Python objects: str, int, float, bool, None, tuple, dict with str keys."""
    walk.expanded += 1
    if walk.expanded > MAX_NODES:
        return BAD if walk.expanded > MAX_NODES + 1 else walk.problem(node, path, "aliases make this value too large")
    if isinstance(node, MappingNode):
        found = {}
        for key, key_node, value in entries(node, walk, path):
            place = join(path, key)
            walk.places[place] = key_node
            found[key] = plain(value, walk, place)
        return found
    if isinstance(node, SequenceNode):
        return tuple(plain(item, walk, f"{path}[{index}]") for index, item in enumerate(node.value))
    return _plain_scalar(node)


def _plain_scalar(node: Node) -> Any:
    text: str = node.value
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text.lower() in {"true", "yes", "on"}
        case "int" | "float":
            try:
                number = float(text)
            except ValueError:
                return text  # base 60, binary and others: the text
            is_whole = text.lstrip("+-").replace("_", "").isdigit()
            return int(text) if is_whole else number
        case _:
            return text
