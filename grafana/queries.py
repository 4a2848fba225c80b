"""PromQL that more than one panel needs.

Queries leave out the filters: :class:`grafana.dashboard.Dashboard` adds ``server=~"$server"`` and the like to every
selector that has the label. Three variables hold what a counter needs and, as text, what a recorded series needs:

========  ==================  =============================================  ===========================
variable  as text             as value, for counters                         used as
========  ==================  =============================================  ===========================
kind      output, total       regular expression of the label ``kind``       ``kind=~"$kind"``
scope     full, energy        regular expression of ``component``            ``component=~"$scope"``
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


def tokens_in(window: str, by: str = "", kind: str = 'kind=~"$kind"') -> str:
    """Tokens over a window."""
    return f"sum{_by(by)} (increase(tpw_server_tokens_total{{{kind}}}[{window}]))"


def joules_in(window: str, by: str = "", state: str = "") -> str:
    """Joules of servers over a window, inside the chosen boundary."""
    matcher = f'state="{state}"' if state else ""
    return f"sum{_by(by)} (increase($boundary{{{matcher}}}[{window}]))"


def server_cost_in(window: str, by: str = "", component: str = 'component=~"$scope"', state: str = "") -> str:
    """Cost of servers over a window, less credit for negative prices."""
    return _net("tpw_server", window, by, component, f'state="{state}"' if state else "")


def gpu_cost_in(
    window: str, by: str = "", component: str = 'component=~"$scope"', state: str = "", offset: str = ""
) -> str:
    """Cost of all GPUs over a window, owned or not, less credit for negative prices.

    ``state`` is a regular expression; without it all time counts.
    """
    return _net("tpw_gpu_state", window, by, component, f'state=~"{state}"' if state else "", offset)


def period_cost(period: str, component: str = 'component=~"$scope"') -> str:
    """Cost of the period so far, whatever the time range."""
    matchers = ", ".join(part for part in (f'period="{period}"', component, MONEY) if part)
    return f"sum(tpw_period_cost{{{matchers}}})"


def _net(metric: str, window: str, by: str, component: str, state: str, offset: str = "") -> str:
    """Cost less credit. A cost has a component and a credit has none, so ``or`` puts both into one sum."""
    cost = ", ".join(part for part in (component, MONEY, state) if part)
    credit = ", ".join(part for part in (MONEY, state) if part)
    return (
        f"sum{_by(by)} (increase({metric}_cost_total{{{cost}}}[{window}]{offset})"
        f" or -increase({metric}_credit_total{{{credit}}}[{window}]{offset}))"
    )


def mean_of_known(expr: str, window: str) -> str:
    """An amount from a recorded rate, of the part of its window that has data instead of the whole."""
    return f"{expr} / on (cluster) group_left () max by (cluster) (cluster:tpw_known:ratio_rate{window})"


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


def unpriced_in(window: str) -> str:
    """Facility joules of a window that have no price, less those priced late in it; at least 0."""
    unpriced, late = "tpw_energy_unpriced_joules_total", "tpw_energy_late_priced_joules_total"
    return f"clamp_min(sum(increase({unpriced}[{window}])) - sum(increase({late}[{window}])), 0)"


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
