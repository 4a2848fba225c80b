"""Reading a YAML tree into the sections of :mod:`tpw.settings`. Problems are noted in the walk, each with its line."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tpw.config.nodes import Origin, Walk, described, entries, is_null, join, plain
from tpw.settings.scalars import text
from tpw.settings.shapes import (
    BAD,
    ByKind,
    FilePath,
    FreeMapping,
    JsonSchema,
    ListOf,
    MapOf,
    OrMapping,
    Scalar,
    Section,
    Shape,
    is_required,
    may_be_empty,
    settings_of,
)
from tpw.settings.words import did_you_mean, listed, shortened


class OwnGrammar(Shape, Protocol):
    """A shape that reads itself: a value with a grammar of its own."""

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """The typed value, or BAD after noting why not."""

    def schema(self) -> JsonSchema:
        """The shape as JSON Schema (draft 2020-12)."""


def read(shape: Any, node: Node, walk: Walk, path: str) -> Any:
    """The typed value of a node, or BAD after noting why not."""
    match shape:
        case Scalar():
            return _scalar(shape, node, walk, path)
        case FilePath():
            return _file_path(shape, node, walk, path)
        case ListOf():
            return _list(shape, node, walk, path)
        case MapOf():
            return _map(shape, node, walk, path)
        case Section():
            return read_section(shape.section, node, walk, path, shape.words)
        case ByKind():
            return _by_kind(shape, node, walk, path)
        case FreeMapping():
            return plain(node, walk, path) if isinstance(node, MappingNode) else _expected(shape, node, walk, path)
        case OrMapping():
            if isinstance(node, MappingNode):
                return read(shape.mapping, node, walk, path)
            if isinstance(node, ScalarNode) and not is_null(node):
                return read(shape.scalar, node, walk, path)
            return _expected(shape, node, walk, path)
        case _:
            return shape.read(node, walk, path)


def _expected(shape: Shape, node: Node, walk: Walk, path: str, advice: str = "") -> Any:
    return walk.problem(node, path, f"should be {shape.words}, not {described(node)}{advice}")


def _scalar(shape: Scalar, node: Node, walk: Walk, path: str) -> Any:
    if not isinstance(node, ScalarNode):
        return _expected(shape, node, walk, path)
    if is_null(node):
        return walk.problem(node, path, f"has no value: give {shape.words}, or remove the line")
    if shape.bare and node.style in {"'", '"'} and node.value:
        return walk.problem(node, path, f"should be {shape.words}: write {shortened(node.value)} without quotes")
    try:
        return shape.parse(node.value)
    except ValueError as error:
        return walk.problem(node, path, str(error))


def _file_path(shape: FilePath, node: Node, walk: Walk, path: str) -> Any:
    value = _scalar(text(shape.words), node, walk, path)
    from_file = not isinstance(node.start_mark, Origin)  # a flag's path starts at the working directory
    if value is BAD or os.path.isabs(value) or not walk.directory or not from_file:  # noqa: PTH117
        return value
    return os.path.join(walk.directory, value)  # noqa: PTH118


def _is_item(item: Shape, node: Node) -> bool:
    if isinstance(item, Section | ByKind):
        return isinstance(node, MappingNode)
    return isinstance(node, ScalarNode) and not is_null(node)


def _list(shape: ListOf, node: Node, walk: Walk, path: str) -> Any:
    if isinstance(node, SequenceNode):
        places = [(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
    elif shape.or_one and _is_item(shape.item, node):
        places = [(node, path)]
    else:
        is_value = isinstance(node, ScalarNode) and not is_null(node)
        return _expected(shape, node, walk, path, f": write [{shortened(node.value)}]" if is_value else "")
    values = []
    for item, place in places:
        if place != path or isinstance(item, ScalarNode):
            walk.places[place] = item
        value = read(shape.item, item, walk, place)
        if shape.unique and value is not BAD and value in values:
            walk.problem(item, place, f"{described(item)} occurs twice in this list")
        values.append(value)
    if shape.gather is None:
        return tuple(values)
    return BAD if any(value is BAD for value in values) else shape.gather(tuple(values))


def _map(shape: MapOf, node: Node, walk: Walk, path: str) -> Any:
    if not isinstance(node, MappingNode):
        return _expected(shape, node, walk, path)
    result: dict[str, Any] = {}
    for key, key_node, value_node in entries(node, walk, path):
        place = join(path, key)
        walk.places[place] = key_node
        if not re.fullmatch(shape.key_pattern, key):
            walk.problem(key_node, place, f"`{shortened(key)}` is not {shape.key_words}")
            continue
        result[key] = read(shape.value, value_node, walk, place)
    return result


def _by_kind(shape: ByKind, node: Node, walk: Walk, path: str) -> Any:
    if not isinstance(node, MappingNode):
        return _expected(shape, node, walk, path)
    place = join(path, "kind")
    given = {key: value for key, _, value in entries(node, Walk(walk.file), path)}.get("kind")
    kind = shape.default if given is None else given.value
    if given is None and not kind:
        return walk.problem(node, place, f"is missing: give {listed(tuple(shape.table))}")
    if not isinstance(kind, str) or kind not in shape.table:
        hint = did_you_mean(kind, shape.table) if isinstance(kind, str) else ""
        value = "nothing" if given is None else described(given)
        return walk.problem(given, place, f"{value} is not {listed(tuple(shape.table))}{hint}")

    def elsewhere(key: str) -> str:
        owners = [name for name, section in shape.sections().items() if key in settings_of(section)]
        return f"is not a setting of kind: {kind}; it belongs to {listed(owners)}" if owners else ""

    return read_section(shape.section(kind), node, walk, path, shape.words, ignore="kind", elsewhere=elsewhere)


def read_section(
    section: type,
    node: Node,
    walk: Walk,
    path: str,
    words: str,
    *,
    ignore: str = "",
    elsewhere: Callable[[str], str] | None = None,
) -> Any:
    """Read a mapping into a section. ``ignore`` names a key that the caller has read; ``elsewhere`` explains keys of other
    kinds."""
    if not isinstance(node, MappingNode):
        return walk.problem(node, path, f"should be {words}, not {described(node)}")
    known = settings_of(section)
    values: dict[str, Any] = {}
    for key, key_node, value_node in entries(node, walk, path):
        if key == ignore:
            continue
        place = join(path, key)
        walk.places[place] = key_node
        if key not in known:
            explained = elsewhere(key) if elsewhere else ""
            walk.problem(key_node, place, explained or _advice_on_unknown(key, known))
            continue
        shape = known[key][0].shape
        if is_null(value_node) and may_be_empty(shape) and not is_required(known[key][1]):
            continue
        values[key] = read(shape, value_node, walk, place)
    for key, (meaning, item) in known.items():
        if key not in values and is_required(item):
            values[key] = walk.problem(node, join(path, key), f"is missing: give {meaning.shape.words}")
    return section(**values)


_SECRET_KEYS = frozenset(
    {"headers", "header", "authorization", "token", "bearer_token", "api_key", "apikey", "key", "password", "passwd"}
    | {"secret", "username", "basic_auth", "credentials", "security_token"}
)


def _advice_on_unknown(key: str, known: Mapping[str, object]) -> str:
    if key.lower().replace("-", "_") in _SECRET_KEYS:
        files = [name for name in known if name.endswith("_file") and name != "dates_file"]
        return f"unknown key; secrets are read from files only{f': see `{files[0]}`' if files else ''}"
    if key.isdigit():
        return (
            "unknown key; a comma in {...} starts the next key: write decimals after a point, thousands without commas"
        )
    hint = did_you_mean(key, known)
    return f"unknown key{hint}" if hint else f"unknown key; the keys here are {', '.join(known)}"
