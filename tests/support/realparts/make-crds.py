"""make-crds.py FILE: the custom resources of the Prometheus operator, as definitions for an API server.

Their schemas are those of the operator, by way of a package with models of them. A model has "this type or null" where
the operator has an optional field, and refers to other models by name: an API server wants neither.
"""

import json
import sys
from pathlib import Path

from cloudcoil.models.prometheus_operator import v1

DROPPED = {"$defs", "title", "default", "description", "format"}


def structural(part, models):
    """A schema as an API server accepts it."""
    if "$ref" in part:
        return structural(models[part["$ref"].rpartition("/")[2]], models)
    choices = [choice for choice in part.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        return structural(choices[0], models)
    if choices:
        return {"x-kubernetes-int-or-string": True}
    made = {key: value for key, value in part.items() if key not in DROPPED}
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "properties" in made:
        made["properties"] = {name: structural(value, models) for name, value in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = structural(made[key], models)
    if not isinstance(made.get("additionalProperties"), dict):
        made.pop("additionalProperties", None)
    return made


def definition(kind):
    """A custom resource definition."""
    schema = getattr(v1, kind).model_json_schema(by_alias=True)
    made = structural(schema, schema["$defs"])
    made["properties"] = {"spec": made["properties"]["spec"]} | {
        name: {"type": kind_of}
        for name, kind_of in (("apiVersion", "string"), ("kind", "string"), ("metadata", "object"))
    }
    plural = f"{kind.lower()}s"
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": made}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


KINDS = ("PodMonitor", "ServiceMonitor", "PrometheusRule")
Path(sys.argv[1]).write_text(json.dumps([definition(kind) for kind in KINDS]))
