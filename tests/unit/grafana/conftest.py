"""The boards and rules are built from the checkout, beside the exporter's own package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
for folder in (ROOT, ROOT / "exporter"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from support.realparts import prometheus_dir  # noqa: E402


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session", params=["3", "2"])
def tools(request: pytest.FixtureRequest) -> Path:
    """The directory of promtool, Prometheus and amtool, once of each major version."""
    return prometheus_dir(request.param)


@pytest.fixture(scope="session")
def tools3() -> Path:
    """The same, of the newer major version alone."""
    return prometheus_dir("3")
