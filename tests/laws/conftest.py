"""A law holds or does not: how long an example takes on a busy machine is none of it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("laws", deadline=None)
settings.load_profile("laws")
