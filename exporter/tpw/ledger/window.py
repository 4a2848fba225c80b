"""The live ratios of one server: tokens per second, tokens per watt and cost per token over one stated window.

A server's account keeps its cumulative totals of the last minutes. A ratio is the rise of one total over the rise of
another between two samples, as in a recording rule over the same counters; the time between them is reported beside it.

A GPU's meter may report less often than ticks: a page that is collected every half minute, a driver with slow calls. The
joules of a sample are then those up to an earlier moment, so tokens are counted up to that moment too; otherwise they would
be divided by the joules of another time.

For a server that also has GPUs on other nodes only tokens per second and watts are known: all its tokens over a part of
its joules would be meaningless.

The two samples are the newest, and the one with the age nearest to the window (of two equally near ones the older). While
the history is shorter than the window it is the oldest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum

from tpw.ledger.amounts import ENERGY, JOULES_PER_KWH, NOTHING, Amounts
from tpw.ledger.books import ServerAccount, WindowSample
from tpw.model import CAPITAL, Boundary, Scope, TokenKind

METERED_COVERAGE = 0.95
"""Share of the joules of the window that must be known for a ratio over joules. The rest is estimated from the last known
power of the GPUs that were not metered."""

_SAME_SECONDS = 1e-6
"""Moments that are nearer are one, but for rounding."""

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
    energy_cost_per_joule: float | None = None
    """Of a joule of its GPUs, the rest of the facility included."""


@dataclass(frozen=True, slots=True)
class LiveRatios:
    """The ratios of one server over the window they span."""

    span_seconds: float
    models: Mapping[str, ModelRatios]


def live_ratios(
    account: ServerAccount, scopes: Collection[Scope] = (), *, preliminary_price: float | None = None
) -> LiveRatios | None:
    """The ratios of a server over its window; None with fewer than two samples, and while its page cannot be read.

    Args:
        account: the server.
        scopes: costs per token that are known where the window has prices. Without ENERGY, energy has no price of its own.
        preliminary_price: per kWh, of energy that is booked when its own price is published; None where there is none.
    """
    window = account.window
    is_unread = bool(account.engine) and not account.up
    if len(window) < 2 or is_unread:
        return None
    newest = window[-1]
    first = window[_begin(window, account.window_seconds, _at)]
    span = newest.at_seconds - first.at_seconds
    if span <= 0.0:
        return None
    energy_first = first
    if first.behind_seconds or newest.behind_seconds:
        energy_first = window[_begin(window, account.window_seconds, _energy_at)]
    energy_span = newest.energy_at_seconds - energy_first.energy_at_seconds
    metered = 0.0 < energy_span <= 2.0 * max(account.window_seconds, span) and _is_covered(energy_first, newest)
    whole = first.single_node and newest.single_node
    has_price = preliminary_price is not None or _unpriced_joules(newest) <= _unpriced_joules(energy_first)
    has_energy = Scope.ENERGY in scopes
    if not whole or (has_energy and not (metered and has_price)):
        scopes = ()
    names = dict.fromkeys(model for model, _ in newest.tokens)
    names.update(dict.fromkeys(newest.amounts))
    ends = _Ends(first, energy_first, newest, span, energy_span, (preliminary_price or 0.0) / JOULES_PER_KWH)
    return LiveRatios(
        span, {model: _ratios(model, ends, metered=metered, whole=whole, scopes=scopes) for model in names}
    )


@dataclass(frozen=True, slots=True)
class _Ends:
    """The samples between which totals rise."""

    first: WindowSample
    energy_first: WindowSample
    """The same on the time axis of the joules."""
    last: WindowSample
    span_seconds: float
    energy_span_seconds: float
    preliminary_price: float
    """Per joule that was not priced yet when it was booked. What is priced late enters all samples alike."""


def _begin(window: Sequence[WindowSample], wanted_seconds: float, at: Callable[[WindowSample], float]) -> int:
    """Index of the sample, other than the newest, with the age nearest to the wanted one."""
    newest = len(window) - 1
    target = at(window[newest]) - wanted_seconds
    after = bisect_left(window, target, hi=newest, key=at)
    if after == 0:
        return 0
    before = after - 1
    if after == newest or target - at(window[before]) <= at(window[after]) - target:
        return before
    return after


def _at(sample: WindowSample) -> float:
    return sample.at_seconds


def _energy_at(sample: WindowSample) -> float:
    return sample.energy_at_seconds


def _is_covered(first: WindowSample, last: WindowSample) -> bool:
    """Whether enough of the joules between two samples is known."""
    known = sum(amounts.joules - first.amounts.get(model, NOTHING).joules for model, amounts in last.amounts.items())
    unknown = last.lost_joules - first.lost_joules + last.awaited_joules
    return unknown <= 0.0 or known >= METERED_COVERAGE * (known + unknown)


def slide(
    window: tuple[WindowSample, ...], sample: WindowSample, seconds: float, steps: int
) -> tuple[WindowSample, ...]:
    """The window with one more sample: some ``steps`` of even spacing, and one that is older than the window. What is older
    than two windows is dropped in any case."""
    if window and sample.behind_seconds:
        last = window[-1]
        at = max(sample.energy_at_seconds, last.energy_at_seconds)
        same = at - last.energy_at_seconds < _SAME_SECONDS
        tokens = _energy_tokens(last) if same else _tokens_at((*window, sample), at)
        sample = replace(sample, behind_seconds=sample.at_seconds - at, energy_tokens=tokens)
    near = len(window) >= 2 and window[-1].at_seconds - window[-2].at_seconds < 0.999 * seconds / steps
    samples = (*window[:-1], sample) if near else (*window, sample)
    begin, oldest = sample.energy_at_seconds - seconds, sample.at_seconds - 2.0 * seconds
    drop = 0
    while drop + 1 < len(samples) and (
        samples[drop + 1].energy_at_seconds <= begin or samples[drop + 1].at_seconds <= oldest
    ):
        drop += 1
    return samples[drop:]


def _tokens_at(window: Sequence[WindowSample], at_seconds: float) -> Mapping[tuple[str, TokenKind], float]:
    """Tokens at a moment, between two samples in proportion to time."""
    index = bisect_left(window, at_seconds, hi=len(window) - 1, key=_at)
    after = window[index]
    if index == 0 or after.at_seconds <= at_seconds:
        return after.tokens
    before = window[index - 1]
    part = (at_seconds - before.at_seconds) / (after.at_seconds - before.at_seconds)
    return {
        key: (start := before.tokens.get(key, 0.0)) + part * (tokens - start) for key, tokens in after.tokens.items()
    }


def _ratios(model: str, ends: _Ends, *, metered: bool, whole: bool, scopes: Collection[Scope]) -> ModelRatios:
    first, energy_first, last = ends.first, ends.energy_first, ends.last
    tokens = _risen_tokens(model, first.tokens, last.tokens)
    in_step = energy_first is first and not first.behind_seconds and not last.behind_seconds
    of_energy = tokens if in_step else _risen_tokens(model, _energy_tokens(energy_first), _energy_tokens(last))
    per_joule: dict[tuple[str, Boundary], float] = {}
    watts: dict[Boundary, float] = {}
    per_token: dict[tuple[str, Scope], float] = {}
    cost_per_joule: float | None = None
    before, after = energy_first.amounts.get(model, NOTHING), last.amounts.get(model, NOTHING)
    if metered:
        for boundary, joules in (
            (Boundary.GPU, after.joules - before.joules),
            (Boundary.FACILITY, after.facility_joules - before.facility_joules),
        ):
            if joules > 0.0:
                watts[boundary] = joules / ends.energy_span_seconds
                for kind, risen in of_energy.items() if whole else ():
                    per_joule[kind, boundary] = risen / joules
    if scopes and model in last.amounts:
        has_energy = Scope.ENERGY in scopes
        preliminary = (after.unpriced_joules - before.unpriced_joules) * ends.preliminary_price
        energy_cost = after.net_energy_cost - before.net_energy_cost + preliminary
        if has_energy and Boundary.GPU in watts:
            cost_per_joule = energy_cost / (after.joules - before.joules)
        since = first.amounts.get(model, NOTHING)
        for kind, risen in tokens.items():
            of_joules = of_energy.get(kind, 0.0)
            if risen <= 0.0 or (has_energy and of_joules <= 0.0):
                continue
            # Energy is priced as it is read, the rest as time passes.
            energy = energy_cost / of_joules if has_energy else 0.0
            for scope in scopes:
                per_token[kind, scope] = energy + (_timed_cost(after, scope) - _timed_cost(since, scope)) / risen
    per_second = {kind: risen / ends.span_seconds for kind, risen in tokens.items()}
    return ModelRatios(per_second, per_joule, per_token, watts, cost_per_joule)


def _timed_cost(amounts: Amounts, scope: Scope) -> float:
    """The costs of a scope that accrue with time."""
    if scope is Scope.ENERGY:
        return 0.0
    without = CAPITAL if scope is Scope.OPERATING else ()
    return fsum(cost for component, cost in amounts.cost.items() if component != ENERGY and component not in without)


def _energy_tokens(sample: WindowSample) -> Mapping[tuple[str, TokenKind], float]:
    return sample.tokens if sample.energy_tokens is None else sample.energy_tokens


def _risen_tokens(
    model: str, first: Mapping[tuple[str, TokenKind], float], last: Mapping[tuple[str, TokenKind], float]
) -> dict[str, float]:
    """Tokens over the window by "output" and "total"; without kinds that the engine does not count."""
    risen: dict[str, float] = {}
    total = 0.0
    counted = False
    for kind in TokenKind:
        key = (model, kind)
        after = last.get(key)
        if after is None:
            continue
        rise = after - first.get(key, 0.0)
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
