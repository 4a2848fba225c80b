"""The live ratios of deployments: servers on this node that make one service together. Pure functions.

A deployment's window is the sum of those of its servers, so that its ratios are calculated as those of a server: all
tokens over all joules. A prefill instance counts the prompts that it computes and a decode instance what it generates, so
that each token is in the sum once. What a router in front of them counts are the same tokens: it is not part of the sum.

Nothing is known here of servers on other nodes. The recording rules sum over all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, ServerAccount, WindowSample
from tpw.ledger.replacing import replace
from tpw.ledger.replicas import summed_window
from tpw.ledger.window import LiveRatios, ModelRatios, live_ratios
from tpw.model import Boundary, Phase, Scope, ServerWorkload, TokenKind

_PAIR = {Phase.PREFILL, Phase.DECODE}


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment over one window."""

    span_seconds: float
    ratios: ModelRatios
    energy_shares: Mapping[Phase, float]
    """Shares of the joules by the role of the servers; BOTH of those without one. Empty where a part is not known."""


def _members(books: Books, owners: Mapping[str, ServerWorkload]) -> dict[str, list[ServerAccount]]:
    """The servers that are there, by deployment."""
    found: dict[str, list[ServerAccount]] = {}
    for name, owner in owners.items():
        account = books.servers.get(name)
        if owner.deployment and account is not None and (account.up or account.gpus):
            found.setdefault(owner.deployment, []).append(account)
    return found


def routers(books: Books, owners: Mapping[str, ServerWorkload]) -> frozenset[str]:
    """Routers in front of servers that are read here: they count the tokens of those."""
    groups = _members(books, owners).values()
    return frozenset(
        part.name
        for parts in groups
        for part in parts
        if part.phase is Phase.ROUTER and any(other.phase is not Phase.ROUTER for other in parts)
    )


def live_deployments(
    books: Books,
    owners: Mapping[str, ServerWorkload],
    scopes: Collection[Scope] = (),
    *,
    preliminary_price: float | None = None,
) -> dict[str, Deployment]:
    """Deployments of two and more servers of this node, where the windows of all of them are known.

    Args:
        books: with one account for each server.
        owners: to whom the servers belong.
        scopes: see :func:`tpw.ledger.window.live_ratios`.
        preliminary_price: likewise.
    """
    found: dict[str, Deployment] = {}
    for name, accounts in _members(books, owners).items():
        parts = [account for account in accounts if account.phase is not Phase.ROUTER]
        if len(parts) < 2 or len(_PAIR & {part.phase for part in parts}) == 1:
            continue  # of a pair, one half is on another node
        live = [live_ratios(part) for part in parts]
        if any(one is None for one in live):
            continue
        seconds = max(part.window_seconds for part in parts)
        window = summed_window([part.window for part in parts], seconds)
        whole = ServerAccount(name, window=tuple(map(_as_one, window)), window_seconds=seconds)
        ratios = live_ratios(whole, scopes, preliminary_price=preliminary_price)
        if ratios is not None:
            shares = _shares([(part.phase, one) for part, one in zip(parts, live, strict=True)])
            found[name] = Deployment(ratios.span_seconds, ratios.models.get("", ModelRatios()), shares)
    return found


def _as_one(sample: WindowSample) -> WindowSample:
    """The sample with the models of all servers as one."""
    energy_tokens = None if sample.energy_tokens is None else _kinds(sample.energy_tokens)
    amounts = {"": Amounts.total(sample.amounts.values())} if sample.amounts else {}
    return replace(sample, tokens=_kinds(sample.tokens), amounts=amounts, energy_tokens=energy_tokens)


def _kinds(tokens: Mapping[tuple[str, TokenKind], float]) -> dict[tuple[str, TokenKind], float]:
    by_kind: dict[tuple[str, TokenKind], float] = {}
    for (_, kind), value in tokens.items():
        by_kind["", kind] = by_kind.get(("", kind), 0.0) + value
    return by_kind


def _shares(parts: Sequence[tuple[Phase | None, LiveRatios | None]]) -> dict[Phase, float]:
    watts: dict[Phase, list[float]] = {}
    for phase, live in parts:
        own = [] if live is None else [ratios.watts.get(Boundary.GPU) for ratios in live.models.values()]
        known = [value for value in own if value is not None]
        if not known:
            return {}
        watts.setdefault(phase or Phase.BOTH, []).extend(known)
    total = fsum(value for values in watts.values() for value in values)
    return {phase: fsum(values) / total for phase, values in watts.items()} if total else {}
