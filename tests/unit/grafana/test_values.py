from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from grafana.build import main
from grafana.values import Values, addresses, number


def test_a_file_replaces_some_values_and_keeps_the_rest(tmp_path: Path):
    path = tmp_path / "values.yaml"
    path.write_text("waste_share: 0.25\nidle_for: 2h\nlabels: [site]\n")
    values = Values.load(path)
    assert (values.waste_share, values.idle_for, values.labels, values.idle_share) == (0.25, "2h", ("site",), 0.95)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("wast_share: 0.2", "wast_share is not a known value"),
        ("waste_share: much", "waste_share must be a number"),
        ("waste_share: true", "waste_share must be a number"),
        ("idle_for: 30", "idle_for must be a string"),
        ("labels: job", "labels must be a list"),
        ("- 1", "not a mapping"),
    ],
)
def test_a_wrong_file_is_refused_with_the_name(tmp_path: Path, content: str, complaint: str, capsys):
    path = tmp_path / "values.yaml"
    path.write_text(content)
    assert main(["--values", str(path), "--out", str(tmp_path)]) == 2
    assert complaint in capsys.readouterr().err


def test_rules_follow_the_values(tmp_path: Path, capsys):
    path = tmp_path / "values.yaml"
    path.write_text("labels: [site]\nwaste_share: 0.25\n")
    assert main(["--values", str(path), "--out", str(tmp_path)]) == 0
    alerts = (tmp_path / "deploy/prometheus/tpw-alerts.rules.yaml").read_text()
    assert "> 0.25" in alerts
    recording = (tmp_path / "deploy/prometheus/tpw-recording.rules.yaml").read_text()
    assert "sum by (site, server, model, kind)" in recording
    assert "namespace" not in recording


@pytest.mark.parametrize(("value", "text"), [(300.0, "300"), (0.95, "0.95"), (100000.0, "100000"), (0.7, "0.7")])
def test_numbers_are_written_without_exponents(value: float, text: str):
    assert number(value) == text


def test_addresses_are_given_in_one_place(tmp_path: Path):
    where = ["--runbooks", "https://docs.corp/runbooks/", "--grafana", "https://grafana.corp/g/"]
    assert main([*where, "--out", str(tmp_path)]) == 0
    alerts = yaml.safe_load((tmp_path / "deploy/prometheus/tpw-alerts.rules.yaml").read_text())
    notes = {rule["alert"]: rule["annotations"] for group in alerts["groups"] for rule in group["rules"]}
    assert notes["TpwGpuLost"]["runbook_url"] == "https://docs.corp/runbooks/TpwGpuLost.md"
    assert notes["TpwGpuLost"]["dashboard_url"].startswith("https://grafana.corp/g/d/tpw-gpus?var-instance=")


def test_the_address_of_runbooks_may_contain_the_name():
    assert addresses("https://wiki.corp/?page={alert}", None) == {"runbook_url": "https://wiki.corp/?page={alert}"}


@pytest.mark.parametrize("option", ["--runbooks", "--grafana"])
def test_anything_but_a_url_is_refused(option: str, tmp_path: Path, capsys):
    assert main([option, "wiki.corp/tpw", "--out", str(tmp_path)]) == 2
    assert "wiki.corp/tpw is not a URL: use https://host/path" in capsys.readouterr().err
