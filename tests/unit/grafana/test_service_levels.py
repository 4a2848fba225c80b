"""Latency over load: which loads meet a target is marked on the dashboard of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana.render import dashboards
from grafana.values import Values

from support.asked import filled
from support.ruletests import promtool

WHO = {"job": "tpw-exporter", "server": "chat", "model": "m"}
BY_LOAD = {"1 to 4": (1.0, 0.99, 2.0), "5 to 16": (4.0, 0.95, 3.0), "17 to 64": (8.0, 0.94, 6.0)}
"""Requests per second, the share of them that is known to be within the target, and their mean latency in seconds."""


def _series(name: str, value: float, **more: str) -> dict[str, str]:
    labels = ",".join(f"{label}={json.dumps(text)}" for label, text in {**WHO, "slo": "e2e", **more}.items())
    return {"series": f"{name}{{{labels}}}", "values": f"{value!r}x20"}


def _queries() -> list[str]:
    document = json.loads(dashboards(Values())["tpw-models"])
    [panel] = [panel for panel in document["panels"] if panel.get("title") == "Latency by load"]
    return [filled(target["expr"], values={"__range": "10m"}) for target in panel["targets"]]


def test_loads_at_which_95_of_100_requests_are_known_to_meet_the_target_are_marked(tools: Path, tmp_path: Path):
    series = []
    for load, (requests, within, latency) in BY_LOAD.items():
        series.append(_series("model:tpw_slo_latency_seconds_by_load:rate5m", requests * latency, load=load))
        series.append(_series("model:tpw_slo_requests_by_load:rate5m", requests, load=load, met="total"))
        series.append(_series("model:tpw_slo_requests_by_load:rate5m", requests * within, load=load, met="yes"))
    loads = ("under 1", "1 to 4", "5 to 16", "17 to 64", "over 64")
    tests: list[dict[str, Any]] = []
    for load, query in zip(loads, _queries(), strict=True):
        expected = []
        if load in BY_LOAD:
            _, within, latency = BY_LOAD[load]
            mark = "within" if within >= 0.95 else "beyond"
            labels = ",".join(f"{label}={json.dumps(text)}" for label, text in {"slo": "e2e", "mark": mark}.items())
            expected = [{"labels": f"{{{labels}}}", "value": latency}]
        expr = f"round(sum by (slo, mark) ({query}), 1e-6)"
        tests.append({"expr": expr, "eval_time": "15m", "exp_samples": expected})
    case = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    (tmp_path / "case.yaml").write_text(json.dumps(case))
    done = promtool(tools, "test", "rules", "case.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
