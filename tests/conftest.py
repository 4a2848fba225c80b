"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# The time of an example depends on the machine and its load, so hypothesis sets no deadline.
settings.register_profile("tpw", deadline=None)
settings.load_profile("tpw")
