"""The configuration file as JSON Schema, draft 2020-12, from the shapes of its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tpw.config.schema import Config
from tpw.settings.shapes import (
    ByKind,
    FilePath,
    FreeMapping,
    JsonSchema,
    ListOf,
    MapOf,
    OrMapping,
    Scalar,
    Section,
    is_required,
    may_be_empty,
    settings_of,
)
from tpw.tariff import Layer


def json_schema() -> JsonSchema:
    """The whole file. It describes each value; ``tpw-exporter check`` also finds values that exclude or need each other."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of tpw-exporter",
        **_section(Config),
        "type": ["object", "null"],
        "$defs": {
            "layer": _section(Layer),
            **{shape.definition: _kinds(shape) for shape in _definitions(Config)},
        },
    }


def _definitions(section: type) -> Iterator[ByKind]:
    """Shapes that are defined once and referred to."""
    for meaning, _ in settings_of(section).values():
        yield from _definitions_in(meaning.shape)


def _definitions_in(shape: Any) -> Iterator[ByKind]:
    match shape:
        case ByKind():
            if shape.definition:
                yield shape
            for inner in shape.sections().values():
                yield from _definitions(inner)
        case ListOf():
            yield from _definitions_in(shape.item)
        case OrMapping():
            yield from _definitions_in(shape.mapping)
        case Section():
            yield from _definitions(shape.section)


def schema_of(shape: Any) -> JsonSchema:
    """The JSON Schema of one shape."""
    match shape:
        case Scalar():
            return dict(shape.json)
        case FilePath():
            return {"type": "string", "minLength": 1}
        case ListOf():
            as_list: JsonSchema = {"type": "array", "items": schema_of(shape.item)}
            if shape.unique:
                as_list["uniqueItems"] = True
            return {"anyOf": [as_list, schema_of(shape.item)]} if shape.or_one else as_list
        case MapOf():
            return {
                "type": "object",
                "propertyNames": {"pattern": f"^(?:{shape.key_pattern})$"},
                "additionalProperties": schema_of(shape.value),
            }
        case FreeMapping():
            return {"type": "object"}
        case Section():
            return _section(shape.section)
        case ByKind():
            return {"$ref": f"#/$defs/{shape.definition}"} if shape.definition else _kinds(shape)
        case OrMapping():
            return {"anyOf": [schema_of(shape.scalar), schema_of(shape.mapping)]}
        case _:
            schema: JsonSchema = shape.schema()
            return schema


def _section(section: type) -> JsonSchema:
    properties: JsonSchema = {}
    required: list[str] = []
    for key, (meaning, item) in settings_of(section).items():
        schema = schema_of(meaning.shape)
        if may_be_empty(meaning.shape) and not is_required(item):
            schema = {"anyOf": [schema, {"type": "null"}]}
        properties[key] = {"description": meaning.help, **schema}
        if is_required(item):
            required.append(key)
    result: JsonSchema = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        result["required"] = required
    return result


def _kinds(shape: ByKind) -> JsonSchema:
    branches = []
    for kind, section in shape.sections().items():
        branch = _section(section)
        common = settings_of(Layer) if issubclass(section, Layer) else {}
        branch["properties"] |= {key: {"$ref": f"#/$defs/layer/properties/{key}"} for key in common}
        branch["properties"] = {"kind": {"const": kind}, **branch["properties"]}
        if kind != shape.default:
            branch["required"] = ["kind", *branch.get("required", [])]
        branches.append(branch)
    return {"oneOf": branches} if len(branches) > 1 else branches[0]
