"""Runs promtool on rule tests, with only the rules that a test needs.

The rule files hold some two hundred rules; a test of one alert over a week would spend its minutes on the others. So a
run takes the alert, and every recording rule that it (or a template in its annotations) reads, directly or not.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
CASES = ROOT / "tests" / "rules"
_NAME = re.compile(r"\b(?:gpu|node|server|model|cluster):tpw_\w+:\w+")


def closure(groups: list[dict[str, Any]], wanted: set[str]) -> list[dict[str, Any]]:
    """The groups with nothing but the alert or the records that are wanted, and what they read."""
    rules = [rule for group in groups for rule in group["rules"]]
    names = set(wanted)
    grown = True
    while grown:
        texts = [str(rule) for rule in rules if rule.get("alert", rule.get("record")) in names]
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


def run_case(tools: Path, case: str, groups: list[dict[str, Any]], folder: Path) -> tuple[int, str]:
    """Exit status and words of ``promtool test rules`` for one file of tests/rules with these rules."""
    folder.mkdir(parents=True, exist_ok=True)
    recording = [group for group in groups if "record" in group["rules"][0]]
    alerting = [group for group in groups if "alert" in group["rules"][0]]
    # Replaced as text: "0x30" is thirty zeros to promtool and 48 to a YAML parser.
    text = (CASES / f"{case}.yaml").read_text(encoding="utf-8")
    for name, part in (("tpw-recording.rules.yaml", recording), ("tpw-alerts.rules.yaml", alerting)):
        (folder / name).write_text(yaml.safe_dump({"groups": part}, sort_keys=False), encoding="utf-8")
        text = text.replace(f"../../deploy/prometheus/{name}", name)
    # Without an order promtool evaluates groups as a Go map happens to iterate: an alert may see its inputs a step late.
    order = [group["name"] for group in (*recording, *alerting)]
    (folder / "case.yaml").write_text(f"group_eval_order: {order}\n{text}", encoding="utf-8")
    done = subprocess.run(
        [str(tools / "promtool"), "test", "rules", "case.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
