"""The outside world of feeds. Apart from the settings, which are read without it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tpw.http.fetch import fetch
from tpw.http.messages import Fetch


@dataclass(frozen=True, slots=True)
class FeedContext:
    """The outside world, as feeds use it."""

    clock: Callable[[], float] = time.time
    """Unix time."""
    fetch: Fetch = fetch
    cache: Path | None = None
    """Directory that keeps fetched prices; None keeps them in memory."""
    jitter: float = field(default_factory=random.random)
    """In [0, 1): when after publication this process fetches."""

    def cache_file(self, name: str, identity: str) -> Path | None:
        """One file for each identity, so that two layers, or the tariff of yesterday's configuration, do not share one."""
        if self.cache is None:
            return None
        import hashlib  # maps OpenSSL

        return self.cache / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"
