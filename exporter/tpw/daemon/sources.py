"""Makes meters and token sources from a configuration, and checks what only they can check.

Nothing here reads, opens or fetches anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any, cast

from tpw.config.checks import Known
from tpw.config.parts import GpuChoice, Meter
from tpw.config.schema import Config, Server
from tpw.config.tenants import TenantSource
from tpw.discovery.engines import Engine
from tpw.discovery.ownership import AUTO, NONE, Claim
from tpw.http.client import Tls
from tpw.model import Cadence, OsProcess, Phase, Slo
from tpw.power import (
    ACCELERATOR_METERS,
    HOST_METERS,
    AcceleratorMeter,
    Clock,
    HostMeter,
    accelerator_meter,
    host_meter,
    meter_options,
)
from tpw.settings.words import did_you_mean
from tpw.tokens.dialects import Dialect
from tpw.tokens.engines import DIALECTS, ENGINES
from tpw.tokens.scrape import ScrapeSource, recognise_at


def known_names() -> Known:
    """Names a configuration may use, and the checks of options and dialects."""
    return Known(
        accelerators=tuple(ACCELERATOR_METERS),
        host_meters=tuple(HOST_METERS),
        engines=tuple(ENGINES),
        dialect=_problems_of_dialect,
        meter=_problems_of_meter,
        tenants=_problems_of_tenants,
    )


def _problems_of_meter(where: str, meter: Meter) -> Iterator[str]:
    """What is wrong with the options of a meter of ``accelerators`` or ``host.meters``."""
    is_host = where == "host.meters"
    known = meter_options((HOST_METERS if is_host else ACCELERATOR_METERS)[meter.name])
    fits = True
    for key in meter.options:
        if key not in known:
            fits = False
            there_are = f"; there are {', '.join(known)}" if known else ": this meter has none"
            yield f"{key}: unknown option{did_you_mean(key, known) or there_are}"
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in meter.options:
            fits = False
            yield f"{name}: is missing"
    if fits:
        try:
            (host_meter if is_host else accelerator_meter)(meter.name, float, **meter.options)
        except (TypeError, ValueError) as error:
            yield f": an option has an invalid value: {error}"


def _problems_of_dialect(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong with a dialect of the user's; each problem begins with its key path and a colon."""
    try:
        _dialect(mapping)
    except ValueError as error:
        return tuple(str(error).splitlines())
    return ()


def _problems_of_tenants(source: TenantSource) -> Iterator[str]:
    from tpw.tokens.tenants import SECRET_LABELS, usual_labels  # only users with tenants pay for it

    if source.source not in ENGINES:
        hint = did_you_mean(source.source, ENGINES) or f"; available: {', '.join(sorted(ENGINES))}"
        yield f"source: unknown source `{source.source}`{hint}"
    elif not source.labels and not usual_labels(source.source):
        yield "labels: is missing: name the labels of this source's page that name a tenant"
    if source.names_file is None and source.secret_file is None:
        for label in source.labels:
            if label.lower() in SECRET_LABELS:
                yield (
                    f"labels: `{label}` holds keys or persons: give names_file, or secret_file to expose a keyed hash"
                )


def _dialect(mapping: Mapping[str, Any]) -> Dialect:
    from tpw.tokens.mapping import dialect_from_mapping  # only users with dialects of their own pay for it

    return dialect_from_mapping(
        {key: value for key, value in mapping.items() if key != "name"}, name=str(mapping.get("name"))
    )


def accelerator_meters(config: Config, clock: Clock) -> list[AcceleratorMeter]:
    """The accelerator meters, not opened. Raises ValueError for an option that a meter does not have."""
    meters: list[AcceleratorMeter] = []
    for meter in config.accelerators:
        try:
            meters.append(accelerator_meter(meter.name, clock, **meter.options))
        except TypeError as error:
            raise ValueError(f"accelerators: {meter.name}: {error}") from error
    return meters


def host_meters(config: Config, clock: Clock) -> list[HostMeter]:
    """The host meters, not opened. Raises ValueError for an option that a meter does not have."""
    meters: list[HostMeter] = []
    for meter in config.host.meters:
        shared = {"sysfs_root": config.host.sysfs} if "sysfs_root" in meter_options(HOST_METERS[meter.name]) else {}
        try:
            meters.append(host_meter(meter.name, clock, **{**shared, **meter.options}))
        except TypeError as error:
            raise ValueError(f"host.meters: {meter.name}: {error}") from error
    return meters


def dialects(config: Config) -> tuple[Dialect, ...]:
    """All dialects, the user's own first. Raises ValueError."""
    return (*(_dialect(mapping) for mapping in config.dialects), *DIALECTS)


def check(config: Config) -> None:
    """Raise ValueError for the first wrong option of a meter or dialect of the user's."""
    accelerator_meters(config, float)
    host_meters(config, float)
    dialects(config)


def token_source(
    server: Server, rows: tuple[Dialect, ...], clock: Clock, process: Callable[[], OsProcess | None]
) -> ScrapeSource:
    """The source of a server that has an address. Raises ValueError."""
    assert server.url is not None  # noqa: S101 - checked by the caller
    dialect: Dialect | None = None
    if server.engine == "custom":
        from tpw.tokens.mapping import dialect_from_mapping

        dialect = dialect_from_mapping(
            {role: {"metric": chosen.metric, "match": dict(chosen.match)} for role, chosen in server.tokens.items()}
        )
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
        else Tls(
            *(tls.ca_file or "", tls.cert_file or "", tls.key_file or "", tls.server_name or ""),
            skip_verify=tls.insecure_skip_verify,
        ),
        model=server.model or "",
        cadence=None if server.cadence is None else Cadence(server.cadence),
        process=process,
        phase=None if server.role is None else Phase(server.role),
        targets=None if server.slo is None else {Slo(slo): target for slo, target in server.slo.targets().items()},
        dialects=rows,
    )


def probe(url: str, rows: Sequence[Engine], expected: Sequence[Engine]) -> Engine:
    """The engine that answers at an address, for discovery, which knows engines by their processes only. Raises
    SourceError."""
    return recognise_at(url, cast("Sequence[Dialect]", rows), cast("Sequence[Dialect]", expected))


def claim(server: Server) -> Claim:
    """What the configuration states about a server's GPUs."""
    words = {GpuChoice.AUTO: AUTO, GpuChoice.NONE: NONE}
    return Claim(
        server.name,
        words.get(server.gpus.choice, server.gpus.listed),
        server.model or "",
        has_counters=server.url is not None,
        spans_nodes=server.spans_nodes,
    )
