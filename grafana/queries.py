"""PromQL that more than one panel needs.

Queries leave out the filters: :class:`grafana.dashboard.Dashboard` adds ``server=~"$server"`` and the like to every
selector that has the label. Variables hold what a counter needs and, as text, what a recorded series needs:

========  ==================  =============================================  ===========================
variable  as text             as value, for counters                         used as
========  ==================  =============================================  ===========================
kind      output, total       regular expression of the label ``kind``       ``kind=~"$kind"``
boundary  gpu, facility       the counter of joules                          ``$boundary``
========  ==================  =============================================  ===========================
"""

from __future__ import annotations

KIND = 'kind="${kind:text}"'
SCOPE = 'scope="${scope:text}"'
BOUNDARY = 'boundary="${boundary:text}"'
MONEY = 'currency="$currency"'
GPU = "cluster, job, instance, gpu, uuid"


def _by(by: str) -> str:
    return f" by ({by})" if by else ""


def hours(series: str, matchers: str = "", by: str = "", window: str = "$__range", offset: str = "") -> str:
    """Sum of the whole hours that ended in a window, of a series that is recorded once an hour."""
    return f"sum{_by(by)} (sum_over_time({series}:sum1h{{{matchers}}}[{window}]{offset}))"


OWN = 'state!="other"'
"""Time of GPUs for servers or for nobody: what other programs use is no cost of tokens."""


def fleet_cost(window: str = "", level: str = "cluster", by: str = "") -> str:
    """Cost of the GPUs of servers and of nobody, in the chosen scope; with a window the rate over it, else the sum of the
    time range. Absent where the scope is: full needs the costs of the GPUs."""

    def summed(series: str, matchers: str) -> str:
        if not window:
            return hours(f"{level}:{series}", f"{matchers}, {MONEY}", by)
        return f"sum{_by(by)} ({level}:{series}:rate{window}{{{matchers}, {MONEY}}})"

    net = summed("tpw_gpu_state_net_cost", OWN)
    beyond = summed("tpw_gpu_state_cost", f'{OWN}, component!~"$scope"')
    known = f"sum{_by(by)} ({level}:tpw_cost:rate{window}{{{SCOPE}, {MONEY}}})"
    known = known if window else hours(f"{level}:tpw_cost", f"{SCOPE}, {MONEY}", by)
    return f"({net} - ({beyond} or 0 * {net}) and {known})"


def tokens(by: str = "", kind: str = KIND) -> str:
    """Tokens of servers over the time range."""
    return hours("model:tpw_server_tokens", kind, by)


def server_cost(by: str = "", scope: str = SCOPE) -> str:
    """Cost of servers over the time range, less credit for negative prices."""
    return hours("model:tpw_server_cost", f"{scope}, {MONEY}", by)


def reference_cost(by: str = "") -> str:
    """What the same work would have cost at the chosen reference."""
    return hours("model:tpw_server_reference_cost", f'reference="$reference", {MONEY}', by)


def booked(state: str = "", level: str = "cluster", by: str = "", offset: str = "") -> str:
    """All costs of all GPUs over the time range, owned or not, less credit for negative prices. ``state`` is a regular
    expression; without it all time counts."""
    matchers = f'state=~"{state}", {MONEY}' if state else MONEY
    return hours(f"{level}:tpw_gpu_state_net_cost", matchers, by, offset=offset)


def gpu_cost_in(window: str, by: str = "", state: str = "") -> str:
    """All costs of GPUs over a window from their counters, less credit: for the GPUs of a few nodes.

    A cost has a component and a credit has none, so ``or`` puts both into one sum.
    """
    matchers = f'{MONEY}, state=~"{state}"'
    return (
        f"sum{_by(by)} (increase(tpw_gpu_state_cost_total{{{matchers}}}[{window}])"
        f" or -increase(tpw_gpu_state_credit_total{{{matchers}}}[{window}]))"
    )


def mean_of_known(expr: str, window: str) -> str:
    """An amount from a recorded rate, of the part of its window that has data instead of the whole."""
    return f"{expr} / on (cluster) group_left () max by (cluster) (cluster:tpw_known:ratio_rate{window})"


def period_cost(period: str) -> str:
    """All costs of the period so far, whatever the time range."""
    return f'sum(tpw_period_cost{{period="{period}", {MONEY}}})'


def state_code(by: str = GPU) -> str:
    """A GPU's state as a number: 5 planned_off, 4 other, 3 starting, 2 active, 1 parked, 0 idle, -1 lost. Absent where
    most of the last five minutes is unknown, as after a start of the exporter.

    See :data:`grafana.palette.STATE_CODES`.
    """
    active = f'sum by ({by}) (gpu:tpw_gpu_state_seconds:rate5m{{state="active"}} >= bool 0.5)'
    parked = f'sum by ({by}) (gpu:tpw_gpu_state_seconds:rate5m{{state="parked"}} > bool 0.5)'
    starting = f'sum by ({by}) (gpu:tpw_gpu_state_seconds:rate5m{{state="starting"}} > bool 0.5)'
    other = f'sum by ({by}) (gpu:tpw_gpu_state_seconds:rate5m{{state="other"}} > bool 0.5)'
    off = f'sum by ({by}) (gpu:tpw_gpu_state_seconds:rate5m{{state="planned_off"}} > bool 0.5)'
    lost = f"(max by ({by}) (tpw_gpu_up) == 0)"
    rare = f"3 * ({starting} or 0 * {active}) + 4 * ({other} or 0 * {active}) + 5 * ({off} or 0 * {active})"
    known = f"(sum by ({by}) (gpu:tpw_gpu_state_seconds:rate5m) > 0.9)"
    return f"(({lost} - 1) or clamp_max(2 * {active} + {parked} + {rare}, 5) and on ({by}) {known})"


def owner(by: str = GPU) -> str:
    """The owner of each GPU as the label ``server``: its name, or the number of servers that share the GPU."""
    owners = f"count by ({by}) (tpw_server_gpu)"
    several = (
        f'label_replace(count_values by ({by}) ("server", {owners} > 1), "server", "$1 servers", "server", "(.+)")'
    )
    return f"{several} or (max by ({by}, server) (tpw_server_gpu) and on ({by}) {owners} == 1)"


def gpus_by_state() -> str:
    """Mean number of GPUs by state over five minutes."""
    return "sum by (state) (gpu:tpw_gpu_state_seconds:rate5m)"


LOST = 'count(tpw_gpu_up == 0 unless on (uuid) tpw:removed_gpu:info{instance=""}) or 0 * count(tpw_gpu_up)'
TRUST = "min(cluster:tpw_trust:ratio)"


def gained(counter: str, by: str) -> str:
    """Increase of a counter over the range of the dashboard, its first value included.

    For counters that appear with the first event, which ``increase`` does not count. Where the exporter did not respond at
    the start of the range, its last value of the hour before is used.
    """
    before = f"last_over_time({counter}[1h] offset $__range) or 0 * {counter}"
    return f"sum by ({by}) ({counter} - ({before})) > 0"


def unpriced(window: str = "$__range") -> str:
    """Facility joules of a window that have no price, less those priced late in it; at least 0."""
    return f"clamp_min({hours('cluster:tpw_energy_unpriced_joules', window=window)}, 0)"


def sensor_error(by: str = GPU) -> str:
    """Mean of the power sensor over mean power by the energy counter, less one, over an hour that has data without a gap.

    Hours in which the GPU was lost are left out: they have few sensor samples and late joules.
    """
    return (
        f"(avg by ({by}) (avg_over_time(tpw_gpu_power_watts[1h]))"
        f" / (sum by ({by}) (rate(tpw_gpu_energy_joules_total[1h])) > 0) - 1)"
        f" unless on ({by}) increase(tpw_gpu_unmetered_seconds_total[1h]) > 0"
        f" unless on ({by}) min_over_time(tpw_gpu_up[1h]) == 0"
        " and on (cluster, job, instance) node:tpw_known:ratio_rate1h > 0.99"
    )
