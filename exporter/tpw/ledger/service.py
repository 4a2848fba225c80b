"""Requests within and outside the latency targets of a server, from the rises of its engine's histograms.

A histogram shows how many requests took at most as long as each of its bounds. At a bound the count of a target is exact;
between two bounds, the requests of that bucket are `unknown`: nothing is interpolated.

Whether a request met *all* targets is in no histogram. Of N requests of which at most f missed each target, at least
N - sum(f) met all, and at least the most that missed one of them missed all (Fréchet). A first token is counted before its
request ends, so the two histograms never hold the same requests while some are running: those are neither added to the one
bound nor to the other. A request is booked as `unknown` when it can no longer be a running one's counterpart; so every
outcome is a counter, and their sum is the requests that have ended but for those that still wait for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tpw.model import Latency, Load, ServiceReading, Slo

KEYS = 2048
"""Series of histograms per server. Chosen: 200 models have three for each of some ranks."""


class Outcomes(NamedTuple):
    """Requests by what is known of them."""

    yes: float = 0.0
    no: float = 0.0
    unknown: float = 0.0

    def plus(self, other: Outcomes, sign: float = 1.0) -> Outcomes:
        """The sum; with ``sign`` -1 the difference."""
        return Outcomes(*(mine + sign * theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def requests(self) -> float:
        """All of them."""
        return self.yes + self.no + self.unknown


_NONE = Outcomes()
_ZERO = Latency()


@dataclass(frozen=True, slots=True)
class Joint:
    """All targets together, of one model. Since ``start`` the histograms have counted the same requests but for those that
    are running and ``unpaired``."""

    booked: Outcomes = _NONE
    begun: Outcomes = _NONE
    """``booked`` at the start."""
    start: Mapping[Slo, Outcomes] = field(default_factory=dict)
    unpaired: float = 0.0
    """Requests that may have ended since the start with a first token from before it."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is known of a server's service levels. Counters never fall, also while no targets are set."""

    targets: tuple[tuple[Slo, float], ...] = ()
    """In force: seconds of each. Empty: none."""
    raw: Mapping[str, Latency] = field(default_factory=dict)
    """Last values by series."""
    outcomes: Mapping[tuple[str, Slo], Outcomes] = field(default_factory=dict)
    """By (model, target)."""
    seconds: Mapping[tuple[str, Slo], float] = field(default_factory=dict)
    """Latency of all these requests together."""
    joint: Mapping[str, Joint] = field(default_factory=dict)
    """By model."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What is known of a server between its last reading and this one."""

    is_first: bool
    """The values of this reading are a baseline: nothing before them is counted."""
    from_zero: bool
    """Its counters began at 0 in between."""
    most_requests: float
    """The highest plausible rise of a counter of requests."""


def observe(before: Service | None, reading: ServiceReading, loads: Sequence[Load], passage: Passage) -> Service:
    """The service levels after one reading."""
    before = Service() if before is None else before
    is_baseline = not passage.from_zero and (passage.is_first or before.targets != reading.targets)
    raw = {} if is_baseline or passage.from_zero else dict(before.raw)
    outcomes, seconds = dict(before.outcomes), dict(before.seconds)
    ahead: dict[str, dict[Slo, float]] = {}
    risen: set[str] = set()
    for one in reading.series:
        slot = one.model, one.slo
        outcomes.setdefault(slot, _NONE)
        seconds.setdefault(slot, 0.0)
        of_model = ahead.setdefault(one.model, {})
        of_model[one.slo] = of_model.get(one.slo, 0.0) + one.value.requests
        if one.key not in raw and len(raw) >= KEYS:
            continue
        last = raw.get(one.key, one.value if is_baseline else _ZERO)
        rise = one.value.since(last if one.value.requests >= last.requests else _ZERO)
        if not rise.is_valid:
            continue  # the page was written while a request ended: the next one has all of it
        raw[one.key] = one.value
        if 0.0 < rise.requests <= passage.most_requests:
            outside = rise.requests - rise.at_most
            outcomes[slot] = outcomes[slot].plus(Outcomes(rise.within, outside, rise.at_most - rise.within))
            seconds[slot] += rise.seconds
            risen.add(one.model)
    joint = dict(before.joint)
    for model, on_page in ahead.items() if reading.is_paired or len(reading.targets) == 1 else ():
        # A histogram that is not on the page yet has counted nothing.
        counts = {slo: on_page.get(slo, 0.0) for slo, _ in reading.targets}
        now = {slo: outcomes.get((model, slo), _NONE) for slo in counts}
        running = _in_flight(loads, model)
        known = joint.get(model, Joint())
        if is_baseline or passage.from_zero or model not in before.joint:
            earlier = {slo: before.outcomes.get((model, slo), _NONE) for slo in counts}
            unpaired = _ahead(counts) if is_baseline else 0.0
            known = _begun(known, earlier, unpaired if running is None else min(unpaired, running))
        known = _advanced(known, now, running)
        if not running and running is not None and model not in risen:
            known = _begun(known, now, 0.0)  # nothing is running: all histograms hold the same requests
        joint[model] = known
    return Service(reading.targets, raw, outcomes, seconds, joint)


def summed(parts: Sequence[Service]) -> Service:
    """The service levels of replicas together."""
    outcomes: dict[tuple[str, Slo], Outcomes] = {}
    seconds: dict[tuple[str, Slo], float] = {}
    joint: dict[str, Joint] = {}
    for part in parts:
        for slot, value in part.outcomes.items():
            outcomes[slot] = outcomes.get(slot, _NONE).plus(value)
            seconds[slot] = seconds.get(slot, 0.0) + part.seconds.get(slot, 0.0)
        for model, one in part.joint.items():
            joint[model] = Joint(joint.get(model, Joint()).booked.plus(one.booked))
    return Service(max(part.targets for part in parts), {}, outcomes, seconds, joint)


def _in_flight(loads: Sequence[Load], model: str) -> float | None:
    """Requests of a model in the server; None where the engine does not report them."""
    mine = [load for load in loads if load.model == model]
    if not mine or any(load.running is None for load in mine):
        return None
    return sum((load.running or 0.0) + (load.waiting or 0.0) for load in mine)


def _ended(counts: Mapping[Slo, float]) -> float:
    """Requests that every histogram of ended requests holds; first tokens where there is no other."""
    return min(value for slo, value in counts.items() if slo is not Slo.TTFT or len(counts) == 1)


def _ahead(counts: Mapping[Slo, float]) -> float:
    """By how many requests the histogram of first tokens is ahead of those of ended requests."""
    return max(0.0, counts.get(Slo.TTFT, 0.0) - _ended(counts))


def _begun(joint: Joint, start: Mapping[Slo, Outcomes], unpaired: float) -> Joint:
    """A new start. What was not booked is unknown for good."""
    since = {slo: one.plus(joint.start.get(slo, _NONE), -1.0).requests for slo, one in start.items()}
    booked = joint.booked
    if joint.start:
        booked = booked.plus(Outcomes(unknown=max(0.0, _ended(since) - booked.plus(joint.begun, -1.0).requests)))
    return Joint(booked, booked, start, unpaired)


def _advanced(joint: Joint, now: Mapping[Slo, Outcomes], running: float | None) -> Joint:
    since = {slo: one.plus(joint.start.get(slo, _NONE), -1.0) for slo, one in now.items()}
    counts = {slo: one.requests for slo, one in since.items()}
    ended = _ended(counts)
    unpaired, in_flight = joint.unpaired, 0.0
    if Slo.TTFT in since and len(since) > 1:
        unpaired = max(unpaired, ended - counts[Slo.TTFT])
        in_flight = counts[Slo.TTFT] - ended + unpaired
        if running is not None:
            in_flight = min(in_flight, running)
    else:
        unpaired = 0.0
    missed = sum(one.no + one.unknown for one in since.values())
    least_no = max(
        one.no - (counts[slo] - ended) - (unpaired if slo is Slo.TTFT else 0.0) for slo, one in since.items()
    )
    done = joint.booked.plus(joint.begun, -1.0)
    left = ended - done.requests
    yes = min(max(0.0, ended - missed - unpaired - done.yes), left)
    no = min(max(0.0, least_no - done.no), left - yes)
    unknown = max(0.0, left - yes - no - in_flight)
    booked = joint.booked.plus(Outcomes(yes, no, unknown))
    return Joint(booked, joint.begun, joint.start, unpaired)
