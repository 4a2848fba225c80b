"""Compares what routers count with what the servers of their deployment count: the same tokens, counted twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from tpw.ledger.books import Books, ServerAccount
from tpw.model import Phase, ServerWorkload, TokenKind

_log = structlog.get_logger("tpw")

TOLERANCE = 0.02
IN_FLIGHT = 0.01
"""Requests that are running, as a part of those that have ended: they may be counted by one and not yet by the other."""
LEAST_SECONDS = 60.0

_CAUSES = (
    "a server may be missing in the deployment or belong to another one, have another role, or be read by two names; or the"
    " router retries requests or answers some itself"
)


@dataclass(frozen=True, slots=True)
class _Counts:
    """Cumulative counts of the routers of a deployment and of the servers behind them."""

    at_seconds: float
    routers: Mapping[str, float]
    servers: Mapping[str, float]
    requests: float
    read: frozenset[str]
    """Names of the servers with a page that was read."""


class Routers:
    """Belongs to the tick's thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun: dict[str, _Counts] = {}
        self._notes: dict[str, str] = {}

    def notes(self, books: Books, owners: Mapping[str, ServerWorkload], whole: Collection[str]) -> list[str]:
        """Routers that disagree with the servers of their deployment, in sentences.

        Args:
            books: with one account for each server.
            owners: to whom the servers belong.
            whole: deployments with all their servers on this node; of others a part is counted here, and the recording
                rules compare the whole.
        """
        if not whole:
            return []
        for deployment in whole:
            names = (name for name, owner in owners.items() if owner.deployment == deployment)
            parts = [books.servers[name] for name in names if name in books.servers]
            routers = [one for one in parts if one.phase is Phase.ROUTER]
            servers = [one for one in parts if one.phase is not Phase.ROUTER]
            if routers and servers:
                self._compare(deployment, routers, servers)
        return [note for deployment, note in self._notes.items() if deployment in whole]

    def _compare(self, deployment: str, routers: Sequence[ServerAccount], servers: Sequence[ServerAccount]) -> None:
        read = frozenset(one.name for one in (*routers, *servers) if one.engine)
        if not all(one.up for one in (*routers, *servers) if one.engine):
            self._begun.pop(deployment, None)
            return
        requests = sum(ended for one in routers for ended in one.requests.values())
        now = _Counts(self._clock(), _tokens(routers), _tokens(servers), requests, read)
        begun = self._begun.setdefault(deployment, now)
        if begun.read != read:
            begun = self._begun[deployment] = now
        seconds = now.at_seconds - begun.at_seconds
        in_flight = max(_running(routers), _running(servers))
        is_still = now.routers == begun.routers and now.servers == begun.servers
        if seconds < LEAST_SECONDS or is_still or in_flight > IN_FLIGHT * (requests - begun.requests):
            return
        self._begun[deployment] = now
        before = self._notes.pop(deployment, "")
        for kind in sorted(now.routers.keys() & now.servers.keys()):
            counted = now.servers[kind] - begun.servers.get(kind, 0.0)
            routed = now.routers[kind] - begun.routers.get(kind, 0.0)
            if abs(routed - counted) > TOLERANCE * max(counted, routed):
                note = (
                    f"deployment {deployment}: its router has counted {routed:.0f} {kind} tokens and its servers"
                    f" {counted:.0f} in {seconds:.0f} s: {_CAUSES}"
                )
                if not before:
                    _log.warning("deployment_tokens_differ", deployment=deployment, detail=note)
                self._notes[deployment] = note
                return


def _tokens(accounts: Iterable[ServerAccount]) -> dict[str, float]:
    """Prompt and output tokens."""
    found: dict[str, float] = {}
    for account in accounts:
        for (_, kind), tokens in account.tokens.items():
            name = "output" if kind is TokenKind.OUTPUT else "prompt"
            found[name] = found.get(name, 0.0) + tokens
    return found


def _running(accounts: Iterable[ServerAccount]) -> float:
    loads = [load for account in accounts for load in account.loads]
    return sum((load.running or 0.0) + (load.waiting or 0.0) for load in loads)
