"""docs/alerts.md: every alert, every recorded series and every value, from the code that makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from grafana.alerts import Alert, AlertGroup
from grafana.rules import LEVELS, Group, recorded
from grafana.values import Values, number

INTRODUCTION = """\
# Alerts and recorded series

Two files for Prometheus 2.42 or newer, checked and unit-tested with 2.42 and 3.5:

| file | what it is |
| --- | --- |
| [tpw-recording.rules.yaml](../deploy/prometheus/tpw-recording.rules.yaml) | what the dashboards and the alerts read |
| [tpw-alerts.rules.yaml](../deploy/prometheus/tpw-alerts.rules.yaml) | the alerts below |
| [tpw-parameters.rules.yaml](../deploy/prometheus/tpw-parameters.rules.yaml) | budgets and exceptions, yours to edit |
| [prometheusrule.yaml](../deploy/prometheus/prometheusrule.yaml) | the first two for the Prometheus Operator |
| [the Helm chart](../deploy/helm/tpw-exporter/values.yaml) | the same by `prometheusRule.enabled`, all else as values |
| [alertmanager.yaml](../deploy/alertmanager/alertmanager.yaml) | an example of routes and inhibitions |

Load the first three together:

```yaml
rule_files:
  - /etc/prometheus/rules/tpw-*.rules.yaml
```

Evaluate them where the exporters are scraped. Over the series of two Prometheus replicas side by side (a global view
without deduplication) every sum would be twice what it is.

Alerts on measuring come first, because a wrong number silences every alert after it. No alert needs a price to fire: the
money stands in its description where it is known. A critical alert wants somebody now, a warning is a ticket, an info is a
fact for a digest.
"""

PARAMETERS = """\
## Budgets and exceptions

What an alert cannot know is told to it as a series, in `tpw-parameters.rules.yaml` (or the chart's
`prometheusRule.parameters`); change it and reload Prometheus.

| series | what it does |
| --- | --- |
| `tpw:budget_per_month:money{currency}` | a month's budget; without it TpwBudgetBurn and TpwBudgetForecast are silent |
| `tpw:budget_per_million_tokens:money{currency}` | what a million output tokens may cost, with `server` those of one; \
without it TpwCostPerTokenOverBudget is silent |
| `tpw:spare_gpu:info{uuid}` | a GPU that is kept free on purpose, or is another program's: no TpwGpuIdle |
| `tpw:removed_gpu:info{uuid}` | a GPU that was taken out for good: no TpwGpuLost, and not counted as lost on the boards |
| `tpw:standby_server:info{server}` | a server that is kept warm on purpose: no TpwGpuParked |
| `tpw:cpu_server:info{server}` | a server that runs on the CPU on purpose: no TpwTokensWithoutEnergy |

For GPUs the label `instance` in place of `uuid` means all of that exporter, and both together one GPU there (where the UUID
is a place, `PCI-...`, that other nodes have too).
"""

VALUES = """\
## Thresholds, windows, addresses

All of them stand in one place, [grafana/values.py](../grafana/values.py). To change some, write them into a file and build
the rules, the boards and the manifests with it:

```console
$ cat my-values.yaml
waste_share: 0.25
idle_for: 2h
labels: [cluster, namespace, job]
$ python -m grafana.build --values my-values.yaml --out my-rules/ \
    --runbooks https://git.your.host/tpw-exporter/src/deploy/runbooks --grafana https://grafana.your.host
```

Addresses are yours to give. Without them an alert names its runbook by its path in this repository and its board by its
path in Grafana (`/d/tpw-gpus?var-instance=...`): text, and no link that leads nowhere.

`labels` are the labels that keep installations apart: every aggregation keeps them, and a label that no series has costs
nothing. `job` is a regular expression of the scrape job's name.

| value | default |
| --- | --- |
"""

RECORDED = """\
## Recorded series

Named `level:metric:operation`; every series also has the labels that keep installations apart. Joules per second are watts.
`kind` is `output` or `total` (tokens also `input`, `cached_input`), `boundary` is `gpu` or `facility`, `scope` is `full` or
`energy`. Money is in the unit of the label `currency`, per second unless the name says otherwise.

Numerators and denominators are summed apart and divided last, over all nodes of a server: tokens may be counted on one node
and joules metered on three. The ratios of a node split a server's tokens by where its joules went. The ratios of the
cluster include GPUs that nobody owns. Money is net: what was charged, less what negative prices paid back
(`tpw_gpu_state_cost` alone is the charge, by component).

Ratios over a server's joules are withheld where one of its GPUs was metered for less than 95 % of the window, and while an
exporter that meters some of them does not answer: others would go on counting its tokens.

A rank of a server that is metered on another node carries the model named in its exporter's configuration. Name the same
server and the same model on every node, or the ratios by model have the tokens in one row and the joules in another; the
ratios by server are right either way.

| series | labels |
| --- | --- |
"""


def alerts_page(alerting: Iterable[AlertGroup], recording: Iterable[Group], values: Values) -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    for group in alerting:
        parts.append(f"## {GROUPS[group.name]}\n")
        parts.append("| alert | severity | for | what it says | why this number |\n| --- | --- | --- | --- | --- |")
        parts.append("\n".join(_row(alert) for alert in group.alerts) + "\n")
    parts.append(PARAMETERS)
    rows = [f"| `{field.name}` | {_shown(getattr(values, field.name))} |" for field in dataclasses.fields(values)]
    parts.append(VALUES.rstrip("\n") + "\n" + "\n".join(rows) + "\n")
    parts.append(RECORDED.rstrip("\n") + "\n" + "\n".join(_series(recording, values)) + "\n")
    return "\n".join(parts)


GROUPS = {
    "tpw-measuring": "Is it measured",
    "tpw-gpus": "Is the hardware well",
    "tpw-wasted": "Is it wasted",
    "tpw-efficiency": "Does it make less of a joule",
    "tpw-money": "Is it dear",
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
