"""Settings of all tests."""

from __future__ import annotations

import os
import shutil

from hypothesis import settings

from support.examples import examples
from support.servers import LOGS

# A tariff's charges are booked in another way in a cluster, and tests may run in one.
os.environ.pop("KUBERNETES_SERVICE_HOST", None)

# The time of an example depends on the machine and its load, so hypothesis sets no deadline.
settings.register_profile("tpw", deadline=None, max_examples=examples(100))
settings.load_profile("tpw")


def pytest_sessionstart() -> None:
    """Removes the logs of the previous run, once for all workers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(LOGS, ignore_errors=True)
