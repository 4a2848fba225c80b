"""From a configuration to meters, token sources and the rules of the ledger: what the daemon is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tpw.config.checks import Known
from tpw.config.prices import cost_rates, references
from tpw.config.schema import Config, Server
from tpw.discovery.servers import GpuWish
from tpw.ledger.tick import Curve, Policy
from tpw.power import ACCELERATOR_METERS, HOST_METERS, AcceleratorMeter, HostMeter
from tpw.tokens.dialects import Dialect
from tpw.tokens.engines import DIALECTS, ENGINES
from tpw.tokens.http import Tls
from tpw.tokens.scrape import OsProcess, ScrapeSource


def known_names() -> Known:
    """Names a configuration may use."""
    return Known(accelerators=tuple(ACCELERATOR_METERS), host_meters=tuple(HOST_METERS), engines=tuple(ENGINES))


def accelerator_meters(config: Config) -> list[AcceleratorMeter]:
    """The accelerator meters of a configuration, not opened. Raises ValueError for an option a meter does not know."""
    return [ACCELERATOR_METERS[meter.name](**meter.options) for meter in config.accelerators]
