"""Expected results of every query of every dashboard, calculated by hand: (dashboard, panel, query) -> function."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache

from support import expected_alerts
from support import fleetday as day
from support.fleetday import GPUS, FleetGpu
from support.hand import WASTE, Hand, Rows, above, by, count, less, mean, over, plus, row, single, times
from support.samples import Labels
from tpw import __version__

Expected = Callable[[Hand], Rows]
Key = tuple[str, str, str]

MODEL = ("server", "model")
GPU = ("job", "instance", "gpu", "uuid")
WHO = ("instance", "gpu", "uuid")
STATES = ("active", "other", "starting", "parked", "idle", "planned_off")
NOTHING: Expected = lambda h: {}  # noqa: E731
RATE_INTERVAL = 240


def expected() -> dict[Key, Expected]:
    """Every query."""
    dashboards = {
        "tpw-overview": _overview(),
        "tpw-models": _models(),
        "tpw-gpus": _gpus(),
        "tpw-money": _money(),
        "tpw-fleet": _fleet(),
        "tpw-measuring": _measuring(),
    }
    found = {
        (dashboard, panel, ref): function
        for dashboard, panels in dashboards.items()
        for panel, functions in panels.items()
        for ref, function in zip("ABCDEFGHIJ", functions, strict=False)
    }
    return found | {(dashboard, "Measured", "A"): _trust for dashboard in dashboards}


# ---------------------------------------------------------------------------------------------------------- used by many


def _trusted(h: Hand) -> float:
    return min(_exporters(h), _sources(h), _energy(h))


@cache
def _trust(h: Hand) -> Rows:
    lowest = min(_trusted(then) for then in h.minutes(h.range))
    return plus(row(_trusted(h), part="now"), row(lowest, part="lowest"), row(1.0, part="with data"))


def _exporters(h: Hand) -> float:
    return mean(list(h.now("up", ("instance",)).values()))


def _sources(h: Hand) -> float:
    return mean(list(h.now("tpw_source_up", ("instance", "source")).values()))


def _energy(h: Hand) -> float:
    return 1 - mean(list(h.rate("tpw_gpu_unmetered_seconds_total", 300, GPU).values()))


def per_second(rows: Rows, seconds: int) -> Rows:
    """What was gained in so many seconds, as a rate."""
    return times(rows, 1 / seconds)


def _spent(h: Hand) -> Rows:
    return _hours(h, lambda then: then.all_cost(3600, (), "full"))


def _price(h: Hand) -> Rows:
    return single(day.price_at(h.polled))


def _next_change(at: float) -> float:
    change = day.next_change(at)
    while day.price_at(change) == day.price_at(at):
        change = day.next_change(change)
    return change


def _next_price(h: Hand) -> Rows:
    return single(day.price_at(_next_change(h.polled)))


def _states(h: Hand) -> dict[FleetGpu, str]:
    """Which state each GPU was in for most of the last five minutes."""
    found = {}
    for gpu in GPUS:
        who = {"instance": gpu.node.instance, "uuid": gpu.uuid}
        seconds = {
            state: sum(h.gained("tpw_gpu_state_seconds_total", 300, (), state=state, **who).values())
            for state in STATES
        }
        found[gpu] = max(seconds, key=lambda state: seconds[state])
    return found


def _codes(h: Hand, *names: str) -> Rows:
    """4 other, 3 starting, 2 active, 1 parked, 0 idle, -1 lost."""
    codes = {"other": 4.0, "starting": 3.0, "active": 2.0, "parked": 1.0, "idle": 0.0}
    gone = {gpu for gpu in GPUS if day.lost(gpu, h.polled)}
    rows = {}
    for gpu, state in _states(h).items():
        who = {"job": day.JOB, "instance": gpu.node.instance, "gpu": str(gpu.index), "uuid": gpu.uuid}
        labels = tuple(sorted((name, who[name]) for name in names))
        rows[labels] = -1.0 if gpu in gone else codes[state]
    return rows


def _lost(h: Hand) -> Rows:
    return single(float(sum(day.lost(gpu, h.polled) for gpu in GPUS)))


def _seconds(state: str) -> Expected:
    return lambda h: h.rate("tpw_gpu_state_seconds_total", 300, (), state=state)


def _watts(state: str, boundary: str = "gpu") -> Expected:
    return lambda h: per_second(h.all_joules(300, (), boundary, state=state), 300)


def _made(kind: str) -> Expected:
    return lambda h: per_second(h.tokens(300, (), kind), 300)


def _hours(h: Hand, rows: Callable[[Hand], Rows]) -> Rows:
    """Sums of the whole hours that ended in the range, each of its own 3600 seconds."""
    total: dict[Labels, float] = {}
    for end in range(h.at - h.at % 3600, h.at - h.range, -3600):
        for who, value in rows(h.earlier(end)).items():
            total[who] = total.get(who, 0.0) + value
    return total


def _bar(h: Hand, seconds: int) -> Hand:
    """Bars stand before the time they are about."""
    return h.earlier(h.at + seconds)


# -------------------------------------------------------------------------------------------------------------- overview


def _overview() -> dict[str, list[Expected]]:
    return {
        "Tokens per watt": [
            lambda h: over(h.tokens(300), h.joules(300)),
            lambda h: over(h.tokens(300), h.all_joules(300)),
        ],
        "$currency per M tokens": [
            lambda h: h.per_million(h.cost(3600), h.tokens(3600)),
            lambda h: h.per_million(h.all_cost(3600), h.tokens(3600)),
            _of_a_million,
        ],
        "Waste per month": [
            lambda h: over(times(h.all_cost(3600, (), "full", state=WASTE), 730), h.known(3600), ()),
            lambda h: h.now("tpw_period_cost", (), period="month", state=WASTE),
            lambda h: over(h.all_cost(3600, (), "full", state=WASTE), h.all_cost(3600, (), "full")),
        ],
        "Spent, $currency": [
            lambda h: _period(h, "day"),
            lambda h: _period(h, "month"),
            lambda h: h.now("tpw_period_cost_forecast", (), period="month"),
        ],
        "Largest waste now": [_largest_waste],
        "Tokens / s": [lambda h: per_second(h.tokens(300), 300)],
        "Requests": [lambda h: by(h.running(), ()), lambda h: h.averaged("tpw_server_requests_waiting", 300)],
        "Power": [
            lambda h: per_second(h.joules(300, (), "facility"), 300),
            _watts("idle", "facility"),
        ],
        "$currency/kWh": [lambda h: row(day.price_at(h.polled), state="final")],
        "Firing alerts": [lambda h: expected_alerts.at(h.at)],
        "Models: now, and in the last 24 hours": [
            lambda h: over(h.tokens(3600, MODEL, "output"), h.known(3600), ()),
            lambda h: over(h.tokens(300, MODEL), h.joules(300, MODEL)),
            lambda h: over(h.tokens(86400, MODEL), h.joules(86400, MODEL)),
            lambda h: times(h.now("tpw_cost_per_token", MODEL, kind=h.choice.kind, scope=h.choice.scope), 1e6),
            lambda h: h.per_million(h.cost(86400, MODEL), h.tokens(86400, MODEL)),
            lambda h: over(h.cost(3600, MODEL), h.known(3600), ()),
            lambda h: over(h.joules(86400, MODEL, state="parked"), h.joules(86400, MODEL)),
            lambda h: over(h.cost(86400, MODEL, "full"), h.elsewhere(86400, MODEL)),
        ],
        "Tokens per watt over time": [
            lambda h: over(h.tokens(300), h.all_joules(300, (), state=OWNED)),
            lambda h: over(h.tokens(300), h.all_joules(300)),
        ],
        "A million tokens cost over time, $currency": [
            lambda h: h.per_million(h.all_cost(3600), h.tokens(3600)),
            lambda h: h.per_million(h.elsewhere(3600), h.tokens(3600)),
        ],
        "Power by state": [_watts(state) for state in STATES],
        "Spent by component, $currency per hour": [
            lambda h: _last_hour(_bar(h, 3600)).gained("tpw_gpu_state_cost_total", 3600, ("component",)),
            lambda h: below_zero(times(_last_hour(_bar(h, 3600)).gained("tpw_gpu_state_credit_total", 3600), -1)),
        ],
    }


OWNED = ("active", "other", "starting", "parked")


def _of_a_million(h: Hand) -> Rows:
    return h.per_million(_hours(h, lambda then: then.all_cost(3600)), _hours(h, lambda then: then.tokens(3600)))


def _last_hour(h: Hand) -> Hand:
    """As of the full hour before."""
    return h.earlier(h.at - h.at % 3600)


def below_zero(rows: Rows) -> Rows:
    """Those that are smaller."""
    return {who: value for who, value in rows.items() if value < 0}


def _largest_waste(h: Hand) -> Rows:
    acts = {"parked": "Parked: use it or stop it", "idle": "Idle: use or switch off"}
    owners = {dict(who)["uuid"]: dict(who)["server"] for who in h.now("tpw_server_gpu", ("uuid", "server"))}
    found: dict[Labels, float] = {}
    for who, cost in h.all_cost(300, ("instance", "uuid", "state"), "full", state=WASTE).items():
        gpu = dict(who)
        server = owners.get(gpu["uuid"], "no owner")
        [(labels, _)] = row(
            0.0,
            server=server,
            instance=gpu["instance"],
            state=gpu["state"],
            act=acts[gpu["state"]],
            who=f"{server} on {gpu['instance']}",
        ).items()
        found[labels] = found.get(labels, 0.0) + cost * 12 * 730
    return dict(sorted(above(found, 0).items(), key=lambda pair: -pair[1])[:5])


def tagged_choice(h: Hand, rows: Rows, *names: str) -> Rows:
    """With the labels of recorded series that the dashboard's variables choose."""
    more = {name: str(getattr(h.choice, name)) for name in names}
    return {tuple(sorted((*who, *more.items()))): value for who, value in rows.items()}


# ---------------------------------------------------------------------------------------------------------------- models


@cache
def _by_load(h: Hand, least: float, below: float) -> Rows:
    """Tokens over joules by model, of the minutes in which so many requests were running, each a mean of five."""
    tokens, joules = defaultdict[Labels, float](float), defaultdict[Labels, float](float)
    for then in h.minutes(h.range):
        load, made, used = _of_minute(then)
        for who, running in load.items():
            if least <= running < below:
                tokens[who] += made.get(who, 0.0)
                joules[who] += used.get(who, 0.0)
    return over(tokens, joules)


@cache
def _of_minute(then: Hand) -> tuple[Rows, Rows, Rows]:
    return then.running(MODEL), then.tokens(300, MODEL), then.joules(300, MODEL)


def _at_load(least: float, below: float) -> Expected:
    return lambda h: _by_load(h, least, below)


@cache
def _ratio_of_the_hour(h: Hand) -> Rows:
    return over(h.tokens(3600, ("job", *MODEL)), h.joules(3600, ("job", *MODEL)))


def _of_the_best(h: Hand) -> Rows:
    best: Rows = {}
    for then in h.minutes(7 * 86400):
        for who, ratio in _ratio_of_the_hour(then).items():
            best[who] = max(ratio, best.get(who, 0.0))
    return tagged_choice(h, over(_ratio_of_the_hour(h), best), "kind", "boundary")


def _working(h: Hand) -> Rows:
    active = h.joules(300, ("server",), "gpu", state="active")
    parked = h.joules(300, ("server",), "gpu", state="parked")
    return {who: float(active[who] > parked[who]) for who in active}


def _of_limits(h: Hand) -> Rows:
    power: dict[str, float] = {}
    limit: dict[str, float] = {}
    for gpu in GPUS:
        server = day.owner(gpu, h.polled)
        down = gpu.node is day.A and server and not day.answers(server, h.polled)
        if server and not down and not day.lost(gpu, h.polled):
            power[server] = power.get(server, 0.0) + day.sensed(gpu, h.polled)
            limit[server] = limit.get(server, 0.0) + 700.0
    return plus(*(row(power[server] / limit[server], server=server) for server in power))


def _models() -> dict[str, list[Expected]]:
    return {
        "Tokens per joule against requests running": [
            lambda h: h.running(MODEL),
            lambda h: above(over(h.tokens(300, MODEL), h.joules(300, MODEL)), 0),
        ],
        "$currency/M against tokens/s": [
            lambda h: per_second(h.tokens(300, MODEL), 300),
            lambda h: h.per_million(h.cost(300, MODEL), above(h.tokens(300, MODEL), 300)),
        ],
        "Power against tokens per second": [
            lambda h: per_second(h.tokens(300, MODEL), 300),
            lambda h: per_second(h.joules(300, (*MODEL, "state")), 300) and per_second(h.joules(300, MODEL), 300),
        ],
        "Tokens per joule by load": [
            _at_load(0, 1),
            _at_load(1, 5),
            _at_load(5, 17),
            _at_load(17, 65),
            _at_load(65, 10**9),
        ],
        "Latency by load": [NOTHING] * 5,
        "Share of its best hour this week": [_of_the_best],
        "Active only, and parked time included": [
            lambda h: over(h.tokens(300), h.joules(300, (), "gpu", state="active")),
            lambda h: over(h.tokens(300), h.joules(300, (), "gpu")),
        ],
        "Tokens by kind": [_made("output"), _made("input"), _made("cached_input")],
        "Requests running, and waiting": [
            lambda h: h.running(MODEL),
            lambda h: h.averaged("tpw_server_requests_waiting", 300),
        ],
        "Prompt tokens from the cache": [
            lambda h: over(
                h.tokens(300, MODEL, "cached_input"),
                h.gained("tpw_server_tokens_total", 300, MODEL, kind=("cached_input", "input")),
            )
        ],
        "Joules per request": [
            lambda h: over(h.joules(3600, MODEL), h.gained("tpw_server_requests_total", 3600, MODEL)),
            NOTHING,
        ],
        "Active and parked": [_working],
        "$currency per million tokens by component": [
            lambda h: h.per_million(h.gained("tpw_server_cost_total", 3600, ("component",)), h.tokens(3600), ()),
            lambda h: times(h.per_million(h.gained("tpw_server_credit_total", 3600), h.tokens(3600)), -1),
        ],
        "$currency per hour saved against $reference": [
            lambda h: over(less(h.elsewhere(3600, ("server",)), h.cost(3600, ("server",), "full")), h.known(3600), ())
        ],
        "Power of the GPUs, share of their limits": [_of_limits],
        "Servers": [
            lambda h: h.now("tpw_server_gpu", ("server", "instance")),
            lambda h: h.now("tpw_window_seconds", ("server", "instance")),
            lambda h: h.now("tpw_server_info", ("server", "instance", "engine", "version", "cadence", "attribution")),
            lambda h: h.now("tpw_tokens_per_watt", ("server", "instance"), kind="output", boundary="gpu"),
            lambda h: h.now("tpw_server_published_tokens_per_watt", ("server", "instance")),
        ],
        "Requests": [lambda h: h.gained("tpw_server_requests_total", h.range)],
        "Requests without usage": [NOTHING],
    }


# ------------------------------------------------------------------------------------------------------------------ GPUs


def _waste_of_gpus(h: Hand) -> Rows:
    waste = above(times(h.all_cost(300, (*GPU, "currency"), "full", state=WASTE), 12), 0)
    return dict(sorted(waste.items(), key=lambda pair: -pair[1])[:10])


def _sensor_error(h: Hand) -> Rows:
    """One is off by three per cent; the others by what their sine makes of the hour."""
    sensors = h.averaged("tpw_gpu_power_watts", 3600, GPU)
    counters = h.rate("tpw_gpu_energy_joules_total", 3600, GPU)
    holes = h.gained("tpw_gpu_unmetered_seconds_total", 3600, GPU)
    lost = {gpu.uuid for gpu in GPUS for at in range(h.polled - 3540, h.polled + 1, 60) if day.lost(gpu, at)}
    return {
        who: sensor / counters[who] - 1
        for who, sensor in sensors.items()
        if counters[who] > 0
        and h.known(3600, ("instance",))[("instance", dict(who)["instance"]),] > 0.99
        and not holes[who] > 0
        and dict(who)["uuid"] not in lost
    }


def _gpus() -> dict[str, list[Expected]]:
    now = "tpw_gpu_power_watts"
    limits = lambda h: h.now("tpw_gpu_power_limit_watts", WHO)  # noqa: E731
    return {
        "GPUs": [
            lambda h: h.now("tpw_gpu_info", (*WHO, "name")),
            lambda h: _codes(h, *WHO),
            lambda h: h.now(now, WHO),
            lambda h: over(h.now(now, WHO), limits(h)),
            lambda h: h.now("tpw_gpu_utilization_ratio", WHO),
            lambda h: over(h.now("tpw_gpu_memory_used_bytes", WHO), h.now("tpw_gpu_memory_total_bytes", WHO)),
            lambda h: h.now("tpw_gpu_temperature_celsius", WHO),
            lambda h: h.all_cost(h.range, WHO, "full", state=WASTE),
            lambda h: h.now("tpw_server_gpu", (*WHO, "server")),
        ],
        "GPUs by state": [*(_seconds(state) for state in STATES), _lost],
        "State of each GPU": [lambda h: _codes(h, *GPU)],
        "$currency wasted per hour, worst ten": [_waste_of_gpus],
        "Power of each GPU": [lambda h: h.now(now, GPU), lambda h: single(700.0)],
        "Parked and idle power": [lambda h: times(h.all_joules(300, ("state",), "gpu", state=WASTE), 1 / 300)],
        "Sampled power against the energy counter": [_sensor_error],
        "State of the node, share of time": [
            _shares,
        ],
        "Energy today, by state": [*(_kwh(state) for state in STATES)],
        "Power against utilisation": [
            lambda h: h.averaged("tpw_gpu_utilization_ratio", 300, ("instance", "gpu")),
            lambda h: h.averaged(now, 300, ("instance", "gpu")),
        ],
        "Temperature": [lambda h: h.now("tpw_gpu_temperature_celsius", GPU)],
        "Memory used": [lambda h: h.now("tpw_gpu_memory_used_bytes", GPU)],
        "Throttled, share of time": [
            lambda h: h.rate("tpw_gpu_throttle_seconds_total", RATE_INTERVAL, ("instance", "gpu", "reason"))
        ],
        "Host power by component": [lambda h: row(day.A.cpu_watts, instance=day.A.instance, component="cpu")],
        "What the meters include": [lambda h: h.now("tpw_gpu_info", ("power_scope", "energy_method", "name"))],
        "GPUs that servers share": [NOTHING],
        "Estimated power of instances (MIG)": [NOTHING],
    }


def _shares(h: Hand) -> Rows:
    [total] = h.gained("tpw_gpu_state_seconds_total", 300).values()
    return times(h.gained("tpw_gpu_state_seconds_total", 300, ("state",)), 1.0 / total)


def _kwh(state: str) -> Expected:
    return lambda h: times(h.now("tpw_period_energy_joules", (), period="day", state=state), 1 / 3.6e6)


# ----------------------------------------------------------------------------------------------------------------- money


def _period(h: Hand, period: str) -> Rows:
    return h.now("tpw_period_cost", (), period=period)


@cache
def _cost_of_the_hour(then: Hand) -> Rows:
    return then.all_cost(3600, (), "full")


def _by_hour(h: Hand) -> Rows:
    seen: dict[str, list[float]] = {}
    for then in h.minutes(h.range):
        hour = f"{int(day.hour_of(then.at)):02d}"
        seen.setdefault(hour, []).append(12 * sum(then.all_cost(300).values()))
    return plus(*(row(mean(values), hour=hour) for hour, values in seen.items()))


def _facility_of_a(h: Hand, begin: int, end: int) -> float:
    """Facility joules that node A drew between two polls, as its pages showed."""

    def shown(poll: int) -> float:
        at = poll + day.A.scraped_after_seconds
        return sum(
            h.earlier(at).now("tpw_gpu_state_facility_energy_joules_total", (), instance=day.A.instance).values()
        )

    return shown(end) - shown(begin)


def _forming(h: Hand) -> Rows:
    """Mean power of the quarter-hour so far; nothing in the moment in which one begins."""
    begun = h.polled // day.QUARTER * day.QUARTER
    if begun == h.polled:
        return {}
    return single(_facility_of_a(h, begun, h.polled) / (h.polled - begun))


def _peak(h: Hand) -> Rows:
    """The highest quarter-hour that is over. One in which the exporter stood still holds what was caught up."""
    quarters = range(day.START, h.polled - day.QUARTER + 1, day.QUARTER)
    return single(max(_facility_of_a(h, begin, begin + day.QUARTER) for begin in quarters) / day.QUARTER)


def _needed(h: Hand, server: tuple[str, ...]) -> Rows:
    """Output tokens a day that cost what they would at the reference: the day's fixed cost over the reference's price of a
    token, all kinds at the day's mix, less the energy that one takes."""
    found: Rows = {}
    for who, tokens in h.tokens(86400, server, "output").items():
        marginal = h.cost(86400, server, "energy", state="active").get(who, 0.0)
        elsewhere = h.elsewhere(86400, server).get(who, 0.0)
        if tokens > 0 and elsewhere > marginal:
            fixed = h.cost(86400, server, "full")[who] - marginal
            found[who] = fixed / (elsewhere / tokens - marginal / tokens)
    return found


def _of_the_day(h: Hand, rows: Callable[[Hand], Rows]) -> Rows:
    """The hours that ended in the 24 hours after, as far as the day of the books goes."""
    after = h.earlier(h.at + 86400)
    total: dict[Labels, float] = {}
    for end in range(after.at - after.at % 3600, h.at, -3600):
        if end <= day.END:
            for who, value in rows(h.earlier(end)).items():
                total[who] = total.get(who, 0.0) + value
    return total


def _wasted(h: Hand) -> Rows:
    return _hours(h, lambda then: then.all_cost(3600, (), "full", state=WASTE))


def _tokens(h: Hand, names: tuple[str, ...] = ()) -> Rows:
    return _hours(h, lambda then: then.tokens(3600, names))


def _cost_of_servers(h: Hand, names: tuple[str, ...] = (), scope: str | None = None) -> Rows:
    return _hours(h, lambda then: then.cost(3600, names, scope))


def _elsewhere(h: Hand, names: tuple[str, ...] = ()) -> Rows:
    return _hours(h, lambda then: then.elsewhere(3600, names))


def electricity(h: Hand) -> Rows:
    """Cost of energy, less credit."""
    return _hours(h, lambda then: then.all_cost(3600, (), "energy"))


def _money() -> dict[str, list[Expected]]:
    server = ("server",)
    energy = "energy"
    return {
        "Spent, $currency": [_spent, lambda h: _spent(h.earlier(h.at - h.range))],
        "Electricity, $currency": [electricity, lambda h: over(electricity(h), _spent(h))],
        "Wasted, $currency": [_wasted, lambda h: over(_wasted(h), _spent(h))],
        "$currency per M tokens": [
            lambda h: h.per_million(_cost_of_servers(h), _tokens(h)),
            _of_a_million,
        ],
        "This month, $currency": [
            lambda h: h.now("tpw_period_cost_forecast", (), period="month"),
            lambda h: _period(h, "month"),
        ],
        "Saved, $currency": [
            lambda h: less(_elsewhere(h), _spent(h)),
        ],
        "Paid, $currency/kWh": [
            lambda h: over(
                electricity(h), times(_hours(h, lambda then: then.all_joules(3600, (), "facility")), 1 / 3.6e6)
            ),
            lambda h: single(mean([day.price_at(then.polled) for then in h.minutes(h.range)])),
            lambda h: single(1.0),
        ],
        "Servers and models in this range, $currency": [
            lambda h: _tokens(h, MODEL),
            lambda h: _cost_of_servers(h, MODEL),
            lambda h: _cost_of_servers(h, MODEL, energy),
            lambda h: h.per_million(_cost_of_servers(h, MODEL), _tokens(h, MODEL)),
            lambda h: less(_elsewhere(h, MODEL), _cost_of_servers(h, MODEL, "full")),
        ],
        "Spent per day by component, $currency": [
            lambda h: _of_the_day(h, lambda then: then.gained("tpw_gpu_state_cost_total", 3600, ("component",))),
            lambda h: below_zero(
                times(_of_the_day(h, lambda then: then.gained("tpw_gpu_state_credit_total", 3600)), -1)
            ),
        ],
        "Cost by hour of the day, $currency per hour": [_by_hour],
        "Electricity price, $currency per kWh": [_price, _next_price],
        "Cost rate by component, $currency per hour": [
            lambda h: times(h.gained("tpw_gpu_state_cost_total", 300, ("component",)), 12),
            lambda h: below_zero(times(h.gained("tpw_gpu_state_credit_total", 300), -12)),
        ],
        "Allocated and active, $currency": [
            lambda h: _cost_of_servers(h, server),
            lambda h: _hours(h, lambda then: then.cost(3600, server, state="active")),
        ],
        "Idle GPUs by node, $currency": [
            lambda h: _hours(h, lambda then: then.all_cost(3600, ("instance",), "full", state="idle"))
        ],
        "Break-even, output tokens per day": [
            lambda h: over(h.tokens(86400, server, "output"), h.known(86400), ()),
            lambda h: over(_needed(h, server), h.known(86400), ()),
        ],
        "Demand interval against the monthly peak": [_forming, _peak],
        "What advice would save, $currency per month": [NOTHING],
    }


# ----------------------------------------------------------------------------------------------------------------- fleet


def _node_tokens(h: Hand, seconds: int) -> Rows:
    """Tokens of servers, split by where their joules went."""
    here = h.joules(seconds, ("instance", *MODEL), "gpu")
    everywhere = h.joules(seconds, MODEL, "gpu")
    made = h.tokens(seconds, MODEL)
    split = {}
    for who, joules in here.items():
        model = tuple(pair for pair in who if pair[0] != "instance")
        if everywhere[model] > 0:
            split[who] = made[model] * joules / everywhere[model]
    return by(split, ("instance",))


def _grams(rows: Rows) -> Rows:
    return {tuple(sorted((*who, ("basis", day.CARBON[0])))): value for who, value in rows.items()}


def _grams_per_hour(h: Hand) -> Rows:
    return times(_grams(_last_hour(h).all_joules(3600, ("state",), "facility")), day.CARBON[1] / 3.6e6)


def _by_gpu_name(h: Hand, rows: Rows) -> Rows:
    names = {node.instance: node.gpu_name for node in day.NODES}
    return plus(*(row(value, name=names[dict(who)["instance"]]) for who, value in rows.items()))


def _node_share(*states: str) -> Expected:
    return lambda h: over(
        h.gained("tpw_gpu_state_seconds_total", 300, ("instance",), state=states),
        h.gained("tpw_gpu_state_seconds_total", 300, ("instance",)),
    )


def _fleet() -> dict[str, list[Expected]]:
    node = ("instance",)
    all_watts = lambda h: per_second(h.all_joules(300, (), "gpu"), 300)  # noqa: E731
    return {
        "Tokens per watt": [lambda h: over(h.tokens(300), h.all_joules(300))],
        "$currency per M tokens": [lambda h: h.per_million(h.all_cost(3600), h.tokens(3600))],
        "Power": [
            all_watts,
            lambda h: over(all_watts(h), h.now("tpw_gpu_power_limit_watts")),
            lambda h: per_second(h.all_joules(300, (), "facility"), 300),
        ],
        "GPUs": [*(_seconds(state) for state in STATES), _lost],
        "Waste per month": [
            lambda h: over(times(h.all_cost(3600, (), "full", state=WASTE), 730), h.known(3600), ()),
            lambda h: over(h.all_cost(3600, (), "full", state=WASTE), h.all_cost(3600, (), "full")),
        ],
        "Exporters": [lambda h: single(2.0), lambda h: single(2.0)],
        "Nodes": [
            lambda h: h.now("tpw_gpu_up", node, count),
            lambda h: per_second(h.all_joules(300, node, "gpu"), 300),
            _node_share("active"),
            _node_share("parked"),
            _node_share("idle"),
            lambda h: over(_node_tokens(h, 300), h.all_joules(300, node)),
            lambda h: h.per_million(h.all_cost(3600, node), _node_tokens(h, 3600)),
            lambda h: over(h.all_cost(3600, node, "full", state=WASTE), h.known(3600, node), node),
            lambda h: plus(*(row(h.at - h.polled, instance=node.instance) for node in day.NODES)),
            lambda h: plus(*(row(1.0, instance=node.instance, version=__version__) for node in day.NODES)),
        ],
        "Wasted GPU time by node": [
            lambda h: over(
                _last_hour(h).gained("tpw_gpu_state_seconds_total", 3600, node, state=WASTE),
                _last_hour(h).gained("tpw_gpu_state_seconds_total", 3600, node),
            )
        ],
        "Cost by node, $currency per hour": [lambda h: _last_hour(h).all_cost(3600, node, "full")],
        "Tokens per joule by GPU model": [
            lambda h: over(_by_gpu_name(h, _node_tokens(h, 3600)), _by_gpu_name(h, h.all_joules(3600, node)))
        ],
        "Worst idle GPUs, $currency/h": [
            lambda h: above(times(h.all_cost(300, ("instance", "gpu"), "full", state="idle"), 12), 0)
        ],
        "Servers over nodes": [
            lambda h: by(h.now("tpw_server_gpu", ("server", "instance")), ("server",), count),
            lambda h: h.now("tpw_server_gpu", ("server",)),
        ],
        "Price by cluster, $currency/kWh": [_price],
        "CO2 equivalent": [
            lambda h: times(
                _grams(_hours(h, lambda then: then.all_joules(3600, (), "facility"))), day.CARBON[1] / 3.6e6
            ),
            lambda h: row(day.CARBON[1], basis=day.CARBON[0]),
        ],
        "CO2 equivalent per hour, by state": [_grams_per_hour],
        "CO2 equivalent per million ${kind:text} tokens": [
            lambda h: times(
                _grams(over(_hours(h, lambda then: then.joules(3600, MODEL, "facility")), _tokens(h, MODEL))),
                day.CARBON[1] / 3.6,
            )
        ],
    }


# ------------------------------------------------------------------------------------------------------------- measuring


def _risen(h: Hand, metric: str, *names: str) -> Rows:
    """What a counter gained over the range, its first value included."""
    before = h.earlier(h.at - h.range).now(metric, names)
    return above(less(h.now(metric, names), before), 0)


def _by_method(h: Hand) -> Rows:
    method = {gpu.uuid: "instant_power" if gpu.integrated else "counter" for gpu in GPUS}
    watts: dict[str, float] = {}
    for who, value in h.rate("tpw_gpu_energy_joules_total", 300, ("uuid",)).items():
        name = method[dict(who)["uuid"]]
        watts[name] = watts.get(name, 0.0) + value
    return plus(*(row(value, energy_method=name) for name, value in watts.items()))


def _on_one_node(h: Hand) -> tuple[str, ...]:
    """Servers with all GPUs on one node over the last hour."""
    nodes = by(h.averaged("tpw_server_gpu", 3600, ("server", "instance")), ("server",), count)
    return tuple(dict(who)["server"] for who, number in nodes.items() if number == 1)


def _measuring() -> dict[str, list[Expected]]:
    source = ("instance", "source")
    return {
        "Books balance": [lambda h: single(0.0), lambda h: single(0.0)],
        "Unmetered time": [
            lambda h: times(h.gained("tpw_gpu_unmetered_seconds_total", h.range), 1 / len(GPUS) / h.range),
        ],
        "Unpriced energy": [lambda h: single(0.0), lambda h: single(0.0)],
        "What is missing": [
            lambda h: single(_exporters(h)),
            lambda h: single(_sources(h)),
            lambda h: single(_energy(h)),
            lambda h: single(1.0),
        ],
        "Sources": [
            lambda h: h.now("tpw_source_up", source),
            lambda h: {
                who: h.at - value for who, value in h.now("tpw_source_last_success_timestamp_seconds", source).items()
            },
            lambda h: h.rate("tpw_source_reads_total", 300, source),
            lambda h: _risen(h, "tpw_source_read_failures_total", *source),
            lambda h: dict.fromkeys(h.now("tpw_source_up", source), 0.0),
        ],
        "Failed reads by reason": [lambda h: _risen(h, "tpw_source_read_failures_total", "source", "reason")],
        "Sampled power against the energy counter": [
            lambda h: by(_sensor_error(h), ("instance",), max),
            lambda h: by(_sensor_error(h), ("instance",), min),
        ],
        "Power by energy method": [_by_method],
        "Rejected energy readings": [
            lambda h: _risen(h, "tpw_gpu_energy_anomalies_total", "instance", "gpu", "reason")
        ],
        "Power by source of ownership": [
            lambda h: plus(
                *(row(watts, attribution="configured") for watts in per_second(h.joules(300, (), "gpu"), 300).values())
            ),
            _watts("idle"),
        ],
        "GPUs against the node's own meter": [NOTHING],
        "Unmetered time by node": [
            lambda h: over(
                h.rate("tpw_gpu_unmetered_seconds_total", 300, ("instance",)), h.now("tpw_gpu_up", ("instance",), count)
            )
        ],
        "Energy without tokens, tokens without energy": [lambda h: single(0.0), lambda h: single(0.0)],
        "Live ratio against the rules": [
            lambda h: over(h.tokens(300, MODEL, "output"), h.joules(300, MODEL, "gpu")),
            lambda h: h.averaged(
                "tpw_tokens_per_watt", 300, MODEL, mean, kind="output", boundary="gpu", server=_on_one_node(h)
            ),
        ],
        "State of the price": [lambda h: plus(*(row(4.0, instance=node.instance) for node in day.NODES))],
        "CPU and memory of the exporter": [
            lambda h: single(0.005),
            lambda h: h.now("process_resident_memory_bytes", (), max),
        ],
        "Late polls, duration of scrapes": [lambda h: single(0.0), lambda h: single(0.006)],
        "Skipped polls, dropped samples": [lambda h: single(0.0), lambda h: single(0.0)],
        "Age of the books, and restarts": [
            lambda h: single(h.at - h.polled),
            lambda h: single(
                float(
                    sum(
                        h.at - 3600 < day.START + began + node.scraped_after_seconds <= h.at
                        for node in day.NODES
                        for _, began in node.absences
                    )
                )
            ),
        ],
    }
