"""The example for Alertmanager: who hears of what, and what makes what pointless."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from grafana.alerts import alert_groups
from grafana.values import Values

NAMES = {alert.name for group in alert_groups(Values()) for alert in group.alerts}
LABELS = {"cluster", "namespace", "job", "instance", "gpu", "uuid", "reason", "server", "currency", "alertname"}


@pytest.fixture(scope="module")
def config(root: Path) -> Path:
    return root / "deploy" / "alertmanager" / "alertmanager.yaml"


@pytest.mark.rules
def test_configuration_passes_amtool(tools: Path, config: Path):
    done = subprocess.run([tools / "amtool", "check-config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.rules
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (("alertname=TpwGpuLost", "severity=critical"), "pager"),
        (("alertname=TpwGpuIdle", "severity=warning"), "tickets"),
        (("alertname=TpwGpuParked", "severity=info"), "digest"),
        (("alertname=SomebodyElses", "severity=critical"), "tickets"),
    ],
)
def test_alerts_go_to_their_receiver(tools: Path, config: Path, labels: tuple[str, ...], receiver: str):
    test = [tools / "amtool", "config", "routes", "test", f"--config.file={config}"]
    done = subprocess.run(
        [*test, f"--verify.receivers={receiver}", *labels], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_inhibition_uses_alerts_and_labels_that_exist(config: Path):
    rules = yaml.safe_load(config.read_text(encoding="utf-8"))["inhibit_rules"]
    named = set()
    for rule in rules:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            match = re.fullmatch(r'alertname=~?"([\w|]+)"', matcher)
            named |= set(match.group(1).split("|")) if match else set()
        assert set(rule["equal"]) <= LABELS
    assert named <= NAMES
    assert {"TpwExporterDown", "TpwGpuLost"} <= named
