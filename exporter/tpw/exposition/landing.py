"""The landing page: one self-contained HTML document that shows a status.

Rendered on the server, so it works without JavaScript. With it, the page fetches its main part again at every tick and
updates the nodes that differ. The Content-Security-Policy allows only the page's own style and script. Every external text
(names of GPUs, servers, models, messages) is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape

from tpw.exposition import figures
from tpw.exposition.catalogue import Metric
from tpw.exposition.comparing import published_words
from tpw.exposition.figures import UNKNOWN
from tpw.exposition.landing_assets import ICON, SCRIPT, STYLE
from tpw.exposition.reference import sections
from tpw.exposition.status import GpuStatus, ModelStatus, ServerStatus, SourceEntry, Status
from tpw.ledger.window import OUTPUT
from tpw.model import Boundary, Scope

_MILLION = 1e6

_STATE_TITLES = {
    "active": "processing requests",
    "parked": "a model is loaded, no requests",
    "starting": "the server loads its model",
    "other": "used by a process that is no known server",
    "idle": "nobody uses this GPU",
    "planned_off": "free or without requests in a planned pause",
    "lost": "the GPU does not answer",
    "down": "the server answered before and does not answer now",
    "waiting": "the server has not answered yet",
    "unread": "the server has no metrics page here; only its GPUs are known",
}

_PERIODS = {"day": "today", "week": "this week", "month": "this month"}

_HOST_RULES = {
    "node_minus_gpus": "node meter minus GPUs",
    "components": "CPU and memory meters",
    "in_gpus": "included in the GPU meters",
    "none": "not counted in facility energy",
}

_SHARED_BY = {
    "sole": "only one server is working",
    "sm": "by SM utilization of each process",
    "even": "evenly: the driver does not report use by process",
    "gpm": "by instance, weighted by how busy each is",
    "slices": "by instance, weighted by compute slices",
}


def _digest(text: str) -> str:
    import hashlib  # maps OpenSSL

    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def content_security_policy() -> str:
    """Allows the page's own style and script, requests to this server, and nothing else."""
    return (
        f"default-src 'none'; style-src 'sha256-{_digest(STYLE)}'; script-src 'sha256-{_digest(SCRIPT)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def page(status: Status, telemetry_path: str, host: str = "") -> bytes:
    """The whole document. ``host`` is the name of the machine, for the title."""
    interval = max(1.0, min(10.0, status["interval_seconds"]))
    return document(
        f"tpw-exporter on {host}" if host else "tpw-exporter",
        f'<main id="live" data-every="{interval:g}">{main(status, host)}</main>',
        f'<a href="{escape(telemetry_path.lstrip("/"))}">metrics</a> '
        '<a href="api/v1/status">status as JSON</a> '
        '<a href="api/v1/prices?hours=1">prices as JSON</a> '
        '<a href="api/v1/advice?view=html">advice</a> '
        '<a href="docs/metrics">metric reference</a> '
        '<a href="runbooks/">runbooks</a> '
        f"<span>tpw-exporter {escape(status['version'])}</span>",
        script=True,
    )


@cache
def reference() -> bytes:
    """The metric reference as a page."""
    tables = "".join(
        _table(title, ("metric", "meaning"), [(_named(metric), _meaning(metric)) for metric in metrics])
        for title, metrics in sections()
    )
    head = (
        "<header><h1>Metrics</h1></header>"
        "<p class=note>A missing series means unknown; 0 means observed zero. A counter never decreases.</p>"
    )
    return document("tpw-exporter: metrics", f"<main>{head}{tables}</main>", '<a href="../">status page</a>')


def _named(metric: Metric) -> _Cell:
    facts = " \u00b7 ".join(part for part in (str(metric.kind), ", ".join(metric.labels)) if part)
    return _Cell(f"<code>{metric.name}</code><small>{escape(facts)}</small>", "lead name")


def _meaning(metric: Metric) -> _Cell:
    absent = f"<br>Absent if: {escape(metric.absent)}" if metric.absent else ""
    return _Cell(f"<span class=hint>{escape(metric.help)}</span>{absent}", "wrap")


def document(title: str, body: str, foot: str, *, script: bool = False) -> bytes:
    """A whole document in the style of the page; ``body`` and ``foot`` are HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:image/svg+xml,{ICON}"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body>{body}<footer>{foot}</footer>{f'<script>{SCRIPT}</script>' if script else ''}</body></html>"
    ).encode("utf-8", "replace")


def main(status: Status, host: str = "") -> str:
    """The part that is refreshed: everything above the footer."""
    return "".join(
        (
            _header(status, host),
            _headline(status),
            _facility(status),
            _tools(status),
            _servers(status),
            _gpus(status),
            _periods(status),
            _sources(status),
            _notes(status),
        )
    )


def _header(status: Status, host: str) -> str:
    down = [source["name"] for source in status["sources"] if source["tried"] and not source["up"]]
    runbook = ""
    if not status["config_reload_successful"]:
        health, summary = "warn", "configuration reload failed: an older configuration is in force"
        runbook = "TpwConfigReloadFailed"
    elif down:
        health, summary = "warn", f"{len(down)} of {len(status['sources'])} sources cannot be read"
    else:
        health, summary = ("good", "all sources are up") if status["sources"] else ("", "no sources yet")
    on = f" <small>on {escape(host)}</small>" if host else ""
    return (
        f"<header><h1>Tokens per watt{on}</h1>"
        f'<p class="health {health}" id="health"><i></i><span>{escape(summary)}{_runbook(runbook)}</span>'
        f"<time>{figures.clock(status['at'])}</time></p></header>"
    )


# ------------------------------------------------------------------------------------------------------------- headline


def _tile(label: str, value: str, unit: str, note: str, *, curve: bool = False, runbook: str = "") -> str:
    """A figure. The script draws its last minutes (``curve``)."""
    kind, unit = ("tile none", "") if value == UNKNOWN else ("tile", unit)
    return (
        f"<div class='{kind}'{' data-curve' if curve else ''}><dt>{escape(label)}</dt>"
        f"<dd><b>{escape(value)}</b> <small>{escape(unit)}</small></dd>"
        f"<dd class=note>{escape(note)}{_runbook(runbook)}</dd></div>"
    )


def _runbook(name: str) -> str:
    """A link to a runbook, after a dot; "" without one."""
    return f' \u00b7 <a href="runbooks/{name}">what to do</a>' if name else ""


def _headline(status: Status) -> str:
    head, currency = status["headline"], status["currency"] or ""
    rate, total = head["tokens_per_second"], head["all_tokens_per_second"]
    up = sum(gpu["up"] for gpu in status["gpus"])
    cost, energy_cost = head["cost_per_token"], head["energy_cost_per_token"]
    shown = energy_cost if cost is None else cost
    value, unit = _split(figures.watts(head["power_watts"]))
    tiles = (
        _tile(
            "Output tokens",
            figures.figure(rate),
            "tok/s",
            f"{figures.figure(total)} tok/s including input" if total is not None else "no server reports tokens",
            curve=True,
        ),
        _tile(
            "Power",
            value,
            unit,
            f"{up} of {len(status['gpus'])} GPUs, now" if status["gpus"] else "no GPU found",
            curve=True,
        ),
        _tile(
            "Tokens per watt",
            figures.figure(head["tokens_per_watt"]),
            "tok/s per W",
            "output tokens per joule, parked time included" if head["tokens_per_watt"] is not None else "no data yet",
            curve=True,
        ),
        _tile(
            "Cost per 1M output tokens",
            figures.figure(None if shown is None else shown * _MILLION),
            currency if shown is not None else "",
            _cost_note(status, cost, energy_cost),
        ),
        _price_tile(status),
        _waste_tile(status),
    )
    return f"<dl class=tiles>{''.join(tiles)}</dl>"


def _split(text: str) -> tuple[str, str]:
    value, _, unit = text.partition(" ")
    return value, unit


def _cost_note(status: Status, cost: float | None, energy_cost: float | None) -> str:
    if status["currency"] is None:
        return "no tariff configured: add tariff: to the configuration"
    if cost is None:
        if energy_cost is None:
            return "no priced tokens in the window"
        return "electricity only; add costs: with hardware or gpu_hour"
    if energy_cost is None:
        return "electricity has no price of its own"
    return f"of which electricity {figures.money(energy_cost, status['currency'], scale=_MILLION)}"


def _price_tile(status: Status) -> str:
    price, currency = status["price"], status["currency"] or ""
    if price is None:
        return _tile("Electricity", UNKNOWN, "", "no tariff configured: add tariff: with a price per kWh")
    note = "no price change known"
    if price["next_at"] is not None and price["next_per_kwh"] is not None:
        change = figures.duration(price["next_at"] - status["at"])
        note = f"then {figures.money(price['next_per_kwh'], currency)} in {change} ({figures.minute(price['next_at'])})"
    if price["state"] != "final":
        note = f"{price['state']} price; {note}"
    runbook = "TpwPriceNotLive" if price["state"] in ("fallback", "missing") else ""
    return _tile("Electricity", figures.figure(price["per_kwh"]), f"{currency} per kWh", note, runbook=runbook)


def _waste_tile(status: Status) -> str:
    head, currency = status["headline"], status["currency"] or ""
    gpus = head["wasted_gpus"]
    wasted = f"{gpus} GPU{'' if gpus == 1 else 's'} parked or idle"
    if not status["gpus"]:
        return _tile("Wasted", UNKNOWN, "", "no GPU found")
    if not currency:
        value, unit = _split(figures.watts(head["wasted_watts"] if gpus else 0.0))
        return _tile("Wasted", value, unit, wasted)
    cost = head["wasted_cost_per_hour"]
    note = f"{wasted}, {figures.watts(head['wasted_watts'])}" if gpus else "all GPUs are working"
    return _tile(
        "Wasted per hour",
        figures.figure(cost),
        currency,
        note if cost is not None else f"measuring; {note}",
        runbook="TpwWasteHigh" if gpus else "",
    )


def _facility(status: Status) -> str:
    """What the facility adds to the energy of the GPUs: PUE, host, carbon and demand."""
    meters = ", ".join(f"{host['component']} {figures.watts(host['power_watts'])}" for host in status["hosts"])
    facts = [
        ("PUE", figures.figure(status["pue"]), ""),
        ("Host", meters or UNKNOWN, _HOST_RULES.get(status["host_share_method"], status["host_share_method"])),
    ]
    carbon, demand, currency = status["carbon"], status["demand"], status["currency"] or ""
    if carbon is not None:
        basis = carbon["basis"].replace("_", " ")
        facts.append(("Grid carbon", f"{figures.figure(carbon['grams_per_kwh'])} g CO\u2082e per kWh", basis))
    if demand is not None:
        forming = figures.watts(demand["interval_watts"])
        peak = f"peak this month {figures.watts(demand['peak_watts'])}" if demand["peak_watts"] else "no peak yet"
        price = f"{figures.money(demand['price_per_kw_month'], currency)} per kW"
        facts.append(("Demand interval", forming, f"{peak}, {price}"))
    items = "".join(
        f"<div><dt>{escape(label)}</dt><dd><b>{escape(value)}</b> <span class=note>{escape(note)}</span></dd></div>"
        for label, value, note in facts
    )
    return f"<dl class=facts>{items}</dl>"


# --------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class _Cell:
    """One cell: HTML, classes, tooltip. It repeats the name of its column for narrow screens, where the head is hidden."""

    html: str
    kind: str = ""
    title: str = ""
    curve: bool = False
    """Whether the script draws its last minutes."""

    def under(self, head: str) -> str:
        """The HTML of the cell in the column ``head``."""
        kind = f' class="{self.kind}"' if self.kind else ""
        title = f' title="{escape(self.title)}"' if self.title else ""
        return f'<td{kind}{title} data-head="{escape(head)}"{" data-curve" if self.curve else ""}>{self.html}</td>'


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that are sorted, filtered and shown together."""

    rows: Sequence[tuple[_Cell, ...]]
    namespaces: Iterable[str] = ()


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[_Cell]]) -> str:
    """A table with at least one row. A column is aligned like its first cell."""
    return _arranged(title, heads, (_Group([tuple(row) for row in rows]),))


def _arranged(title: str, heads: Sequence[str], groups: Sequence[_Group], name: str = "") -> str:
    """A table in groups; ``name`` is what the script knows it by, and without one it is not sorted."""
    kinds = [cell.kind for cell in groups[0].rows[0]]
    columns = "".join(
        f"<th{f' class={kind}' if kind in ('n', 'power') else ''}>{escape(head)}</th>"
        for head, kind in zip(heads, kinds, strict=True)
    )
    known = f' id="{name}"' if name else ""
    return (
        f"<section><h2>{title}</h2><div class=scroll><table{known}><thead><tr>{columns}</tr></thead>"
        f"{''.join(_body(heads, group) for group in groups)}</table></div></section>"
    )


def _body(heads: Sequence[str], group: _Group) -> str:
    spaces = " ".join(sorted(group.namespaces))
    rows = "".join(
        f"<tr>{''.join(cell.under(head) for head, cell in zip(heads, row, strict=True))}</tr>" for row in group.rows
    )
    known = f' data-namespaces="{escape(spaces)}"' if spaces else ""
    return f"<tbody{known}>{rows}</tbody>"


def _state(state: str, runbook: str = "") -> _Cell:
    shown = f'<a href="runbooks/{runbook}">{state}</a>' if runbook else state
    return _Cell(f"<i></i>{shown}", f"state {state.replace(' ', '-')}", _STATE_TITLES.get(state, ""))


def _number(text: str, title: str = "") -> _Cell:
    return _Cell(escape(text), "n", title)


def _text(text: str, title: str = "") -> _Cell:
    return _Cell(escape(text), "", title)


_SAME = _Cell("", "same")
"""A cell with the value of the one above it."""


def _bar(ratio: float | None) -> str:
    """A thin bar. SVG attributes, since the Content-Security-Policy forbids style attributes."""
    width = 0.0 if ratio is None else max(0.0, min(1.0, ratio)) * 100.0
    return f'<svg class=bar aria-hidden="true"><rect width="{width:.1f}%" height="100%"/></svg>'


def _servers(status: Status) -> str:
    if not status["servers"]:
        return (
            "<section><h2>Servers</h2><p class=empty>No inference server found. Servers on this host are discovered "
            "automatically; add others under <code>servers:</code> in the configuration.</p></section>"
        )
    currency = status["currency"] or ""
    heads = _server_heads(currency)
    groups = [
        _Group(
            [_server_row(server, model, first=position == 0) for position, model in enumerate(server["models"])],
            filter(None, (server["namespace"],)),
        )
        for server in status["servers"]
    ]
    return _arranged("Servers", heads, groups, "servers")


def _server_heads(currency: str) -> tuple[str, ...]:
    return (
        "server",
        "state",
        "model",
        "output tok/s",
        "tok/s per W",
        f"{currency} per 1M output" if currency else "cost per 1M",
        "running",
        "waiting",
        "GPUs",
    )


def _tools(status: Status) -> str:
    """The filter and the orders, which the script shows: without it they would do nothing. Narrow screens have no heads to
    sort by, and have a list instead."""
    if not status["servers"] and not status["gpus"]:
        return ""
    spaces = sorted({server["namespace"] for server in status["servers"]} - {""})
    listed = "".join(f"<option>{escape(space)}</option>" for space in spaces)
    heads = _server_heads(status["currency"] or "")
    orders = "".join(
        f'<option value="{column}{way}">{escape(heads[column])}</option>'
        for column, way in ((0, "+"), (3, "-"), (4, "-"), (5, "-"), (6, "-"))
    )
    chosen = (
        '<label>namespace <select id="namespace"><option value="">all</option>' + listed + "</select></label>"
        if spaces
        else ""
    )
    return (
        '<div class=tools id="tools" role="search" hidden>'
        '<label>filter <input id="filter" type="search" placeholder="server, model, GPU, state"></label>'
        f'{chosen}<label class=narrow>servers by <select id="sort"><option value=""></option>{orders}</select></label>'
        "<output></output></div>"
    )


def _server_row(server: ServerStatus, model: ModelStatus, *, first: bool) -> tuple[_Cell, ...]:
    window = server["window_seconds"]
    over = f"over {figures.duration(window)}" if window is not None else ""
    energy = model["cost_per_token"].get(Scope.ENERGY, {}).get(OUTPUT)
    full = model["cost_per_token"].get(Scope.FULL, {}).get(OUTPUT)
    per_watt, boundaries = model["tokens_per_watt"], ""
    if per_watt:
        facility = figures.figure(per_watt.get(Boundary.FACILITY, {}).get(OUTPUT))
        boundaries = f"GPUs alone, {over}; with host and PUE: {facility}"
    boundaries = "; ".join(part for part in (boundaries, published_words(model)) if part)
    engine = " ".join(part for part in (server["engine"], server["version"]) if part)
    if server["namespace"] and not server["name"].startswith(f"{server['namespace']}/"):
        engine += f" in {server['namespace']}"
    name = f"<b>{escape(server['name'])}</b><small>{escape(engine)}</small>"
    gpus = ", ".join(map(str, server["gpus"])) or UNKNOWN
    return (
        _Cell(name, "lead") if first else _SAME,
        _state(server["state"]) if first else _SAME,
        _Cell(escape(model["model"]), "model", model["model"]),
        _Cell(figures.figure(model["tokens_per_second"].get(OUTPUT)), "n", over, curve=True),
        _number(figures.figure(per_watt.get(Boundary.GPU, {}).get(OUTPUT)), boundaries),
        _number(
            figures.cost_per_million(full, energy),
            f"of which electricity {figures.figure(energy * _MILLION)}, {over}"
            if full and energy is not None
            else over,
        ),
        _number(figures.whole(model["running"])),
        _number(figures.whole(model["waiting"])),
        _text(gpus, f"GPUs found by: {server['attribution']}") if first else _SAME,
    )


def _gpus(status: Status) -> str:
    if not status["gpus"]:
        return (
            "<section><h2>GPUs</h2><p class=empty>No GPU found. <code>tpw-exporter probe</code> lists "
            "what was tried and what is missing.</p></section>"
        )
    heads = ("GPU", "state", "power", "utilization", "memory GiB", "temp", "owner", "energy method")
    spaces = {server["name"]: server["namespace"] for server in status["servers"]}
    groups = [
        _Group([_gpu_row(gpu)], {spaces.get(owner, "") for owner in gpu["owners"]} - {""}) for gpu in status["gpus"]
    ]
    return _arranged("GPUs", heads, groups, "gpus")


def _gpu_row(gpu: GpuStatus) -> tuple[_Cell, ...]:
    power, limit = gpu["power_watts"], gpu["power_limit_watts"]
    ratio = power / limit if power is not None and limit else None
    drawn = f"{figures.watts(power)}<small> / {figures.watts(limit)}</small>" if limit else figures.watts(power)
    used, total = gpu["memory_used_bytes"], gpu["memory_total_bytes"]
    return (
        _Cell(f"<b>{gpu['index']}</b> {escape(gpu['name'])}", "lead", gpu["uuid"]),
        _state(gpu["state"] or "lost", "" if gpu["up"] else "TpwGpuLost"),
        _Cell(f"<span>{drawn}</span>{_bar(ratio)}", "power"),
        _number(figures.percent(gpu["utilization_ratio"])),
        _number(UNKNOWN if used is None else f"{figures.gibibytes(used)} / {figures.gibibytes(total)}"),
        _number(figures.celsius(gpu["temperature_celsius"])),
        _owners(gpu),
        _text(gpu["energy_method"].replace("_", " "), gpu["method_note"]),
    )


def _owners(gpu: GpuStatus) -> _Cell:
    """The owners, and how the GPU is shared among them."""
    title = f"shared {_SHARED_BY.get(gpu['split_method'] or '', '')}" if figures.is_shared(gpu) else ""
    parts = ", ".join(
        f"{part['profile'] or part['uuid']} about {figures.percent(part['estimated_share'])}"
        for part in gpu["instances"]
    )
    return _text(figures.owners(gpu), "; ".join(text for text in (title, parts and f"instances: {parts}") if text))


def _periods(status: Status) -> str:
    """What the books have of the current periods."""
    if not status["periods"]:
        return ""
    currency = status["currency"] or ""
    heads = ("period", "output tokens", "energy kWh", f"cost {currency}".strip(), "by its end")
    rows = (
        (
            _Cell(f"<b>{_PERIODS[period['period']]}</b><small>since {figures.moment(period['start'])}</small>", "lead"),
            _number(figures.figure(period["tokens"].get(OUTPUT, 0.0))),
            _number(figures.figure(period["facility_joules"] / 3.6e6), "facility energy of all GPUs, idle ones too"),
            _number(figures.figure(period["cost"]), _unpriced(period["unpriced_joules"])),
            _number(figures.money(period["cost_forecast"], currency), "at the pace of the recent days"),
        )
        for period in status["periods"]
    )
    hint = "<p class=note>Other days, servers and models: <code>tpw-exporter report</code></p>"
    return _table("To date", heads, rows).replace("</section>", f"{hint}</section>")


def _unpriced(joules: float) -> str:
    return f"{figures.figure(joules / 3.6e6)} kWh have no price yet" if joules else "all components, credit subtracted"


def _sources(status: Status) -> str:
    if not status["sources"]:
        return ""
    heads = ("source", "state", "last success", "duration", "problem")
    return _table("Sources", heads, (_source_row(source, status["at"]) for source in status["sources"]))


def _source_row(source: SourceEntry, now: float) -> tuple[_Cell, ...]:
    last, duration = source["last_success"], source["read_duration_seconds"]
    problem = escape(source["detail"])
    if source["hint"]:
        problem += f"<br><span class=hint>{escape(source['hint'])}</span>"
    if source["tried"] and not source["up"]:
        problem += _runbook("TpwSourceDown")
    return (
        _Cell(escape(source["name"]), "lead"),
        _state("ok" if source["up"] else ("failing" if source["tried"] else "not yet")),
        _number(UNKNOWN if last is None else f"{figures.duration(now - last)} ago" if now - last >= 1.0 else "now"),
        _number(UNKNOWN if duration is None else f"{duration * 1e3:,.1f} ms"),
        _Cell(problem, "wrap"),
    )


def _notes(status: Status) -> str:
    if not status["notes"]:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in status["notes"])
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>"
