"""Recording rules that dashboards and alerts read.

Names follow Prometheus: ``level:metric:operation``. The level determines the labels besides those of
:attr:`grafana.values.Values.labels`:

==========  ==========================  =====================================================================
level       labels                      what it is
==========  ==========================  =====================================================================
gpu         instance, gpu, uuid         one GPU
node        instance                    one exporter
server      server                      one inference server, over all nodes it spans
model       server, model               one model of one server, over all nodes it spans
deployment  deployment                  servers that make one service: pools for prefill and decode
cluster     (none)                      one installation, GPUs without an owner included
==========  ==========================  =====================================================================

Numerators and denominators are summed separately and divided last, so that a server with tokens counted on one node and
joules metered on three has a correct ratio. There is no ratio without joules, none where a GPU of the server was metered
for less than 95 % of the window, and no cost per token where less than 95 % of the energy in the window has a price.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grafana.metrics import Vocabulary
from grafana.values import Values, number
from tpw.ledger.window import METERED_COVERAGE
from tpw.model import ALL_IN, CAPITAL

WINDOWS = ("5m", "1h", "1d")
"""Windows of tokens, joules, money and the ratios between them."""
GPU_WINDOWS = ("5m",)
NODE_WINDOWS = ("5m", "1h")
"""Windows recorded per GPU. There are many GPUs, so longer windows are read from the counters."""
ACTIVE_WINDOWS = ("1h", "1d")
"""Windows of active time, long enough for a server to be active in them."""
BREAK_EVEN_WINDOWS = ("1d",)
"""Window of the mix of token kinds."""
SPEND_WINDOWS = ("30m", "6h")
"""Further windows of spend, for the budget alert."""
HOURS: Mapping[str, Sequence[str]] = {
    "cluster": (
        "tpw_cost",
        "tpw_gpu_state_cost",
        "tpw_gpu_state_net_cost",
        "tpw_gpu_state_energy_joules",
        "tpw_server_tokens",
        "tpw_server_reference_cost",
    ),
    "node": ("tpw_gpu_state_net_cost", "tpw_gpu_state_seconds", "tpw_gpu_state_emissions_grams"),
    "model": ("tpw_server_tokens", "tpw_server_cost", "tpw_server_energy_joules", "tpw_server_reference_cost"),
    "server": ("tpw_server_active_cost",),
}
"""What is recorded once an hour for sums over weeks, by level."""
HOUR_RECORDED = "cluster:tpw_hours_recorded:max"
LOADS = (("under 1", None, "1"), ("1 to 4", "1", "5"), ("5 to 16", "5", "17"), ("17 to 64", "17", "65"))
"""Load buckets by mean requests running: (name, minimum, limit). Above the last limit is ``OVERLOAD``."""
OVERLOAD = ("over 64", "65", None)

KNOWN_AT_LEAST = 0.25
"""Share of a window from which on the mean of what is known stands for the whole."""

LEVELS: Mapping[str, tuple[str, ...]] = {
    "gpu": ("instance", "gpu", "uuid"),
    "node": ("instance",),
    "server": ("server",),
    "model": ("server", "model"),
    "deployment": ("deployment",),
    "cluster": (),
}


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording rule. ``carries`` are the labels of the result besides the installation's."""

    record: str
    expr: str
    carries: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated in order. ``interval`` None is the default of Prometheus."""

    name: str
    rules: tuple[Recording, ...]
    interval: str | None = None


def recording_groups(values: Values) -> tuple[Group, ...]:
    """All recording rules, in an order in which every rule finds its inputs."""
    rules = Rules(values)
    windows = tuple(Group(f"tpw-{window}", tuple(rules.window(window)), _interval(window)) for window in WINDOWS)
    return (
        *windows,
        Group("tpw-waste", tuple(rules.waste())),
        Group("tpw-spend", tuple(rules.spend()), "1m"),
        Group("tpw-hours", tuple(rules.hours(recorded(windows, values))), "1m"),
        Group("tpw-baseline", tuple(rules.baselines()), "2m"),
        Group("tpw-prices", tuple(rules.prices())),
        Group("tpw-books", tuple(rules.books())),
        Group("tpw-trust", tuple(rules.trust())),
    )


def recorded(groups: Iterable[Group], values: Values) -> dict[str, frozenset[str]]:
    """Name -> labels of every recorded series."""
    found: dict[str, frozenset[str]] = {}
    for group in groups:
        for rule in group.rules:
            labels = frozenset((*values.labels, *rule.carries, *rule.labels))
            found[rule.record] = found.get(rule.record, frozenset()) | labels
    return found


def vocabulary(values: Values) -> Vocabulary:
    """Every name that alerts and dashboards may use. Raises UnknownNameError where a rule itself uses another one."""
    groups = recording_groups(values)
    words = Vocabulary.of_catalogue()
    words = words.with_series({name: labels | frozenset(values.labels) for name, labels in words.series.items()})
    words = words.with_series(recorded(groups, values))
    for group in groups:
        for rule in group.rules:
            words.check(rule.expr)
    return words


def _interval(window: str) -> str | None:
    """Windows of a day change slowly: they need not be evaluated every few seconds. Well below the 5 minutes after which
    Prometheus treats a series as stale."""
    return {"1h": "1m", "1d": "2m"}.get(window)


def promql(text: str) -> str:
    """A multi-line expression without the indentation of the source."""
    return textwrap.dedent(text).strip()


class Rules:
    """The rules for one set of values."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def keys(self, *labels: str) -> str:
        """Label list: the labels of the installation, and these."""
        return ", ".join((*self._values.labels, *labels))

    def window(self, window: str) -> Iterable[Recording]:
        """All rules over one window, inputs first."""
        if window != "5m":
            yield from (
                self.known(level, window) for level in ("node", "cluster") if level == "cluster" or window == "1h"
            )
        if window == "5m":
            yield from self._deployments_of_servers()
        yield from self.gpus(window)
        yield from self.servers(window)
        yield from self.service_levels(window)
        yield from self.deployments(window)
        if window in NODE_WINDOWS:
            yield from self.nodes(window)
        yield from self.clusters(window)
        if window == "5m":
            yield from self.load()

    def known(self, level: str, window: str) -> Recording:
        """Share of a window that has data, where that is enough for a mean. A rate spreads what it finds over the whole
        window: in the first hours, and after exporters were down, it is too low by this share. ``rate`` adds half an
        interval at both ends, and so does this."""
        by, page = self.keys(*LEVELS[level]), f"tpw_snapshot_timestamp_seconds[{window}]"
        seconds = int(window[:-1]) * {"m": 60, "h": 3600, "d": 86400}[window[-1]]
        return Recording(
            f"{level}:tpw_known:ratio_rate{window}",
            promql(f"""
                clamp_max(
                  (max by ({by}) (max_over_time({page})) - min by ({by}) (min_over_time({page})))
                  * min by ({by}) (count_over_time({page}) / (count_over_time({page}) - 1 > 0))
                  / {seconds},
                  1
                ) > {number(KNOWN_AT_LEAST)}
            """),
            LEVELS[level],
        )

    # ------------------------------------------------------------------------------------------------------ GPU side

    def gpus(self, window: str) -> Iterable[Recording]:
        """Joules, seconds and money by state: per GPU, per node and in total."""
        for level, windows in (("gpu", GPU_WINDOWS), ("node", NODE_WINDOWS), ("cluster", WINDOWS)):
            if window in windows:
                yield from self._states(level, window)

    def _summed(
        self, level: str, window: str, metric: str, extra: tuple[str, ...], finer: str = "", matcher: str = ""
    ) -> str:
        """A rate summed to a level: from the level below where that is recorded, else from the counters.

        A fleet has hundreds of thousands of counters: each is read once per window, and what is summed is summed on.
        """
        by = self.keys(*LEVELS[level], *extra)
        if finer:
            return f"sum by ({by}) ({finer}:{metric}:rate{window}{matcher})"
        return f"sum by ({by}) (rate({metric}_total[{window}]))"

    def _states(self, level: str, window: str) -> Iterable[Recording]:
        labels = LEVELS[level]
        # Per GPU only a few series are recorded; per node all.
        gpu = "gpu" if level == "node" and window in GPU_WINDOWS else ""
        node = "node" if level == "cluster" and window in NODE_WINDOWS else ""
        yield from self._state_energy(level, window, gpu, node)
        yield Recording(
            f"{level}:tpw_gpu_state_seconds:rate{window}",
            self._summed(level, window, "tpw_gpu_state_seconds", ("state",), gpu or node),
            (*labels, "state"),
        )
        money = node
        if level == "cluster" and window == "1d":
            # By node for the alerts on waste. Each counter is read once.
            yield from (self._cost("node", window, ""), self._net_cost("node", window, ""))
            money = "node"
        if level != "gpu":
            yield self._cost(level, window, money)
        yield self._net_cost(level, window, gpu or money)
        yield Recording(
            f"{level}:tpw_waste_cost_per_hour:rate{window}",
            promql(f"""
                3600 * sum by ({self.keys(*labels, "currency")}) (
                  {level}:tpw_gpu_state_net_cost:rate{window}{{state=~"parked|idle"}}
                )
            """)
            + self._of_known(level, window),
            (*labels, "currency"),
        )
        if level != "gpu":
            yield Recording(
                f"{level}:tpw_gpu_state_emissions_grams:rate{window}",
                self._summed(level, window, "tpw_gpu_state_emissions_grams", ("state", "basis"), node),
                (*labels, "state", "basis"),
            )
            yield Recording(
                f"{level}:tpw_gpu_state_share:ratio_rate{window}",
                promql(f"""
                    {level}:tpw_gpu_state_seconds:rate{window}
                    / ignoring (state) group_left ()
                    (sum without (state) ({level}:tpw_gpu_state_seconds:rate{window}) > 0)
                """),
                (*labels, "state"),
            )

    def _state_energy(self, level: str, window: str, gpu: str, node: str) -> Iterable[Recording]:
        """Joules by state: per GPU at its own boundary, per node and in total at both boundaries."""
        record = f"{level}:tpw_gpu_state_energy_joules:rate{window}"
        labels = (*LEVELS[level], "state")
        for boundary, metric in (
            ("gpu", "tpw_gpu_state_energy_joules"),
            ("facility", "tpw_gpu_state_facility_energy_joules"),
        ):
            if node:
                expr = self._summed(
                    level, window, "tpw_gpu_state_energy_joules", ("state",), node, f'{{boundary="{boundary}"}}'
                )
            else:
                expr = self._summed(level, window, metric, ("state",), gpu if boundary == "gpu" else "")
            if level != "gpu":
                yield Recording(record, expr, labels, {"boundary": boundary})
            elif boundary == "gpu":
                yield Recording(record, expr, labels)

    def _cost(self, level: str, window: str, finer: str) -> Recording:
        """Cost by state and component."""
        parts = ("state", "component", "currency")
        return Recording(
            f"{level}:tpw_gpu_state_cost:rate{window}",
            self._summed(level, window, "tpw_gpu_state_cost", parts, finer),
            (*LEVELS[level], *parts),
        )

    def _net_cost(self, level: str, window: str, finer: str) -> Recording:
        """Cost less credit. A cost has a component and a credit has none, so ``or`` puts both into one sum."""
        record = f"{level}:tpw_gpu_state_net_cost:rate{window}"
        parts = ("state", "currency")
        labels = (*LEVELS[level], *parts)
        if finer:
            return Recording(record, self._summed(level, window, "tpw_gpu_state_net_cost", parts, finer), labels)
        by = self.keys(*labels)
        if level == "gpu":
            charged, credit = "tpw_gpu_state_cost_total", "tpw_gpu_state_credit_total"
            return Recording(record, f"sum by ({by}) (rate({charged}[{window}]) or -rate({credit}[{window}]))", labels)
        credit = self._summed(level, window, "tpw_gpu_state_credit", parts)
        return Recording(record, f"sum by ({by}) ({level}:tpw_gpu_state_cost:rate{window} or -{credit})", labels)

    def _of_known(self, level: str, window: str) -> str:
        """Makes a rate the mean of the part of its window that has data, where a person reads it as an amount per hour."""
        if window == "5m":
            return ""
        return f"\n/ on ({self.keys(*LEVELS[level])}) group_left ()\n({level}:tpw_known:ratio_rate{window} > 0)"

    def waste(self) -> Iterable[Recording]:
        """Shares of time over the windows of the waste alerts."""
        for window in ("30m", "2h"):
            yield Recording(
                f"gpu:tpw_gpu_state_seconds:rate{window}",
                f"sum by ({self.keys(*LEVELS['gpu'], 'state')}) (rate(tpw_gpu_state_seconds_total[{window}]))",
                (*LEVELS["gpu"], "state"),
            )

    # --------------------------------------------------------------------------------------------------- server side

    def servers(self, window: str) -> Iterable[Recording]:
        """Tokens, joules, money and their ratios, by model and by server."""
        gpu, node = self.keys(*LEVELS["gpu"]), self.keys(*LEVELS["node"])
        # Of the GPU that was metered least: without one of them the joules of a server are not all. Nor are they while an
        # exporter that meters some of them does not answer, and another one goes on counting tokens.
        yield Recording(
            f"server:tpw_metered:ratio_rate{window}",
            promql(f"""
                min by ({self.keys(*LEVELS["server"])}) (
                  tpw_server_gpu
                  * on ({gpu}) group_left ()
                  clamp_min(1 - sum by ({gpu}) (rate(tpw_gpu_unmetered_seconds_total[{window}])), 0)
                  or
                  0 * (node:tpw_server_gpu:max and on ({node}) node:tpw_exporter_up:max == 0)
                )
            """),
            LEVELS["server"],
        )
        yield from self._of_models(window)
        for record, extra in (
            ("tokens", ("kind",)),
            ("energy_joules", ("state", "boundary")),
            ("cost", ("currency", "scope")),
        ):
            yield Recording(
                f"server:tpw_server_{record}:rate{window}",
                self._summed("server", window, f"tpw_server_{record}", extra, "model"),
                (*LEVELS["server"], *extra),
            )
        for level in ("model", "server"):
            for boundary in ("gpu", "facility"):
                yield self._tokens_per_joule(
                    level, window, boundary, f'{level}:tpw_server_energy_joules:rate{window}{{boundary="{boundary}"}}'
                )
        energy = f'server:tpw_server_energy_joules:rate{window}{{boundary="facility"}}'
        yield self._priced("server", window, energy)
        for level in ("model", "server"):
            yield from self._cost_per_million(level, window, f"{level}:tpw_server_cost:rate{window}")
        labels = LEVELS["model"]
        yield Recording(
            f"model:tpw_tokens_per_active_joule:ratio_rate{window}",
            promql(f"""
                model:tpw_server_tokens:rate{window}{{kind=~"output|total"}}
                / on ({self.keys(*labels)}) group_left ()
                (sum by ({self.keys(*labels)}) (
                  model:tpw_server_energy_joules:rate{window}{{boundary="gpu", state="active"}}
                ) > 0)
            """),
            (*labels, "kind"),
            {"boundary": "gpu"},
        )
        yield Recording(
            f"model:tpw_active_energy_share:ratio_rate{window}",
            promql(f"""
                sum by ({self.keys(*labels)}) (
                  model:tpw_server_energy_joules:rate{window}{{boundary="gpu", state="active"}}
                )
                /
                (sum by ({self.keys(*labels)}) (model:tpw_server_energy_joules:rate{window}{{boundary="gpu"}}) > 0)
            """),
            labels,
        )
        yield Recording(
            f"model:tpw_server_reference_cost:rate{window}",
            f"sum by ({self.keys(*labels, 'reference', 'currency')}) (rate(tpw_server_reference_cost_total[{window}]))",
            (*labels, "reference", "currency"),
        )
        parts = ("reference", "currency")
        yield Recording(
            f"cluster:tpw_server_reference_cost:rate{window}",
            self._summed("cluster", window, "tpw_server_reference_cost", parts, "model"),
            parts,
        )
        if window in ACTIVE_WINDOWS:
            yield from self._allocated_and_active(window)
        if window in BREAK_EVEN_WINDOWS:
            yield from self._break_even(window)

    def _allocated_and_active(self, window: str) -> Iterable[Recording]:
        """Cost of servers while active, and total over active cost: the difference is parked time."""
        labels = (*LEVELS["server"], "currency")
        by, active = self.keys(*labels), f"server:tpw_server_active_cost:rate{window}"
        for scope, component in (("energy", ', component="energy"'), ("full", "")):
            known = (
                self._where_full(by, window, f'{active}{{scope="energy"}}', 'state="active", ')
                if scope == "full"
                else ""
            )
            yield Recording(
                active,
                f'sum by ({by}) (rate(tpw_server_cost_total{{state="active"{component}}}[{window}])'
                f' or -rate(tpw_server_credit_total{{state="active"}}[{window}])){known}',
                labels,
                {"scope": scope},
            )
        yield Recording(
            f"server:tpw_cost_per_active_cost:ratio_rate{window}",
            f"server:tpw_server_cost:rate{window} / ({active} > 0)" + self._where_priced("server", window),
            (*labels, "scope"),
        )

    def _break_even(self, window: str) -> Iterable[Recording]:
        """Tokens per second at which a server costs as much as a reference, at the measured mix of kinds.

        Energy used while active is what one more token costs; all else runs whether tokens are made or not. With the cost
        F of that, the reference's price r and the marginal cost m of a token it is F / (r - m); the rule has r and m of all
        T tokens that were made, and so T on top. Rented GPUs are paid by time: no number of tokens meets their price.
        """
        labels = (*LEVELS["server"], "reference", "currency")
        on, money, priced = self.keys("server"), self.keys("server", "currency"), self.keys("reference", "currency")
        active = f'server:tpw_server_active_cost:rate{window}{{scope="energy"}}'
        for kind in ("output", "total"):
            yield Recording(
                f"server:tpw_break_even_tokens:rate{window}",
                promql(f"""
                    (server:tpw_server_tokens:rate{window}{{kind="{kind}"}} > 0)
                    * on ({on}) group_right ()
                    (
                      clamp_min(server:tpw_server_cost:rate{window}{{scope="full"}} - on ({money}) {active}, 0)
                      / on ({money}) group_right ()
                      (
                        (
                          sum by ({self.keys(*labels)}) (model:tpw_server_reference_cost:rate{window})
                          and on ({priced}) tpw_reference_price_per_token
                        )
                        - on ({money}) group_left () {active} > 0
                      )
                    )
                """)
                + self._where_priced("server", window),
                labels,
                {"kind": kind},
            )

    def service_levels(self, window: str) -> Iterable[Recording]:
        """Requests within targets, their mean latency, and what a good token costs.

        Histograms do not show which tokens were of which requests: the tokens of good requests are taken as all tokens
        times the share of good requests, of which there are two bounds.
        """
        labels = (*LEVELS["model"], "slo")
        requests, latency = f"model:tpw_slo_requests:rate{window}", f"model:tpw_slo_latency_seconds:rate{window}"
        by = self.keys(*labels)
        yield Recording(
            requests,
            f"sum by ({by}, met) (rate(tpw_server_slo_requests_total[{window}]))",
            (*labels, "met"),
        )
        yield Recording(requests, f'sum by ({by}) ({requests}{{met!="total"}})', labels, {"met": "total"})
        yield Recording(latency, f"sum by ({by}) (rate(tpw_server_slo_latency_seconds_total[{window}]))", labels)
        yield Recording(
            f"model:tpw_slo_latency_seconds:ratio_rate{window}",
            f'{latency} / on ({by}) ({requests}{{met="total"}} > 0)',
            labels,
        )
        met = f"model:tpw_slo_met:ratio_rate{window}"
        for bound, known in (("lower", "yes"), ("upper", "yes|unknown")):
            yield Recording(
                met,
                f'sum by ({by}) ({requests}{{met=~"{known}"}}) / on ({by}) ({requests}{{met="total"}} > 0)',
                labels,
                {"bound": bound},
            )
        yield from self._good_tokens("model", window, met, 'slo="all", ')

    def deployments(self, window: str) -> Iterable[Recording]:
        """Tokens, joules and money of all servers of a deployment, and their ratios. A prefill instance counts the prompts
        that it computes and a decode instance what it generates, so that each token is counted once. A router counts the
        same tokens again: it is compared and not added."""
        deployment = self.keys(*LEVELS["deployment"])
        server = self._named

        def joined(series: str, more: str = "", by: str = "deployment") -> str:
            return f"{series} * on ({server}) group_left ({by}) server:tpw_server_deployment:max{more}"

        for record, extra in (("tokens", ("kind",)), ("energy_joules", ("state", "boundary"))):
            by = self.keys(*LEVELS["deployment"], *extra)
            yield Recording(
                f"deployment:tpw_server_{record}:rate{window}",
                f"sum by ({by}) ({joined(f'server:tpw_server_{record}:rate{window}')})",
                (*LEVELS["deployment"], *extra),
            )
        unmetered = joined(f"(server:tpw_metered:ratio_rate{window} < {number(METERED_COVERAGE)})")
        is_whole = f"\nunless on ({deployment}) ({unmetered})"
        for boundary in ("gpu", "facility"):
            ratio = self._tokens_per_joule(
                "deployment",
                window,
                boundary,
                f'deployment:tpw_server_energy_joules:rate{window}{{boundary="{boundary}"}}',
            )
            yield replace(ratio, expr=f"{ratio.expr}{is_whole}")
        own = f'server:tpw_server_energy_joules:rate{window}{{boundary="gpu"}}'
        yield Recording(
            f"deployment:tpw_energy_share:ratio_rate{window}",
            promql(f"""
                sum by ({self.keys(*LEVELS["deployment"], "role")}) ({joined(own, by="deployment, role")})
                / on ({deployment}) group_left ()
                (sum by ({deployment}) (deployment:tpw_server_energy_joules:rate{window}{{boundary="gpu"}}) > 0)
            """)
            + is_whole,
            (*LEVELS["deployment"], "role"),
        )
        yield Recording(
            f"deployment:tpw_tokens_per_second_per_gpu:rate{window}",
            promql(f"""
                deployment:tpw_server_tokens:rate{window}{{kind=~"output|total"}}
                / on ({deployment}) group_left ()
                (deployment:tpw_server_gpu:sum > 0)
            """),
            (*LEVELS["deployment"], "kind"),
        )
        yield from self._cost_of_deployments(window, server, joined, is_whole)
        yield from self._good_tokens_of_deployments(window, server)
        if window == "1h":
            everywhere = self.keys(*LEVELS["server"])
            for kind, matcher in (("output", '{kind="output"}'), ("total", "")):
                routed = f"sum by ({everywhere}) (rate(tpw_server_tokens_total{matcher}[{window}]))"
                yield Recording(
                    f"deployment:tpw_router_tokens:ratio_rate{window}",
                    promql(f"""
                        sum by ({deployment}) (
                          {routed} * on ({server}) group_left (deployment) server:tpw_router_deployment:max
                        )
                        / on ({deployment}) (deployment:tpw_server_tokens:rate{window}{{kind="{kind}"}} > 0)
                    """),
                    LEVELS["deployment"],
                    {"kind": kind},
                )

    @property
    def _named(self) -> str:
        """Labels that name a server. With `honor_labels` the info metric has the namespace of the server, and counters that
        of the exporter."""
        return ", ".join((*(one for one in self._values.labels if one != "namespace"), *LEVELS["server"]))

    def _deployments_of_servers(self) -> Iterable[Recording]:
        """Which servers make one service, which routers are in front of them, and how many GPUs they have."""
        server = self._named
        named = promql(f"""
            label_replace(
              topk by ({server}) (
                1, max by ({server}, deployment, role) (tpw_server_info{{deployment!="", role!="router"}})
              ),
              "role", "both", "role", ""
            )
        """)
        yield Recording("server:tpw_server_deployment:max", named, (*LEVELS["server"], "deployment", "role"))
        named = f'max by ({server}, deployment) (tpw_server_info{{deployment!="", role="router"}})'
        of_service = ", ".join((*(one for one in self._values.labels if one != "namespace"), "deployment"))
        yield Recording(
            "server:tpw_router_deployment:max",
            f'topk by ({server}) (1, {named})\nand on ({of_service}) tpw_server_info{{deployment!="", role!="router"}}',
            (*LEVELS["server"], "deployment"),
        )
        gpu = self.keys(*LEVELS["gpu"], *LEVELS["deployment"])
        yield Recording(
            "deployment:tpw_server_gpu:sum",
            promql(f"""
                sum by ({self.keys(*LEVELS["deployment"])}) (
                  max by ({gpu}) (
                    tpw_server_gpu * on ({server}) group_left (deployment) server:tpw_server_deployment:max
                  )
                )
            """),
            LEVELS["deployment"],
        )

    def _good_tokens_of_deployments(self, window: str, server: str) -> Iterable[Recording]:
        """By the requests of its routers: instances of a pair do not measure what clients wait for."""
        labels, on = LEVELS["deployment"], self.keys(*LEVELS["deployment"])
        requests, met = f"deployment:tpw_slo_requests:rate{window}", f"deployment:tpw_slo_met:ratio_rate{window}"
        routed = f'sum by ({self.keys("server", "met")}) (model:tpw_slo_requests:rate{window}{{slo="all"}})'
        yield Recording(
            requests,
            f"sum by ({self.keys(*labels, 'met')})"
            f" ({routed} * on ({server}) group_left (deployment) server:tpw_router_deployment:max)",
            (*labels, "met"),
        )
        for bound, known in (("lower", "yes"), ("upper", "yes|unknown")):
            yield Recording(
                met,
                f'sum by ({on}) ({requests}{{met=~"{known}"}}) / on ({on}) ({requests}{{met="total"}} > 0)',
                labels,
                {"bound": bound},
            )
        yield from self._good_tokens("deployment", window, met)

    def _good_tokens(self, level: str, window: str, met: str, matcher: str = "") -> Iterable[Recording]:
        """What is divided among the tokens of good requests: the tokens times the share of these requests."""
        labels, on = LEVELS[level], self.keys(*LEVELS[level])
        for bound, other in (("lower", "upper"), ("upper", "lower")):
            share, divisor = (f'{met}{{{matcher}bound="{one}"}}' for one in (bound, other))
            yield Recording(
                f"{level}:tpw_good_tokens_per_joule:ratio_rate{window}",
                f"{level}:tpw_tokens_per_joule:ratio_rate{window} * on ({on}) group_left () {share}",
                (*labels, "kind", "boundary"),
                {"bound": bound},
            )
            yield Recording(
                f"{level}:tpw_cost_per_million_good_tokens:ratio_rate{window}",
                f"{level}:tpw_cost_per_million_tokens:ratio_rate{window} / on ({on}) group_left () ({divisor} > 0)",
                (*labels, "kind", "scope", "currency"),
                {"bound": bound},
            )

    def _cost_of_deployments(
        self, window: str, server: str, joined: Callable[[str], str], is_whole: str
    ) -> Iterable[Recording]:
        """Only where the costs of all its servers are known."""
        labels, cost = LEVELS["deployment"], f"deployment:tpw_server_cost:rate{window}"
        energy = f'server:tpw_server_energy_joules:rate{window}{{boundary="gpu"}}'
        for scope in ("energy", "full"):
            own = f'server:tpw_server_cost:rate{window}{{scope="{scope}"}}'
            unknown = joined(f"({energy} unless on ({server}) {own})")
            yield Recording(
                cost,
                f"sum by ({self.keys(*labels, 'currency')}) ({joined(own)})\nunless on ({self.keys(*labels)}) ({unknown})",
                (*labels, "currency"),
                {"scope": scope},
            )
        unpriced = joined(f"(server:tpw_priced:ratio_rate{window} < {number(METERED_COVERAGE)})")
        for kind in ("output", "total"):
            yield Recording(
                f"deployment:tpw_cost_per_million_tokens:ratio_rate{window}",
                promql(f"""
                    1e6 * {cost}
                    / on ({self.keys(*labels)}) group_left ()
                    (deployment:tpw_server_tokens:rate{window}{{kind="{kind}"}} > 0)
                """)
                + f"{is_whole}\nunless on ({self.keys(*labels)}) ({unpriced})",
                (*labels, "scope", "currency"),
                {"kind": kind},
            )

    def _of_models(self, window: str) -> Iterable[Recording]:
        """Tokens by kind and in total, joules at both boundaries, money in both scopes, from the counters."""
        labels = LEVELS["model"]
        tokens = f"model:tpw_server_tokens:rate{window}"
        # What a router counts are the tokens of the servers of its deployment, where those are read.
        counted = self._summed("model", window, "tpw_server_tokens", ("kind",))
        counted = f"{counted} unless on ({self._named}) server:tpw_router_deployment:max"
        yield Recording(tokens, counted, (*labels, "kind"))
        yield Recording(tokens, f'sum by ({self.keys(*labels)}) ({tokens}{{kind!="total"}})', labels, {"kind": "total"})
        for boundary, metric in (
            ("gpu", "tpw_server_energy_joules"),
            ("facility", "tpw_server_facility_energy_joules"),
        ):
            yield Recording(
                f"model:tpw_server_energy_joules:rate{window}",
                self._summed("model", window, metric, ("state",)),
                (*labels, "state"),
                {"boundary": boundary},
            )
        by = self.keys(*labels, "currency")
        cost = f"model:tpw_server_cost:rate{window}"
        for scope, component in (("energy", '{component="energy"}'), ("full", "")):
            # Cost less credit, as of the GPUs.
            expr = (
                f"sum by ({by}) (rate(tpw_server_cost_total{component}[{window}])"
                f" or -rate(tpw_server_credit_total[{window}]))"
            )
            known = self._where_full(by, window, f'{cost}{{scope="energy"}}') if scope == "full" else ""
            yield Recording(cost, f"{expr}{known}", (*labels, "currency"), {"scope": scope})

    @staticmethod
    def _where_full(by: str, window: str, energy: str, state: str = "") -> str:
        """Only where the GPUs and their electricity are part of the costs of servers."""

        def booked(components: Sequence[str]) -> str:
            matcher = f'{state}component=~"{"|".join(components)}"'
            return f"sum by ({by}) (rate(tpw_server_cost_total{{{matcher}}}[{window}]))"

        return f"\nand on ({by}) {booked(CAPITAL)}\nand on ({by}) ({energy} or on ({by}) {booked(ALL_IN)})"

    def _tokens_per_joule(self, level: str, window: str, boundary: str, energy: str) -> Recording:
        labels = LEVELS[level]
        return Recording(
            f"{level}:tpw_tokens_per_joule:ratio_rate{window}",
            promql(f"""
                {level}:tpw_server_tokens:rate{window}{{kind=~"output|total"}}
                / on ({self.keys(*labels)}) group_left ()
                (sum by ({self.keys(*labels)}) ({energy}) > 0)
            """)
            + self._where_metered(level, window),
            (*labels, "kind"),
            {"boundary": boundary},
        )

    def _where_metered(self, level: str, window: str) -> str:
        """Omits a ratio over the joules of a server where its GPUs were metered for too little of the window, as the
        exporter withholds its live ones."""
        if "server" not in LEVELS[level]:
            return ""
        covered = f"server:tpw_metered:ratio_rate{window} < {number(METERED_COVERAGE)}"
        return f"\nunless on ({self.keys(*LEVELS['server'])}) {covered}"

    def _priced(self, level: str, window: str, energy: str) -> Recording:
        """How much of the facility energy the costs of the window are the costs of: what had no price is missing in them,
        what was priced late is of another time."""
        gpu = self.keys(*LEVELS["gpu"])
        of_gpus = promql(f"""
            abs(sum by ({gpu}) (
              rate(tpw_energy_unpriced_joules_total[{window}])
              or label_replace(-rate(tpw_energy_late_priced_joules_total[{window}]), "late", "1", "", "")
            ))
        """)
        if level == "server":
            of_gpus = f"tpw_server_gpu * on ({gpu}) group_left ()\n{of_gpus}"
        by = self.keys(*LEVELS[level])
        return Recording(
            f"{level}:tpw_priced:ratio_rate{window}",
            "1 - clamp_max(\n"
            + textwrap.indent(f"sum by ({by}) (\n{textwrap.indent(of_gpus, '  ')}\n)\n", "  ")
            + f"  / (sum by ({by}) ({energy}) > 0),\n  1\n)",
            LEVELS[level],
        )

    def _where_priced(self, level: str, window: str) -> str:
        """Omits a ratio over costs where too little of the energy behind it is priced, as the exporter withholds its
        live ones."""
        owner = "server" if "server" in LEVELS[level] else level
        covered = f"{owner}:tpw_priced:ratio_rate{window} < {number(METERED_COVERAGE)}"
        return f"{self._where_metered(level, window)}\nunless on ({self.keys(*LEVELS[owner])}) {covered}"

    def _cost_per_million(self, level: str, window: str, cost: str) -> Iterable[Recording]:
        labels = LEVELS[level]
        for kind in ("output", "total"):
            yield Recording(
                f"{level}:tpw_cost_per_million_tokens:ratio_rate{window}",
                promql(f"""
                    1e6 * {cost}
                    / on ({self.keys(*labels)}) group_left ()
                    ({level}:tpw_server_tokens:rate{window}{{kind="{kind}"}} > 0)
                """)
                + self._where_priced(level, window)
                + (self._in_one_currency(labels, cost) if level in ("model", "cluster") else ""),
                (*labels, "scope", "currency"),
                {"kind": kind},
            )

    def _in_one_currency(self, labels: Sequence[str], cost: str) -> str:
        """Omits a ratio where nodes book in several currencies: no token count belongs to one of them."""
        keys = self.keys(*labels)
        return f"\nunless on ({keys}) (\n  count by ({keys}) (sum by ({keys}, currency) ({cost})) > 1\n)"

    def load(self) -> Iterable[Recording]:
        """Requests running, and tokens and joules by how many were running."""
        labels = LEVELS["model"]
        keys = self.keys(*labels)
        for metric in ("tpw_server_requests_running", "tpw_server_requests_waiting"):
            yield Recording(f"model:{metric}:avg5m", f"sum by ({keys}) (avg_over_time({metric}[5m]))", labels)
        for load, at_least, below in (*LOADS, OVERLOAD):
            bounds = f" >= {at_least}" if at_least else ""
            bounds += f" < {below}" if below else ""
            yield Recording(
                "model:tpw_server_tokens_by_load:rate5m",
                promql(f"""
                    model:tpw_server_tokens:rate5m{{kind=~"output|total"}}
                    and on ({keys}) (model:tpw_server_requests_running:avg5m{bounds})
                """),
                (*labels, "kind"),
                {"load": load},
            )
            yield Recording(
                "model:tpw_server_energy_joules_by_load:rate5m",
                promql(f"""
                    sum by ({self.keys(*labels, "boundary")}) (model:tpw_server_energy_joules:rate5m)
                    and on ({keys}) (model:tpw_server_requests_running:avg5m{bounds})
                """),
                (*labels, "boundary"),
                {"load": load},
            )
            for record, extra in (("requests", ("met",)), ("latency_seconds", ())):
                yield Recording(
                    f"model:tpw_slo_{record}_by_load:rate5m",
                    promql(f"""
                        model:tpw_slo_{record}:rate5m
                        and on ({keys}) (model:tpw_server_requests_running:avg5m{bounds})
                    """),
                    (*labels, "slo", *extra),
                    {"load": load},
                )

    def baselines(self) -> Iterable[Recording]:
        """The week of each model without the last hour: the baseline for the last hour."""
        labels = LEVELS["model"]
        keys = self.keys(*labels)
        week = "[7d] offset 1h"
        yield Recording(
            "model:tpw_server_tokens:baseline7d",
            f'avg_over_time(model:tpw_server_tokens:rate1h{{kind=~"output|total"}}{week})',
            (*labels, "kind"),
        )
        yield Recording(
            "model:tpw_tokens_per_active_joule:baseline7d",
            promql(f"""
                model:tpw_server_tokens:baseline7d
                / on ({keys}) group_left ()
                (sum by ({keys}) (
                  avg_over_time(model:tpw_server_energy_joules:rate1h{{boundary="gpu", state="active"}}{week})
                ) > 0)
            """),
            (*labels, "kind"),
            {"boundary": "gpu"},
        )
        yield Recording(
            "model:tpw_slo_latency_seconds:baseline7d",
            promql(f"""
                avg_over_time(model:tpw_slo_latency_seconds:rate1h{week})
                / on ({self.keys(*labels, "slo")}) (avg_over_time(model:tpw_slo_requests:rate1h{{met="total"}}{week}) > 0)
            """),
            (*labels, "slo"),
        )
        yield Recording(
            "model:tpw_server_requests_running:baseline7d",
            f"avg_over_time(model:tpw_server_requests_running:avg5m{week})",
            labels,
        )
        for kind in ("output", "total"):
            yield Recording(
                "model:tpw_cost_per_million_tokens:baseline7d",
                promql(f"""
                    1e6 * avg_over_time(model:tpw_server_cost:rate1h{week})
                    / on ({keys}) group_left ()
                    (model:tpw_server_tokens:baseline7d{{kind="{kind}"}} > 0)
                """),
                (*labels, "scope", "currency"),
                {"kind": kind},
            )
        yield Recording(
            "model:tpw_tokens_per_active_joule:best7d",
            'quantile_over_time(0.95, model:tpw_tokens_per_active_joule:ratio_rate1h{boundary="gpu"}[7d])',
            (*labels, "kind", "boundary"),
        )

    # --------------------------------------------------------------------------------------------- nodes and clusters

    def nodes(self, window: str) -> Iterable[Recording]:
        """Nodes: their GPUs, and the tokens by their share of the energy.

        A server's tokens are counted on one node and may be made on several. Each node gets the share of them that it has
        of the server's joules, so nodes can be compared and their tokens still sum to all tokens.
        """
        labels = LEVELS["node"]
        here = f"node:tpw_server_energy_joules:rate{window}"
        everywhere = self.keys(*LEVELS["model"])
        yield Recording(
            here,
            self._summed("node", window, "tpw_server_energy_joules", LEVELS["model"]),
            (*labels, *LEVELS["model"]),
        )
        for kind in ("output", "total"):
            yield Recording(
                f"node:tpw_server_tokens:rate{window}",
                promql(f"""
                    sum by ({self.keys(*labels)}) (
                      (
                        {here}
                        / on ({everywhere}) group_left ()
                        (sum by ({everywhere}) ({here}) > 0)
                      )
                      * on ({everywhere}) group_left ()
                      model:tpw_server_tokens:rate{window}{{kind="{kind}"}}
                    )
                """),
                labels,
                {"kind": kind},
            )
        yield from self._whole_tokens_per_joule("node", window)
        yield from self._whole_cost("node", window)
        yield from self._cost_per_million("node", window, f"node:tpw_cost:rate{window}")

    def clusters(self, window: str) -> Iterable[Recording]:
        """Totals of an installation. Joules and money of GPUs without an owner are included in its ratios."""
        yield Recording(
            f"cluster:tpw_server_tokens:rate{window}",
            self._summed("cluster", window, "tpw_server_tokens", ("kind",), "model"),
            ("kind",),
        )
        yield from self._whole_tokens_per_joule("cluster", window)
        yield from self._whole_cost("cluster", window)
        yield from self._cost_per_million("cluster", window, f'cluster:tpw_cost:rate{window}{{scope!="booked"}}')

    def _whole_tokens_per_joule(self, level: str, window: str) -> Iterable[Recording]:
        """Tokens over the joules of all GPUs, of servers and of nobody: what other programs use makes no tokens."""
        for boundary in ("gpu", "facility"):
            energy = f'{level}:tpw_gpu_state_energy_joules:rate{window}{{boundary="{boundary}", state!="other"}}'
            yield self._tokens_per_joule(level, window, boundary, energy)
        yield self._priced(level, window, f'{level}:tpw_gpu_state_energy_joules:rate{window}{{boundary="facility"}}')

    def _whole_cost(self, level: str, window: str) -> Iterable[Recording]:
        """Cost rate of all GPUs, owned or not, less credit for negative prices. ``booked`` is what is spent, however much
        of the costs is known; ``full`` only where the GPUs and their electricity are part of it."""
        record, by = f"{level}:tpw_cost:rate{window}", self.keys(*LEVELS[level], "currency")
        net, charged = f"{level}:tpw_gpu_state_net_cost:rate{window}", f"{level}:tpw_gpu_state_cost:rate{window}"
        capital, all_in = (
            f'sum by ({by}) ({charged}{{component=~"{"|".join(components)}"}})' for components in (CAPITAL, ALL_IN)
        )
        priced = f'sum by ({by}) ({charged}{{component="energy"}})'
        yield Recording(
            record,
            f'sum by ({by}) ({net} or -{charged}{{component!="energy"}})\nand\n{priced}',
            (*LEVELS[level], "currency"),
            {"scope": "energy"},
        )
        if level == "cluster":
            yield Recording(record, f"sum by ({by}) ({net})", (*LEVELS[level], "currency"), {"scope": "booked"})
        yield Recording(
            record,
            f"sum by ({by}) ({net})\nand\n{capital}\nand\n({priced} or {all_in})",
            (*LEVELS[level], "currency"),
            {"scope": "full"},
        )

    def spend(self) -> Iterable[Recording]:
        """Spend over the windows of the budget alert, and by hour of the day."""
        by = self.keys("currency")
        for window in SPEND_WINDOWS:
            yield self.known("cluster", window)
            record, counter = f"cluster:tpw_cost:rate{window}", "tpw_gpu_state_cost_total"
            energy = f'rate({counter}{{component="energy"}}[{window}]) or -rate(tpw_gpu_state_credit_total[{window}])'
            yield Recording(record, f"sum by ({by}) ({energy})", ("currency",), {"scope": "energy"})
            # With the rest, each counter read once.
            energy = f'{record}{{scope="energy"}}'
            rest = f'rate({counter}{{component!="energy"}}[{window}])'
            yield Recording(record, f"sum by ({by}) ({energy} or {rest})", ("currency",), {"scope": "booked"})
        yield Recording(
            "cluster:tpw_cost_by_hour:rate5m",
            promql(f"""
                cluster:tpw_cost:rate5m
                * on () group_left (hour)
                label_replace(count_values("hour", hour()), "hour", "0$1", "hour", "(.)")
                and on ({self.keys()}) group by ({self.keys()}) (tpw_build_info offset 5m)
            """),
            ("hour", "scope", "currency"),
        )

    def hours(self, known: Mapping[str, frozenset[str]]) -> Iterable[Recording]:
        """The sums of the hour that has ended, once an hour: a month is 720 samples a series instead of 43,200.

        Recorded with the first evaluation after the hour (within 30 minutes, as after a start of Prometheus). The last
        rule marks that it is done.
        """
        due = promql(f"""
            and on () (minute() < 30)
            unless on () last_over_time({HOUR_RECORDED}[31m])
        """)
        for level, metrics in HOURS.items():
            for metric in metrics:
                hourly = f"{level}:{metric}:rate1h"
                carries = tuple(sorted(known[hourly] - set(self._values.labels)))
                yield Recording(f"{level}:{metric}:sum1h", f"3600 * {hourly}\n{due}", carries)
        unpriced, late = (
            f"sum by ({self.keys()}) (increase({counter}[1h]))"
            for counter in ("tpw_energy_unpriced_joules_total", "tpw_energy_late_priced_joules_total")
        )
        yield Recording("cluster:tpw_energy_unpriced_joules:sum1h", f"({unpriced} - {late})\n{due}", ())
        labels = (*LEVELS["model"], "basis")
        grams = f"sum by ({self.keys(*labels)}) (increase(tpw_server_emissions_grams_total[1h]))"
        yield Recording("model:tpw_server_emissions_grams:sum1h", f"{grams}\n{due}", labels)
        yield Recording(HOUR_RECORDED, f"vector(1)\n{due}", ())

    # ------------------------------------------------------------------------------------------- prices, books, trust

    def prices(self) -> Iterable[Recording]:
        """One price per installation and currency, and the highest demand."""
        for metric in ("tpw_electricity_price_per_kwh", "tpw_electricity_price_next_per_kwh"):
            yield Recording(f"cluster:{metric}:max", f"max by ({self.keys('currency')}) ({metric})", ("currency",))
        for metric in ("tpw_demand_interval_watts", "tpw_demand_peak_watts"):
            yield Recording(f"cluster:{metric}:max", f"max by ({self.keys()}) ({metric})", ())

    def books(self) -> Iterable[Recording]:
        """Imbalance of the books over the last hour, which is zero unless the exporter has a bug.

        The counters are compared as they stand, now and an hour ago: a series that is born in between takes nothing away.
        """
        gpu = self.keys(*LEVELS["gpu"])
        node = self.keys(*LEVELS["node"])

        def states(at: str) -> str:
            total = f"sum by ({gpu}) (tpw_gpu_energy_joules_total{at})"
            return f"sum by ({gpu}) (tpw_gpu_state_energy_joules_total{at}) - {total}"

        def servers(at: str) -> str:
            total = f"sum by ({node}) (tpw_gpu_energy_joules_total{at})"
            return promql(f"""
                (sum by ({node}) (tpw_server_energy_joules_total{{state!="planned_off"}}{at}) or 0 * {total})
                + (sum by ({node}) (tpw_books_unlisted_energy_joules{at}) or 0 * {total})
                + sum by ({node}) (tpw_gpu_state_energy_joules_total{{state=~"idle|other|planned_off"}}{at})
                - {total}
            """)

        for level, by, difference in (("gpu", gpu, states), ("node", node, servers)):
            now, before = difference("").replace("\n", "\n    "), difference(" offset 1h").replace("\n", "\n    ")
            yield Recording(
                f"{level}:tpw_books_imbalance:ratio_increase1h",
                f"abs(\n  (\n    {now}\n  )\n  - (\n    {before}\n  )\n)\n"
                f"/ (sum by ({by}) (increase(tpw_gpu_energy_joules_total[1h])) > 0)",
                LEVELS[level],
            )
        anomalies = 'tpw_gpu_energy_anomalies_total{reason!="reset"}'
        by = self.keys(*LEVELS["gpu"], "reason")
        yield Recording(
            "gpu:tpw_gpu_energy_anomalies:increase1h",
            promql(f"""
                sum by ({by}) (increase({anomalies}[1h]) > 0)
                or
                sum by ({by}) (
                  {anomalies}
                  unless last_over_time({anomalies}[1h] offset 1h)
                )
                and on ({gpu}) sum by ({gpu}) (last_over_time(tpw_gpu_up[1h] offset 1h))
            """),
            (*LEVELS["gpu"], "reason"),
        )

    def trust(self) -> Iterable[Recording]:
        """Shares of exporters, sources, energy and prices that work; 1 is all."""
        yield Recording(
            "node:tpw_exporter_up:max",
            # A target under another job's name is an exporter once it has shown itself as one, and then as long as it is a
            # target: the rule reads what it recorded before.
            promql(f"""
                max by ({self.keys("instance")}) (up{{job=~"{self._values.job}"}})
                or
                max by ({self.keys("instance")}) (
                  up and on ({self.keys("instance")}) (tpw_build_info or node:tpw_exporter_up:max)
                )
            """),
            LEVELS["node"],
        )
        yield Recording(
            "node:tpw_server_gpu:max",
            # Recorded while the exporter does not respond.
            promql(f"""
                max by ({self.keys("instance", "server")}) (tpw_server_gpu)
                or
                node:tpw_server_gpu:max and on ({self.keys("instance")}) node:tpw_exporter_up:max == 0
            """),
            (*LEVELS["node"], "server"),
        )
        keys = self.keys()
        aspects = {
            "exporters": f"avg by ({keys}) (node:tpw_exporter_up:max)",
            "sources": f"avg by ({keys}) (tpw_source_up)",
            "energy": f"clamp_min(1 - avg by ({keys}) (rate(tpw_gpu_unmetered_seconds_total[5m])), 0)",
            "price": promql(f"""
                avg by ({keys}) (
                  tpw_electricity_price_state{{state!~"fallback|missing"}}
                  or 0 * tpw_electricity_price_state{{state=~"fallback|missing"}}
                )
            """),
        }
        for aspect, expr in aspects.items():
            yield Recording("cluster:tpw_trust:ratio", expr, (), {"aspect": aspect})
