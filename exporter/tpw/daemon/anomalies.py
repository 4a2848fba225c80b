"""The limits of what is accepted from servers, and one log line when values are rejected, not one at every tick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from tpw.config.schema import Config, Plausibility
from tpw.ledger.books import ServerAccount
from tpw.ledger.trust import Limits

_log = structlog.get_logger("tpw")

QUIET_SECONDS = 600.0
"""Rejected values after a pause of this length are logged again."""

_DETAIL = {
    "implausible": "A counter rose by more than plausibility allows; the rise is not booked.",
    "models": "The server has more models than plausibility.models_per_server; new ones are booked as `other`.",
    "invalid": "A counter is negative, not finite or above 2^63; the value is not read.",
    "series": "The server has too many series; new ones are not counted.",
}
_HINT = (
    "See tpw_server_token_anomalies_total. If the values are right, raise plausibility, of the server or in polling."
)


def limits(config: Config) -> Limits:
    """What the configuration accepts."""
    differ = {one.name: _limits(one.plausibility) for one in config.servers if one.plausibility is not None}
    return replace(_limits(config.polling.plausibility), by_server=differ, workloads=config.discovery.workloads)


def _limits(accepted: Plausibility) -> Limits:
    return Limits(
        accepted.tokens_per_second,
        accepted.requests_per_second,
        accepted.work_units_per_second,
        accepted.models_per_server,
    )


class Anomalies:
    """Watches the accounts of the servers. Belongs to the tick's thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._latest: dict[tuple[str, str], float] = {}

    def observe(self, before: Mapping[str, ServerAccount], after: Mapping[str, ServerAccount]) -> None:
        """Log the reasons that a tick has added."""
        for name, account in after.items():
            if not account.anomalies or name not in before or account.anomalies is before[name].anomalies:
                continue
            now = self._clock()
            for reason, count in account.anomalies.items():
                if count == before[name].anomalies.get(reason, 0):
                    continue
                if now - self._latest.get((name, reason), float("-inf")) >= QUIET_SECONDS:
                    _log.warning(
                        "server_values_rejected", server=name, reason=reason, detail=_DETAIL.get(reason, ""), hint=_HINT
                    )
                self._latest[name, reason] = now
