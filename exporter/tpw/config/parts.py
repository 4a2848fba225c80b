"""Values with a grammar of their own: a server's GPUs, meters with options, the generic token mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tpw.config.nodes import Walk, described, entries, is_null, plain
from tpw.config.reading import read
from tpw.settings.scalars import text
from tpw.settings.shapes import BAD, JsonSchema, ListOf, MapOf, OrMapping, Scalar, Section, setting
from tpw.settings.values import WORD
from tpw.settings.words import did_you_mean, shortened


class GpuChoice(StrEnum):
    """How the GPUs of a server are determined."""

    AUTO = "auto"
    NONE = "none"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of a server. ``listed`` holds each as written: index, UUID or PCI bus id."""

    choice: GpuChoice
    listed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpusShape:
    """``auto``, ``none``, or a list of GPUs."""

    words: str = "auto, none, or a list of GPUs (index, UUID or PCI bus id)"

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See OwnGrammar."""
        if isinstance(node, ScalarNode) and node.value in {"auto", "none"}:
            return Gpus(GpuChoice(node.value))
        if not isinstance(node, SequenceNode):
            advice = ""
            if isinstance(node, ScalarNode) and not is_null(node):
                advice = f": write [{node.value}]" if _is_gpu(node.value) else ""
            return walk.problem(node, path, f"should be {self.words}, not {described(node)}{advice}")
        values = read(ListOf(Scalar("a GPU", _gpu, {}), self.words, unique=True), node, walk, path)
        if not values:
            return walk.problem(node, path, "is empty: write none for a server without GPUs")
        return BAD if any(value is BAD for value in values) else Gpus(GpuChoice.LISTED, values)

    def schema(self) -> JsonSchema:
        """See OwnGrammar."""
        item = {"anyOf": [{"type": "integer", "minimum": 0}, WORD]}
        return {
            "anyOf": [{"enum": ["auto", "none"]}, {"type": "array", "minItems": 1, "uniqueItems": True, "items": item}]
        }


def _is_gpu(value: str) -> bool:
    is_index = re.fullmatch(r"\d{1,3}", value) is not None
    is_word = (
        re.fullmatch(r"[A-Za-z0-9][\w.:/-]{2,}", value) is not None and re.search(r"[A-Za-z:-]", value) is not None
    )
    return is_index or (is_word and value.lower() not in {"auto", "none", "all", "true", "false", "null"})


def _gpu(value: str) -> str:
    if _is_gpu(value):
        return str(int(value)) if value.isdigit() else value
    raise ValueError(
        f"`{shortened(value)}` is not a GPU: give its index (0, 1 ...), its UUID (GPU-...) or its PCI bus id"
    )


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter and its options, as plain values for its constructor."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False
    """True for a default, which is tried on every machine: its absence is not a fault."""


@dataclass(frozen=True, slots=True)
class MeterShape:
    """The name of a meter, or a mapping of its name to its options."""

    words: str = "the name of a meter, or its name with options"

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See OwnGrammar."""
        if isinstance(node, ScalarNode) and not is_null(node):
            return self._named(node, node, walk, path, {})
        if not isinstance(node, MappingNode):
            return walk.problem(node, path, f"should be {self.words}, not {described(node)}")
        found = list(entries(node, walk, path))
        if len(found) != 1:
            message = f"an entry is one meter, but this one has {len(found)} keys: indent the options under the name"
            return walk.problem(node, path, message)
        name, key_node, value_node = found[0]
        place = f"{path}.{name}"
        walk.places[place] = key_node
        if is_null(value_node):
            return self._named(key_node, key_node, walk, place, {})
        if not isinstance(value_node, MappingNode):
            return walk.problem(value_node, place, f"should be a mapping of options, not {described(value_node)}")
        return self._named(key_node, value_node, walk, place, plain(value_node, walk, place))

    def _named(self, name_node: Node, node: Node, walk: Walk, path: str, options: Any) -> Any:
        if options is BAD:
            return BAD
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name_node.value):
            return walk.problem(
                name_node,
                path,
                f"{described(name_node)} is not the name of a meter: write lower-case letters, such as nvml",
            )
        return Meter(name_node.value, options)

    def schema(self) -> JsonSchema:
        """See OwnGrammar."""
        name = "^[a-z][a-z0-9_]*$"
        options = {"type": ["object", "null"]}
        with_options = {"type": "object", "minProperties": 1, "maxProperties": 1, "propertyNames": {"pattern": name}}
        return {"anyOf": [{"type": "string", "pattern": name}, {**with_options, "additionalProperties": options}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSelector:
    """A metric and the labels that its series must have."""

    metric: str = setting(
        text("the name of a metric", pattern="[a-zA-Z_:][a-zA-Z0-9_:]*"), "Name of the metric on the page."
    )
    match: Mapping[str, str] = setting(
        MapOf(text("the value of a label"), "a mapping of labels to values", "[a-zA-Z_][a-zA-Z0-9_]*", "a label"),
        "Only series with these values of their labels are counted.",
        default=dict,
        default_words="all series",
    )


_METRIC_OR_SELECTOR = OrMapping(
    text("the name of a metric", pattern="[a-zA-Z_:][a-zA-Z0-9_:]*"),
    Section(MetricSelector),
    "the name of a metric, or {metric, match}",
)
_TOKEN_ROLES = ("output", "input", "prompt", "cached_input", "requests")


@dataclass(frozen=True, slots=True)
class TokensShape:
    """Role -> the name of a metric, or a selector; every value becomes a MetricSelector."""

    words: str = f"a mapping of {', '.join(_TOKEN_ROLES)} to metrics"

    def read(self, node: Node, walk: Walk, path: str) -> Any:
        """See OwnGrammar."""
        if not isinstance(node, MappingNode):
            return walk.problem(node, path, f"should be {self.words}, not {described(node)}")
        result: dict[str, MetricSelector] = {}
        for role, key_node, value_node in entries(node, walk, path):
            place = f"{path}.{role}"
            walk.places[place] = key_node
            if role not in _TOKEN_ROLES:
                hint = did_you_mean(role, _TOKEN_ROLES) or f"; the roles are {', '.join(_TOKEN_ROLES)}"
                walk.problem(key_node, place, f"unknown role{hint}")
                continue
            value = read(_METRIC_OR_SELECTOR, value_node, walk, place)
            result[role] = MetricSelector(metric=value) if isinstance(value, str) else value
        return result

    def schema(self) -> JsonSchema:
        """See OwnGrammar."""
        from tpw.config.json_schema import schema_of

        roles = {role: schema_of(_METRIC_OR_SELECTOR) for role in _TOKEN_ROLES}
        return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": roles}
