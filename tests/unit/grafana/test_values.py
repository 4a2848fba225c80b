from __future__ import annotations

from pathlib import Path

import pytest
from grafana.build import main
from grafana.values import Values, number


def test_a_file_replaces_some_values_and_keeps_the_rest(tmp_path: Path):
    path = tmp_path / "values.yaml"
    path.write_text("waste_share: 0.25\nidle_for: 2h\nlabels: [site]\n")
    values = Values.load(path)
    assert (values.waste_share, values.idle_for, values.labels, values.idle_share) == (0.25, "2h", ("site",), 0.95)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("wast_share: 0.2", "wast_share is none of the values"),
        ("waste_share: much", "waste_share is a number"),
        ("waste_share: true", "waste_share is a number"),
        ("idle_for: 30", "idle_for is a text"),
        ("labels: job", "labels is a list"),
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
def test_numbers_are_written_as_a_person_would(value: float, text: str):
    assert number(value) == text
