"""The dashboards and rules are built from the checkout, beside the exporter's own package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
for folder in (ROOT, ROOT / "exporter"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from support import fleetday, fleetrun, handbooks, recorded  # noqa: E402
from support.realparts import prometheus_dir  # noqa: E402
from support.recorded import Prometheus  # noqa: E402
from support.samples import Samples  # noqa: E402


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session", params=["3", "2"])
def edition(request: pytest.FixtureRequest) -> str:
    """Each major version of Prometheus."""
    return str(request.param)


@pytest.fixture(scope="session")
def tools(edition: str) -> Path:
    """The directory of promtool, Prometheus and amtool, once of each major version."""
    return prometheus_dir(edition)


@pytest.fixture(scope="session")
def tools3() -> Path:
    """The same, of the newer major version alone."""
    return prometheus_dir("3")


@pytest.fixture(scope="session")
def pages() -> Samples:
    """The pages of real daemons over the day of :mod:`support.fleetday`."""
    return fleetrun.live()


@pytest.fixture(scope="session")
def books() -> Samples:
    """The expected pages, calculated by hand."""
    return handbooks.reckoned()


@pytest.fixture(scope="session")
def server(pages: Samples, tools: Path) -> Iterator[Prometheus]:
    """A Prometheus with that day, its rules and its alerts."""
    with recorded.serving(tools) as running:
        recorded.fill(running, pages)
        recorded.record(running, fleetday.START, fleetday.END)
        recorded.alerts(running, fleetday.START, fleetday.END)
        yield running
