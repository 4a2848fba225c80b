"""The configuration, typed. One field is one setting: loading, flags, JSON Schema and the reference page follow from it.

Sections are frozen and hold plain values only, so a reloaded configuration compares with the one in force by ``==``.
Durations are seconds, paths are text, money is in ``tariff.currency``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpw.carbon import CARBON, CarbonSettings
from tpw.config.parts import GpuChoice, Gpus, GpusShape, Meter, MeterShape, MetricSelector, TokensShape
from tpw.settings.scalars import choice, number, switch, text
from tpw.settings.shapes import FilePath, FreeMapping, ListOf, OrMapping, Section, setting
from tpw.settings.values import duration, http_url, listen_address
from tpw.tariff.costs import Costs, ReferencePrice
from tpw.tariff.settings import Tariff


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How often the meters and the servers are read."""

    interval: float = setting(
        duration(0.1, 60.0), "Energy and tokens are read on the same tick, this far apart.", default=1.0
    )
    window: float = setting(
        duration(1.0, 3600.0),
        "What the live ratios (tokens per watt, cost per token) look back over. Servers that count tokens only when a"
        " request ends get a longer one.",
        default=60.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where the books are kept."""

    dir: str = setting(
        FilePath("the path of a directory"),
        "Directory of the books: counters go on from there after a restart. It must be writable and must survive the"
        " process.",
        default="/var/lib/tpw-exporter",
        flag="state.dir",
    )
    keep: float = setting(
        duration(86400.0, 3660 * 86400.0),
        "How long the quarter-hours of the books are kept, for `tpw-exporter report`. Counters are kept for ever.",
        default=400 * 86400.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCalibration:
    """What a better meter found of one GPU's own: true watts = gain * shown watts + offset_watts."""

    gpu: str = setting(
        text(
            "the UUID of a GPU",
            pattern=r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9_.:/-]*",
            advice="an index may be another board's after a reboot; nvidia-smi -L tells the UUID",
        ),
        "UUID of the GPU, as `tpw-exporter probe` shows it.",
    )
    gain: float = setting(
        number("a factor such as 1.05", minimum=0.5, maximum=2.0, advice="write +5 % as 1.05"),
        "True watts per watt shown.",
        default=1.0,
    )
    offset_watts: float = setting(
        number("a power in watts", minimum=-200.0, maximum=200.0), "Watts to add to that.", default=0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Meters of what is not an accelerator."""

    meters: tuple[Meter, ...] = setting(
        ListOf(MeterShape(), "a list of host meters"),
        "Host meters to read: `rapl` and others; each may be a mapping of its name to its options. An empty list reads"
        " none. One that is named is expected to be there; the default is only tried.",
        default=lambda: (Meter("rapl", optional=True),),
        default_words="[rapl]",
    )
    sysfs: str = setting(
        FilePath("the path of a directory"), "Where sysfs is mounted: `/host/sys` in many containers.", default="/sys"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS towards a server."""

    ca_file: str | None = setting(
        FilePath(), "Certificates to trust instead of the system's (PEM).", default=None, default_words="the system's"
    )
    cert_file: str | None = setting(FilePath(), "Client certificate (PEM), with `key_file`.", default=None)
    key_file: str | None = setting(FilePath(), "Key of the client certificate (PEM).", default=None)
    server_name: str | None = setting(
        text("a host name"),
        "Name that the server's certificate has, where it is not the one in the url.",
        default=None,
        default_words="the host in the url",
    )
    insecure_skip_verify: bool = setting(switch(), "Do not check the server's certificate.", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One inference server. Without an address: ranks whose counters are on another node; they own GPUs only."""

    name: str = setting(text("a name"), "Name of the server, the `server` label. Each name once.")
    url: str | None = setting(
        http_url(),
        "Base address, such as http://127.0.0.1:8000: the engine's own metrics path is known. A full path is taken as"
        " it is.",
        default=None,
        default_words="none: ranks of a server whose counters are elsewhere",
    )
    engine: str | None = setting(
        text("the name of an engine", pattern="[a-z][a-z0-9_.-]*"),
        "Which engine serves: vllm, sglang ... , a name from `dialects`, or `custom` with `tokens`.",
        default=None,
        default_words="recognised from the page",
    )
    gpus: Gpus = setting(
        GpusShape(),
        "GPUs it owns, each by index, UUID or PCI bus id, a MIG instance by its UUID, a board of the"
        " meter `external` by its name; `auto` looks them up by its"
        " processes; `none`.",
        default=Gpus(GpuChoice.AUTO),
        default_words="auto",
    )
    spans_nodes: bool = setting(
        switch(),
        "It has GPUs on other nodes as well, which are metered there. Live ratios over joules and money are then not"
        " shown here, where only a part of them is known: the recording rules make them over all nodes.",
        default=False,
    )
    model: str | None = setting(
        text("the name of a model"), "Name of the model, where the engine names none.", default=None
    )
    headers_file: str | None = setting(
        FilePath(),
        "File with HTTP headers, one `Name: value` a line, or with one bearer token. Lines that start with # are comments.",
        default=None,
    )
    tokens: Mapping[str, MetricSelector] = setting(
        TokensShape(),
        "With engine `custom`: which metrics of the page count what. Roles: `output`, `input` (prompt tokens computed),"
        " `prompt` (all prompt tokens, cached ones included), `cached_input`, `requests`. Each is the name of a metric or"
        " {metric, match}.",
        default=dict,
    )
    cadence: str | None = setting(
        choice("step", "chunk", "finish"),
        "When the server's output counter moves (at every step, with every chunk, at the end of a request), for servers"
        " that speak like an engine and do not count like it.",
        default=None,
        default_words="the engine's",
    )
    timeout: float = setting(duration(0.1, 60.0), "How long one read may take.", default=2.0)
    tls: Tls | None = setting(Section(Tls), "TLS towards the server.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Finding servers that are not listed."""

    processes: bool = setting(switch(), "Look for inference servers among the processes of this host.", default=True)
    kubelet_checkpoint: str = setting(
        FilePath(),
        "Where the kubelet keeps which devices it gave to which pod. Read only where the driver does not say who holds a"
        " GPU; it need not be there.",
        default="/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
    )


_PUE = number("a power usage effectiveness, 1 or more", minimum=1.0, maximum=10.0, advice="facility energy / IT energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class PueQuery:
    """A power usage effectiveness that a Prometheus knows. Values below 1 or above 10 are refused."""

    url: str = setting(http_url(), "Address of Prometheus, or of anything with its `/api/v1/query`.")
    query: str = setting(text("a PromQL expression"), "Gives one number.")
    fallback: float = setting(_PUE, "Holds while the query gives none.")
    headers_file: str | None = setting(
        FilePath(),
        "File with HTTP headers, one `Name: value` a line, or with one bearer token. Lines that start with # are comments.",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facility:
    """From the energy of the boards to the energy that is paid for."""

    pue: float | PueQuery = setting(
        OrMapping(_PUE, Section(PueQuery), "a number such as 1.3, or a mapping with a query"),
        "Power usage effectiveness: facility energy divided by IT energy. A number is a year's mean.",
        default=1.0,
    )
    host_share: bool = setting(
        switch(),
        "Add the host's energy beyond the GPUs to theirs, shared by their energy: what the node's meter shows less the"
        " GPUs, or else CPU and memory.",
        default=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """The HTTP server."""

    listen_address: str = setting(
        listen_address(), "Address to listen on.", default=":10101", flag="web.listen-address"
    )
    telemetry_path: str = setting(
        text("a path that starts with /", pattern=r"/[^\s?#]*"),
        "Path of the metrics.",
        default="/metrics",
        flag="web.telemetry-path",
    )
    config_file: str | None = setting(
        FilePath(),
        "File with TLS and authentication of the HTTP server, in the exporter-toolkit format.",
        default=None,
        flag="web.config.file",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log, on standard error."""

    level: str = setting(
        choice("debug", "info", "warning", "error", aliases={"warn": "warning"}),
        "Least severity that is written.",
        default="info",
        flag="log.level",
    )
    format: str = setting(choice("logfmt", "json"), "Form of a line.", default="logfmt", flag="log.format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. ``Config()`` is what an empty file means."""

    polling: Polling = setting(Section(Polling), "How often everything is read.", default=Polling())
    state: State = setting(Section(State), "Where the books are kept.", default=State())
    accelerators: tuple[Meter, ...] = setting(
        ListOf(MeterShape(), "a list of meters"),
        "Meters of accelerators, by name: `nvml` and others; each may be a mapping of its name to its options. An empty"
        " list reads none. One that is named is expected to be there; the default is only tried.",
        default=lambda: (Meter("nvml", optional=True),),
        default_words="[nvml]",
    )
    calibration: tuple[GpuCalibration, ...] = setting(
        ListOf(Section(GpuCalibration), "a list of calibrations"),
        "Corrections of GPUs' own meters, for power and energy alike. A change is in force for what is used from then on.",
        default=(),
    )
    host: Host = setting(Section(Host), "Meters of the host.", default=Host)
    servers: tuple[Server, ...] = setting(
        ListOf(Section(Server), "a list of servers"), "Inference servers to read.", default=()
    )
    dialects: tuple[Mapping[str, Any], ...] = setting(
        ListOf(FreeMapping("a mapping that describes an engine"), "a list of dialects"),
        "Engines of your own: what their metrics are called, in the form of the built-in rows.",
        default=(),
    )
    discovery: Discovery = setting(Section(Discovery), "Servers that are not listed.", default=Discovery())
    facility: Facility = setting(
        Section(Facility), "From the boards' energy to the energy paid for.", default=Facility()
    )
    tariff: Tariff = setting(Section(Tariff), "What electricity costs.", default=Tariff())
    carbon: CarbonSettings | None = setting(
        CARBON, "Carbon intensity of the grid.", default=None, default_words="none: no emissions"
    )
    costs: Costs = setting(Section(Costs), "What is not energy.", default=Costs())
    references: tuple[ReferencePrice, ...] = setting(
        ListOf(Section(ReferencePrice), "a list of references"),
        "What the same work costs elsewhere.",
        default=(),
    )
    web: Web = setting(Section(Web), "The HTTP server.", default=Web())
    log: Log = setting(Section(Log), "The log.", default=Log())
