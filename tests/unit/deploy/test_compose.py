"""The compose files: what they mount is there, and what the exporter is given is a valid configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tpw.config.load import load_file

COMPOSE = Path(__file__).resolve().parents[3] / "deploy" / "compose"


class Loader(yaml.SafeLoader):
    """Knows compose's tags for taking something out of the file below."""


Loader.add_constructor("!reset", lambda _loader, _node: None)


def read(name: str) -> dict[str, Any]:
    return dict(yaml.load((COMPOSE / name).read_text(), Loader))  # noqa: S506 - a safe loader with one more tag


SERVICES: dict[str, dict[str, Any]] = read("docker-compose.yaml")["services"]


def bind_mounts() -> list[str]:
    return sorted(
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    )


@pytest.mark.parametrize("source", bind_mounts())
def test_mounted_files_exist(source):
    assert (COMPOSE / source).exists()


def test_named_volumes_are_declared():
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == set(read("docker-compose.yaml")["volumes"])


def test_exporter_is_given_a_valid_configuration_with_a_price():
    config = load_file(COMPOSE / "exporter.yaml")
    assert config.tariff.currency == "EUR"
    assert config.host.meters == ()


def test_demo_changes_only_services_that_exist():
    assert set(read("demo.yaml")["services"]) <= set(SERVICES)


def test_prometheus_scrapes_the_exporter_and_reads_the_mounted_rules():
    document = read("prometheus.yaml")
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in document["scrape_configs"]}
    assert jobs["tpw-exporter"] == ["exporter:10101"]
    (pattern,) = document["rule_files"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["prometheus"]["volumes"]}
    directory = COMPOSE / mounted[str(Path(pattern).parent)]
    assert list(directory.glob(Path(pattern).name))


def test_grafana_finds_the_dashboards_where_they_are_mounted():
    (provider,) = read("grafana/dashboards.yaml")["providers"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    assert list((COMPOSE / mounted[provider["options"]["path"]]).glob("*.json"))


def test_nothing_but_the_exporter_is_reachable_from_other_machines():
    for name, service in SERVICES.items():
        assert name == "exporter" or all(port.startswith("127.0.0.1:") for port in service["ports"])
