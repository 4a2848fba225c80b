"""What all tests have in common."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes is the affair of the machine, and of whoever else works on it.
settings.register_profile("tpw", deadline=None)
settings.load_profile("tpw")
