"""The day of :mod:`support.fleetday` calculated by hand, step by step, without the exporter: what every page must show.

Written from the metrics' meaning and from nothing else of the project: it walks through the polls of each node, asks the
day what happened since the one before, and adds it up. A sum here has no other purpose than to be compared.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from support import fleetday as day
from support.fleetday import GPUS, SERVERS, TICK, FleetGpu, Node
from support.samples import Labels, Samples, Series, labels
from tpw import __version__

STATES = ("active", "parked", "starting", "other", "idle")
COMPONENTS = {"energy", "hardware", "hosting", "fixed", "demand"}
OF_PERIODS = {
    "tpw_server_tokens_total": "tokens",
    "tpw_server_energy_joules_total": "joules",
    "tpw_server_facility_energy_joules_total": "facility",
    "tpw_server_cost_total": "cost",
    "tpw_server_credit_total": "credit",
    "tpw_gpu_state_energy_joules_total": "joules",
    "tpw_gpu_state_facility_energy_joules_total": "facility",
    "tpw_gpu_state_cost_total": "cost",
    "tpw_gpu_state_credit_total": "credit",
}
"""Counters that the periods have too, of servers and of idle GPUs."""
SERVER_STATES = STATES[:3]
BELONGS = ("namespace", "workload", "workload_kind", "pod", "container", "deployment", "role")
"""To whom a server's process belongs, and its role: no process is seen on this day."""
JOULES_PER_KWH = 3.6e6
SENSOR_ERROR = 0.12
"""Stated for the sensors of GPUs, relative (docs/accuracy.md). That of the method is independent of it."""
COUNTER_ERROR, INSTANT_ERROR = 0.002, 0.05


@dataclass(slots=True)
class Piece:
    """A step of a GPU's time with joules that are not read yet."""

    begin: float
    end: float
    server: str
    state: str


@dataclass(slots=True)
class Meter:
    """What was read of a GPU, and when its readings will be accepted again."""

    upto: float
    distrusted: bool = False
    pending: list[Piece] = field(default_factory=list)


@dataclass(slots=True)
class Held:
    """What is booked when it is known who used it: time, joules or money of a GPU of a server that cannot be read."""

    quarter: float
    """Its quarter-hour begins then."""
    book: Callable[[str, str, float], None]
    """Book a part of it: server, state, part."""


@dataclass(slots=True)
class Total:
    """Cumulative numbers of a server at a poll, for its live ratios."""

    at: float
    tokens: dict[str, float]
    joules: float
    facility: float
    energy: float
    full: float
    capital: float
    unmetered: bool
    """Whether of one of its GPUs nothing is known since the poll before."""


def reckoned(start: int = day.START, end: int = day.END) -> Samples:
    """The samples that scrapes of all exporters must leave."""
    samples = Samples()
    for node in day.NODES:
        Book(node, samples).reckon(start, end)
    return samples


class Book:
    """One node's numbers."""

    def __init__(self, node: Node, samples: Samples) -> None:
        self._node = node
        self._samples = samples
        self._gpus = [gpu for gpu in GPUS if gpu.node is node]
        self._counters: dict[tuple[str, Labels], float] = {}
        self._keys: dict[tuple[str, ...], tuple[str, Labels]] = {}
        self._series: dict[tuple[str, Labels], Series] = {}
        self._by_metric: dict[str, list[tuple[str, Labels]]] = {}
        self._meters = {gpu.uuid: Meter(day.START) for gpu in self._gpus}
        self._windows: dict[str, list[Total]] = {}
        self._shown: set[tuple[str, Labels]] = set()
        self._answered: dict[str, float] = {}
        self._unmetered: set[str] = set()
        self._held: dict[str, list[Held]] = {gpu.uuid: [] for gpu in self._gpus}
        self._held_joules = {gpu.uuid: 0.0 for gpu in self._gpus}
        self._quarters: dict[float, float] = {}
        self._month: dict[tuple[str, str, str], float] = {}
        """Of this month, which begins with the day: (server, state, component or quantity)."""
        self._poll_sums: dict[tuple[str, str, str], float] = {}
        """The same of the last poll."""
        self._demand_paid = 0.0
        self._now = self._before = self._began = float(day.START)
        self._page: dict[tuple[str, Labels], float] = {}

    def reckon(self, start: int, end: int) -> None:
        """Every poll from start to end."""
        for now in range(start, end + 1, TICK):
            self._page = {}
            if day.runs(self._node, now):
                self._now = float(now)
                self._poll()
                self._before = self._now
            self._scrape(now)

    # ---------------------------------------------------------------------------------------------------- book-keeping

    def _key(self, metric: str, who: Mapping[str, str]) -> tuple[str, Labels]:
        short = (metric, *who.values())
        key = self._keys.get(short)
        if key is None:
            key = self._keys[short] = (metric, labels(**who))
            self._by_metric.setdefault(metric, []).append(key)
        return key

    def _add(self, metric: str, more: float, /, **who: str) -> None:
        key = self._key(metric, who)
        self._counters[key] = self._counters.get(key, 0.0) + more
        what = OF_PERIODS.get(metric)
        if what and more and ("server" in who or who.get("state") == "idle"):
            place = who.get("server", "(idle)"), who.get("state", who.get("kind", "")), who.get("component", what)
            for sums in (self._month, self._poll_sums):
                sums[place] = sums.get(place, 0.0) + more

    def _show(self, metric: str, value: float, /, **who: str) -> None:
        self._page[self._key(metric, who)] = value

    def _sum(self, metric: str, /, **who: str) -> float:
        wanted = who.items()
        keys = self._by_metric.get(metric, ())
        return sum(self._counters[key] for key in keys if wanted <= dict(key[1]).items())

    def _scrape(self, now: int) -> None:
        at = now + self._node.scraped_after_seconds
        target = {"job": day.JOB, "instance": self._node.instance}
        for key in self._shown - self._page.keys():
            self._series[key].gone.append(at)
        self._shown = set(self._page)
        count = float(len(self._page))
        page = {
            **self._page,
            ("up", ()): 1.0 if count else 0.0,
            ("scrape_duration_seconds", ()): 0.006 if count else 0.0,
            ("scrape_samples_scraped", ()): count,
        }
        for key, value in page.items():
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = self._samples.series(key[0], labels(**dict(key[1]), **target))
            series.put(at, value)

    # ------------------------------------------------------------------------------------------------------------ polls

    @property
    def _first(self) -> bool:
        return self._now == day.START

    @property
    def _restarted(self) -> bool:
        return day.begins(self._node, self._now) and not self._first

    def _steps(self) -> list[float]:
        """The steps since the last poll, each by its end."""
        return [self._before + TICK * n for n in range(1, round((self._now - self._before) / TICK) + 1)]

    def _poll(self) -> None:
        if day.begins(self._node, self._now):
            self._began = self._now
            self._windows = {}
            self._add("starts", 1.0)
        self._poll_sums = {}
        owners = {gpu.uuid: self._owner(gpu) for gpu in self._gpus}
        self._unmetered = set()
        self._tokens()
        self._release()
        for gpu in self._gpus:
            self._time(gpu, owners[gpu.uuid])
        self._energy()
        for (metric, who), value in self._counters.items():
            if metric.startswith("tpw_"):
                self._page[metric, who] = value
        for gpu in self._gpus:
            self._gauges(gpu, owners[gpu.uuid])
        for name in self._configured():
            self._server(name, owners)
        self._prices()
        self._periods()
        self._sources()
        self._exporter()

    def _configured(self) -> list[str]:
        return [name for name in SERVERS if any(day.owner(gpu, self._now) == name for gpu in self._gpus)]

    def _counted_here(self) -> list[str]:
        """Servers that this exporter reads."""
        return list(SERVERS) if self._node is day.A else []

    def _owner(self, gpu: FleetGpu) -> tuple[str, str]:
        """(server, state) of the step that ends now. A server that does not answer still owns its GPUs (what it did is
        not known, see _away); ranks without a page own their gpus, and work while these are busy."""
        server = day.owner(gpu, self._now)
        if not server:
            return "", "idle"
        if self._node is day.A:
            moved = any(day.made(server, step)["output"] for step in self._steps())
            works = moved or day.running(server, self._now) > 0
        else:
            works = day.utilization(gpu, self._now) > 0
        return server, "active" if works else "parked"

    def _away(self, server: str) -> bool:
        """Whether the page of a server cannot be read, so that what its GPUs use is in no counter yet."""
        return server in self._counted_here() and not day.answers(server, self._now)

    def _hold(self, gpu: FleetGpu, at: float, book: Callable[[str, str, float], None]) -> None:
        """Keep what was used at a time until its owner is known."""
        self._held[gpu.uuid].append(Held(at // day.QUARTER * day.QUARTER, book))

    def _release(self) -> None:
        """A server's page is back, and its process began one step after the last poll without it: of each quarter-hour the
        part of the outage before that was nobody's, and since then it is starting."""
        for gpu in self._gpus:
            server = day.owner(gpu, self._now)
            if not self._held[gpu.uuid] or self._away(server):
                continue
            since, began = self._answered[server], self._now - TICK
            for held in self._held[gpu.uuid]:
                begin, end = max(held.quarter, since), min(held.quarter + day.QUARTER, self._now)
                before = min(1.0, (began - begin) / (end - begin))
                held.book("", "idle", before)
                if before < 1.0:
                    held.book(server, "starting", 1.0 - before)
            self._held[gpu.uuid] = []
            self._held_joules[gpu.uuid] = 0.0

    def _tokens(self) -> None:
        for name in self._counted_here():
            who = {"server": name, "model": SERVERS[name].model}
            for step in self._steps() or [self._now]:
                made = dict.fromkeys(("output", "input", "cached_input"), 0) if self._first else day.made(name, step)
                for kind, more in made.items():
                    self._add("tpw_server_tokens_total", more, **who, kind=kind)
                    worth = more * day.API[kind]
                    reference = {"reference": "api-70b", "currency": day.CURRENCY}
                    self._add("tpw_server_reference_cost_total", worth, **who, **reference)
                self._add("tpw_server_cached_tokens_total", made["cached_input"], **who, tier="device")
                self._add("tpw_server_requests_total", 0 if self._first else day.finished(name, step), **who)

    def _time(self, gpu: FleetGpu, owner: tuple[str, str]) -> None:
        server, now = owner
        seconds = self._now - self._before
        self._spend(gpu, server, now, 0.0)
        if self._away(server):
            self._hold(gpu, self._before, lambda user, state, part: self._spend(gpu, user, state, seconds * part))
        else:
            self._spend(gpu, server, now, seconds)
        if seconds:
            self._meters[gpu.uuid].pending.append(Piece(self._before, self._now, server, now))

    def _spend(self, gpu: FleetGpu, server: str, now: str, seconds: float) -> None:
        """Time of a GPU, and what it costs."""
        who = {"gpu": str(gpu.index), "uuid": gpu.uuid}
        money = {"currency": day.CURRENCY}
        rates = {"hardware": self._node.hardware, "hosting": day.HOSTING}
        if self._node.fixed_per_month:
            rates["fixed"] = self._node.fixed_per_month / day.MONTH * 3600 / len(self._gpus)
        for state in STATES:
            share = seconds if state == now else 0.0
            self._add("tpw_gpu_state_seconds_total", share, **who, state=state)
            for component, rate in rates.items():
                cost = rate / 3600 * share
                self._add("tpw_gpu_state_cost_total", cost, **who, state=state, component=component, **money)
        if server:
            account = {"server": server, "model": SERVERS[server].model}
            for state in SERVER_STATES:
                share = seconds if state == now else 0.0
                for component, rate in rates.items():
                    cost = rate / 3600 * share
                    self._add("tpw_server_cost_total", cost, **account, state=state, component=component, **money)
            rent = day.RENTED / 3600 * seconds
            self._add("tpw_server_reference_cost_total", rent, **account, reference="rented-h100", **money)

    def _energy(self) -> None:
        read = {gpu: self._read(gpu) for gpu in self._gpus}
        host = 0.0
        if self._node.cpu_watts:
            host = 0.0 if self._first or self._restarted else self._node.cpu_watts * (self._now - self._before)
            self._add("tpw_host_energy_joules_total", host, component="cpu")
            if host:
                self._show("tpw_host_power_watts", self._node.cpu_watts, component="cpu")
        booked = sum(joules for joules in read.values() if joules is not None)
        factor = (1 + (host / booked if booked else 0.0)) * day.PUE
        used: dict[tuple[FleetGpu, str, str], float] = {}
        for gpu, joules in read.items():
            self._book(gpu, None, 0.0, 0.0)
            if joules is not None:
                pending = self._meters[gpu.uuid].pending
                total = sum(piece.end - piece.begin for piece in pending)
                for piece in pending:
                    part = joules * (piece.end - piece.begin) / total
                    self._book_or_hold(gpu, piece, part, factor)
                    key = (gpu, piece.server, piece.state)
                    used[key] = used.get(key, 0.0) + part * factor
                    for at in range(int(piece.begin), int(piece.end), TICK):
                        quarter = at // day.QUARTER * day.QUARTER
                        share = TICK / (piece.end - piece.begin)
                        self._quarters[quarter] = self._quarters.get(quarter, 0.0) + part * factor * share
                self._meters[gpu.uuid].pending = []
        if self._node.demand_per_kw_month:
            self._demand(used)

    def _demand(self, used: Mapping[tuple[FleetGpu, str, str], float]) -> None:
        """The highest quarter-hour that is over, for the part of the month that has passed; whoever drew power pays."""
        over = [joules for begin, joules in self._quarters.items() if begin + day.QUARTER <= self._now]
        peak = max(over, default=0.0) / day.QUARTER
        due = peak / 1000 * self._node.demand_per_kw_month * (self._now - day.START) / day.MONTH
        forming = self._now // day.QUARTER * day.QUARTER
        if forming in self._quarters:
            self._show("tpw_demand_interval_watts", self._quarters[forming] / (self._now - forming))
        if self._quarters:
            self._show("tpw_demand_peak_watts", peak)
            self._show("tpw_demand_price_per_kw_month", self._node.demand_per_kw_month, currency=day.CURRENCY)
        # At zero before anything is due; then whoever used something pays.
        drawn = sum(used.values()) or 1.0
        everybody = dict.fromkeys(((gpu, *self._owner(gpu)) for gpu in self._gpus), 0.0)
        for (gpu, server, now), joules in ({**everybody, **used} if due else everybody).items():
            share = (due - self._demand_paid) * joules / drawn
            if self._away(server):
                self._hold(gpu, self._now, partial(self._charge, gpu, share))
            else:
                self._charge(gpu, share, server, now, 1.0)
        if used:
            self._demand_paid = due

    def _charge(self, gpu: FleetGpu, money: float, server: str, now: str, part: float) -> None:
        """A GPU's part of the demand charge, which is due at a poll and belongs to the quarter-hour of that moment."""
        who = {"gpu": str(gpu.index), "uuid": gpu.uuid}
        for state in STATES:
            demand = {"state": state, "component": "demand", "currency": day.CURRENCY}
            cost = money * part if state == now else 0.0
            self._add("tpw_gpu_state_cost_total", cost, **who, **demand)
            if server and state in SERVER_STATES:
                self._add("tpw_server_cost_total", cost, server=server, model=SERVERS[server].model, **demand)

    def _read(self, gpu: FleetGpu) -> float | None:
        """Joules since the last accepted reading; None where there is nothing to book."""
        meter = self._meters[gpu.uuid]
        who = {"gpu": str(gpu.index), "uuid": gpu.uuid}
        self._add("tpw_gpu_unmetered_seconds_total", 0.0, **who)
        self._add("tpw_energy_unpriced_joules_total", 0.0, **who)
        self._add("tpw_energy_late_priced_joules_total", 0.0, **who)
        for reason in ("sw_power_cap", "hw_thermal"):
            self._add("tpw_gpu_throttle_seconds_total", 0.0, **who, reason=reason)
        if day.lost(gpu, self._now):
            self._add("lost_reads", 1.0)
            return None
        steps = [meter.upto + TICK * n for n in range(1, round((self._now - meter.upto) / TICK) + 1)]
        meter.upto = self._now
        for step in steps:
            for reason, seconds in day.throttled(gpu, step).items():
                self._add("tpw_gpu_throttle_seconds_total", seconds, **who, reason=reason)
        if self._first:
            return None
        wild = gpu == day.WILD and day.second_of_day(self._now) == day.NONSENSE
        if wild or meter.distrusted or (gpu.integrated and self._restarted):
            # Nothing is known of this time: neither around a wild value, nor of power while no process was reading.
            unmetered = sum(piece.end - piece.begin for piece in meter.pending)
            self._add("tpw_gpu_unmetered_seconds_total", unmetered, **who)
            self._unmetered.update(piece.server for piece in meter.pending)
            if not gpu.integrated:
                reason = "implausible" if wild else "backwards"
                self._add("tpw_gpu_energy_anomalies_total", 1.0, **who, reason=reason)
            meter.distrusted, meter.pending = wild, []
            return None
        if gpu.integrated:
            return (day.sensed(gpu, self._before) + day.sensed(gpu, self._now)) / 2 * (self._now - self._before)
        return sum(day.watts(gpu, step) for step in steps) * TICK

    def _book_or_hold(self, gpu: FleetGpu, piece: Piece, joules: float, factor: float) -> None:
        """Joules of a piece of time, now or when its owner is known."""
        if not self._away(piece.server):
            self._book(gpu, piece, joules, factor)
            return

        def book(server: str, state: str, part: float) -> None:
            self._book(gpu, Piece(piece.begin, piece.end, server, state), joules * part, factor)

        self._hold(gpu, piece.begin, book)
        self._held_joules[gpu.uuid] += joules

    def _book(self, gpu: FleetGpu, piece: Piece | None, joules: float, factor: float) -> None:
        """Joules of a piece of time, evenly over it, each at the price of its moment. Without a piece: the zeros."""
        who = {"gpu": str(gpu.index), "uuid": gpu.uuid}
        facility = joules * factor
        charge = credit = 0.0
        if piece is not None:
            steps = round((piece.end - piece.begin) / TICK)
            for n in range(steps):
                money = facility / steps / JOULES_PER_KWH * day.price_at(piece.begin + n * TICK)
                charge, credit = charge + max(0.0, money), credit + max(0.0, -money)
        currency = {"currency": day.CURRENCY}
        for state in STATES:
            mine = 1.0 if piece is not None and piece.state == state else 0.0
            at = {**who, "state": state}
            self._add("tpw_gpu_energy_joules_total", joules * mine, **who)
            self._add("tpw_gpu_state_energy_joules_total", joules * mine, **at)
            self._add("tpw_gpu_state_facility_energy_joules_total", facility * mine, **at)
            self._add("tpw_gpu_state_cost_total", charge * mine, **at, component="energy", **currency)
            self._add("tpw_gpu_state_credit_total", credit * mine, **at, **currency)
            grams = facility / JOULES_PER_KWH * day.CARBON[1] * mine
            self._add("tpw_gpu_state_emissions_grams_total", grams, **at, basis=day.CARBON[0])
            self._add("tpw_emissions_unknown_joules_total", 0.0, **who)
        server = piece.server if piece is not None else self._owner(gpu)[0]
        if not server:
            return
        for state in SERVER_STATES:
            mine = 1.0 if piece is not None and piece.state == state else 0.0
            account = {"server": server, "model": SERVERS[server].model, "state": state}
            self._add("tpw_server_energy_joules_total", joules * mine, **account)
            self._add("tpw_server_facility_energy_joules_total", facility * mine, **account)
            self._add("tpw_server_cost_total", charge * mine, **account, component="energy", **currency)
            grams = facility / JOULES_PER_KWH * day.CARBON[1] * mine
            self._add("tpw_server_emissions_grams_total", grams, **account, basis=day.CARBON[0])
            self._add("tpw_server_credit_total", credit * mine, **account, **currency)

    # ----------------------------------------------------------------------------------------------------------- gauges

    def _gauges(self, gpu: FleetGpu, owner: tuple[str, str]) -> None:
        now, who = self._now, {"gpu": str(gpu.index), "uuid": gpu.uuid}
        gone = day.lost(gpu, now)
        self._show(
            "tpw_gpu_info", 1.0, **who, name=self._node.gpu_name, vendor="nvidia", architecture="hopper",
            driver_version="570.86.15", power_scope="gpu",
            energy_method="instant_power" if gpu.integrated else "counter",
        )  # fmt: skip
        self._show("tpw_gpu_up", 0.0 if gone else 1.0, **who)
        self._show("tpw_gpu_pending_energy_joules", self._held_joules[gpu.uuid], **who)
        if owner[0]:
            self._show("tpw_server_gpu", 1.0, **who, server=owner[0])
            self._show("tpw_server_gpu_share_ratio", 1.0, **who, server=owner[0], method="sole")
            # All of it is the server's.
            self._show("tpw_server_gpu_share_error_ratio", 0.0, server=owner[0], uuid=gpu.uuid)
        if gone:
            return
        method = INSTANT_ERROR if gpu.integrated else COUNTER_ERROR
        self._show("tpw_gpu_energy_error_ratio", math.hypot(SENSOR_ERROR, method), uuid=gpu.uuid)
        self._show("tpw_gpu_power_watts", day.sensed(gpu, now), **who)
        self._show("tpw_gpu_power_limit_watts", 700.0, **who)
        self._show("tpw_gpu_utilization_ratio", day.utilization(gpu, now), **who)
        self._show("tpw_gpu_memory_used_bytes", day.memory_used(gpu, now), **who)
        self._show("tpw_gpu_memory_total_bytes", self._node.memory_bytes, **who)
        self._show("tpw_gpu_temperature_celsius", day.temperature(gpu, now), **who)

    def _server(self, name: str, owners: Mapping[str, tuple[str, str]]) -> None:
        read = self._node is day.A
        who = {"server": name, "model": SERVERS[name].model}
        self._show(
            "tpw_server_info", 1.0, server=name, engine="vllm" if read else "", cadence="step" if read else "unknown",
            version="0.32.0" if read else "", attribution="configured", **dict.fromkeys(BELONGS, ""),
        )  # fmt: skip
        if read:
            up = day.answers(name, self._now)
            self._show("tpw_server_up", 1.0 if up else 0.0, server=name)
            if up:
                self._show("tpw_server_requests_running", day.running(name, self._now), **who)
                self._show("tpw_server_requests_waiting", day.waiting(name, self._now), **who)
                if name not in day.SPANS_NODES:
                    # ML.ENERGY v3, Llama 3.3 70B on 4 H100: 3.847 J at 8 requests in flight, 0.8223 J at 64; half-way on
                    # the logarithmic axis is 2^4.5. The best of 70B and more: Llama 3.1 70B, 0.3731 J.
                    joules = 3.847 if day.running(name, self._now) < 2**4.5 else 0.8223
                    self._show("tpw_server_published_tokens_per_watt", 1.0 / joules, source="mlenergy-v3", **who)
                    self._show("tpw_server_highest_plausible_tokens_per_watt", 4.0 / 0.3731, **who)
        self._ratios(name)

    def _ratios(self, name: str) -> None:
        if self._away(name):
            return
        who = {"server": name, "model": SERVERS[name].model}
        energy = self._sum("tpw_server_cost_total", server=name, component="energy")
        credit = self._sum("tpw_server_credit_total", server=name)
        kinds = ("output", "input", "cached_input") if self._node is day.A else ()
        window = self._windows.setdefault(name, [])
        window.append(
            Total(
                self._now,
                {kind: self._sum("tpw_server_tokens_total", server=name, kind=kind) for kind in kinds},
                self._sum("tpw_server_energy_joules_total", server=name),
                self._sum("tpw_server_facility_energy_joules_total", server=name),
                energy - credit,
                self._sum("tpw_server_cost_total", server=name) - credit,
                self._sum("tpw_server_cost_total", server=name, component="hardware"),
                name in self._unmetered,
            )
        )
        # The live window is two steps. After an outage it begins at the last poll that read the server.
        while len(window) > 2 and window[0].at < self._now - 2 * TICK:
            del window[0]
        if len(window) < 2:
            return
        first, last = window[0], window[-1]
        self._show("tpw_window_seconds", last.at - first.at, server=name)
        metered = not any(total.unmetered for total in window[1:])
        whole = name not in day.SPANS_NODES
        rise = {kind: last.tokens[kind] - first.tokens[kind] for kind in kinds}
        for kind, tokens in (("output", rise["output"]), ("total", sum(rise.values()))) if kinds else ():
            self._show("tpw_tokens_per_second", tokens / (last.at - first.at), **who, kind=kind)
            for boundary, joules in (("gpu", last.joules - first.joules), ("facility", last.facility - first.facility)):
                if joules > 0 and metered and whole:
                    self._show("tpw_tokens_per_watt", tokens / joules, **who, kind=kind, boundary=boundary)
            if tokens and metered and whole:
                full, capital = last.full - first.full, last.capital - first.capital
                energy = last.energy - first.energy
                for scope, money in (("energy", energy), ("operating", full - capital), ("full", full)):
                    cost = money / tokens
                    self._show("tpw_cost_per_token", cost, **who, kind=kind, scope=scope, currency=day.CURRENCY)

    def _prices(self) -> None:
        change, currency = day.next_change(self._now), {"currency": day.CURRENCY}
        self._show("tpw_electricity_price_per_kwh", day.price_at(self._now), **currency)
        self._show("tpw_electricity_price_state", 1.0, state="final")
        after = next(at for at in _changes(self._now, change) if day.price_at(at) != day.price_at(self._now))
        self._show("tpw_electricity_price_next_change_timestamp_seconds", after)
        self._show("tpw_electricity_price_next_per_kwh", day.price_at(after), **currency)
        # Every day has the same prices: 24 hours from any moment have all of them.
        ends = [*(hour for hour, _ in day.PRICES[1:]), 24]
        lower = [
            end - hour for (hour, price), end in zip(day.PRICES, ends, strict=True) if price < day.price_at(self._now)
        ]
        self._show("tpw_electricity_price_rank_ratio", sum(lower) / 24)
        self._show("tpw_grid_carbon_grams_per_kwh", day.CARBON[1], basis=day.CARBON[0])
        self._show("tpw_facility_pue_ratio", day.PUE)
        self._show("tpw_host_share_info", 1.0, method="components" if self._node.cpu_watts else "none")
        for kind, price in day.API.items():
            self._show("tpw_reference_price_per_token", price, reference="api-70b", kind=kind, **currency)

    def _periods(self) -> None:
        """The month and the week have what the counters have. So has the day until midnight: what the poll of that moment
        charges for demand belongs to the next day."""
        of_next = {place: money for place, money in self._poll_sums.items() if place[2] == "demand"}
        today = of_next if self._now == day.END else self._month
        for period, sums in (("day", today), ("week", self._month), ("month", self._month)):
            self._show("tpw_period_unpriced_energy_joules", 0.0, period=period)
            for (server, state, what), value in sums.items():
                if what == "tokens":
                    self._show("tpw_period_tokens", value, period=period, server=server, kind=state)
            for server, state in {(server, state) for server, state, what in sums if what != "tokens"}:
                who = {"period": period, "server": server, "state": state}
                mine = {what: value for (one, now, what), value in sums.items() if (one, now) == (server, state)}
                self._show("tpw_period_energy_joules", mine.get("joules", 0.0), **who)
                self._show("tpw_period_facility_energy_joules", mine.get("facility", 0.0), **who)
                if "joules" in mine or "energy" in mine:
                    mine["energy"] = mine.get("energy", 0.0) - mine.get("credit", 0.0)
                for component in COMPONENTS & mine.keys():
                    money = {"component": component, "currency": day.CURRENCY}
                    self._show("tpw_period_cost", mine[component], **who, **money)
        if self._now >= day.START + day.DAY:
            self._forecasts(1.0 + (day.START + day.MONTH - 86400.0 - self._now) / (self._now - day.START))

    def _forecasts(self, factor: float) -> None:
        """The month at the pace of the day. It began a day before."""
        sums: dict[tuple[str, ...], float] = {}
        for (server, state, what), value in self._month.items():
            keys = {
                "tokens": ("tpw_period_tokens_forecast", server, state),
                "facility": ("tpw_period_facility_energy_forecast_joules", server),
                "credit": ("tpw_period_cost_forecast", server),
            }
            key = ("tpw_period_cost_forecast", server) if what in COMPONENTS else keys.get(what)
            if key is not None:
                sums[key] = sums.get(key, 0.0) + (-value if what == "credit" else value)
        for (metric, server, *kind), value in sums.items():
            labels_of = {"kind": kind[0]} if kind else {}
            if metric == "tpw_period_cost_forecast":
                labels_of = {"currency": day.CURRENCY}
            self._show(metric, value * factor, period="month", server=server, **labels_of)

    def _sources(self) -> None:
        polls = self._counters.get(("polls", ()), 0.0) + 1
        self._counters["polls", ()] = polls
        starts = self._counters["starts", ()]
        sources = {"nvml": (True, polls + starts, self._now), "tariff": (True, starts, self._began)}
        sources["carbon"] = sources["tariff"]
        if self._node.cpu_watts:
            sources["rapl"] = (True, polls, self._now)
        for name in self._counted_here():
            up = day.answers(name, self._now)
            if up:
                self._answered[name] = self._now
            else:
                source = {"source": f"server:{name}", "reason": "unreachable"}
                self._add("tpw_source_read_failures_total", 1.0, **source)
                self._page["tpw_source_read_failures_total", labels(**source)] = self._counters[
                    "tpw_source_read_failures_total", labels(**source)
                ]
            sources[f"server:{name}"] = (up, polls, self._answered[name])
        for source, (up, reads, since) in sources.items():
            self._show("tpw_source_up", 1.0 if up else 0.0, source=source)
            self._show("tpw_source_read_duration_seconds", 0.0, source=source)  # time stands still while it is read
            self._show("tpw_source_reads_total", reads, source=source)
            self._show("tpw_source_last_success_timestamp_seconds", since, source=source)
        lost = self._counters.get(("lost_reads", ()))
        if lost:
            self._show("tpw_source_read_failures_total", lost, source="nvml", reason="lost")

    def _exporter(self) -> None:
        ran = self._now - self._began
        self._show("tpw_build_info", 1.0, version=__version__, python_version=platform.python_version())
        for metric, value in (
            ("tpw_config_last_reload_successful", 1.0),
            ("tpw_snapshot_timestamp_seconds", self._now),
            ("tpw_store_last_write_timestamp_seconds", self._now),
            ("tpw_polls_total", self._counters["polls", ()]),
            ("tpw_polls_skipped_total", 0.0),
            ("tpw_poll_lag_seconds", 0.0),
            ("tpw_exposition_dropped_samples_total", 0.0),
            ("tpw_books_writable", 1.0),
            ("tpw_books_recovered_total", 0.0),
            # Nobody was gone for long enough to lose its series.
            ("tpw_books_unlisted_energy_joules", 0.0),
            ("tpw_books_unlisted_facility_energy_joules", 0.0),
            ("process_cpu_seconds_total", 0.005 * ran),
            ("process_resident_memory_bytes", 41.0 * 2**20 + 64 * ran),
            ("process_start_time_seconds", self._began),
        ):
            self._show(metric, value)
        components = ["energy", "hardware", "hosting"]
        components += ["demand"] if self._node.demand_per_kw_month else []
        components += ["fixed"] if self._node.fixed_per_month else []
        for component in components:
            self._show("tpw_cost_components_info", 1.0, component=component)
            self._show("tpw_books_unlisted_cost", 0.0, component=component, currency=day.CURRENCY)
        self._show("tpw_books_unlisted_credit", 0.0, currency=day.CURRENCY)


def _changes(now: float, change: float) -> list[float]:
    """The next moments at which the price may change."""
    later = [change]
    while later[-1] < now + day.DAY:
        later.append(day.next_change(later[-1]))
    return later
