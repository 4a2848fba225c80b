"""A server at rising concurrency: repeats until the figures stand, and the best point of the curve.

A repeat is the time between two readings of the meters. Its tokens are those that came to the client in that time: engines
that count a request at its end would count too many in one repeat and too few in the next. What the engine counted is
compared with the usage of the answers over the whole of each concurrency.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, sqrt
from statistics import fmean, quantiles, stdev
from typing import TypedDict

from tpw.exposition.status import Status
from tpw.measuring.account import Account, account
from tpw.measuring.load import Load, Request

_T95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12)
"""Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1; 2.0 above."""
_BUSY_CLIENT = 0.8
"""Share of one core from which the client itself may be what limits the rate: Python runs on one."""


class Repeat(TypedDict):
    """The time between two readings of the meters."""

    begin: float
    seconds: float
    output_tokens: float
    input_tokens: float
    joules: float | None
    cost: dict[str, float]
    """By scope."""


class Quantiles(TypedDict):
    """Of a latency, in seconds, over the requests that ended in the repeats."""

    p50: float
    p90: float
    p99: float


class Point(TypedDict):
    """One concurrency. Ratios are of the sums over all repeats but the first."""

    concurrency: int
    stands: bool
    """Whether the bound is within the wanted one."""
    error_ratio: float | None
    """95 % bound of the mean of the repeats, relative, the larger of tokens per second and tokens per watt."""
    tokens_per_second: dict[str, float]
    tokens_per_watt: dict[str, float]
    cost_per_token: dict[str, dict[str, float]]
    watts: float | None
    latency: dict[str, Quantiles]
    """ttft, tpot, e2e."""
    requests: int
    failed: int
    tokens: dict[str, dict[str, float]]
    """Of the whole concurrency, by kind (output; input, cached ones too): ``usage``, as the answers report them, and
    ``counted``, by the engine's counters: empty where requests did not end."""
    client_cpu_ratio: float
    repeats: list[Repeat]
    account: Account | None
    """Of the whole concurrency, with warm-up and end."""
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How each concurrency is measured."""

    window_seconds: float
    fewest: int
    most: int
    tolerance: float
    drain_seconds: float
    """How long the last requests may take."""
    settle_seconds: float = 5.0
    """How long the engine's counters may take to have all of a request."""


@dataclass(slots=True)
class Level:
    """One concurrency while it is measured."""

    concurrency: int
    readings: list[Status] = field(default_factory=list)
    cpu_seconds: float = 0.0


class StoppedError(Exception):
    """The sweep was ended in the middle of a concurrency."""


def level(
    load: Load,
    concurrency: int,
    read: Callable[[], Status],
    server: str,
    plan: Plan,
    wait: Callable[[float], bool],
    report: Callable[[Point], None],
) -> Point:
    """Measure one concurrency.

    Args:
        load: what sends the requests.
        concurrency: requests in flight.
        read: the status of this moment.
        server: its name there.
        plan: how.
        wait: waits so many seconds; True if the sweep is to end.
        report: called with what is known after each repeat.

    Raises:
        StoppedError: ``wait`` has returned True. What was measured has been reported.
    """
    before, cpu = read(), time.process_time()
    load.start(concurrency)
    now = Level(concurrency, [read()])
    try:
        while True:
            # The first repeat is the warm-up, and as long as the first requests take.
            while True:
                if wait(plan.window_seconds):
                    raise StoppedError
                if len(now.readings) > 1 or any(request.ended for request in list(load.requests)):
                    break
            now.readings.append(read())
            now.cpu_seconds = time.process_time() - cpu
            found = point(load, now, server, plan, None)
            report(found)
            failed = found["failed"]
            if failed > concurrency and failed > found["requests"] / 2:
                break
            if len(found["repeats"]) >= plan.fewest and (found["stands"] or len(found["repeats"]) >= plan.most):
                break
    except StoppedError:
        load.end(0.0)
        raise
    is_drained = load.end(plan.drain_seconds)
    settle_seconds = plan.settle_seconds if is_drained else 0.0
    after = _settled(before, read, server, _usage(load.requests), settle_seconds)
    found = point(load, now, server, plan, account(before, after, server))
    if not is_drained:
        found["tokens"]["counted"] = {}
        found["problems"].append(f"Some requests did not end within {plan.drain_seconds:g} s.")
    report(found)
    return found


def _settled(
    before: Status, read: Callable[[], Status], server: str, usage: Mapping[str, float], within_seconds: float
) -> Status:
    """A reading in which the engine has counted everything, or the last one within some seconds."""
    deadline = time.monotonic() + within_seconds
    while True:
        after = read()
        if _counted(account(before, after, server)) == usage or time.monotonic() > deadline:
            return after
        time.sleep(0.2)


def _usage(requests: Iterable[Request]) -> dict[str, float]:
    ended = [request for request in requests if request.is_counted]
    return {
        "input": float(sum(request.input_tokens for request in ended)),
        "output": float(sum(request.output_tokens for request in ended)),
    }


def _counted(run: Account) -> dict[str, float]:
    models = [model["tokens"] for server in run["servers"] for model in server["models"]]
    return {
        "input": fsum(tokens.get(kind, 0.0) for tokens in models for kind in ("input", "cached_input")),
        "output": fsum(tokens.get("output", 0.0) for tokens in models),
    }


def point(load: Load, now: Level, server: str, plan: Plan, whole: Account | None) -> Point:
    """The figures of a concurrency so far. ``whole`` is its account, once it is over."""
    spans = list(zip(now.readings[1:], now.readings[2:], strict=False))
    repeats = [_repeat(load, *span, server) for span in spans]
    requests = list(load.requests)
    ended = [
        request
        for request in requests
        if request.is_counted and spans and spans[0][0]["at"] <= (request.ended or 0.0) <= spans[-1][1]["at"]
    ]
    seconds, joules = fsum(one["seconds"] for one in repeats), _sum([one["joules"] for one in repeats])
    tokens = {"output": fsum(one["output_tokens"] for one in repeats)}
    tokens["total"] = tokens["output"] + fsum(one["input_tokens"] for one in repeats)
    scopes = set.intersection(*(set(one["cost"]) for one in repeats)) if repeats else set[str]()
    costs = {scope: fsum(one["cost"][scope] for one in repeats) for scope in sorted(scopes)}
    error = _bound(repeats)
    busy = now.cpu_seconds / max(1e-9, now.readings[-1]["at"] - now.readings[0]["at"])
    failures = load.failures()
    usage = _usage(requests)
    counted = {} if whole is None else _counted(whole)
    problems = [] if whole is None else list(whole["problems"])
    if failures:
        problems.append(f"{len(failures)} requests failed: {failures[-1]}")
    elif counted and counted != usage:
        problems.append(f"The engine counted {counted} tokens, the answers report {usage}: does it serve others too?")
    if busy > _BUSY_CLIENT:
        problems.append("The client used most of a core: the server may be faster than measured.")
    return Point(
        concurrency=now.concurrency,
        stands=error is not None and len(repeats) >= plan.fewest and error <= plan.tolerance,
        error_ratio=error,
        tokens_per_second={kind: count / seconds for kind, count in tokens.items()} if seconds > 0.0 else {},
        tokens_per_watt={kind: count / joules for kind, count in tokens.items()} if joules else {},
        cost_per_token={
            scope: {kind: money / count for kind, count in tokens.items() if count > 0.0}
            for scope, money in costs.items()
        },
        watts=joules / seconds if joules is not None and seconds > 0.0 else None,
        latency={
            name: found
            for name, values in (
                ("ttft", [request.first_token_seconds for request in ended]),
                ("tpot", [request.per_token_seconds for request in ended]),
                ("e2e", [(request.ended or 0.0) - request.began for request in ended]),
            )
            if (found := _quantiles([value for value in values if value is not None])) is not None
        },
        requests=sum(request.ended is not None for request in requests),
        failed=len(failures),
        tokens={"usage": usage, "counted": counted},
        client_cpu_ratio=busy,
        repeats=repeats,
        account=whole,
        problems=problems,
    )


def _repeat(load: Load, before: Status, after: Status, server: str) -> Repeat:
    run = account(before, after, server)
    models = [model for one in run["servers"] for model in one["models"]]
    is_metered = bool(models) and all(model["tokens_per_watt"] for model in models)
    scopes = set.intersection(*(set(model["cost"]) for model in models)) if is_metered else set[str]()
    begin, end = run["energy_begin"], run["energy_end"]
    return Repeat(
        begin=begin,
        seconds=end - begin,
        output_tokens=load.output_between(begin, end),
        input_tokens=load.input_between(begin, end),
        joules=fsum(joules for model in models for joules in model["joules"].values()) if is_metered else None,
        cost={scope: fsum(model["cost"][scope] for model in models) for scope in sorted(scopes)},
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) if values and len(known) == len(values) else None


def _bound(repeats: Sequence[Repeat]) -> float | None:
    """95 % bound of the mean of the repeats, relative; None for fewer than two, and where nothing was made."""
    rates = [one["output_tokens"] / one["seconds"] for one in repeats]
    per_joule = [one["output_tokens"] / one["joules"] for one in repeats if one["joules"]]
    bounds = [bound for values in (rates, per_joule) if (bound := relative_bound(values)) is not None]
    return max(bounds, default=None)


def relative_bound(values: Sequence[float]) -> float | None:
    """95 % bound of the mean of independent values, relative to it; None for fewer than two, or a mean of 0."""
    if len(values) < 2 or (mean := fmean(values)) <= 0.0:
        return None
    freedom = len(values) - 1
    quantile = _T95[freedom - 1] if freedom <= len(_T95) else 2.0
    return quantile * stdev(values) / sqrt(len(values)) / mean


def _quantiles(values: Sequence[float]) -> Quantiles | None:
    if not values:
        return None
    if len(values) == 1:
        return Quantiles(p50=values[0], p90=values[0], p99=values[0])
    cuts = quantiles(values, n=100, method="inclusive")
    return Quantiles(p50=cuts[49], p90=cuts[89], p99=cuts[98])


class Best(TypedDict):
    """Concurrencies that are best; null where nothing is known or nothing meets the targets."""

    tokens_per_watt: int | None
    cost: int | None
    """The lowest cost of an output token at the price of the run; the full cost where it is known."""
    tokens_per_watt_at_targets: int | None
    cost_at_targets: int | None


def best(points: Sequence[Point], targets: Mapping[str, float]) -> Best:
    """The best points, of all and of those with 99th percentiles within the targets (seconds by latency). A point with
    failed requests is none of them."""
    sound = [one for one in points if not one["failed"]]
    met = [one for one in sound if targets and meets(one, targets)]
    return Best(
        tokens_per_watt=_first(sound, _negative_efficiency),
        cost=_first(sound, cost_of),
        tokens_per_watt_at_targets=_first(met, _negative_efficiency),
        cost_at_targets=_first(met, cost_of),
    )


def meets(one: Point, targets: Mapping[str, float]) -> bool:
    """Whether the 99th percentile of every latency with a target is within it."""
    return all(name in one["latency"] and one["latency"][name]["p99"] <= target for name, target in targets.items())


def cost_of(one: Point) -> float | None:
    """Cost of an output token: the full one, or without it that of its electricity."""
    costs = one["cost_per_token"]
    return costs.get("full", costs.get("energy", {})).get("output")


def _negative_efficiency(one: Point) -> float | None:
    value = one["tokens_per_watt"].get("output")
    return None if value is None else -value


def _first(points: Sequence[Point], rank: Callable[[Point], float | None]) -> int | None:
    ranked = [(value, one["concurrency"]) for one in points if (value := rank(one)) is not None]
    return min(ranked)[1] if ranked else None
