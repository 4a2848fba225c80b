"""docs/alerts.md: every alert, recorded series and value, generated from their code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from grafana.alerts import Alert, AlertGroup
from grafana.rules import LEVELS, Group, recorded
from grafana.values import Values, number

INTRODUCTION = """\
# Alerts and recorded series

This page lists every alert with its threshold, every recorded series, and every value that can be changed. The rules need
Prometheus 2.42 or newer; they are unit-tested with 2.42 and 3.5.

| file | content |
| --- | --- |
| [tpw-recording.rules.yaml](../deploy/prometheus/tpw-recording.rules.yaml) | recorded series |
| [tpw-alerts.rules.yaml](../deploy/prometheus/tpw-alerts.rules.yaml) | the alerts below |
| [tpw-parameters.rules.yaml](../deploy/prometheus/tpw-parameters.rules.yaml) | your budgets and exceptions, to be edited |
| [the Helm chart](../deploy/helm/tpw-exporter/values.yaml) | all three as a PrometheusRule, with `prometheusRule.enabled` |
| [alertmanager.yaml](../deploy/alertmanager/alertmanager.yaml) | an example of routes and inhibitions for Alertmanager |

Load the three rule files together:

```yaml
rule_files:
  - /etc/prometheus/rules/tpw-*.rules.yaml
```

For the Prometheus Operator, the Helm chart renders them as a PrometheusRule. To apply only the rules:

```console
helm template tpw-exporter deploy/helm/tpw-exporter --set prometheusRule.enabled=true \\
    --show-only templates/prometheusrule.yaml | kubectl apply --namespace=monitoring --filename=-
```

Evaluate the rules in the Prometheus that scrapes the exporters. In a global view over two replicas without deduplication,
every sum is twice its value.

Alerts on measuring come first, because wrong numbers also affect every other alert. Alerts on waste need no price: the
description adds the cost where it is known. `critical` requires action at once, `warning` is a ticket, `info` is for a
digest.
"""

PARAMETERS = """\
## Budgets and exceptions

Budgets and exceptions are series in `tpw-parameters.rules.yaml` (in the chart: `prometheusRule.parameters`). Change the
file and reload Prometheus.

| series | effect |
| --- | --- |
| `tpw:budget_per_month:money{currency}` | monthly budget; without it TpwBudgetBurn does not fire, and TpwBudgetForecast \
only for `budgets` of the exporters |
| `tpw:budget_per_million_tokens:money{currency}` | maximum cost of a million output tokens, with `server` for one \
server; without it TpwCostPerTokenOverBudget does not fire |
| `tpw:spare_gpu:info{uuid}` | a GPU that is kept free by intention or used by another program: no TpwGpuIdle |
| `tpw:removed_gpu:info{uuid}` | a GPU that was removed permanently: no TpwGpuLost, not lost on dashboards |
| `tpw:standby_server:info{server}` | a standby server: no TpwGpuParked |
| `tpw:cpu_server:info{server}` | a server that runs on the CPU by intention: no TpwTokensWithoutEnergy |

For GPUs, the label `instance` instead of `uuid` selects all GPUs of that exporter. Both labels together select one GPU of
one exporter, which is needed for UUIDs of slots (`PCI-...`) that other nodes have as well.

## Planned pauses

Nights without load are planned in the exporter's configuration, by time, by GPU, by server, or by a label of its pods:

```yaml
tariff: {timezone: Europe/Berlin}
planned_off:
  - {hours: "20:00-06:00", days: [mon-fri]}   # scaled to zero at night
  - {days: [sat, sun], servers: [chat]}
  - {labels: {tier: batch}}                   # needs discovery.kubernetes.labels: [tier]
```

What would be parked or idle in a pause is booked as state `planned_off`: it costs what it costs, and is no waste on the
page, in `top`, in reports, on dashboards and in alerts. Work in a pause stays `active`. While `tpw_server_planned_off` is
1, a server that does not answer causes no TpwSourceDown. A node that is switched off, with its exporter, is a matter of
Alertmanager: give the route of TpwExporterDown `mute_time_intervals`.
"""

VALUES = """\
## Thresholds, windows, addresses

All of them are defined in [grafana/values.py](../grafana/values.py). To change some, write them into a file and build the
rules and the dashboards with it:

```console
$ cat my-values.yaml
waste_share: 0.25
idle_for: 2h
labels: [cluster, namespace, job]
$ PYTHONPATH=exporter .venv/bin/python -m grafana.build --values my-values.yaml \
    --runbooks https://git.your.host/tpw-exporter/src/deploy/runbooks --grafana https://grafana.your.host
```

This writes into `deploy/` of the checkout, which the Helm chart, compose and Kustomize read. With `--out DIR` it writes
below another directory.

By default an alert links to its runbook on an exporter that is up (`http://INSTANCE/runbooks/TpwGpuIdle`), and names its
dashboard by the path in Grafana (`/d/tpw-gpus?var-instance=...`). Give `--grafana` to get links to dashboards, and
`--runbooks` where the exporters serve HTTPS or cannot be reached from a browser.

`labels` keep installations apart: every aggregation keeps them, and a label that no series has is harmless. `job` is a
regular expression for the name of the scrape job.

| value | default |
| --- | --- |
"""

RECORDED = """\
## Recorded series

Named `level:metric:operation`. Every series also has the labels that keep installations apart. Joules per second are watts.
`kind` is `output` or `total` (tokens also `input`, `cached_input`), `boundary` is `gpu` or `facility`, `scope` is `full` or
`energy`. Money is in the unit of the label `currency`, per second unless the name has another unit.

Numerators and denominators are summed separately over all nodes of a server and divided last: tokens may be counted on one
node and joules metered on three. The ratios of a node split the tokens of a server by its energy per node. The ratios of
the cluster include GPUs without an owner. Money is net: cost less credit for negative prices (`tpw_gpu_state_cost` alone is
the cost by component).

Ratios over the joules of a server are omitted where one of its GPUs was metered for less than 95 % of the window, and while
an exporter that meters some of its GPUs does not respond, because its tokens are still counted elsewhere.

A rank of a server on another node has the model from the configuration of the exporter there. Configure the same server and
model names on every node: otherwise the ratios by model have the tokens in one row and the joules in another. The ratios by
server are correct in both cases.

| series | labels |
| --- | --- |
"""


def alerts_page(alerting: Iterable[AlertGroup], recording: Iterable[Group], values: Values) -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    for group in alerting:
        parts.append(f"## {GROUPS[group.name]}\n")
        parts.append("| alert | severity | for | meaning | reason for the threshold |\n| --- | --- | --- | --- | --- |")
        parts.append("\n".join(_row(alert) for alert in group.alerts) + "\n")
    parts.append(PARAMETERS)
    rows = [f"| `{field.name}` | {_shown(getattr(values, field.name))} |" for field in dataclasses.fields(values)]
    parts.append(VALUES.rstrip("\n") + "\n" + "\n".join(rows) + "\n")
    parts.append(RECORDED.rstrip("\n") + "\n" + "\n".join(_series(recording, values)) + "\n")
    return "\n".join(parts)


GROUPS = {
    "tpw-measuring": "Measuring",
    "tpw-gpus": "Hardware",
    "tpw-wasted": "Waste",
    "tpw-efficiency": "Efficiency",
    "tpw-money": "Cost",
}


def _row(alert: Alert) -> str:
    name = f"[{alert.name}](../deploy/runbooks/{alert.name}.md)"
    return f"| {name} | {alert.severity} | {alert.hold or '0'} | {alert.summary} | {alert.why} |"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    if isinstance(value, str):
        return "`" + value.replace("|", "\\|") + "`"
    return number(float(str(value)))


def _series(recording: Iterable[Group], values: Values) -> Iterable[str]:
    labels = recorded(recording, values)
    order = list(LEVELS)
    for name in sorted(labels, key=lambda name: (order.index(name.split(":")[0]), name.split(":")[1], name)):
        shown = ", ".join(f"`{label}`" for label in sorted(labels[name] - set(values.labels)))
        yield f"| `{name}` | {shown or 'none'} |"
