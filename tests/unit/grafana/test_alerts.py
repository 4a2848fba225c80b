"""Each alert fires, stays quiet when all is well, when the thing is absent or lost, and its thresholds matter.

The cases are in tests/rules, one file per alert, and can be run by hand:
``promtool test rules tests/rules/TpwGpuIdle.yaml``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana.alerts import Alert, alert_groups, annotations_of
from grafana.render import alerting_rules
from grafana.values import Values

from support import ruletests
from support.snapshots import fleet_snapshot
from tpw.exposition.families import families

VALUES = Values()
ALERTS = tuple(alert for group in alert_groups(VALUES) for alert in group.alerts)
NAMES = tuple(dict.fromkeys(alert.name for alert in ALERTS))
KNOBS = {name: sorted({knob for alert in ALERTS if alert.name == name for knob in alert.knobs}) for name in NAMES}
NOT_KNOBS = {
    "labels",
    "job",
    "runbook_url",
    "grafana_url",
    "slow_sources",
    "throttle_reasons",
    "local_uuids",
}
"""Names and addresses: they select what an alert reads, not when it fires."""


@pytest.mark.rules
@pytest.mark.parametrize("name", NAMES)
def test_alert_passes_its_cases_and_no_changed_threshold_does(name: str, edition: str, tools: Path, tmp_path: Path):
    """The thresholds are changed with one version of Prometheus only: the cases, not the engine, are tested by that."""
    groups = ruletests.closure(ruletests.written_groups(), {name, *ruletests.queried(name)})
    changed = dict(_changed_rules(name)) if edition == "3" else {}
    failed, output = ruletests.run_case(tools, name, groups, tmp_path, changed)
    assert name not in failed, output
    assert changed.keys() - failed == set(), "these changed thresholds pass all cases"


def _changed_rules(name: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The alerts with each threshold of this one lowered and raised."""
    for knob in KNOBS[name]:
        for change in ("less", "more"):
            values = VALUES.with_changes({knob: _changed(getattr(VALUES, knob), change)})
            yield f"{name}_{knob}_{change}", alerting_rules(alert_groups(values), values)


def _changed(value: float | str, change: str) -> float | str:
    """A fifth less or more; half or double a duration."""
    if isinstance(value, str):
        amount, unit = re.fullmatch(r"(\d+)([mh])", value).groups()  # type: ignore[union-attr]
        seconds = int(amount) * {"m": 60, "h": 3600}[unit]
        return f"{seconds // 2 if change == 'less' else seconds * 2}s"
    changed = value * (0.8 if change == "less" else 1.2)
    return round(changed) if isinstance(value, int) else changed


def test_every_threshold_is_tested_by_changing_it():
    fields = {field.name for field in dataclasses.fields(Values)}
    assert {knob for knobs in KNOBS.values() for knob in knobs} == fields - NOT_KNOBS


def test_there_is_a_case_file_for_every_alert_and_no_other():
    assert {path.stem for path in ruletests.CASES.glob("Tpw*.yaml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_cases_cover_firing_and_silence(name: str):
    cases = yaml.safe_load((ruletests.CASES / f"{name}.yaml").read_text(encoding="utf-8"))["tests"]
    fires = [case for case in cases for test in case.get("alert_rule_test", ()) if test["exp_alerts"]]
    quiet = [case for case in cases if case["name"].startswith("stays quiet")]
    assert fires
    assert quiet


def _rows(values: str, **more: str) -> list[dict[str, str]]:
    """A healthy node's page as input series of a rule test, every one of them with these values (``V`` is the number)."""
    target = {"job": "tpw-exporter", "instance": "node-a:10101", **more}
    rows = []
    for metric, samples in families(fleet_snapshot(8, 4)):
        for labels, number in samples:
            who = {**dict(zip(metric.labels, labels, strict=True)), **target}
            inner = ",".join(f'{name}="{value}"' for name, value in who.items())
            rows.append({"series": f"{metric.name}{{{inner}}}", "values": values.replace("V", f"{number:.17g}")})
    return rows


def _up(values: str, **more: str) -> dict[str, str]:
    target = {"job": "tpw-exporter", "instance": "node-a:10101", **more}
    return {"series": "up{" + ",".join(f'{name}="{value}"' for name, value in target.items()) + "}", "values": values}


def _run_all(tools: Path, folder: Path, series: list[dict[str, str]], expr: str, expected: list[Any]) -> str:
    """What promtool has against all rules and alerts together over these series; "" for nothing."""
    case = {
        "rule_files": [str(ruletests.RULES / f"tpw-{kind}.rules.yaml") for kind in ("recording", "alerts")],
        "evaluation_interval": "4m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [{"expr": expr, "eval_time": "4h", "exp_samples": expected}],
            }
        ],
    }
    (folder / "case.yaml").write_text(yaml.safe_dump(case), encoding="utf-8")
    done = ruletests.promtool(tools, "test", "rules", "case.yaml", cwd=folder)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.rules
@pytest.mark.parametrize(
    ("series", "firing"),
    [
        ([{"series": "somebody_elses", "values": "1x240"}], {"TpwExporterAbsent"}),
        ([*_rows("Vx60 stale"), _up("1x60 0x180")], {"TpwExporterDown"}),
        ([*_rows("Vx60 stale"), _up("1x60 stale")], {"TpwExporterAbsent"}),
    ],
    ids=["nothing was ever there", "an exporter stopped", "its target was removed"],
)
def test_where_something_is_absent_only_that_alert_fires(
    series: list[dict[str, str]], firing: set[str], tools: Path, tmp_path: Path
):
    """All rules and alerts together: no alert takes what is not there for zero."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    assert _run_all(tools, tmp_path, series, "count by (alertname) (ALERTS)", expected) == ""


@pytest.mark.rules
def test_two_pods_of_a_node_that_overlap_break_no_rule(tools: Path, tmp_path: Path):
    """Both are scraped for a moment: every series is there twice, and a rule that cannot match them has no result."""
    pods = ({"pod": "old"}, {"pod": "new"})
    series = [row for pod in pods for row in (*_rows("Vx240", **pod), _up("1x240", **pod))]
    expected = [{"labels": "{}", "value": 2}]
    assert _run_all(tools, tmp_path, series, "count(up)", expected) == ""


@pytest.mark.parametrize("name", NAMES)
def test_alert_has_a_runbook_in_four_parts_under_its_name(name: str, root: Path):
    text = (root / "deploy" / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ .*$", text, flags=re.MULTILINE)
    assert headings == [f"# {name}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
    parts = re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]
    assert all(len(part.split()) >= 5 for part in parts), "a part of the runbook is empty"


def test_there_is_no_runbook_without_an_alert(root: Path):
    assert {path.stem for path in (root / "deploy" / "runbooks").glob("*.md")} == set(NAMES)


def test_runbooks_link_to_pages_that_exist(root: Path):
    folder = root / "deploy" / "runbooks"
    missing = [
        f"{path.name}: {target}"
        for path in folder.glob("*.md")
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
        if not (folder / target).is_file()
    ]
    assert missing == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_alert_has_complete_annotations(alert: Alert):
    notes = annotations_of(alert, VALUES)
    assert alert.name.startswith("Tpw")
    assert set(notes) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "{{" not in notes["summary"], "the summary is one static sentence"
    assert notes["summary"].endswith(".")
    assert len(notes["summary"]) <= 80
    assert notes["dashboard_url"].startswith(f"/d/{alert.dashboard}")
    assert alert.why


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_by_default_no_address_leads_nowhere(alert: Alert, root: Path):
    """The runbook is the page of an exporter, or a path in this repository; the dashboard is a path in Grafana."""
    notes = annotations_of(alert, VALUES)
    page, path = notes["runbook_url"].removesuffix("{{ end }}").split("{{ else }}")
    assert page.endswith(f"/runbooks/{alert.name}")
    assert (root / path).is_file()
    assert "://" not in notes["dashboard_url"]


def test_alerts_on_cost_have_an_amount_per_day():
    speaks = {alert.name for alert in ALERTS if "a day" in annotations_of(alert, VALUES)["description"]}
    assert speaks >= {
        "TpwGpuIdle",
        "TpwGpuParked",
        "TpwWasteHigh",
        "TpwBudgetBurn",
        "TpwBudgetForecast",
        "TpwSpendChanged",
    }


def test_no_threshold_is_written_into_an_expression(root: Path):
    """Every number of the alerts' source that decides something comes from the values."""
    source = (root / "grafana" / "alerts.py").read_text(encoding="utf-8")
    compared = re.findall(r"(?:>=|<=|>|<) (\d[\d.]*)(?![\d%])", source)
    assert set(compared) <= {"0", "1", "3600"}


@pytest.mark.rules
def test_rule_files_pass_promtool(tools: Path, root: Path):
    paths = sorted(str(path) for path in (root / "deploy" / "prometheus").glob("*.rules.yaml"))
    done = ruletests.promtool(tools, "check", "rules", *paths)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("SUCCESS") == len(paths) == 3


@pytest.mark.rules
def test_the_whole_of_the_rules_runs_together(tools: Path, root: Path):
    case = root / "tests" / "rules" / "TpwSourceDown.yaml"
    done = ruletests.promtool(tools, "test", "rules", case)
    assert done.returncode == 0, done.stdout + done.stderr
