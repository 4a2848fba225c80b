"""Settings of all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from support.examples import examples
from support.servers import LOGS

# A tariff's charges are booked in another way in a cluster, and tests may run in one.
os.environ.pop("KUBERNETES_SERVICE_HOST", None)

# The time of an example depends on the machine and its load, so hypothesis sets no deadline.
settings.register_profile("tpw", deadline=None, max_examples=examples(100))
settings.load_profile("tpw")


@pytest.fixture(autouse=True, scope="module")
def logging_as_it_was() -> Iterator[None]:
    """A command that runs in the test's process sets its level of logging, which is not that of the next module."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def pytest_sessionstart() -> None:
    """Removes the logs of the previous run, once for all workers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(LOGS, ignore_errors=True)
