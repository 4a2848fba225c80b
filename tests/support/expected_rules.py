"""What every recording rule must record, reckoned by hand: record -> function of the moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from grafana.rules import HOUR_RECORDED, HOURS

from support import fleetday as day
from support.hand import WASTE, Hand, Rows, by, less, mean, over, plus, row, tagged, times

LEVELS: Mapping[str, tuple[str, ...]] = {
    "gpu": ("job", "instance", "gpu", "uuid"),
    "node": ("job", "instance"),
    "server": ("job", "server"),
    "model": ("job", "server", "model"),
    "cluster": ("job",),
}
WINDOWS = {"5m": 300, "1h": 3600, "1d": 86400}
BOUNDARIES = ("gpu", "facility")
SCOPES = ("energy", "full")
KINDS = ("output", "total")
LOADS = {"under 1": (0, 1), "1 to 4": (1, 5), "5 to 16": (5, 17), "17 to 64": (17, 65), "over 64": (65, 10**9)}
MODEL = LEVELS["model"]

Expected = Callable[[Hand], Rows]


def expected() -> dict[str, Expected]:
    """Every record."""
    found: dict[str, Expected] = {}
    for window, seconds in WINDOWS.items():
        for level, windows in (("gpu", ("5m",)), ("node", ("5m", "1h")), ("cluster", tuple(WINDOWS))):
            if window in windows:
                found |= _gpus(level, window, seconds)
        for level in ("model", "server"):
            found |= _servers(level, window, seconds)
        found |= _models(window, seconds) | _deployments(window) | _service_levels(window)
        if window != "5m":
            found |= _active(window, seconds)
        if window != "1d":
            found |= _whole("node", window, seconds, _node_tokens) | _joules_of_nodes(window, seconds)
        found |= _whole("cluster", window, seconds, _cluster_tokens)
    found |= _single()
    return found | _hours(found)


def _hours(found: Mapping[str, Expected]) -> dict[str, Expected]:
    """What is recorded once an hour: the hour that ended last."""

    def ended(hourly: Expected) -> Expected:
        return lambda h: times(hourly(h.earlier(h.at - h.at % 3600)), 3600)

    labels = (*MODEL, "basis")
    return {
        **{
            f"{level}:{metric}:sum1h": ended(found[f"{level}:{metric}:rate1h"])
            for level, metrics in HOURS.items()
            for metric in metrics
        },
        "cluster:tpw_energy_unpriced_joules:sum1h": ended(
            lambda h: less(
                h.rate("tpw_energy_unpriced_joules_total", 3600, LEVELS["cluster"]),
                h.rate("tpw_energy_late_priced_joules_total", 3600, LEVELS["cluster"]),
            )
        ),
        "model:tpw_server_emissions_grams:sum1h": ended(
            lambda h: h.rate("tpw_server_emissions_grams_total", 3600, labels)
        ),
        HOUR_RECORDED: lambda h: {},
    }


# Closures over the loop's variables are made in functions of their own, one per level and window.


def _gpus(level: str, window: str, seconds: int) -> dict[str, Expected]:
    labels = LEVELS[level]

    def rate(rows: Rows) -> Rows:
        return times(rows, 1 / seconds)

    def energy(h: Hand) -> Rows:
        if level == "gpu":
            return rate(h.all_joules(seconds, (*labels, "state"), "gpu"))
        return plus(
            *(tagged(rate(h.all_joules(seconds, (*labels, "state"), edge)), boundary=edge) for edge in BOUNDARIES)
        )

    def share(h: Hand) -> Rows:
        spent = h.gained("tpw_gpu_state_seconds_total", seconds, (*labels, "state"))
        return over(spent, by(spent, labels), labels)

    def waste(h: Hand) -> Rows:
        rows = times(h.all_cost(seconds, (*labels, "currency"), "full", state=WASTE), 3600 / seconds)
        return rows if seconds == 300 else over(rows, h.known(seconds, labels), labels)

    found: dict[str, Expected] = {
        f"{level}:tpw_gpu_state_energy_joules:rate{window}": energy,
        f"{level}:tpw_gpu_state_seconds:rate{window}": lambda h: h.rate(
            "tpw_gpu_state_seconds_total", seconds, (*labels, "state")
        ),
        f"{level}:tpw_gpu_state_net_cost:rate{window}": lambda h: rate(
            h.all_cost(seconds, (*labels, "state", "currency"), "full")
        ),
        f"{level}:tpw_waste_cost_per_hour:rate{window}": waste,
    }
    if seconds > 300:
        found[f"{level}:tpw_known:ratio_rate{window}"] = lambda h: h.known(seconds, labels)
    if level != "gpu":
        found[f"{level}:tpw_gpu_state_emissions_grams:rate{window}"] = lambda h: h.rate(
            "tpw_gpu_state_emissions_grams_total", seconds, (*labels, "state", "basis")
        )
        found[f"{level}:tpw_gpu_state_share:ratio_rate{window}"] = share
        found[f"{level}:tpw_gpu_state_cost:rate{window}"] = lambda h: h.rate(
            "tpw_gpu_state_cost_total", seconds, (*labels, "state", "component", "currency")
        )
    return found


def _servers(level: str, window: str, seconds: int) -> dict[str, Expected]:
    labels = LEVELS[level]

    def rate(rows: Rows) -> Rows:
        return times(rows, 1 / seconds)

    def per_joule(h: Hand) -> Rows:
        return plus(
            *(
                tagged(over(h.tokens(seconds, labels, kind), h.joules(seconds, labels, edge)), kind=kind, boundary=edge)
                for kind in KINDS
                for edge in BOUNDARIES
            )
        )

    return {
        f"{level}:tpw_server_tokens:rate{window}": lambda h: plus(
            h.rate("tpw_server_tokens_total", seconds, (*labels, "kind")),
            tagged(rate(h.tokens(seconds, labels, "total")), kind="total"),
        ),
        f"{level}:tpw_server_energy_joules:rate{window}": lambda h: plus(
            *(tagged(rate(h.joules(seconds, (*labels, "state"), edge)), boundary=edge) for edge in BOUNDARIES)
        ),
        f"{level}:tpw_server_cost:rate{window}": lambda h: plus(
            *(tagged(rate(h.cost(seconds, (*labels, "currency"), scope)), scope=scope) for scope in SCOPES)
        ),
        f"{level}:tpw_tokens_per_joule:ratio_rate{window}": per_joule,
        f"{level}:tpw_cost_per_million_tokens:ratio_rate{window}": lambda h: _per_million(
            h,
            labels,
            lambda kind: h.tokens(seconds, labels, kind),
            lambda scope: h.cost(seconds, _money(labels), scope),
        ),
    }


def _money(labels: tuple[str, ...]) -> tuple[str, ...]:
    return (*labels, "currency")


def _per_million(h: Hand, labels: tuple[str, ...], tokens: Callable[[str], Rows], cost: Callable[[str], Rows]) -> Rows:
    return plus(
        *(
            tagged(h.per_million(cost(scope), tokens(kind), labels), kind=kind, scope=scope)
            for kind in KINDS
            for scope in SCOPES
        )
    )


def _service_levels(window: str) -> dict[str, Expected]:
    """No server of the day has targets."""
    names = ["slo_requests:rate", "slo_latency_seconds:rate", "slo_latency_seconds:ratio_rate", "slo_met:ratio_rate"]
    names += ["good_tokens_per_joule:ratio_rate", "cost_per_million_good_tokens:ratio_rate"]
    found = [f"model:tpw_{name}{window}" for name in names]
    found += [f"deployment:tpw_{name}{window}" for name in names if "latency" not in name]
    found += [f"model:tpw_slo_{name}_by_load:rate5m" for name in ("requests", "latency_seconds")]
    return dict.fromkeys([*found, "model:tpw_slo_latency_seconds:baseline7d"], lambda _: plus())


def _deployments(window: str) -> dict[str, Expected]:
    """No server of the day belongs to one: no process is seen."""
    names = [
        *("server_tokens:rate", "server_energy_joules:rate", "tokens_per_joule:ratio_rate", "energy_share:ratio_rate"),
        *("tokens_per_second_per_gpu:rate", "server_cost:rate", "cost_per_million_tokens:ratio_rate"),
    ]
    found = [f"deployment:tpw_{name}{window}" for name in names]
    found += ["server:tpw_server_deployment:max", "server:tpw_router_deployment:max", "deployment:tpw_server_gpu:sum"]
    return dict.fromkeys([*found, "deployment:tpw_router_tokens:ratio_rate1h"], lambda _: plus())


def _models(window: str, seconds: int) -> dict[str, Expected]:
    return {
        f"model:tpw_tokens_per_active_joule:ratio_rate{window}": lambda h: plus(
            *(
                tagged(
                    over(h.tokens(seconds, MODEL, kind), h.joules(seconds, MODEL, "gpu", state="active")),
                    kind=kind,
                    boundary="gpu",
                )
                for kind in KINDS
            )
        ),
        f"model:tpw_active_energy_share:ratio_rate{window}": lambda h: over(
            h.joules(seconds, MODEL, "gpu", state="active"), h.joules(seconds, MODEL, "gpu")
        ),
        f"server:tpw_metered:ratio_rate{window}": lambda h: _metered_least(h, seconds),
        f"server:tpw_priced:ratio_rate{window}": lambda h: _priced(h, "server", seconds),
        **{
            f"{level}:tpw_server_reference_cost:rate{window}": _elsewhere(LEVELS[level], seconds)
            for level in ("model", "cluster")
        },
    }


def _elsewhere(labels: tuple[str, ...], seconds: int) -> Expected:
    return lambda h: h.rate("tpw_server_reference_cost_total", seconds, (*labels, "reference", "currency"))


def _active(window: str, seconds: int) -> dict[str, Expected]:
    """What servers cost while they worked, and in all over that."""
    money = _money(LEVELS["server"])

    def active(h: Hand, scope: str) -> Rows:
        return h.cost(seconds, money, scope, state="active")

    found: dict[str, Expected] = {
        f"server:tpw_server_active_cost:rate{window}": lambda h: plus(
            *(tagged(times(active(h, scope), 1 / seconds), scope=scope) for scope in SCOPES)
        ),
        f"server:tpw_cost_per_active_cost:ratio_rate{window}": lambda h: plus(
            *(tagged(over(h.cost(seconds, money, scope), active(h, scope)), scope=scope) for scope in SCOPES)
        ),
    }
    if window == "1d":
        found["server:tpw_break_even_tokens:rate1d"] = _break_even
    return found


def _break_even(h: Hand) -> Rows:
    """Tokens a second at which a day costs what it would at the reference that has prices by token: what runs anyway, over
    what each token saves."""
    found: Rows = {}
    for who, full in h.cost(86400, _money(LEVELS["server"]), "full").items():
        server = tuple(pair for pair in who if pair[0] != "currency")
        marginal = h.cost(86400, LEVELS["server"], "energy", state="active").get(server, 0.0)
        elsewhere = h.elsewhere(86400, LEVELS["server"]).get(server, 0.0)
        for kind in KINDS:
            tokens = h.tokens(86400, LEVELS["server"], kind).get(server, 0.0)
            if tokens > 0 and elsewhere > marginal:
                needed = (full - marginal) / ((elsewhere - marginal) / tokens)
                found |= tagged({who: needed / 86400}, kind=kind, reference="api-70b")
    return found


def _priced(h: Hand, level: str, seconds: int) -> Rows:
    """Every joule of the day has its price in time, so this is 1 wherever there is energy. A rule test has prices that are
    missing and late."""
    labels = LEVELS[level]
    used = (h.joules if level == "server" else h.all_joules)(seconds, labels, "facility")
    owning = h.now("tpw_server_gpu", labels) if level == "server" else used
    return {who: 1.0 for who, joules in used.items() if joules > 0 and who in owning}


def _metered_least(h: Hand, seconds: int) -> Rows:
    """Of each server's GPUs the one that was metered for the least share of the window. At the moments examined it is
    enough for every ratio; that one is withheld otherwise, a rule test holds."""
    unmetered = by(h.rate("tpw_gpu_unmetered_seconds_total", seconds, ("uuid",)), ("uuid",))
    owned = h.now("tpw_server_gpu", ("job", "server", "uuid"))
    shares = {who: 1 - unmetered[("uuid", dict(who)["uuid"]),] for who in owned}
    return by(shares, ("job", "server"), min)


def _node_tokens(h: Hand, seconds: int, kind: str) -> Rows:
    """A server's tokens, split by where its joules went."""
    here, all_of_it = h.joules(seconds, ("job", "instance", "server", "model"), "gpu"), h.joules(seconds, MODEL, "gpu")
    made = h.tokens(seconds, MODEL, kind)
    split = {}
    for who, joules in here.items():
        model = tuple(pair for pair in who if pair[0] != "instance")
        if all_of_it[model] > 0 and model in made:
            split[who] = made[model] * joules / all_of_it[model]
    return by(split, LEVELS["node"])


def _cluster_tokens(h: Hand, seconds: int, kind: str) -> Rows:
    return h.tokens(seconds, LEVELS["cluster"], kind)


def _joules_of_nodes(window: str, seconds: int) -> dict[str, Expected]:
    """By server and model: what a node's tokens are split by."""
    labels = ("job", "instance", "server", "model")
    return {
        f"node:tpw_server_energy_joules:rate{window}": lambda h: times(h.joules(seconds, labels, "gpu"), 1 / seconds)
    }


def _whole(level: str, window: str, seconds: int, tokens: Callable[[Hand, int, str], Rows]) -> dict[str, Expected]:
    labels = LEVELS[level]

    def per_joule(h: Hand) -> Rows:
        return plus(
            *(
                tagged(over(tokens(h, seconds, kind), h.all_joules(seconds, labels, edge)), kind=kind, boundary=edge)
                for kind in KINDS
                for edge in BOUNDARIES
            )
        )

    def made(h: Hand) -> Rows:
        kinds = plus(*(tagged(times(tokens(h, seconds, kind), 1 / seconds), kind=kind) for kind in KINDS))
        if level == "node":
            return kinds
        return plus(h.rate("tpw_server_tokens_total", seconds, (*labels, "kind")), kinds)

    return {
        f"{level}:tpw_server_tokens:rate{window}": made,
        f"{level}:tpw_tokens_per_joule:ratio_rate{window}": per_joule,
        f"{level}:tpw_cost:rate{window}": lambda h: _spend(
            h, labels, seconds, (*SCOPES, "booked") if level == "cluster" else SCOPES
        ),
        f"{level}:tpw_priced:ratio_rate{window}": lambda h: _priced(h, level, seconds),
        f"{level}:tpw_cost_per_million_tokens:ratio_rate{window}": lambda h: _per_million(
            h, labels, lambda kind: tokens(h, seconds, kind), lambda scope: h.all_cost(seconds, _money(labels), scope)
        ),
    }


def _spend(h: Hand, labels: tuple[str, ...], seconds: int, scopes: tuple[str, ...] = SCOPES) -> Rows:
    return plus(
        *(tagged(times(h.all_cost(seconds, _money(labels), scope), 1 / seconds), scope=scope) for scope in scopes)
    )


# ------------------------------------------------------------------------------------------------------- one of a kind


def _highest(metric: str) -> Expected:
    return lambda h: h.now(metric, LEVELS["cluster"], max)


def _single() -> dict[str, Expected]:
    gpu, node, job = LEVELS["gpu"], LEVELS["node"], LEVELS["cluster"]
    return {
        **{
            f"gpu:tpw_gpu_state_seconds:rate{window}": _state_seconds(seconds)
            for window, seconds in (("30m", 1800), ("2h", 7200))
        },
        "node:tpw_gpu_state_cost:rate1d": lambda h: h.rate(
            "tpw_gpu_state_cost_total", 86400, (*node, "state", "component", "currency")
        ),
        "node:tpw_gpu_state_net_cost:rate1d": lambda h: times(
            h.all_cost(86400, (*node, "state", "currency"), "full"), 1 / 86400
        ),
        "cluster:tpw_known:ratio_rate30m": lambda h: h.known(1800, job),
        "cluster:tpw_known:ratio_rate6h": lambda h: h.known(21600, job),
        "cluster:tpw_cost:rate30m": lambda h: _spend(h, job, 1800, ("energy", "booked")),
        "cluster:tpw_cost:rate6h": lambda h: _spend(h, job, 21600, ("energy", "booked")),
        "cluster:tpw_cost_by_hour:rate5m": lambda h: tagged(
            _spend(h, job, 300, (*SCOPES, "booked")), hour=f"{int(day.hour_of(h.at)):02d}"
        ),
        "model:tpw_server_requests_running:avg5m": lambda h: h.running(MODEL),
        "model:tpw_server_requests_waiting:avg5m": lambda h: h.averaged("tpw_server_requests_waiting", 300, MODEL),
        "model:tpw_server_tokens_by_load:rate5m": lambda h: plus(
            *(tagged(times(_at_load(h, h.tokens(300, MODEL, kind)), 1 / 300), kind=kind) for kind in KINDS)
        ),
        "model:tpw_server_energy_joules_by_load:rate5m": lambda h: plus(
            *(tagged(times(_at_load(h, h.joules(300, MODEL, edge)), 1 / 300), boundary=edge) for edge in BOUNDARIES)
        ),
        "model:tpw_server_requests_running:baseline7d": lambda h: _over_time([_running(then) for then in _week(h)]),
        "model:tpw_server_tokens:baseline7d": lambda h: plus(*(_baseline_tokens(h, kind) for kind in KINDS)),
        "model:tpw_tokens_per_active_joule:baseline7d": lambda h: plus(
            *(tagged(over(_baseline_tokens(h, kind), _baseline_watts(h), MODEL), boundary="gpu") for kind in KINDS)
        ),
        "model:tpw_cost_per_million_tokens:baseline7d": lambda h: plus(
            *(
                tagged(
                    h.per_million(_baseline_cost(h, scope), by(_baseline_tokens(h, kind), MODEL), MODEL),
                    kind=kind,
                    scope=scope,
                )
                for kind in KINDS
                for scope in SCOPES
            )
        ),
        "model:tpw_tokens_per_active_joule:best7d": _best,
        "cluster:tpw_electricity_price_per_kwh:max": lambda h: row(
            day.price_at(h.polled), job=day.JOB, currency=day.CURRENCY
        ),
        "cluster:tpw_electricity_price_next_per_kwh:max": lambda h: h.now(
            "tpw_electricity_price_next_per_kwh", (*job, "currency"), max
        ),
        **{
            f"cluster:{metric}:max": _highest(metric)
            for metric in ("tpw_demand_interval_watts", "tpw_demand_peak_watts")
        },
        # Nothing may be missing from the books, nor stand in them twice.
        "gpu:tpw_books_imbalance:ratio_increase1h": lambda h: dict.fromkeys(_metered(h, gpu), 0.0),
        "node:tpw_books_imbalance:ratio_increase1h": lambda h: dict.fromkeys(_metered(h, node), 0.0),
        "gpu:tpw_gpu_energy_anomalies:increase1h": _anomalies,
        "node:tpw_exporter_up:max": lambda h: h.now("up", node),
        "node:tpw_server_gpu:max": lambda h: by(
            h.now("tpw_server_gpu", (*node, "server", "uuid")), (*node, "server"), max
        ),
        "cluster:tpw_trust:ratio": _trust,
    }


def _state_seconds(seconds: int) -> Expected:
    return lambda h: h.rate("tpw_gpu_state_seconds_total", seconds, (*LEVELS["gpu"], "state"))


def _at_load(h: Hand, rows: Rows) -> Rows:
    found: Rows = {}
    load = h.running(MODEL)
    for who, value in rows.items():
        for name, (least, below) in LOADS.items():
            if who in load and least <= load[who] < below:
                found |= tagged({who: value}, load=name)
    return found


def _over_time(history: list[Rows]) -> Rows:
    """Mean of a recorded series over the evaluations that had it."""
    found: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for rows in history:
        for who, value in rows.items():
            found.setdefault(who, []).append(value)
    return {who: mean(values) for who, values in found.items()}


def _week(h: Hand) -> list[Hand]:
    """All evaluations there are, the last hour left out."""
    return h.minutes(7 * 86400, upto=h.at - 3600)


@cache
def tokens_of_the_hour(h: Hand, kind: str) -> Rows:
    """Tokens a second by model, over the hour before."""
    return times(h.tokens(3600, MODEL, kind), 1 / 3600)


@cache
def _active_watts_of_the_hour(h: Hand) -> Rows:
    return times(h.joules(3600, MODEL, "gpu", state="active"), 1 / 3600)


@cache
def _cost_of_the_hour(h: Hand, scope: str) -> Rows:
    return times(h.cost(3600, _money(MODEL), scope), 1 / 3600)


@cache
def _baseline_tokens(h: Hand, kind: str) -> Rows:
    return tagged(_over_time([tokens_of_the_hour(then, kind) for then in _week(h)]), kind=kind)


@cache
def _running(h: Hand) -> Rows:
    return h.running(MODEL)


@cache
def _baseline_watts(h: Hand) -> Rows:
    return _over_time([_active_watts_of_the_hour(then) for then in _week(h)])


@cache
def _baseline_cost(h: Hand, scope: str) -> Rows:
    return _over_time([_cost_of_the_hour(then, scope) for then in _week(h)])


def _best(h: Hand) -> Rows:
    """The 95th percentile of a week of hourly means."""
    found: Rows = {}
    for kind in KINDS:
        seen: dict[tuple[tuple[str, str], ...], list[float]] = {}
        for then in h.minutes(7 * 86400):
            ratio = over(tokens_of_the_hour(then, kind), _active_watts_of_the_hour(then))
            for who, value in ratio.items():
                seen.setdefault(who, []).append(value)
        for who, values in seen.items():
            ordered = sorted(values)
            rank = 0.95 * (len(ordered) - 1)
            low = int(rank)
            high = min(low + 1, len(ordered) - 1)
            quantile = ordered[low] + (ordered[high] - ordered[low]) * (rank - low)
            found |= tagged({who: quantile}, kind=kind, boundary="gpu")
    return found


def _metered(h: Hand, labels: tuple[str, ...]) -> Rows:
    """Series with joules that rose over the last hour and existed an hour ago."""
    rise = h.gained("tpw_gpu_energy_joules_total", 3600, labels)
    before = h.earlier(h.at - 3600).now("tpw_gpu_energy_joules_total", labels)
    return {who: value for who, value in rise.items() if value > 0 and who in before}


def _anomalies(h: Hand) -> Rows:
    """Rejected readings of the last hour: one wild value, and the return from it."""
    since = h.at - day.START - day.NONSENSE
    if not 60 < since < 3600:
        return {}
    gpu = day.WILD
    who = {"job": day.JOB, "instance": gpu.node.instance, "gpu": str(gpu.index), "uuid": gpu.uuid}
    return plus(row(1.0, **who, reason="implausible"), row(1.0, **who, reason="backwards"))


def _trust(h: Hand) -> Rows:
    unmetered = h.rate("tpw_gpu_unmetered_seconds_total", 300, LEVELS["gpu"])
    aspects = {
        "exporters": mean(list(h.now("up", ("instance",)).values())),
        "sources": mean(list(h.now("tpw_source_up", ("instance", "source")).values())),
        "energy": 1 - mean(list(unmetered.values())),
        "price": 1.0,
    }
    return plus(*(row(value, job=day.JOB, aspect=aspect) for aspect, value in aspects.items()))
