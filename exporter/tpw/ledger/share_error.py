"""How far a server's share of a GPU may be from the truth.

The bound holds for 95 of 100 servers: in worlds of two to four processes with random duties the booked energy of a server
differed from what it used by at most this part of the energy of the GPU (``tests/scenarios/test_share_error.py``; other
worlds chose these values than check them). It is a part of the GPU's energy and not of the server's: a small
share has the same bound as a large one.
"""

from __future__ import annotations

from collections.abc import Mapping

from tpw.ledger.books import Division
from tpw.model import SplitMethod

BOUNDS: Mapping[SplitMethod, float] = {
    SplitMethod.SM: 0.019,
    SplitMethod.TOKENS: 0.146,
    SplitMethod.REQUESTS: 0.359,
    SplitMethod.MEMORY: 0.380,
    SplitMethod.EVEN: 0.356,
}
"""By method. The parts of MIG instances have none: no meter was compared with them."""


def share_error_ratio(division: Division, server: str, *, use_is_known: bool) -> float | None:
    """The bound for one server on one GPU, as a part of the energy of the GPU; None where none is known.

    Args:
        division: how the GPU is shared now.
        server: the server.
        use_is_known: whether the driver reports the use by process.
    """
    if division.parts or division.method is None:
        return None
    if division.method is not SplitMethod.SOLE:
        return BOUNDS.get(division.method)
    if len({(key.server, key.workload) for key, _ in division.shares}) == 1:
        return 0.0
    # Nobody else computed in this second; in others they may, and they hold the GPU.
    return BOUNDS[SplitMethod.SM if use_is_known else SplitMethod.TOKENS]
