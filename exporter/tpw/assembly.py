"""From a configuration to meters, token sources and the rules of the ledger: what the daemon is made of.

Nothing here reads, opens or fetches anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar, cast

from tpw.config.checks import Known
from tpw.config.parts import GpuChoice, Meter
from tpw.config.prices import billing_months, cost_rates, demand_rules, references, standing_charges
from tpw.config.problems import did_you_mean
from tpw.config.schema import Config, Server
from tpw.discovery.engines import Engine
from tpw.discovery.ownership import AUTO, NONE, Claim
from tpw.ledger.tick import Policy
from tpw.model import Cadence
from tpw.outlook import Facts
from tpw.power import ACCELERATOR_METERS, HOST_METERS, AcceleratorMeter, Clock, HostMeter
from tpw.tokens.dialects import Dialect
from tpw.tokens.engines import DIALECTS, ENGINES
from tpw.tokens.http import Tls
from tpw.tokens.scrape import OsProcess, ScrapeSource, recognise_at

_Made = TypeVar("_Made")

FINISH_WINDOWS = 5.0
"""Engines that count when a request ends are looked at over so many windows: longer than most requests take."""


def known_names() -> Known:
    """Names a configuration may use."""
    return Known(
        accelerators=tuple(ACCELERATOR_METERS),
        host_meters=tuple(HOST_METERS),
        engines=tuple(ENGINES),
        dialect=_problems_of,
    )


def _problems_of(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong with a dialect of the user's; each begins with its key path and a colon."""
    try:
        _dialect(mapping)
    except ValueError as error:
        return tuple(str(error).splitlines())
    return ()


def _dialect(mapping: Mapping[str, Any]) -> Dialect:
    return Dialect.from_mapping(
        {key: value for key, value in mapping.items() if key != "name"}, name=str(mapping.get("name"))
    )


def accelerator_meters(config: Config, clock: Clock) -> list[AcceleratorMeter]:
    """The accelerator meters, not opened. Raises ValueError for options that they do not understand."""
    return _made("accelerators", ACCELERATOR_METERS, clock, config.accelerators)


def host_meters(config: Config, clock: Clock) -> list[HostMeter]:
    """The host meters, not opened. Raises ValueError for options that they do not understand."""
    return _made("host.meters", HOST_METERS, clock, config.host.meters, sysfs_root=config.host.sysfs)


def _made(
    where: str,
    table: Mapping[str, Callable[..., _Made]],
    clock: Clock,
    meters: Sequence[Meter],
    **shared: object,
) -> list[_Made]:
    """The meters of a list. Raises ValueError with everything that is wrong with their options, one problem a line."""
    made, problems = [], []
    for index, meter in enumerate(meters):
        place = f"{where}[{index}].{meter.name}"
        wrong = list(_misfits(place, table[meter.name], {**shared, **meter.options}))
        problems += wrong
        if not wrong:
            try:
                made.append(table[meter.name](clock, **{**shared, **meter.options}))
            except (TypeError, ValueError) as error:
                problems.append(f"{place}: an option has a value that makes no sense: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return made


def _misfits(place: str, maker: Callable[..., object], options: Mapping[str, object]) -> Iterator[str]:
    """Options that a meter does not have, and those it must have and was not given."""
    _clock, *parameters = signature(maker).parameters.values()
    known = {parameter.name: parameter for parameter in parameters}
    for key in options:
        if key not in known:
            yield f"{place}.{key}: unknown option{did_you_mean(key, known) or _there_are(tuple(known))}"
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in options:
            yield f"{place}.{name}: is missing"


def _there_are(options: Sequence[str]) -> str:
    return f"; there are {', '.join(options)}" if options else ": this meter has none"


def dialects(config: Config) -> tuple[Dialect, ...]:
    """The engines' rows, the user's own first. Raises ValueError."""
    return (*(_dialect(mapping) for mapping in config.dialects), *DIALECTS)


def examine(config: Config) -> None:
    """What only the rooms themselves can tell of a configuration: options of meters, dialects of the user's.

    Raises:
        ValueError: what is wrong, one problem a line, each with its key path.
    """
    problems = []
    for look in (
        lambda: accelerator_meters(config, float),
        lambda: host_meters(config, float),
        lambda: dialects(config),
    ):
        try:
            look()
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))


def token_source(
    server: Server, rows: tuple[Dialect, ...], clock: Clock, process: Callable[[], OsProcess | None]
) -> ScrapeSource:
    """The source of a configured server that has an address. Raises ValueError."""
    assert server.url is not None  # noqa: S101 - asked by the caller
    dialect: Dialect | None = None
    if server.engine == "custom":
        words = {role: {"metric": chosen.metric, "match": dict(chosen.match)} for role, chosen in server.tokens.items()}
        dialect = Dialect.from_mapping(words)
    elif server.engine is not None:
        dialect = next(row for row in rows if row.name == server.engine)
    tls = server.tls
    return ScrapeSource(
        server.name,
        server.url,
        dialect,
        clock=clock,
        timeout_seconds=server.timeout,
        headers_file=server.headers_file,
        tls=None
        if tls is None
        else Tls(tls.ca_file or "", tls.cert_file or "", tls.key_file or "", skip_verify=tls.insecure_skip_verify),
        model=server.model or "",
        cadence=None if server.cadence is None else Cadence(server.cadence),
        process=process,
        dialects=rows,
    )


def probe(url: str, rows: Sequence[Engine], expected: Sequence[Engine]) -> Engine:
    """Ask an address which of these engines speaks there, for discovery, which knows engines by their processes only.
    Raises SourceError."""
    return recognise_at(url, cast("Sequence[Dialect]", rows), cast("Sequence[Dialect]", expected))


def claim(server: Server) -> Claim:
    """What the configuration says about a server's GPUs."""
    words = {GpuChoice.AUTO: AUTO, GpuChoice.NONE: NONE}
    return Claim(
        server.name,
        words.get(server.gpus.choice, server.gpus.listed),
        server.model or "",
        has_counters=server.url is not None,
    )


def policy(config: Config, facts: Facts) -> Policy:
    """The rules by which ticks are booked."""
    window = config.polling.window
    return Policy(
        interval_seconds=config.polling.interval,
        window_seconds=window,
        finish_window_seconds=FINISH_WINDOWS * window,
        pue=facts.pue,
        host_share=config.facility.host_share,
        currency=config.tariff.currency or "",
        curve=facts.curve,
        demand=demand_rules(config),
        standing=standing_charges(config),
        months=billing_months(config),
        intensities=facts.intensities,
        carbon_basis=facts.carbon_basis,
        rates=cost_rates(config),
        references=references(config),
    )


def state_directory(config: Config) -> Path:
    """Where the books are kept."""
    return Path(config.state.dir)
