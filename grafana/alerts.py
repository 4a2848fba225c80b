"""The alerts, in the order of triage: measuring, hardware, waste, efficiency, cost.

Alerts on waste need no price to fire: their condition is time, and the description adds the cost where it is known. So an
alert keeps its identity when a price appears or disappears.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote

from grafana.rules import LEVELS, Rules, promql, vocabulary
from grafana.values import Values, number


class Severity(StrEnum):
    """How soon a person must act."""

    CRITICAL = "critical"
    """At once: hardware is lost."""
    WARNING = "warning"
    """In working hours: a ticket."""
    INFO = "info"
    """For information: a digest."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule. ``link`` maps variables of the dashboard to labels of the alert."""

    name: str
    severity: Severity
    expr: str
    hold: str | None
    summary: str
    description: str
    dashboard: str
    why: str
    """Reason for the threshold, for the documentation."""
    link: Mapping[str, str] = field(default_factory=dict)
    knobs: tuple[str, ...] = ()
    """Names of the values that decide when it fires. The tests change each and expect a failure."""


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """Alerts of one subject."""

    name: str
    alerts: tuple[Alert, ...]


def alert_groups(values: Values) -> tuple[AlertGroup, ...]:
    """All alerts. Raises UnknownNameError where one uses a name that does not exist."""
    alerts = Alerts(values)
    groups = (
        AlertGroup("tpw-measuring", tuple(alerts.measuring())),
        AlertGroup("tpw-gpus", tuple(alerts.hardware())),
        AlertGroup("tpw-wasted", tuple(alerts.wasted())),
        AlertGroup("tpw-efficiency", tuple(alerts.efficiency())),
        AlertGroup("tpw-money", tuple(alerts.money())),
    )
    words = vocabulary(values)
    for group in groups:
        for alert in group.alerts:
            words.check(alert.expr)
    return groups


def annotations_of(alert: Alert, values: Values) -> dict[str, str]:
    """Summary, description, and the addresses of the runbook and the dashboard."""
    query = "&".join(
        f"var-{quote(variable)}={{{{ $labels.{label} | urlquery }}}}" for variable, label in alert.link.items()
    )
    address = f"{values.grafana_url}/d/{alert.dashboard}"
    if "cluster" in values.labels:
        more = "&" if query else "?"
        query += f"{{{{ if $labels.cluster }}}}{more}var-cluster={{{{ $labels.cluster | urlquery }}}}{{{{ end }}}}"
    return {
        "summary": alert.summary,
        "description": " ".join(alert.description.split()),
        "runbook_url": (values.runbook_url or _RUNBOOK).replace("{alert}", alert.name),
        "dashboard_url": f"{address}?{query}" if alert.link else address + query,
    }


def _money(call: str, words: str, otherwise: str = "") -> str:
    """Template text: every result of a query as an amount with its currency, MONEY in ``words``."""
    text = f"{{{{ range {call} }}}}{words.replace('MONEY', _AMOUNT)}"
    return text + (f"{{{{ else }}}}{otherwise}{{{{ end }}}}" if otherwise else "{{ end }}")


_RUNBOOK = (
    '{{ range query "topk(1, tpw_build_info)" }}http://{{ . | label "instance" }}/runbooks/{alert}'
    "{{ else }}deploy/runbooks/{alert}.md{{ end }}"
)
"""The page of any exporter that is up, because the one of the alert may be down. Else the path in this repository."""
_AMOUNT = '{{ . | value | printf "%.2f" }} {{ . | label "currency" }}'
_LABEL = re.compile(r"\$(\w+)")
_OF_MODEL = "$here, server=$server, model=$model"
_KNOWN = "max(cluster:tpw_known:ratio_rate1d{$here})"
"""What an amount of a day is divided by, which is less than a day old at first."""
_WHERE = "{{ $labels.instance }}"
_GPU = "GPU {{ $labels.gpu }} ({{ $labels.uuid }}) of {{ $labels.instance }}"
_MODEL = "{{ $labels.model }} on {{ $labels.server }}"
_UNPRICED = "Their cost is unknown: no price is configured."


class Alerts:
    """The alerts for one set of values."""

    def __init__(self, values: Values) -> None:
        self._values = values
        rules = Rules(values)
        self._keys = rules.keys
        self._gpu = rules.keys(*LEVELS["gpu"])
        self._node = rules.keys(*LEVELS["node"])
        self._model = rules.keys(*LEVELS["model"])

    def _asked(self, expr: str) -> str:
        """The call of a template that queries PromQL, in which ``$uuid`` stands for the label ``uuid`` of the alert, and
        ``$here`` for matchers of the labels of its installation: another one may have the same names."""
        here = ", ".join(f"{label}=${label}" for label in self._values.labels)
        text = " ".join(expr.replace("$here", here).split())
        arguments = "".join(f" $labels.{label}" for label in _LABEL.findall(text))
        escaped = _LABEL.sub("%q", text).replace('"', '\\"')
        return f'printf "{escaped}"{arguments} | query'

    def _except_gpus(self, parameter: str) -> str:
        """Excludes the GPUs that an operator names: by UUID, all of an instance, or by UUID on one instance."""
        return promql(f"""
            unless on (uuid) {parameter}{{instance=""}}
            unless on (instance) {parameter}{{uuid=""}}
            unless on (uuid, instance) {parameter}
        """)

    def _late(self, window: str, *labels: str) -> str:
        """Where energy was priced late in the window: its cost is booked now, but it was used earlier."""
        late = "tpw_energy_late_priced_joules_total"
        total = f"sum by ({', '.join(labels)}) ({late})" if labels else f"sum({late})"
        before = total.replace(late, f"{late} offset {window}")
        return f"({total} - ({before} or 0 * {total}) > 0)"

    # ----------------------------------------------------------------------------------------------------- measuring

    def measuring(self) -> Iterable[Alert]:
        """Alerts on measuring."""
        v = self._values
        yield Alert(
            "TpwExporterDown",
            Severity.WARNING,
            promql(f"""
                up{{job=~"{v.job}"}} == 0
                or
                up == 0 and on ({self._node}) node:tpw_exporter_up:max
            """),
            v.exporter_down_for,
            "An exporter does not respond.",
            f"Prometheus cannot scrape the exporter of {_WHERE}. Its GPUs and servers are missing from all totals.",
            "tpw-measuring",
            "A few missed scrapes are tolerated. Per instance, because absent() does not detect a partial loss.",
            {"instance": "instance"},
            ("exporter_down_for",),
        )
        yield Alert(
            "TpwExporterAbsent",
            Severity.WARNING,
            promql(f"""
                absent(up{{job=~"{v.job}"}})
                unless on () group(tpw_build_info or node:tpw_exporter_up:max)
            """),
            v.exporter_absent_for,
            "Prometheus has no exporter to scrape.",
            f"No scrape target has a job that matches {v.job}, and no other job has series of an exporter: "
            "service discovery finds no target.",
            "tpw-measuring",
            "A job without targets has no up series that could be 0.",
            {},
            ("exporter_absent_for",),
        )
        failures = (
            "topk(1, increase(tpw_source_read_failures_total{$here, instance=$instance, source=$source}[15m])) > 0"
        )
        yield Alert(
            "TpwSourceDown",
            Severity.WARNING,
            promql(f"""
                label_replace(
                  tpw_source_up{{source!~"{v.slow_sources}"}} == 0
                  or
                  max_over_time(tpw_source_up{{source=~"{v.slow_sources}"}}[{v.slow_source_down_for}]) == 0,
                  "server", "$1", "source", "server:(.+)"
                )
                unless on ({self._keys("instance", "server")}) tpw_server_planned_off == 1
            """),
            v.source_down_for,
            "The exporter cannot read a source.",
            f"The exporter of {_WHERE} cannot read {{{{ $labels.source }}}}. "
            f"{{{{ range {self._asked(failures)} }}}}Most failures of the last 15 minutes: "
            '{{ . | label "reason" }}.{{ end }}',
            "tpw-measuring",
            "Inference servers restart within minutes; ten is an outage. Prices and carbon are known ahead: two hours.",
            {"instance": "instance"},
            ("source_down_for", "slow_source_down_for"),
        )
        # Both timestamps are of the exporter: a wrong clock or a late scrape does not make a reading stale.
        snapshot = "tpw_snapshot_timestamp_seconds"
        yield Alert(
            "TpwReadingsStale",
            Severity.WARNING,
            promql(f"""
                (
                  max by ({self._node}) ({snapshot})
                  - on ({self._node}) group_right ()
                  tpw_source_last_success_timestamp_seconds{{source!~"{v.slow_sources}"}}
                ) > {number(v.stale_after_seconds)}
                unless on ({self._keys("instance", "source")}) tpw_source_up == 0
                or
                label_replace(
                  (time() - {snapshot}) and on ({self._node}) increase(tpw_polls_total[5m]) == 0,
                  "source", "the whole exporter", "", ""
                )
            """),
            None,
            "A source is up but delivers no readings.",
            f"{{{{ $labels.source }}}} of {_WHERE} delivered its last reading {{{{ $value | humanizeDuration }}}} ago.",
            "tpw-measuring",
            "A read that hangs neither fails nor succeeds.",
            {"instance": "instance"},
            ("stale_after_seconds",),
        )
        yield Alert(
            "TpwEnergyUnmetered",
            Severity.WARNING,
            promql(f"""
                sum by ({self._gpu}) (rate(tpw_gpu_unmetered_seconds_total[15m])) > {number(v.unmetered_share)}
                and on ({self._gpu}) max_over_time(tpw_gpu_up[10m]) == 1
                unless on ({self._gpu}) tpw_gpu_info{{energy_method="none"}}
            """),
            v.unmetered_for,
            "Energy readings of a GPU have gaps.",
            f"{_GPU} had no valid energy reading for {{{{ $value | humanizePercentage }}}} of the last 15 minutes. "
            "Its energy and cost are too low by about that share.",
            "tpw-measuring",
            "1 % is the documented error for GPUs without an energy counter.",
            {"instance": "instance", "gpu": "gpu"},
            ("unmetered_share", "unmetered_for"),
        )
        anomaly = (
            f'{_GPU}: {{{{ $value | printf "%.0f" }}}} energy readings were rejected in the last hour '
            "(reason {{ $labels.reason }}). They are not in the books."
        )
        for severity, limit, knobs, why in (
            (
                Severity.INFO,
                "0",
                (),
                "A single rejected reading is for information; counter resets are normal on a driver reload.",
            ),
            (
                Severity.WARNING,
                number(v.anomalies_per_hour),
                ("anomalies_per_hour",),
                "Three an hour indicate a fault.",
            ),
        ):
            yield Alert(
                "TpwEnergyAnomaly",
                severity,
                f"gpu:tpw_gpu_energy_anomalies:increase1h {'>' if limit == '0' else '>='} {limit}",
                None,
                "Energy readings of a GPU were rejected.",
                anomaly,
                "tpw-measuring",
                why,
                {"instance": "instance", "gpu": "gpu"},
                knobs,
            )
        share = number(v.unbalanced_share)
        yield Alert(
            "TpwBooksUnbalanced",
            Severity.WARNING,
            promql(f"""
                label_replace(gpu:tpw_books_imbalance:ratio_increase1h, "law", "states of a GPU", "", "") > {share}
                or
                label_replace(
                  node:tpw_books_imbalance:ratio_increase1h, "law", "servers, others and idle GPUs of a node", "", ""
                ) > {share}
            """),
            v.unbalanced_for,
            "The books do not balance: a bug in the exporter.",
            f"On {_WHERE} the joules of the {{{{ $labels.law }}}} do not add up to those of the GPUs: "
            "{{ $value | humanizePercentage }} of the energy of the last hour is counted twice or not at all.",
            "tpw-measuring",
            "Energy is conserved by construction: any difference above rounding is an error.",
            {"instance": "instance"},
            ("unbalanced_share", "unbalanced_for"),
        )
        yield Alert(
            "TpwTokensWithoutEnergy",
            Severity.WARNING,
            promql(f"""
                model:tpw_server_tokens:rate5m{{kind="total"}} > 0
                unless on ({self._model})
                  sum by ({self._model}) (model:tpw_server_energy_joules:rate5m{{boundary="gpu"}}) > 0
                unless on ({self._keys("server")})
                  (node:tpw_server_gpu:max and on ({self._node}) node:tpw_exporter_up:max == 0)
                unless on (server) tpw:cpu_server:info
            """),
            v.tokens_without_energy_for,
            "A server generates tokens but has no energy.",
            f'{_MODEL} generates {{{{ $value | printf "%.1f" }}}} tokens per second, but no energy is booked for it: '
            "the exporter does not know its GPUs, or they have no energy reading.",
            "tpw-measuring",
            "Ownership is found within a few polls; ten minutes are longer than a start.",
            {"server": "server", "model": "model"},
            ("tokens_without_energy_for",),
        )
        yield Alert(
            "TpwEfficiencyImpossible",
            Severity.WARNING,
            promql(f"""
                model:tpw_tokens_per_joule:ratio_rate5m{{kind="output", boundary="gpu"}}
                / on ({self._model}) group_left ()
                max by ({self._model}) (tpw_server_highest_plausible_tokens_per_watt)
                > {number(v.impossible_ratio)}
            """),
            v.impossible_for,
            "A server generates more tokens per joule than its GPUs can.",
            f'{_MODEL} generates {{{{ $value | printf "%.1f" }}}} times the output tokens per joule that are plausible for '
            "this model on these GPUs: it probably uses GPUs that are not counted as its own.",
            "tpw-measuring",
            "Four times the best published figure of models at least as large, or the arithmetic rate of the GPU.",
            {"server": "server", "model": "model"},
            ("impossible_ratio", "impossible_for"),
        )
        without = f"sum by ({self._keys('server')}) (increase(tpw_server_requests_without_usage_total[1h]))"
        yield Alert(
            "TpwRequestsWithoutUsage",
            Severity.WARNING,
            promql(f"""
                {without}
                / (
                  {without}
                  + (sum by ({self._keys("server")}) (increase(tpw_server_requests_total[1h])) or 0 * {without})
                  > 0
                )
                > {number(v.without_usage_share)}
            """),
            v.without_usage_for,
            "The tokens of a part of the requests to a server are unknown.",
            "{{ $value | humanizePercentage }} of the requests to {{ $labels.server }} in the last hour had no usage in "
            "their answers: their energy is booked, their tokens are not, and the counted tokens appear more expensive.",
            "tpw-measuring",
            "Some clients disconnect early; more than a twentieth is a client or a path that reports no usage.",
            {"server": "server"},
            ("without_usage_share", "without_usage_for"),
        )
        yield Alert(
            "TpwEnergyWithoutTokens",
            Severity.WARNING,
            promql(f"""
                sum by ({self._model}) (rate(tpw_server_energy_joules_total{{state="active"}}[30m]))
                / (sum by ({self._model}) (rate(tpw_server_energy_joules_total[30m])) > 0)
                >= {number(v.energy_without_tokens_active_share)}
                unless on ({self._model}) sum by ({self._model}) (rate(tpw_server_tokens_total[30m])) > 0
                unless on ({self._model}) sum by ({self._model}) (rate(tpw_server_work_units_total[30m])) > 0
                and on ({self._keys("server")})
                  max by ({self._keys("server")}) (tpw_server_up * min_over_time(tpw_server_up[30m])) == 1
            """),
            None,
            "A server uses energy but generates no tokens.",
            f"{_MODEL} spent {{{{ $value | humanizePercentage }}}} of its energy of the last 30 minutes active, but "
            "its token counters did not change: it hangs, or its counters were renamed.",
            "tpw-measuring",
            "Thirty minutes are longer than one very long request of an engine that counts at the end.",
            {"server": "server", "model": "model"},
            ("energy_without_tokens_active_share",),
        )
        unpriced = "sum(increase(tpw_energy_unpriced_joules_total{$here, instance=$instance}[2h])) / 3.6e6 > 0"
        yield Alert(
            "TpwPriceNotLive",
            Severity.WARNING,
            promql(f"""
                sum by ({self._node}) (last_over_time(tpw_electricity_price_state{{state=~"fallback|missing"}}[5m])) > 0
                or
                sum by ({self._node}) (rate(tpw_energy_unpriced_joules_total[15m])) > 0
                  unless sum by ({self._node}) (last_over_time(tpw_electricity_price_state{{state="preliminary"}}[5m])) > 0
            """),
            v.price_not_live_for,
            "Electricity has a fallback price or no price.",
            f"The exporter of {_WHERE} has had no current electricity price for hours. "
            f"{{{{ range {self._asked(unpriced)} }}}}"
            '{{ . | value | printf "%.1f" }} kWh of the last 2 hours have no price and are not in any cost.{{ end }}',
            "tpw-measuring",
            "Day-ahead feeds have short outages; two hours of fallback are a visible error in the cost of a day.",
            {"instance": "instance"},
            ("price_not_live_for",),
        )
        yield Alert(
            "TpwConfigReloadFailed",
            Severity.WARNING,
            "tpw_config_last_reload_successful == 0",
            v.reload_failed_for,
            "The configuration file was not loaded.",
            f"The exporter of {_WHERE} rejected its configuration file and keeps running with the previous one.",
            "tpw-measuring",
            "Five minutes, because a file is often corrected at once.",
            {"instance": "instance"},
            ("reload_failed_for",),
        )
        written, limit = "tpw_store_last_write_timestamp_seconds", number(v.books_not_saved_seconds)
        yield Alert(
            "TpwBooksNotSaved",
            Severity.WARNING,
            promql(f"""
                {snapshot} - on ({self._node}) group_left () max by ({self._node}) ({written}) > {limit}
                or
                {snapshot} - on ({self._node}) group_left () max by ({self._node}) (process_start_time_seconds) > {limit}
                unless on ({self._node}) {written}
                unless on ({self._node}) tpw_gpu_info{{vendor="simulated"}}
            """),
            v.books_not_saved_for,
            "The exporter cannot save its books.",
            f"The exporter of {_WHERE} "
            f"{{{{ if {self._asked(written + '{$here, instance=$instance}')} }}}}"
            "last saved its books {{ $value | humanizeDuration }} ago. A restart loses what was counted since then."
            "{{ else }}has run for {{ $value | humanizeDuration }} and never saved its books: it cannot write to its state "
            "directory. Its counters start at zero with every restart.{{ end }}",
            "tpw-measuring",
            "Books are written every few seconds; ten minutes mean a full or read-only disk, or missing rights.",
            {"instance": "instance"},
            ("books_not_saved_seconds", "books_not_saved_for"),
        )

    # ------------------------------------------------------------------------------------------------------ hardware

    def hardware(self) -> Iterable[Alert]:
        """Lost and throttled GPUs."""
        v = self._values
        yield Alert(
            "TpwGpuLost",
            Severity.CRITICAL,
            promql(f"""
                tpw_gpu_up == 0
                unless on (uuid) tpw_gpu_up{{uuid!~"{v.local_uuids}"}} == 1
                {_indent(self._except_gpus("tpw:removed_gpu:info"), 16)}
            """),
            v.gpu_lost_for,
            "A GPU does not respond.",
            f"{_GPU} has fallen off the bus or its driver does not respond. It still draws power, which is not metered.",
            "tpw-gpus",
            "The series of a lost GPU stays at 0 until the GPU is listed as removed, or responds on another node.",
            {"instance": "instance", "gpu": "gpu"},
            ("gpu_lost_for",),
        )
        yield Alert(
            "TpwGpuThrottled",
            Severity.WARNING,
            promql(f"""
                max by ({self._gpu}) (
                  rate(tpw_gpu_throttle_seconds_total{{reason=~"{v.throttle_reasons}"}}[15m])
                ) > {number(v.throttled_share)}
            """),
            v.throttled_for,
            "The hardware throttles a GPU.",
            f"{_GPU} was throttled because of heat or its power supply for {{{{ $value | humanizePercentage }}}} of the "
            "last 15 minutes: the same tokens take longer and cost more.",
            "tpw-gpus",
            "A software power cap is normal under load and does not count. A tenth of the time is more than a spike.",
            {"instance": "instance", "gpu": "gpu"},
            ("throttled_share", "throttled_for"),
        )

    # --------------------------------------------------------------------------------------------------------- waste

    def wasted(self) -> Iterable[Alert]:
        """GPUs that cost money and do no work."""
        v = self._values
        yield from self._idle()
        yield from self._parked()
        by = self._keys("currency")
        net = "cluster:tpw_gpu_state_net_cost:rate1d"
        worst = "topk(1, node:tpw_waste_cost_per_hour:rate1h{$here, currency=$currency} > 0)"
        yield Alert(
            "TpwWasteHigh",
            Severity.WARNING,
            promql(f"""
                sum by ({by}) ({net}{{state=~"parked|idle"}}) / (sum by ({by}) ({net}) > 0) > {number(v.waste_share)}
                and on ({by})
                  24 * cluster:tpw_waste_cost_per_hour:rate1d > {number(v.waste_floor_per_day)}
            """),
            v.waste_for,
            "Parked and idle GPUs cause much of the cost.",
            "{{ $value | humanizePercentage }} of what all GPUs cost in the last 24 hours was parked and idle "
            "time: "
            + _money(
                self._asked("24 * cluster:tpw_waste_cost_per_hour:rate1d{$here, currency=$currency}"), "MONEY a day."
            )
            + f" {{{{ range {self._asked(worst)} }}}}"
            'Most of it on {{ . | label "instance" }} in the last hour. {{ end }}'
            "Release nodes that stay idle, use fewer replicas, or plan the pauses (planned_off).",
            "tpw-overview",
            "A day includes the low load of the night, so the alert is about capacity and not about a moment.",
            {},
            ("waste_share", "waste_floor_per_day", "waste_for"),
        )

    def _escalated(self, state: str, base: str, share: str, money: float, hours: str) -> str:
        """The condition where the node's GPUs cost so much in the state in 24 hours; or, where nothing has a price, where a
        GPU was in the state so long ago already. ``base`` counts the GPUs for which ``share`` holds."""
        cost = f'node:tpw_gpu_state_net_cost:rate1d{{state="{state}"}}'
        limit = share.rpartition(" >= ")
        return promql(f"""
            {_indent(base, 12)}
            and on ({self._node}) 86400 * sum by ({self._node}, currency) ({cost}) > {number(money)}
            or
            {_indent(base, 12)}
            unless on ({self._node}) {cost}
            and on ({self._node}) {limit[0]} offset {hours} >= {limit[2]}
        """)

    def _cost_of(self, state: str, gpus: str) -> str:
        """What these GPUs of a node cost a day, and what all of the node cost in the state in 24 hours."""
        here = f'$here, instance=$instance, state="{state}"'
        rate = f"gpu:tpw_gpu_state_net_cost:rate5m{{{here}}} and on (gpu, uuid) {gpus}"
        so_far = f"86400 * sum by (currency) (node:tpw_gpu_state_net_cost:rate1d{{{here}}})"
        return _money(self._asked(f"86400 * sum by (currency) ({rate})"), "They cost MONEY a day.", _UNPRICED) + _money(
            self._asked(so_far), f" In the last 24 hours {state} time of this node cost MONEY."
        )

    def _listed(self, gpus: str) -> str:
        """The indices of GPUs."""
        return f'{{{{ range {self._asked(gpus)} | sortByLabel "gpu" }}}} {{{{ . | label "gpu" }}}}{{{{ end }}}}'

    def _idle(self) -> Iterable[Alert]:
        """GPUs of a node that nobody uses, as one alert."""
        v = self._values
        share = f'gpu:tpw_gpu_state_seconds:rate30m{{state="idle"}} >= {number(v.idle_share)}'
        base = promql(f"""
            count by ({self._node}) (
              {share}
              and on ({self._gpu}) last_over_time(tpw_gpu_up[5m]) == 1
              {_indent(self._except_gpus("tpw:spare_gpu:info"), 14)}
            )
        """)
        now = f"({share.replace('{', '{$here, instance=$instance, ')})"
        power = f"sum(avg_over_time(tpw_gpu_power_watts{{$here, instance=$instance}}[30m]) and on (gpu, uuid) {now})"
        owned = "timestamp(tpw_server_gpu{$here, instance=$instance})[1d:15m]"
        last = f"topk(1, max by (server) (max_over_time({owned}) and on (gpu, uuid) {now}))"
        text = (
            f"GPUs of {_WHERE} that nobody uses: {{{{ $value }}}} (index{self._listed(now)})"
            f"{{{{ range {self._asked(power)} }}}}, drawing"
            ' {{ . | value | printf "%.0f" }} W{{ end }}. '
            + self._cost_of("idle", now)
            + f" {{{{ range {self._asked(last)} }}}}"
            'Last owner: {{ . | label "server" }}, until {{ . | value | humanizeTimestamp }}.'
            "{{ else }}No server owned them in the last 24 hours.{{ end }} "
            "Use them, release them, or plan the pause (planned_off)."
        )
        costly = self._escalated("idle", base, share, v.idle_warning_money, v.idle_warning_for)
        for severity, expr, hold, knobs, why in (
            (
                Severity.INFO,
                base,
                v.idle_for,
                ("idle_share", "idle_for"),
                "By state, not utilisation, which some drivers latch or lack. 95 % of 30 minutes, for 30, is no rollout.",
            ),
            (
                Severity.WARNING,
                costly,
                v.idle_for,
                ("idle_share", "idle_for", "idle_warning_money", "idle_warning_for"),
                "By the money of 24 hours; without a price, a working day.",
            ),
        ):
            yield Alert(
                "TpwGpuIdle",
                severity,
                expr,
                hold,
                "GPUs of a node are not used.",
                text,
                "tpw-gpus",
                why,
                {"instance": "instance"},
                knobs,
            )

    def _parked(self) -> Iterable[Alert]:
        """GPUs of a node that one server holds without requests, as one alert."""
        v = self._values
        share = f'gpu:tpw_gpu_state_seconds:rate2h{{state="parked"}} >= {number(v.parked_share)}'
        base = promql(f"""
            count by ({self._keys("instance", "server")}) (
              last_over_time(tpw_server_gpu[5m])
              and on ({self._gpu}) {share}
              and on ({self._gpu}) last_over_time(tpw_gpu_up[5m]) == 1
              unless on (server) tpw:standby_server:info
            )
        """)
        now = (
            "(tpw_server_gpu{$here, instance=$instance, server=$server}"
            f" and on (gpu, uuid) {share.replace('{', '{$here, instance=$instance, ')})"
        )
        worked = '(model:tpw_server_tokens:rate5m{$here, server=$server, kind="total"} > 0)'
        last = f"topk(1, max_over_time(timestamp{worked}[1d:15m]))"
        text = (
            f"{{{{ $labels.server }}}} holds GPUs of {_WHERE} and gets no requests: {{{{ $value }}}}"
            f" (index{self._listed(now)}). "
            + self._cost_of("parked", now)
            + f" {{{{ range {self._asked(last)} }}}}Last tokens: {{{{ . | value | humanizeTimestamp }}}}."
            "{{ else }}It made no tokens in the last 24 hours.{{ end }} "
            "Use fewer replicas, scale to zero or let the engine sleep, or plan the pause (planned_off)."
        )
        costly = self._escalated("parked", base, share, v.parked_warning_money, v.parked_warning_for)
        for severity, expr, hold, knobs, why in (
            (
                Severity.INFO,
                base,
                v.parked_for,
                ("parked_share", "parked_for"),
                "A loaded model is often intended, so this is for information. Batch clusters act after one or two hours.",
            ),
            (
                Severity.WARNING,
                costly,
                v.parked_for,
                ("parked_share", "parked_for", "parked_warning_money", "parked_warning_for"),
                "By the money of 24 hours; without a price, a working day without a request.",
            ),
        ):
            yield Alert(
                "TpwGpuParked",
                severity,
                expr,
                hold,
                "A server holds GPUs and gets no requests.",
                text,
                "tpw-gpus",
                why,
                {"instance": "instance"},
                knobs,
            )

    # ---------------------------------------------------------------------------------------------------- efficiency

    def efficiency(self) -> Iterable[Alert]:
        """More energy for the same work."""
        v = self._values
        hourly = 'model:tpw_tokens_per_active_joule:ratio_rate1h{kind="output"}'
        floor = f'model:tpw_server_tokens:rate1h{{kind="output"}} * 3600 > {number(v.tokens_floor_per_hour)}'
        yield Alert(
            "TpwUnderBatched",
            Severity.INFO,
            promql(f"""
                {hourly} < {number(v.under_batched_ratio)} * model:tpw_tokens_per_active_joule:best7d{{kind="output"}}
                and on ({self._model})
                  model:tpw_active_energy_share:ratio_rate1h > {number(v.under_batched_active_share)}
                unless on ({self._model}) model:tpw_server_requests_waiting:avg5m > 0
            """),
            v.under_batched_for,
            "A server processes too few requests at once.",
            f'{_MODEL} generates {{{{ $value | printf "%.3g" }}}} output tokens per active joule, less than half of '
            "its best of the week, and no request waits: fewer replicas could serve the same load.",
            "tpw-models",
            "Half of its own 95th percentile: batching changes tokens per joule by more than that. Never a page.",
            {"server": "server", "model": "model"},
            ("under_batched_ratio", "under_batched_active_share", "under_batched_for"),
        )
        load = promql("""
            (
              model:tpw_server_tokens:rate1h{kind="output"}
              / (model:tpw_server_tokens:baseline7d{kind="output"} > 0)
            )
        """)
        running = "model:tpw_server_requests_running"
        faster = promql(f"""
            (
              min by ({self._model}) (
                model:tpw_slo_latency_seconds:ratio_rate1h{{slo=~"tpot|e2e"}}
                / (model:tpw_slo_latency_seconds:baseline7d{{slo=~"tpot|e2e"}} > 0)
              )
              or on ({self._model})
              avg_over_time({running}:avg5m[1h]) / ({running}:baseline7d > 0)
            )
        """)
        yield Alert(
            "TpwEfficiencyRegressed",
            Severity.WARNING,
            promql(f"""
                {hourly} / (model:tpw_tokens_per_active_joule:baseline7d{{kind="output"}} > 0) < {number(v.regressed_ratio)}
                and on ({self._model}) {_indent(load, 16)} > {number(1 - v.regressed_load_band)}
                and on ({self._model}) {_indent(load, 16)} < {number(1 + v.regressed_load_band)}
                and on ({self._model}) {floor}
                and on ({self._model}) model:tpw_server_tokens:rate1h{{kind="output"}} offset 1d
                unless on ({self._model}) {_indent(faster, 16)} < {number(1 - v.regressed_load_band)}
            """),
            v.regressed_for,
            "Fewer tokens per joule than last week at the same load.",
            f"{_MODEL} generates {{{{ $value | humanizePercentage }}}} of the output tokens per joule of its last 7 days, "
            "at about the same token rate, and requests are not answered faster for it. Check for a new engine version, a "
            "changed model, throttling or longer prompts.",
            "tpw-models",
            "A fifth is a common threshold. Ratio of sums, baseline without the last hour, only at the same load. Fewer "
            "joules for later answers are a choice: nobody is alerted where latency fell by as much as load may differ. "
            "Latency is that of the engine where `slo` is set; else the requests running, which at the same rate are fewer "
            "where each is faster (Little's law).",
            {"server": "server", "model": "model"},
            ("regressed_ratio", "regressed_load_band", "regressed_for", "tokens_floor_per_hour"),
        )

    # --------------------------------------------------------------------------------------------------------- money

    def money(self) -> Iterable[Alert]:
        """More expensive than before, than the reference, than planned."""
        v = self._values
        price = "cluster:tpw_electricity_price_per_kwh:max"
        floor = f'model:tpw_server_tokens:rate1h{{kind="output"}} * 3600 > {number(v.tokens_floor_per_hour)}'
        output = 'kind="output", scope="full"'
        selector = f"{{{output}}}"
        yield Alert(
            "TpwCostPerTokenHigh",
            Severity.WARNING,
            promql(f"""
                model:tpw_cost_per_million_tokens:ratio_rate1h{selector}
                / (model:tpw_cost_per_million_tokens:baseline7d{selector} > 0) > {number(v.cost_per_token_ratio)}
                and on ({self._model}) {floor}
                and on ({self._model}) model:tpw_server_tokens:rate1h{{kind="output"}} offset 1d
                unless on ({self._keys("currency")})
                  {price} > {number(v.cost_per_token_price_ratio)} * (avg_over_time({price}[7d]) > 0)
                unless on ({self._keys()}) {self._late("1h", *v.labels)}
            """),
            v.cost_per_token_for,
            "Tokens cost more than last week.",
            f"A million output tokens of {_MODEL} cost "
            + _money(
                self._asked(f"model:tpw_cost_per_million_tokens:ratio_rate1h{{{_OF_MODEL}, {output}}}"),
                "MONEY",
            )
            + ", {{ $value | humanizePercentage }} of the mean of the last 7 days, and the electricity price is not the "
            "cause.",
            "tpw-money",
            "Fixed hardware cost makes cost per token depend on load: below the minimum of tokens it is noise. An "
            "expensive hour of electricity has its own alert.",
            {"server": "server", "model": "model"},
            ("cost_per_token_ratio", "cost_per_token_price_ratio", "cost_per_token_for", "tokens_floor_per_hour"),
        )
        by = self._keys(*LEVELS["model"], "currency")
        yield Alert(
            "TpwCostAboveReference",
            Severity.INFO,
            promql(f"""
                sum by ({by}) (model:tpw_server_cost:rate1d{{scope="full"}})
                / on ({by}) group_right ()
                (model:tpw_server_reference_cost:rate1d > 0) > {number(v.above_reference_ratio)}
                unless on ({self._keys()}) {self._late("1d", *v.labels)}
            """),
            v.above_reference_for,
            "The reference would have been cheaper.",
            f"{_MODEL} cost {{{{ $value | humanizePercentage }}}} of what {{{{ $labels.reference }}}} would have charged "
            "for the work of the last 24 hours. "
            + _money(
                self._asked(
                    f'86400 * (sum by (currency) (model:tpw_server_cost:rate1d{{{_OF_MODEL}, scope="full"}})'
                    f" - sum by (currency) (model:tpw_server_reference_cost:rate1d{{{_OF_MODEL}, reference=$reference}}))"
                    f" / on () group_left () {_KNOWN}"
                ),
                "The difference is MONEY a day.",
            ),
            "tpw-money",
            "For planning, not an incident: the window is a day, held for six hours.",
            {"server": "server", "model": "model", "reference": "reference"},
            ("above_reference_ratio", "above_reference_for"),
        )
        month = "86400 * scalar(days_in_month())"
        budget = "sum by (currency) (tpw:budget_per_month:money)"
        yield Alert(
            "TpwBudgetBurn",
            Severity.WARNING,
            promql(f"""
                {month} * sum by (currency) (cluster:tpw_cost:rate30m{{scope="booked"}})
                / ({budget} > 0) > {number(v.budget_burn_ratio)}
                and on (currency)
                {month} * sum by (currency) (cluster:tpw_cost:rate6h{{scope="booked"}})
                / ({budget} > 0) > {number(v.budget_burn_ratio)}
                unless on () {self._late("30m")}
            """),
            None,
            "Spending is far above the pace of the monthly budget.",
            "At the pace of the last 30 minutes the month costs {{ $value | humanizePercentage }} of its budget: "
            + _money(
                self._asked('86400 * sum by (currency) (cluster:tpw_cost:rate30m{scope="booked", currency=$currency})'),
                "MONEY",
            )
            + " a day. The last 6 hours were above the limit as well.",
            "tpw-money",
            "Two windows, as in burn-rate alerts. Twice the even pace: fixed hardware cost does not reach higher factors.",
            {},
            ("budget_burn_ratio",),
        )
        budgets = self._keys("budget", "period", "currency")
        yield Alert(
            "TpwBudgetForecast",
            Severity.WARNING,
            promql(f"""
                (
                  sum by ({budgets}) (tpw_budget_projected) / (max by ({budgets}) (tpw_budget_amount) > 0)
                  or
                  sum by (currency) (tpw_period_cost_forecast{{period="month"}}) / ({budget} > 0)
                ) > {number(v.budget_forecast_ratio)}
            """),
            v.budget_forecast_for,
            "At this pace a budget will be exceeded.",
            "At the pace of the last 7 days {{ with $labels.budget }}the budget {{ . }} for a {{ $labels.period }}"
            "{{ else }}the budget of the month{{ end }} comes to {{ $value | humanizePercentage }} of its amount."
            + _money(
                self._asked(
                    '86400 * sum by (currency) (cluster:tpw_cost:rate1d{scope="booked", currency=$currency})'
                    " / on () group_left () max(cluster:tpw_known:ratio_rate1d)"
                ),
                " All GPUs cost MONEY a day.",
            ),
            "tpw-money",
            "What the books hold of the period, and the mean of a week for the rest. Needs a day of data. A budget is of "
            "all exporters that have it.",
            {},
            ("budget_forecast_ratio", "budget_forecast_for"),
        )
        spend = 'cluster:tpw_cost:rate1d{scope="booked"}'
        week = 'avg_over_time(cluster:tpw_cost:rate1h{scope="booked"}[7d] offset 1d)'
        yield Alert(
            "TpwSpendChanged",
            Severity.INFO,
            promql(f"""
                {spend} / ({week} > 0) > {number(v.spend_changed_ratio)}
                and on ({self._keys("currency")}) cluster:tpw_cost:rate1h{{scope="booked"}} offset 8d
                unless on ({self._keys()}) {self._late("1d", *v.labels)}
            """),
            v.spend_changed_for,
            "Daily cost is above that of the previous week.",
            "The last 24 hours cost {{ $value | humanizePercentage }} of the daily mean of the previous week: "
            + _money(self._asked('86400 * cluster:tpw_cost:rate1d{$here, scope="booked", currency=$currency}'), "MONEY")
            + " a day.",
            "tpw-money",
            "A fifth is common in cost monitoring. Needs eight days of data.",
            {},
            ("spend_changed_ratio", "spend_changed_for"),
        )
        daily = 'model:tpw_cost_per_million_tokens:ratio_rate1d{kind="output", scope="full"}'
        limit = "tpw:budget_per_million_tokens:money"
        yield Alert(
            "TpwCostPerTokenOverBudget",
            Severity.WARNING,
            promql(f"""
                (
                  {daily} / on (server, currency) group_left () (max by (server, currency) ({limit}{{server!=""}}) > 0)
                  or
                  ({daily} unless on (server, currency) {limit}{{server!=""}})
                  / on (currency) group_left () (max by (currency) ({limit}{{server=""}}) > 0)
                ) > {number(v.over_budget_ratio)}
                and on ({self._model})
                  model:tpw_server_tokens:rate1d{{kind="output"}} * 3600 > {number(v.tokens_floor_per_hour)}
                unless on ({self._keys()}) {self._late("1d", *v.labels)}
            """),
            v.over_budget_for,
            "Tokens cost more than their budget.",
            f"A million output tokens of {_MODEL} cost "
            + _money(
                self._asked(
                    f"model:tpw_cost_per_million_tokens:ratio_rate1d{{{_OF_MODEL}, {output}, currency=$currency}}"
                ),
                "MONEY",
            )
            + " over the last 24 hours, {{ $value | humanizePercentage }} of the budget. "
            + _money(
                self._asked(
                    f'86400 * model:tpw_server_cost:rate1d{{{_OF_MODEL}, scope="full", currency=$currency}}'
                    f" / on () group_left () {_KNOWN}"
                ),
                "In total: MONEY a day.",
            ),
            "tpw-money",
            "A configured limit against a whole day, nights and parked hours included.",
            {"server": "server", "model": "model"},
            ("over_budget_ratio", "over_budget_for", "tokens_floor_per_hour"),
        )
        keys = self._keys("currency")
        usual = f"(avg_over_time({price}[7d]) > 0)"
        yield Alert(
            "TpwPriceHigh",
            Severity.INFO,
            promql(f"""
                (
                  {price} / {usual} > {number(v.price_high_ratio)}
                  or
                  max by ({keys}) (tpw_electricity_price_next_per_kwh) / {usual} > {number(v.price_high_ratio)}
                  and on ({self._keys()})
                    min by ({self._keys()}) (tpw_electricity_price_next_change_timestamp_seconds) - time()
                    <= {number(v.price_high_ahead_seconds)}
                )
                and on ({keys}) {price} offset 1d
            """),
            None,
            "Electricity is expensive now or within the hour.",
            'A kWh costs {{ $value | printf "%.1f" }} times its mean of the last 7 days. Deferring work saves money.',
            "tpw-money",
            "Twice the mean of the week, an hour ahead, leaves time to shift load. Never fires on a flat tariff or on the "
            "first day.",
            {},
            ("price_high_ratio", "price_high_ahead_seconds"),
        )
        yield Alert(
            "TpwDemandPeakForming",
            Severity.WARNING,
            promql(f"""
                max by ({self._node}) (tpw_demand_interval_watts)
                / (max by ({self._node}) (tpw_demand_peak_watts) > 0) > {number(v.demand_peak_share)}
                and on () minute() % {v.demand_interval_minutes} >= {v.demand_interval_minutes - v.demand_last_minutes}
                and on ({self._node})
                  max by ({self._node}) (tpw_demand_peak_watts)
                  >= max by ({self._node}) (last_over_time(tpw_demand_peak_watts[1h] offset 1d))
            """),
            v.demand_for,
            "This demand interval may set the monthly peak.",
            f"The current demand interval of {_WHERE} is at {{{{ $value | humanizePercentage }}}} of the monthly "
            "peak. Reduce the load for the next minutes to avoid a higher demand charge.",
            "tpw-money",
            "Only in the last third of an interval is a peak both likely and avoidable. Not on the first day of a billing "
            "month, when every interval is a peak.",
            {"instance": "instance"},
            ("demand_peak_share", "demand_interval_minutes", "demand_last_minutes", "demand_for"),
        )


def _indent(text: str, width: int) -> str:
    return text.replace("\n", "\n" + " " * width)
