"""Generated files are what the build writes now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from grafana.build import main
from grafana.render import files
from grafana.values import Values

FILES = files(Values())


@pytest.mark.parametrize("name", FILES)
def test_generated_file_stands_as_the_build_writes_it(name: str, root: Path):
    path = root / name
    assert path.is_file(), f"{name} is missing: run python -m grafana.build"
    assert path.read_text(encoding="utf-8") == FILES[name], f"{name} is stale: run python -m grafana.build"


def test_check_tells_what_differs_and_writes_nothing(tmp_path: Path, capsys):
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0
    changed = tmp_path / "grafana" / "dashboards" / "overview.json"
    changed.write_text("{}\n")
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out == "differs: grafana/dashboards/overview.json\n"
    assert changed.read_text() == "{}\n"


def test_building_twice_gives_the_same(root: Path):
    assert files(Values()) == FILES


def test_there_is_no_dashboard_that_the_build_does_not_write(root: Path):
    written = {name for name in FILES if name.startswith("grafana/dashboards/")}
    assert {f"grafana/dashboards/{path.name}" for path in (root / "grafana" / "dashboards").glob("*.json")} == written


def test_kubernetes_manifests_carry_the_same_rules_and_boards():
    rules = yaml.safe_load(FILES["deploy/prometheus/prometheusrule.yaml"])
    assert (rules["apiVersion"], rules["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    groups = [
        group
        for name in ("recording", "alerts")
        for group in yaml.safe_load(FILES[f"deploy/prometheus/tpw-{name}.rules.yaml"])["groups"]
    ]
    assert rules["spec"]["groups"] == groups
    maps = list(yaml.safe_load_all(FILES["deploy/grafana/dashboards.configmaps.yaml"]))
    assert all(document["metadata"]["labels"]["grafana_dashboard"] == "1" for document in maps)
    carried = {name: json.loads(text) for document in maps for name, text in document["data"].items()}
    written = {
        f"tpw-{Path(name).name}": json.loads(text)
        for name, text in FILES.items()
        if name.startswith("grafana/dashboards/")
    }
    assert carried == written
    # kubectl apply keeps the last applied object in an annotation, which may not exceed 256 KiB.
    assert max(len(yaml.safe_dump(document)) for document in maps) < 200_000
