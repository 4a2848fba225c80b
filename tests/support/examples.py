"""The number of examples of a property test.

``TPW_EXAMPLES=0.25`` runs a quarter of them, as ``make test-unit`` does; ``make test`` runs all.
"""

from __future__ import annotations

import os

SHARE = float(os.environ.get("TPW_EXAMPLES", "1"))
FEWEST = 5


def examples(full: int) -> int:
    """The number to run instead of ``full``."""
    return max(min(full, FEWEST), round(full * SHARE))
