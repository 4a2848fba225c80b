"""Shapes: what the value of a setting may look like.

A shape does three things for its settings: it reads a node into a typed value (noting problems in the walk and giving
``BAD`` where it cannot), it writes its part of the JSON Schema, and it says in words what it wants. Everything else,
from loading to the reference page, is one walk over the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, Protocol

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tpw.config.nodes import BAD, Walk, described, entries, is_null, join, plain, shortened
from tpw.config.problems import did_you_mean, listed

JsonSchema = dict[str, Any]


class Shape(Protocol):
    """What a value may look like."""

    @property
    def words(self) -> str:
        """What is wanted, to finish the sentence "should be ..."."""

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """The typed value, or BAD after noting why not."""

    def schema(self) -> JsonSchema:
        """The shape as JSON Schema (draft 2020-12)."""


def may_be_empty(shape: Shape) -> bool:
    """Whether a key with nothing after it (all lines below commented out) counts as left out: lists and sections."""
    return isinstance(shape, Section | ByKind | ListOf | MapOf)


# ------------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one key of a section."""

    shape: Shape
    help: str
    flag: str = ""
    """Name of the command line flag that sets it too, e.g. ``log.level``."""
    default_words: str = ""
    """The default in words, where the value itself says little."""


def setting(
    shape: Shape,
    help: str,  # noqa: A002 - the word of argparse and Prometheus
    *,
    default: Any = MISSING,
    flag: str = "",
    default_words: str = "",
) -> Any:
    """A field of a section. Without a default the key must be given."""
    metadata = {"setting": Setting(shape, help, flag, default_words)}
    if default is MISSING:
        return field(metadata=metadata)
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def settings_of(section: type) -> dict[str, tuple[Setting, Field[Any]]]:
    """The settings of a section by key, in the order they are declared."""
    return {each.name: (each.metadata["setting"], each) for each in fields(section)}


def is_required(each: Field[Any]) -> bool:
    """Whether the key must be given."""
    return each.default is MISSING and each.default_factory is MISSING


def default_of(each: Field[Any]) -> Any:
    """The default of a key that need not be given."""
    return each.default_factory() if each.default_factory is not MISSING else each.default


# ----------------------------------------------------------------------------------------------------------- containers


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; read as a tuple. With ``or_one``, a single value may stand without the brackets."""

    item: Shape
    words: str
    or_one: bool = False
    unique: bool = False
    gather: Callable[[tuple[Any, ...]], Any] | None = None
    """Makes the setting's value of the items."""

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See Shape."""
        if isinstance(node, SequenceNode):
            places = [(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        elif self.or_one and isinstance(node, ScalarNode) and not is_null(node):
            places = [(node, path)]
        else:
            hint = f": write [{shortened(node.value)}]" if isinstance(node, ScalarNode) and not is_null(node) else ""
            return walk.problem(node, path, f"should be {self.words}, not {described(node)}{hint}")
        values = []
        for item, place in places:
            walk.places[place] = item
            value = self.item.read(item, walk, place)
            if self.unique and value is not BAD and value in values:
                walk.problem(item, place, f"{described(item)} stands twice in this list")
            values.append(value)
        if any(value is BAD for value in values) and self.gather is not None:
            return BAD
        return self.gather(tuple(values)) if self.gather is not None else tuple(values)

    def schema(self) -> JsonSchema:
        """See Shape."""
        as_list: JsonSchema = {"type": "array", "items": self.item.schema()}
        if self.unique:
            as_list["uniqueItems"] = True
        return {"anyOf": [as_list, self.item.schema()]} if self.or_one else as_list


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping with free keys and values of one shape; read as a dict."""

    value: Shape
    words: str
    key_pattern: str = ".+"
    key_words: str = "a name"

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See Shape."""
        if not isinstance(node, MappingNode):
            return walk.problem(node, path, f"should be {self.words}, not {described(node)}")
        result: dict[str, Any] = {}
        for key, key_node, value_node in entries(node, walk, path):
            place = join(path, key)
            walk.places[place] = key_node
            if not re.fullmatch(self.key_pattern, key):
                walk.problem(key_node, place, f"`{shortened(key)}` is not {self.key_words}")
                continue
            result[key] = self.value.read(value_node, walk, place)
        return result

    def schema(self) -> JsonSchema:
        """See Shape."""
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.key_pattern})$"},
            "additionalProperties": self.value.schema(),
        }


@dataclass(frozen=True, slots=True)
class FreeMapping:
    """A mapping that somebody else understands; read as a dict of plain values."""

    words: str

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See Shape."""
        if not isinstance(node, MappingNode):
            return walk.problem(node, path, f"should be {self.words}, not {described(node)}")
        return plain(node, walk, path)

    def schema(self) -> JsonSchema:
        """See Shape."""
        return {"type": "object"}


_SECRET_KEYS = frozenset(
    {"headers", "header", "authorization", "token", "bearer_token", "api_key", "apikey", "key", "password", "passwd"}
    | {"secret", "username", "basic_auth", "credentials", "security_token"}
)


def _advice_on_unknown(key: str, known: Mapping[str, object]) -> str:
    if key.lower().replace("-", "_") in _SECRET_KEYS:
        files = [name for name in known if name.endswith("_file")]
        return f"unknown key; secrets are given by file only{f': see `{files[0]}`' if files else ''}"
    if key.isdigit():
        return (
            "unknown key; a comma in {...} starts the next key: write decimals after a point, thousands without commas"
        )
    hint = did_you_mean(key, known)
    return f"unknown key{hint}" if hint else f"unknown key; the keys here are {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with the settings of a dataclass; read as an object of it."""

    section: type
    words: str = "a mapping of settings"

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See Shape. A field that could not be read holds BAD; the walk then has its problem."""
        return read_section(self.section, node, walk, path, self.words)

    def schema(self) -> JsonSchema:
        """See Shape."""
        return section_schema(self.section)


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
    """Read a mapping into a section. ``ignore`` names a key read by others; ``elsewhere`` explains foreign keys."""
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
        values[key] = shape.read(value_node, walk, place)
    for key, (meaning, each) in known.items():
        if key not in values and is_required(each):
            values[key] = walk.problem(node, join(path, key), f"is missing: give {meaning.shape.words}")
    return section(**values)


def section_schema(section: type) -> JsonSchema:
    """The JSON Schema of a section."""
    properties: JsonSchema = {}
    required: list[str] = []
    for key, (meaning, each) in settings_of(section).items():
        schema = meaning.shape.schema()
        if may_be_empty(meaning.shape) and not is_required(each):
            schema = {"anyOf": [schema, {"type": "null"}]}
        properties[key] = {"description": meaning.help, **schema}
        if is_required(each):
            required.append(key)
    result: JsonSchema = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        result["required"] = required
    return result


@dataclass(frozen=True, slots=True)
class ByKind:
    """A mapping whose key ``kind`` says which section it is."""

    kinds: Mapping[str, type]
    words: str
    default: str = ""
    """The kind where none is given; "" where one must be."""
    definition: str = ""
    """Name under which the JSON Schema defines it once, where it is used in several places."""

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See Shape."""
        if not isinstance(node, MappingNode):
            return walk.problem(node, path, f"should be {self.words}, not {described(node)}")
        place = join(path, "kind")
        given = {key: value for key, _, value in entries(node, Walk(walk.file), path)}.get("kind")
        kind = self.default if given is None else given.value
        if given is None and not kind:
            return walk.problem(node, place, f"is missing: {listed(tuple(self.kinds))}")
        if not isinstance(kind, str) or kind not in self.kinds:
            hint = did_you_mean(kind, self.kinds) if isinstance(kind, str) else ""
            said = "nothing" if given is None else described(given)
            return walk.problem(given, place, f"{said} is not {listed(tuple(self.kinds))}{hint}")

        def elsewhere(key: str) -> str:
            owners = [name for name, section in self.kinds.items() if key in settings_of(section)]
            return f"has no meaning with kind: {kind}; it belongs to {listed(owners)}" if owners else ""

        return read_section(self.kinds[kind], node, walk, path, self.words, ignore="kind", elsewhere=elsewhere)

    def schema(self) -> JsonSchema:
        """See Shape."""
        return {"$ref": f"#/$defs/{self.definition}"} if self.definition else self.whole_schema()

    def whole_schema(self) -> JsonSchema:
        """The schema itself, not a reference to it."""
        branches = []
        for kind, section in self.kinds.items():
            branch = section_schema(section)
            branch["properties"] = {"kind": {"const": kind}, **branch["properties"]}
            if kind != self.default:
                branch["required"] = ["kind", *branch.get("required", [])]
            branches.append(branch)
        return {"oneOf": branches}


@dataclass(frozen=True, slots=True)
class OrMapping:
    """A single value, or a mapping that says more."""

    scalar: Shape
    mapping: Shape
    words: str

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See Shape."""
        if isinstance(node, MappingNode):
            return self.mapping.read(node, walk, path)
        if isinstance(node, ScalarNode) and not is_null(node):
            return self.scalar.read(node, walk, path)
        return walk.problem(node, path, f"should be {self.words}, not {described(node)}")

    def schema(self) -> JsonSchema:
        """See Shape."""
        return {"anyOf": [self.scalar.schema(), self.mapping.schema()]}
