"""The live ratios of one server: tokens per second, tokens per watt and cost per token over one stated window.

A server's account keeps its cumulative totals of the last minutes. A ratio is the rise of one total over the rise of
another between two samples, as in a recording rule over the same counters; the time between them is reported beside it. If
a GPU's meter reports less often than ticks (a page that is collected every half minute), both ends are samples with
complete energy: otherwise tokens would be divided by the joules of another time.

For a server that also has GPUs on other nodes only tokens per second and watts are known: all its tokens over a part of
its joules would be meaningless.

The two samples are the newest, and the one with the age nearest to the window (of two equally near ones the older). While
the history is shorter than the window it is the oldest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tpw.ledger.amounts import NOTHING
from tpw.ledger.books import ServerAccount, WindowSample
from tpw.model import Boundary, Scope, TokenKind

METERED_COVERAGE = 0.95
"""Share of the window for which the server's GPUs must have had trustworthy readings for a ratio over joules."""

OUTPUT = "output"
TOTAL = "total"
"""The sum of the three disjoint kinds, as far as the engine counts them."""


@dataclass(frozen=True, slots=True)
class ModelRatios:
    """Ratios of one model of a server. A missing key means unknown.

    ``kind`` is "output" or "total" throughout.
    """

    tokens_per_second: Mapping[str, float] = field(default_factory=dict)
    """By kind."""
    tokens_per_joule: Mapping[tuple[str, Boundary], float] = field(default_factory=dict)
    """By (kind, boundary). 0 where joules rose and tokens did not."""
    cost_per_token: Mapping[tuple[str, Scope], float] = field(default_factory=dict)
    """By (kind, scope), in the currency of the books. Negative where negative prices paid more than the rest cost."""
    watts: Mapping[Boundary, float] = field(default_factory=dict)
    """Mean power of the model's share of its GPUs here."""


@dataclass(frozen=True, slots=True)
class LiveRatios:
    """The ratios of one server over the window they span."""

    span_seconds: float
    models: Mapping[str, ModelRatios]


def live_ratios(account: ServerAccount, *, priced: bool) -> LiveRatios | None:
    """The ratios of a server over its window; None with fewer than two samples.

    Args:
        account: the server.
        priced: whether the books have a currency; without one no cost per token is known.
    """
    window = account.window
    if len(window) < 2:
        return None
    ends = _with_complete_ends(window)
    first, last = ends[_begin(ends, account.window_seconds)], ends[-1]
    span = last.at_seconds - first.at_seconds
    if span <= 0.0:
        return None
    metered = first.complete and _covered(window, first, last) >= METERED_COVERAGE * span
    whole = first.single_node and last.single_node
    priced = priced and metered and whole and _unpriced_joules(last) <= _unpriced_joules(first)
    names = dict.fromkeys(model for model, _ in last.tokens)
    names.update(dict.fromkeys(last.amounts))
    return LiveRatios(
        span,
        {model: _ratios(model, first, last, span, metered=metered, whole=whole, priced=priced) for model in names},
    )


def _with_complete_ends(window: Sequence[WindowSample]) -> Sequence[WindowSample]:
    """The window without the samples that await energy, if two or more remain."""
    complete = [sample for sample in window if not sample.awaiting_energy]
    return window if len(complete) in (len(window), 0, 1) else complete


def _begin(window: Sequence[WindowSample], wanted_seconds: float) -> int:
    """Index of the sample, other than the newest, with the age nearest to the wanted one."""
    newest = len(window) - 1
    target = window[newest].at_seconds - wanted_seconds
    after = bisect_left(window, target, hi=newest, key=_at)
    if after == 0:
        return 0
    before = after - 1
    if after == newest or target - window[before].at_seconds <= window[after].at_seconds - target:
        return before
    return after


def _at(sample: WindowSample) -> float:
    return sample.at_seconds


def _covered(window: Sequence[WindowSample], first: WindowSample, last: WindowSample) -> float:
    """Seconds between two samples in which every GPU of the server was metered."""
    lost = sum(
        after.at_seconds - before.at_seconds
        for before, after in pairwise(window)
        if not after.metered and first.at_seconds < after.at_seconds <= last.at_seconds
    )
    return last.at_seconds - first.at_seconds - lost


def _ratios(
    model: str, first: WindowSample, last: WindowSample, span: float, *, metered: bool, whole: bool, priced: bool
) -> ModelRatios:
    tokens = _risen_tokens(model, first, last)
    per_joule: dict[tuple[str, Boundary], float] = {}
    watts: dict[Boundary, float] = {}
    per_token: dict[tuple[str, Scope], float] = {}
    before, after = first.amounts.get(model, NOTHING), last.amounts.get(model, NOTHING)
    if metered:
        for boundary, joules in (
            (Boundary.GPU, after.joules - before.joules),
            (Boundary.FACILITY, after.facility_joules - before.facility_joules),
        ):
            if joules > 0.0:
                watts[boundary] = joules / span
                for kind, risen in tokens.items() if whole else ():
                    per_joule[kind, boundary] = risen / joules
    if priced and model in last.amounts:
        for scope, money in (
            (Scope.ENERGY, after.net_energy_cost - before.net_energy_cost),
            (Scope.FULL, after.net_cost - before.net_cost),
        ):
            for kind, risen in tokens.items():
                if risen > 0.0:
                    per_token[kind, scope] = money / risen
    return ModelRatios({kind: risen / span for kind, risen in tokens.items()}, per_joule, per_token, watts)


def _risen_tokens(model: str, first: WindowSample, last: WindowSample) -> dict[str, float]:
    """Tokens over the window by "output" and "total"; without kinds that the engine does not count."""
    risen: dict[str, float] = {}
    total = 0.0
    counted = False
    for kind in TokenKind:
        key = (model, kind)
        after = last.tokens.get(key)
        if after is None:
            continue
        rise = after - first.tokens.get(key, 0.0)
        if kind is TokenKind.OUTPUT:
            risen[OUTPUT] = rise
        total += rise
        counted = True
    if counted:
        risen[TOTAL] = total
    return risen


def _unpriced_joules(sample: WindowSample) -> float:
    """Of all models. While this rises, a cost per token would be too low."""
    return sum(amounts.unpriced_joules for amounts in sample.amounts.values())
