"""The generated files as text: path below the checkout -> content."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import yaml

from grafana import dashboards as modules
from grafana.alerts import AlertGroup, alert_groups, annotations_of
from grafana.dashboard import TAG
from grafana.documents import alerts_page
from grafana.rules import Group, recording_groups, vocabulary
from grafana.values import Values

DASHBOARDS = "deploy/grafana"
RULES = "deploy/prometheus"
HEADER = "# Generated from grafana/ by `make dashboards`. Do not edit: change the source and build again.\n"


def files(values: Values) -> dict[str, str]:
    """Every generated file. The Helm chart, compose and Kustomize read the same files."""
    recording, alerting = recording_groups(values), alert_groups(values)
    rules = {"recording": recording_rules(recording), "alerts": alerting_rules(alerting, values)}
    rendered = dashboards(values)
    return {
        **{f"{RULES}/tpw-{kind}.rules.yaml": HEADER + dump({"groups": groups}) for kind, groups in rules.items()},
        **{f"{DASHBOARDS}/dashboards/{_file_name(uid)}": text for uid, text in rendered.items()},
        f"{DASHBOARDS}/kustomization.yaml": HEADER + dump(_kustomization(rendered)),
        "docs/alerts.md": alerts_page(alerting, recording, values),
    }


def _file_name(uid: str) -> str:
    return f"{uid.removeprefix(TAG + '-')}.json"


def _kustomization(uids: Iterable[str]) -> dict[str, Any]:
    """One ConfigMap per dashboard for the sidecar of Grafana's chart, which selects them by the label."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "generatorOptions": {
            "disableNameSuffixHash": True,
            "labels": {"app.kubernetes.io/name": "tpw-exporter", "grafana_dashboard": "1"},
            "annotations": {"grafana_folder": TAG},
        },
        "configMapGenerator": [
            {"name": f"{uid}-dashboard", "files": [f"{uid}.json=dashboards/{_file_name(uid)}"]} for uid in uids
        ],
    }


def dashboards(values: Values) -> dict[str, str]:
    """uid -> JSON of every dashboard in :mod:`grafana.dashboards`, in the order of their modules."""
    words = vocabulary(values)
    documents = [
        import_module(f"{modules.__name__}.{module.name}").dashboard(words).document()
        for module in iter_modules(modules.__path__)
    ]
    return {document["uid"]: json.dumps(document, indent=1, sort_keys=True) + "\n" for document in documents}


def recording_rules(groups: tuple[Group, ...]) -> list[dict[str, Any]]:
    """Recording groups as Prometheus reads them."""
    return [
        {
            "name": group.name,
            **({"interval": group.interval} if group.interval else {}),
            "rules": [
                {"record": rule.record, "expr": rule.expr, **({"labels": dict(rule.labels)} if rule.labels else {})}
                for rule in group.rules
            ],
        }
        for group in groups
    ]


def alerting_rules(groups: tuple[AlertGroup, ...], values: Values) -> list[dict[str, Any]]:
    """Alerting groups as Prometheus reads them."""
    return [
        {
            "name": group.name,
            "rules": [
                {
                    "alert": alert.name,
                    "expr": alert.expr,
                    **({"for": alert.hold} if alert.hold else {}),
                    "labels": {"severity": str(alert.severity)},
                    "annotations": annotations_of(alert, values),
                }
                for alert in group.alerts
            ],
        }
        for group in groups
    ]


class _Dumper(yaml.SafeDumper):
    """Keeps the order of keys, writes expressions of several lines as blocks, indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump(content: Any) -> str:
    """YAML in block style, lines unwrapped."""
    return yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, width=1_000_000, allow_unicode=True, default_flow_style=False
    )
