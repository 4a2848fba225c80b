"""Runs promtool on rule tests, with only the rules that a test needs.

The rule files hold some two hundred rules; a test of one alert over a week would spend its minutes on the others. So a
run takes the alert, and every recording rule that it (or a template in its annotations) reads, directly or not.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
CASES = ROOT / "tests" / "rules"
_NAME = re.compile(r"\b(?:gpu|node|server|model|deployment|cluster):tpw_\w+:\w+")


def closure(groups: list[dict[str, Any]], wanted: set[str]) -> list[dict[str, Any]]:
    """The groups with nothing but the alert or the records that are wanted, and what they read."""
    rules = [rule for group in groups for rule in group["rules"]]
    names = set(wanted)
    grown = True
    while grown:
        texts = [str(rule).replace("\\n", " ") for rule in rules if rule.get("alert", rule.get("record")) in names]
        more = {name for text in texts for name in _NAME.findall(text)}
        grown = not more <= names
        names |= more
    slim = []
    for group in groups:
        kept = [rule for rule in group["rules"] if rule.get("alert", rule.get("record")) in names]
        if kept:
            slim.append({**group, "rules": kept})
    return slim


def groups_of(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """All rule groups of generated files, recording rules first."""
    return [
        group
        for name in ("tpw-recording.rules.yaml", "tpw-alerts.rules.yaml")
        for group in yaml.safe_load(files[f"deploy/prometheus/{name}"])["groups"]
    ]


def written_groups() -> list[dict[str, Any]]:
    """All rule groups as they stand in the checkout."""
    return groups_of(
        {f"deploy/prometheus/{path.name}": path.read_text(encoding="utf-8") for path in RULES.glob("tpw-*.rules.yaml")}
    )


def queried(alert: str) -> set[str]:
    """Every name in the queries of tests/rules/ALERT.yaml: what is evaluated beside the alert."""
    case = yaml.load((CASES / f"{alert}.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506
    queries = [query["expr"] for test in case["tests"] for query in test.get("promql_expr_test", ())]
    return {name for query in queries for name in re.findall(r"[A-Za-z_][\w:]*", query)}


def run_case(
    tools: Path,
    alert: str,
    groups: list[dict[str, Any]],
    folder: Path,
    variants: Mapping[str, list[dict[str, Any]]] | None = None,
) -> tuple[set[str], str]:
    """Runs tests/rules/ALERT.yaml once: the names of failed tests, and what promtool printed.

    ``variants`` maps a name to the groups of changed rules. Each variant of the alert is evaluated under that name beside
    the original, and every test of the file is repeated for it. The recording rules are evaluated once for all of them.
    """
    recording = [group for group in groups if "record" in group["rules"][0]]
    alerting = [group for group in groups if "alert" in group["rules"][0]]
    for name, changed in (variants or {}).items():
        rules = [{**rule, "alert": name} for group in changed for rule in group["rules"] if rule.get("alert") == alert]
        alerting.append({"name": name, "rules": rules})
    # Every value stays text: "0x30" is thirty zeros to promtool and 48 to a YAML parser.
    case = yaml.load((CASES / f"{alert}.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506
    case["rule_files"] = ["recording.yaml", "alerting.yaml"]
    # Without an order promtool evaluates groups as a Go map happens to iterate: an alert may read the previous inputs.
    case["group_eval_order"] = [group["name"] for group in (*recording, *alerting)]
    for test in case["tests"]:
        for query in test.get("promql_expr_test", ()):
            for sample in query["exp_samples"]:
                sample["value"] = float(sample["value"])
        for key in ("promql_expr_test", "alert_rule_test"):
            if key in test:
                test[key] += [_renamed(entry, alert, name) for name in variants or () for entry in test[key]]
    for name, content in (("recording", {"groups": recording}), ("alerting", {"groups": alerting}), ("case", case)):
        (folder / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")
    done = promtool(tools, "test", "rules", "case.yaml", cwd=folder)
    output = done.stdout + done.stderr
    failed = set(_FAILED.findall(output))
    if done.returncode and not failed:
        raise AssertionError(output)
    return failed, output


_FAILED = re.compile(r'^ *(?:alertname: |expr: "[^\n]*?alertname=\\")(\w+)', re.MULTILINE)
"""The alert of each failed test in the output of promtool, which names an alert or the expression."""


def _renamed(entry: dict[str, Any], alert: str, name: str) -> dict[str, Any]:
    """The test for a variant: only the alert's name differs, not its annotations."""
    return {
        **entry,
        **({"alertname": name} if "alertname" in entry else {"expr": entry["expr"].replace(f'"{alert}"', f'"{name}"')}),
    }


def promtool(tools: Path, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs promtool. Fewer garbage collections than Go's default take a fifth off its CPU time."""
    return subprocess.run(
        [tools / "promtool", *arguments],
        cwd=cwd, env=os.environ | {"GOGC": "400"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
