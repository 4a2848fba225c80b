"""Checks of settings that contradict or need each other.

Values that could not be read are BAD. They are reported already, and no check reports them again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tpw.config.nodes import Walk
from tpw.config.parts import GpuChoice, Gpus, Meter
from tpw.config.schema import Config, Server
from tpw.config.tenants import TenantSource
from tpw.config.tenants import check as check_tenants
from tpw.settings.addresses import secret_in
from tpw.settings.shapes import BAD, Report
from tpw.settings.words import did_you_mean


@dataclass(frozen=True, slots=True)
class Known:
    """Names that other packages define. Names of an empty set are not checked."""

    accelerators: Collection[str] = ()
    host_meters: Collection[str] = ()
    engines: Collection[str] = ()
    dialect: Callable[[Mapping[str, Any]], Collection[str]] | None = None
    """Problems of a dialect, each after its key path and a colon."""
    meter: Callable[[str, Meter], Iterable[str]] | None = None
    """Problems of a meter's options, by the list that contains it; each after its key ("" for the meter) and a colon."""
    tenants: Callable[[TenantSource], Iterable[str]] | None = None
    """Problems of a source of tenants, each after its key and a colon."""


def check(config: Config, walk: Walk, known: Known) -> None:
    """Report every contradiction, at its key."""
    report = walk.problem_at
    _polling(config, report)
    _meters("accelerators", config.accelerators, known.accelerators, known, report)
    if config.host:
        _meters("host.meters", config.host.meters, known.host_meters, known, report)
    _calibration(config, report)
    _unique_names("servers", config.servers, report)
    _unique_names("references", config.references, report)
    engines = _engines(config, known)
    for index, server in _whole(config.servers):
        _server(f"servers[{index}]", server, engines, report)
    _dialects(config, known, report)
    if config.tariff:
        config.tariff.check(report)
    if config.site:
        config.site.check(config.tariff, report)
    if config.carbon:
        config.carbon.check("carbon", config.tariff.timezone if config.tariff else None, report)
    _references(config, report)
    _budgets(config, report)
    check_tenants(config.tenants, known.tenants, report)
    _planned_off(config, report)
    _money_needs_currency(config, report)


def _whole(items: Any) -> Iterator[tuple[int, Any]]:
    """The entries of a list that could be read."""
    return ((index, item) for index, item in enumerate(items or ()) if item is not BAD)


def _is_given(value: Any) -> bool:
    """Whether a value is given, readable or not."""
    return value is BAD or (value is not None and value != {} and value != ())


def _polling(config: Config, report: Report) -> None:
    polling = config.polling
    if polling and polling.interval and polling.window and polling.window < 2 * polling.interval:
        report("polling.window", "must be at least two intervals, or no rate can be calculated")


def _meters(path: str, meters: Iterable[Meter], names: Collection[str], known: Known, report: Report) -> None:
    found: set[str] = set()
    for index, meter in _whole(meters):
        if meter.name in found:
            report(f"{path}[{index}]", f"`{meter.name}` occurs twice in this list")
        elif names and meter.name not in names:
            hint = did_you_mean(meter.name, names) or f"; available: {', '.join(sorted(names))}"
            report(f"{path}[{index}]", f"unknown meter `{meter.name}`{hint}")
        elif secret := secret_in(str(meter.options.get("url", ""))):
            advice = "put it into a file, such as headers_file"
            report(f"{path}[{index}].{meter.name}.url", f"an address must not contain {secret}: {advice}")
        elif known.meter is not None:
            for problem in known.meter(path, meter):
                key, _, message = problem.partition(": ")
                report(f"{path}[{index}].{meter.name}" + (f".{key}" if key else ""), message)
        found.add(meter.name)


def _calibration(config: Config, report: Report) -> None:
    found: set[str] = set()
    for index, item in _whole(config.calibration):
        if item.gpu is not BAD:
            if item.gpu.lower() in found:
                report(f"calibration[{index}].gpu", f"`{item.gpu}` occurs twice in this list")
            found.add(item.gpu.lower())
        if item.gain == 1.0 and item.offset_watts == 0.0:
            report(f"calibration[{index}]", "has no correction: give gain (such as 1.05), offset_watts, or both")


def _unique_names(path: str, items: Any, report: Report) -> None:
    first: dict[str, int] = {}
    for index, item in _whole(items):
        if item.name is BAD:
            continue
        if item.name in first:
            report(f"{path}[{index}].name", f"`{item.name}` is already the name of {path}[{first[item.name]}]")
        first.setdefault(item.name, index)


def _engines(config: Config, known: Known) -> frozenset[str]:
    if not known.engines:
        return frozenset()
    own = {str(dialect["name"]) for _, dialect in _whole(config.dialects) if dialect.get("name")}
    return frozenset({*known.engines, *own, "custom"})


def _server(path: str, server: Server, engines: frozenset[str], report: Report) -> None:
    if server.engine and engines and server.engine not in engines:
        hint = did_you_mean(server.engine, engines) or f"; available: {', '.join(sorted(engines))}"
        report(f"{path}.engine", f"unknown engine `{server.engine}`{hint}")
    if server.selector is not None:
        _server_of_pods(path, server, report)
    elif server.url is None:
        _server_without_address(path, server, report)
    _server_tokens(path, server, report)
    if server.tls:
        _server_tls(path, server, report)


def _server_of_pods(path: str, server: Server, report: Report) -> None:
    if server.url is not None:
        report(path, "has a url and a selector: give the url of one server, or select pods by their labels")
    if server.remote is True:
        report(f"{path}.remote", "has no effect with a selector: each node reads its own pods")
    selector = server.selector
    if selector and selector is not BAD and not _is_given(selector.labels) and selector.namespace is None:
        report(f"{path}.selector", "selects every pod: give labels, a namespace, or both")


def _server_without_address(path: str, server: Server, report: Report) -> None:
    if isinstance(server.gpus, Gpus) and server.gpus.choice is not GpuChoice.LISTED:
        report(
            path,
            "has neither url nor gpus: give the url of its metrics, or list its gpus if they are ranks of a server on"
            " another node",
        )
    for key in ("headers_file", "tls", "tokens"):
        if _is_given(getattr(server, key)):
            report(f"{path}.{key}", "has no effect without a url: remove it")
    if server.remote is True:
        report(f"{path}.remote", "has no effect without a url: remove it")
    if server.spans_nodes is True:
        report(f"{path}.spans_nodes", "has no effect without a url: set it on the node that has the url")


def _server_tokens(path: str, server: Server, report: Report) -> None:
    tokens = server.tokens
    has_page = server.url is not None or server.selector is not None
    if server.engine == "custom" and not _is_given(tokens) and has_page:
        report(f"{path}.engine", "engine custom needs `tokens`: the metrics to count")
    if _is_given(tokens) and server.engine != "custom" and server.engine is not BAD and has_page:
        report(f"{path}.tokens", "needs `engine: custom`: the metrics of other engines are known")
    if tokens and "input" in tokens and "prompt" in tokens:
        report(
            f"{path}.tokens.prompt",
            "give input (prompt tokens computed) or prompt (cached ones included), not both: one is calculated from"
            " the other",
        )


def _server_tls(path: str, server: Server, report: Report) -> None:
    tls = server.tls
    assert tls is not None  # noqa: S101 - checked by the caller
    if (tls.cert_file is None) != (tls.key_file is None):
        lacking = "cert_file" if tls.cert_file is None else "key_file"
        report(f"{path}.tls", f"a client certificate is two files: `{lacking}` is missing")
    if isinstance(server.url, str) and server.url.startswith("http://"):
        report(f"{path}.tls", "has no effect with an http address: write https in the url, or remove tls")


def _dialects(config: Config, known: Known, report: Report) -> None:
    for index, dialect in _whole(config.dialects):
        if not isinstance(dialect.get("name"), str) or not dialect["name"]:
            report(f"dialects[{index}]", "needs a name, for the `engine` of servers")
        for problem in known.dialect(dialect) if known.dialect is not None else ():
            key, _, message = problem.partition(": ")
            report(f"dialects[{index}].{key}", message)


def _references(config: Config, report: Report) -> None:
    for index, reference in _whole(config.references):
        given = [_is_given(reference.price_per_gpu_hour), _is_given(reference.price_per_million)]
        if sum(given) != 1:
            fault = "has both prices" if all(given) else "has no price"
            report(f"references[{index}]", f"{fault}: give price_per_gpu_hour (rented) or price_per_million (an API)")


def _budgets(config: Config, report: Report) -> None:
    _unique_names("budgets", config.budgets, report)
    for index, budget in _whole(config.budgets):
        if sum(given is not None for given in (budget.server, budget.namespace, budget.tenant)) > 1:
            report(f"budgets[{index}]", "has several of server, namespace and tenant: give one, or none for everything")


def _planned_off(config: Config, report: Report) -> None:
    for index, pause in _whole(config.planned_off):
        for _, (start, end) in _whole(pause.hours):
            if start % 15 or end % 15:
                report(
                    f"planned_off[{index}].hours",
                    "must begin and end at a quarter of an hour, as the rows of the books do",
                )
        for name in pause.labels if pause.labels and config.discovery and config.discovery.kubernetes else ():
            if name not in (config.discovery.kubernetes.labels or ()):
                report(
                    f"planned_off[{index}].labels",
                    f"`{name}` is not in `discovery.kubernetes.labels`, so it is not read",
                )
        if pause.hours and config.tariff and config.tariff.timezone is None:
            report(
                f"planned_off[{index}].hours", "need `tariff.timezone`: the zone of these hours, such as Europe/Berlin"
            )


_CHARGES = ("energy", "grid", "levies", "demand", "capacity", "fixed")


def _money_needs_currency(config: Config, report: Report) -> None:
    tariff = config.tariff
    if tariff is BAD or tariff.currency is not None:
        return
    places = [
        ("tariff", any(_is_given(getattr(tariff, part)) for part in _CHARGES)),
        ("costs", bool(config.costs) and any(_is_given(getattr(config.costs, key)) for key in config.costs.__slots__)),
        ("references", bool(config.references)),
        ("budgets", bool(config.budgets)),
    ]
    for path, names_money in places:
        if names_money:
            report(path, "has amounts of money, but `tariff.currency` is missing: set it, such as EUR")
            return
