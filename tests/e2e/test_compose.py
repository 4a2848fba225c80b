"""The compose stack's own files, read by the programs they are for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import realparts

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "compose"


@pytest.mark.parametrize("version", ["2", "3"])
def test_prometheus_accepts_its_configuration_and_the_rules(version, tmp_path):
    text = (COMPOSE / "prometheus.yaml").read_text()
    mounted = "/etc/prometheus/rules"
    assert mounted in text
    here = tmp_path / "prometheus.yaml"
    here.write_text(text.replace(mounted, str(ROOT / "deploy" / "prometheus")))
    done = subprocess.run(
        [realparts.prometheus_dir(version) / "promtool", "check", "config", here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") >= 2


@pytest.mark.parametrize("version", ["2", "3"])
def test_alertmanager_accepts_its_configuration(version):
    done = subprocess.run(
        [realparts.prometheus_dir(version) / "amtool", "check-config", COMPOSE / "alertmanager.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
