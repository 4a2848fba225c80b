"""The account of a run and the curve of a sweep: as text for a terminal, and the curve as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from math import fsum

from tpw.exposition.figures import UNKNOWN, figure, money, percent, watts
from tpw.measuring.account import Account
from tpw.measuring.sweep import Best, Point, cost_of, meets

_BAR = "\u2588"
_BAR_WIDTH = 24


def run_lines(run: Account) -> Iterator[str]:
    """The account of a run."""
    currency = run["currency"] or ""
    yield f"{run['seconds']:.1f} s measured"
    for server in run["servers"]:
        gpus = ", ".join(map(str, server["gpus"])) or "unknown"
        error = "" if server["error_ratio"] is None else f", energy within {percent(server['error_ratio'])}"
        yield f"server {server['name']}  {server['engine'] or '?'} {server['version']}  GPUs {gpus}{error}"
        for model in server["models"]:
            tokens = "  ".join(f"{kind} {count:,.0f}" for kind, count in sorted(model["tokens"].items()))
            yield f"  {model['model']}  tokens: {tokens or UNKNOWN}"
            yield f"    {_joules(model['joules'])}"
            rate, ratio = model["tokens_per_second"], model["tokens_per_watt"]
            yield (
                f"    output tokens: {figure(rate.get('output'))} per second, {figure(ratio.get('output'))} per joule"
                f" (= tokens per second per watt); all kinds: {figure(ratio.get('total'))} per joule"
            )
            for scope, cost in model["cost"].items():
                price = money(model["cost_per_token"].get(scope, {}).get("output"), currency, scale=1e6)
                yield f"    cost ({scope}): {money(cost, currency)}, {price} per million output tokens"
            for slo, found in model["latency"].items():
                if found["requests"]:
                    least, most = percent(found["within_at_least"]), percent(found["within_at_most"])
                    mean = "" if found["mean_seconds"] is None else f", mean {figure(1e3 * found['mean_seconds'])} ms"
                    within = least if least == most else f"{least} to {most}"
                    yield f"    {slo}: {within} of {found['requests']:,.0f} requests within the target{mean}"
    for gpu in run["gpus"]:
        error = "" if gpu["error_ratio"] is None else f" within {percent(gpu['error_ratio'])}"
        yield f"GPU {gpu['index']}  {gpu['name']}  {_joules(gpu['joules'])}  ({gpu['energy_method']}{error})"
    cover = run["coverage"]
    yield f"measured: {percent(cover['metered'])} of the GPUs' time; of servers: {percent(cover['attributed'])} of energy"


def _joules(by_state: Mapping[str, float]) -> str:
    parts = ", ".join(f"{state} {figure(joules)}" for state, joules in by_state.items() if joules > 0.0)
    return f"joules: {figure(fsum(by_state.values()))}" + (f" ({parts})" if parts else "")


def point_line(one: Point, currency: str) -> str:
    """A point while it is measured."""
    bound = UNKNOWN if one["error_ratio"] is None else f"{100.0 * one['error_ratio']:.1f} %"
    return (
        f"concurrency {one['concurrency']}: repeat {len(one['repeats'])},"
        f" {figure(one['tokens_per_second'].get('output'))} output tokens/s,"
        f" {figure(one['tokens_per_watt'].get('output'))} per joule,"
        f" {money(cost_of(one), currency, scale=1e6)} per million, within {bound}"
    )


def sweep_lines(points: Sequence[Point], chosen: Best, currency: str, targets: Mapping[str, float]) -> Iterator[str]:
    """The curve: a line for each concurrency, with bars of tokens per joule."""
    peak = max((one["tokens_per_watt"].get("output", 0.0) for one in points), default=0.0)
    cost = f"{currency or 'cost'}/M"
    yield (
        f"{'in flight':>9} {'output/s':>9} {'watts':>9} {'per joule':>9} {cost:>9} {'ttft p99':>9} {'tpot p99':>9}"
        f" {'within':>7}  output tokens per joule"
    )
    for one in points:
        ratio = one["tokens_per_watt"].get("output")
        bar = _BAR * round(_BAR_WIDTH * ratio / peak) if ratio and peak else ""
        marks = [] if one["stands"] else ["does not stand"]
        marks += ["misses the targets"] if targets and not meets(one, targets) else []
        marks += [f"{one['failed']} failed"] if one["failed"] else []
        bound = UNKNOWN if one["error_ratio"] is None else f"{100.0 * one['error_ratio']:.1f} %"
        price = cost_of(one)
        yield (
            f"{one['concurrency']:>9} {figure(one['tokens_per_second'].get('output')):>9} {watts(one['watts']):>9}"
            f" {figure(ratio):>9} {figure(None if price is None else 1e6 * price):>9} {_latency(one, 'ttft'):>9}"
            f" {_latency(one, 'tpot'):>9} {bound:>7}  {bar}{'  ' if bar and marks else ''}{', '.join(marks)}"
        )
    yield f"most tokens per joule: {_shown(chosen['tokens_per_watt'])}; lowest cost: {_shown(chosen['cost'])}"
    if targets:
        wanted = ", ".join(f"{name} {1e3 * seconds:g} ms" for name, seconds in targets.items())
        yield (
            f"with {wanted} for 99 of 100 requests: most tokens per joule:"
            f" {_shown(chosen['tokens_per_watt_at_targets'])}; lowest cost: {_shown(chosen['cost_at_targets'])}"
        )


def _latency(one: Point, name: str) -> str:
    found = one["latency"].get(name)
    return UNKNOWN if found is None else f"{figure(1e3 * found['p99'])} ms"


def _shown(concurrency: int | None) -> str:
    return UNKNOWN if concurrency is None else f"{concurrency} in flight"


# ------------------------------------------------------------------------------------------------------------------ SVG

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 720, 190, 70, 34, 60


def svg(points: Sequence[Point], chosen: Best, title: str, currency: str) -> str:
    """Tokens per joule, cost and latency over output tokens per second: one panel each, as lines over the same axis."""
    panels: list[tuple[str, Callable[[Point], float | None], int | None]] = [
        ("output tokens per joule", lambda one: one["tokens_per_watt"].get("output"), chosen["tokens_per_watt"]),
        (f"{currency or 'cost'} per million output tokens", lambda one: _million(cost_of(one)), chosen["cost"]),
        ("time per output token, p99, ms", lambda one: _milliseconds(one, "tpot"), None),
        ("time to first token, p99, ms", lambda one: _milliseconds(one, "ttft"), None),
    ]
    drawn = [panel for panel in panels if any(panel[1](one) is not None for one in points)]
    height = _TOP + len(drawn) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for index, (name, value, marked) in enumerate(drawn):
        parts += _panel(points, name, value, marked, _TOP + 20 + index * (_HEIGHT + _GAP))
    return "\n".join([*parts, "</svg>", ""])


def _million(value: float | None) -> float | None:
    return None if value is None else 1e6 * value


def _milliseconds(one: Point, name: str) -> float | None:
    found = one["latency"].get(name)
    return None if found is None else 1e3 * found["p99"]


def _panel(
    points: Sequence[Point], name: str, value: Callable[[Point], float | None], marked: int | None, top: int
) -> list[str]:
    rows = [
        (one["tokens_per_second"]["output"], found, one)
        for one in points
        if (found := value(one)) is not None and "output" in one["tokens_per_second"]
    ]
    widest, highest = max((x for x, _, _ in rows), default=0.0) or 1.0, max((y for _, y, _ in rows), default=0.0) or 1.0
    inner, bottom = _WIDTH - _LEFT - 30, top + _HEIGHT - 30

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + inner * x / widest, 1), round(bottom - (_HEIGHT - 50) * y / highest, 1)

    placed = [(*place(x, y), one) for x, y, one in rows]
    line = " ".join(f"{x},{y}" for x, y, _ in placed)
    parts = [
        f'<text x="{_LEFT}" y="{top + 8}">{escape(name)}</text>',
        f'<path d="M{_LEFT} {top + 16}V{bottom}H{_WIDTH - 30}" fill="none" stroke="#888"/>',
        f'<text x="{_LEFT - 6}" y="{bottom - (_HEIGHT - 50) + 4}" text-anchor="end">{figure(highest)}</text>',
        f'<text x="{_LEFT - 6}" y="{bottom + 4}" text-anchor="end">0</text>',
        f'<text x="{_WIDTH - 30}" y="{bottom + 16}" text-anchor="end">{figure(widest)} output tokens per second</text>',
        f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/>',
    ]
    for x, y, one in placed:
        is_best = one["concurrency"] == marked
        fill = "#2ca02c" if is_best else "#1f77b4" if one["stands"] else "white"
        parts.append(f'<circle cx="{x}" cy="{y}" r="{6 if is_best else 4}" fill="{fill}" stroke="#1f77b4"/>')
        parts.append(f'<text x="{x}" y="{y - 9}" text-anchor="middle">{one["concurrency"]}</text>')
    return parts
