"""The configuration, typed. A field is a setting, from which loading, flags, JSON Schema and the reference page follow.

Sections are frozen and hold plain values, so that ``==`` compares a reloaded configuration with the one in force. Durations
are seconds, paths are text, money is in ``tariff.currency``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpw.carbon import CARBON, CarbonSettings
from tpw.carbon.emissions import Emissions
from tpw.config.parts import GpuChoice, Gpus, GpusShape, Meter, MeterShape, MetricSelector, TokensShape
from tpw.config.tenants import ServerTenants
from tpw.settings.scalars import choice, number, switch, text, whole_number
from tpw.settings.shapes import FilePath, FreeMapping, ListOf, MapOf, OrMapping, Section, setting
from tpw.settings.values import DAYS, HOURS, duration, http_url, listen_address, server_url
from tpw.tariff.costs import Costs, PeriodBudget, ReferencePrice
from tpw.tariff.settings import Tariff
from tpw.tariff.site import SiteSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausibility:
    """What is accepted from a server's page. Higher values are counted as anomalies and not booked."""

    tokens_per_second: float = setting(
        number("a number of tokens", above=0.0, maximum=1e12),
        "Highest plausible rise per second of one token counter. After an outage the limit grows with the time since the"
        " last read.",
        default=5e6,
    )
    requests_per_second: float = setting(
        number("a number of requests", above=0.0, maximum=1e12),
        "Highest plausible rise per second of one counter of requests.",
        default=1e5,
    )
    work_units_per_second: float = setting(
        number("a number of units", above=0.0, maximum=1e12),
        "Highest plausible rise per second of one counter of other work, in its unit (audio seconds, images).",
        default=1e8,
    )
    models_per_server: int = setting(
        whole_number("a number of models", minimum=1, maximum=10_000),
        "Models of one server that have series of their own. Tokens of further ones are booked as model `other`.",
        default=200,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How often the meters and the servers are read."""

    interval: float = setting(
        duration(0.1, 60.0), "Interval between two ticks. A tick reads energy and tokens together.", default=1.0
    )
    window: float = setting(
        duration(1.0, 3600.0),
        "Time over which the live ratios (tokens per watt, cost per token) are averaged. It is longer for servers"
        " that count tokens at the end of a request.",
        default=60.0,
    )
    hold: float = setting(
        duration(60.0, 30 * 86400.0),
        "How long the energy of a server that cannot be read waits for its page, where the processes on its GPUs are"
        " unknown or it has several models; after that it is booked as `other`. Meanwhile the counters of these GPUs"
        " stand still.",
        default=3600.0,
    )
    plausibility: Plausibility = setting(
        Section(Plausibility), "What is accepted from the pages of servers.", default=Plausibility()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The books: the persistent totals."""

    dir: str = setting(
        FilePath("the path of a directory"),
        "Directory of the books, from which counters continue after a restart. It must be writable and persistent.",
        default="/var/lib/tpw-exporter",
        flag="state.dir",
    )
    keep: float = setting(
        duration(86400.0, 3660 * 86400.0),
        "How long the quarter-hours of the books are kept, for `tpw-exporter report`. Counters are kept without limit.",
        default=400 * 86400.0,
    )
    retire: float = setting(
        duration(3600.0, 3660 * 86400.0),
        "How long a server or a model has to be gone, while the exporter runs, until its series leave the metrics page."
        " Its sums stay in the books,"
        " and its series return with their values when it returns.",
        default=86400.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCalibration:
    """Correction of a GPU's own meter: true watts = gain * measured watts + offset_watts."""

    gpu: str = setting(
        text(
            "the UUID of a GPU",
            pattern=r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9_.:/-]*",
            advice="an index can change at a reboot; nvidia-smi -L lists the UUIDs",
        ),
        "UUID of the GPU, as `tpw-exporter probe` shows it.",
    )
    gain: float = setting(
        number("a factor such as 1.05", minimum=0.5, maximum=2.0, advice="write +5 % as 1.05"),
        "True watts per measured watt.",
        default=1.0,
    )
    offset_watts: float = setting(
        number("a power in watts", minimum=-200.0, maximum=200.0), "Watts to add.", default=0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Meters of the host."""

    meters: tuple[Meter, ...] = setting(
        ListOf(MeterShape(), "a list of host meters"),
        "Host meters to read: `rapl` and others; each may be a mapping of its name to its options. An empty list reads"
        " none. A configured meter must be available; the default is optional.",
        default=lambda: (Meter("rapl", optional=True),),
        default_words="[rapl]",
    )
    sysfs: str = setting(
        FilePath("the path of a directory"), "Mount point of sysfs: `/host/sys` in many containers.", default="/sys"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS of the connection to a server."""

    ca_file: str | None = setting(FilePath(), "Trusted certificates (PEM).", default=None, default_words="the system's")
    cert_file: str | None = setting(FilePath(), "Client certificate (PEM), with `key_file`.", default=None)
    key_file: str | None = setting(FilePath(), "Key of the client certificate (PEM).", default=None)
    server_name: str | None = setting(
        text("a host name"),
        "Host name in the server's certificate.",
        default=None,
        default_words="the host in the url",
    )
    insecure_skip_verify: bool = setting(switch(), "Do not check the server's certificate.", default=False)


_TARGET = duration(0.001, 86400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLevels:
    """Targets of the latency of requests, by which requests within and outside are counted from the histograms of the
    engine. At a bound of its buckets a count is exact; between two bounds the requests of that bucket are unknown."""

    ttft: float | None = setting(
        _TARGET, "Time from the arrival of a request to its first token.", default=None, default_words="no target"
    )
    tpot: float | None = setting(
        _TARGET, "Mean time of a request's tokens after the first.", default=None, default_words="no target"
    )
    e2e: float | None = setting(
        _TARGET, "Time from the arrival of a request to its end.", default=None, default_words="no target"
    )

    def targets(self) -> dict[str, float]:
        """Seconds of each target that is set."""
        by_slo = {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e}
        return {slo: seconds for slo, seconds in by_slo.items() if seconds is not None}


_NAMES = text("a name", pattern=r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_LABEL_PATTERN = r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
_LABEL = text("the name of a label", pattern=_LABEL_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSelector:
    """Pods of this node, instead of an address. It needs the API of the cluster (`discovery.kubernetes`)."""

    namespace: str | None = setting(_NAMES, "Namespace of the pods.", default=None, default_words="all namespaces")
    labels: Mapping[str, str] = setting(
        MapOf(text("the value of a label"), "a mapping of labels to values", _LABEL_PATTERN, "a label"),
        "Labels that the pods have, with these values.",
        default=dict,
        default_words="all pods",
    )
    node: str | None = setting(
        _NAMES, "Only on the node of this name.", default=None, default_words="each node reads its own pods"
    )
    port: str | None = setting(
        text("the name or the number of a port", pattern=r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"),
        "Port of the metrics page: a name that the pods declare, or a number.",
        default=None,
        default_words="`prometheus.io/port` of the pod, else the port named `metrics`, else the engine's usual one",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One inference server. Without a url: ranks of a server with its counters on another node; they own GPUs only."""

    name: str = setting(text("a name"), "Name of the server, the label `server`. Unique.")
    url: str | None = setting(
        server_url(),
        "Base address, such as http://127.0.0.1:8000, to which the engine's metrics path is added; or the address of the"
        " metrics page. unix:/run/server.sock is a Unix socket, unix:/run/server.sock:/metrics a page there.",
        default=None,
        default_words="none: ranks of a server on another node",
    )
    selector: PodSelector | None = setting(
        Section(PodSelector),
        "The server's pods on this node, each read at its own address; several are replicas. All nodes can have the same"
        " configuration.",
        default=None,
    )
    engine: str | None = setting(
        text("the name of an engine", pattern="[a-z][a-z0-9_.-]*"),
        "Engine of the server: vllm, sglang and others, a name from `dialects`, or `custom` with `tokens`.",
        default=None,
        default_words="detected from the metrics page",
    )
    gpus: Gpus = setting(
        GpusShape(),
        "GPUs of the server, each by index, UUID or PCI bus id; a MIG instance by its UUID; a GPU of the meter"
        " `external` by its name. `auto` determines them by the processes; `none` is for a server without GPUs.",
        default=Gpus(GpuChoice.AUTO),
        default_words="auto",
    )
    remote: bool = setting(
        switch(),
        "Read the server from here although its address is of no process on this node, such as that of a load balancer or"
        " of a machine without an exporter. Set it in the configuration of one node only: its tokens are counted by every"
        " exporter that reads it.",
        default=False,
    )
    spans_nodes: bool = setting(
        switch(),
        "The server also has GPUs on other nodes, which are metered there. Live ratios over energy and cost are then not"
        " exposed here, because this node has a part of them; the recording rules calculate them over all nodes.",
        default=False,
    )
    model: str | None = setting(
        text("the name of a model"), "Name of the model, for an engine that reports none.", default=None
    )
    headers_file: str | None = setting(
        FilePath(),
        "File with HTTP headers, one `Name: value` per line, or one bearer token. Lines that start with # are comments.",
        default=None,
    )
    tokens: Mapping[str, MetricSelector] = setting(
        TokensShape(),
        "With engine `custom`: the metrics to count, by role: `output`, `input` (prompt tokens computed),"
        " `prompt` (all prompt tokens, with cached ones), `cached_input`, `requests`. Each is the name of a metric or"
        " {metric, match}.",
        default=dict,
    )
    cadence: str | None = setting(
        choice("step", "chunk", "finish"),
        "When the server's output counter increases: at every step, with every chunk, or at the end of a request. For"
        " a server that differs from its engine.",
        default=None,
        default_words="the engine's",
    )
    role: str | None = setting(
        choice("prefill", "decode", "both", "router"),
        "Role of the server in a pair of prefill and decode instances: `prefill` counts prompts only, `decode` output only,"
        " so that the pair counts every token once. `both` is for a decode instance that also computes prompts itself."
        " `router` is for one in front of other servers: its tokens are theirs, and it is no part of its `deployment`.",
        default=None,
        default_words="from the command line of its process, where that has one; `router` for the engines of gateways and"
        " frontends; else both",
    )
    deployment: str | None = setting(
        text("a name"),
        "What several servers make together, such as pools for prefill and decode, or replicas: the label `deployment` of"
        " `tpw_server_info`. The same name on every node and for every server of it.",
        default=None,
        default_words="from the labels of its pod, where it has one",
    )
    slo: ServiceLevels | None = setting(
        Section(ServiceLevels),
        "Targets of the latency of its requests. An empty mapping sets none.",
        default=None,
        default_words="`slo` of the file",
    )
    timeout: float = setting(duration(0.1, 60.0), "Time limit of one read.", default=2.0)
    tls: Tls | None = setting(Section(Tls), "TLS of the connection.", default=None)
    plausibility: Plausibility | None = setting(
        Section(Plausibility),
        "What is accepted from the page of this server, such as a gateway that counts for many, or an untrusted one.",
        default=None,
        default_words="`polling.plausibility`",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """The API of the cluster, for names, labels and ports of the pods of this node. It needs the rights to list and watch
    pods. Used if the token is there; without it pods are named by the kubelet's logs."""

    url: str | None = setting(
        http_url(),
        "Address of the API server.",
        default=None,
        default_words="that of the cluster in which the exporter runs",
    )
    token_file: str = setting(
        FilePath(),
        "File with the token of the service account. It is read again after it was replaced.",
        default="/var/run/secrets/kubernetes.io/serviceaccount/token",
    )
    ca_file: str = setting(
        FilePath(),
        "Trusted certificates of the API server (PEM).",
        default="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
    )
    node: str | None = setting(
        text("the name of a node", pattern=r"[a-z0-9.-]+"),
        "Name of this node in the cluster: `spec.nodeName` of the exporter's own pod.",
        default=None,
        default_words="the environment variable NODE_NAME; without it the API is not read",
    )
    labels: tuple[str, ...] = setting(
        ListOf(_LABEL, "a list of labels", or_one=True, unique=True),
        "Labels of pods to expose as `label_*` of `tpw_server_info`. Each value is a time series of its own.",
        default=(),
    )
    deployment_labels: tuple[str, ...] = setting(
        ListOf(_LABEL, "a list of labels", or_one=True, unique=True),
        "Labels of pods that name what several workloads make together, such as pools for prefill and decode. The first"
        " that a pod has is its `deployment`. The labels of LeaderWorkerSet, KServe, Ray and Dynamo are known.",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Discovery of servers that are not configured."""

    processes: bool = setting(switch(), "Find inference servers among the processes of this host.", default=True)
    kubelet_checkpoint: str = setting(
        FilePath(),
        "The kubelet's record of the devices of each pod. Read only where the driver does not report the processes of"
        " a GPU; it is optional.",
        default="/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
    )
    kubelet_socket: str = setting(
        FilePath(),
        "Socket of the kubelet's pod resources service, by which the devices of each container are known. Read before the"
        " checkpoint, and likewise only where the driver does not report the processes of a GPU; it is optional.",
        default="/var/lib/kubelet/pod-resources/kubelet.sock",
    )
    pod_logs: str = setting(
        FilePath(),
        "The kubelet's directory of pod logs, with that of container logs beside it. Only the names of its entries are"
        " read: they name the namespace, workload and container of a server; it is optional.",
        default="/var/log/pods",
    )
    kubernetes: Kubernetes = setting(Section(Kubernetes), "The API of the Kubernetes cluster.", default=Kubernetes())
    workloads: int = setting(
        whole_number("a number of workloads", minimum=1, maximum=10_000),
        "How many workloads that use GPUs without being servers are kept apart in metrics. Of more, those that are gone and"
        " used least are summed as `other`.",
        default=100,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedOff:
    """A planned pause. Idle and parked GPUs are then `planned_off`, which is no waste. What is left out does not
    restrict."""

    hours: tuple[tuple[int, int], ...] = setting(
        HOURS,
        "Hours of the day in `tariff.timezone`, whole quarters, end excluded. `20:00-06:00` extends past midnight, into the"
        " day after one of `days`. One range or a list.",
        default=(),
        default_words="all hours",
    )
    days: frozenset[int] = setting(
        DAYS,
        "Days of the week, such as [mon-fri] or [sat, sun].",
        default=frozenset(),
        default_words="all days",
    )
    gpus: tuple[str, ...] = setting(
        ListOf(text("the index or the UUID of a GPU"), "a list of GPUs", or_one=True, unique=True),
        "Only these GPUs, by index or UUID.",
        default=(),
        default_words="all GPUs",
    )
    servers: tuple[str, ...] = setting(
        ListOf(text("the name of a server"), "a list of servers", or_one=True, unique=True),
        "Only what these servers own.",
        default=(),
        default_words="all servers, and GPUs that nobody uses",
    )
    labels: Mapping[str, str] = setting(
        MapOf(text("the value of a label"), "a mapping of labels to values", _LABEL_PATTERN, "a label"),
        "Only servers with these labels of their pods (`discovery.kubernetes.labels`).",
        default=dict,
        default_words="all servers, and GPUs that nobody uses",
    )


_PUE = number("a power usage effectiveness, 1 or more", minimum=1.0, maximum=10.0, advice="facility energy / IT energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class PueQuery:
    """A power usage effectiveness from a Prometheus. Values below 1 or above 10 are refused."""

    url: str = setting(http_url(), "Address of Prometheus, or of another server with its `/api/v1/query`.")
    query: str = setting(text("a PromQL expression"), "PromQL expression of one number.")
    fallback: float = setting(_PUE, "Value while the query returns none.")
    headers_file: str | None = setting(
        FilePath(),
        "File with HTTP headers, one `Name: value` per line, or one bearer token. Lines that start with # are comments.",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facility:
    """From the energy of the GPUs to the energy of the facility."""

    pue: float | PueQuery = setting(
        OrMapping(_PUE, Section(PueQuery), "a number such as 1.3, or a mapping with a query"),
        "Power usage effectiveness: facility energy divided by IT energy. A number is the mean of a year.",
        default=1.0,
    )
    host_share: bool = setting(
        switch(),
        "Add the energy of the host without its GPUs to that of the GPUs, in proportion to their energy: the node's"
        " meter less the GPUs, or otherwise CPU and memory.",
        default=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviceSettings:
    """What `tpw-exporter advise` needs beside the books. Nothing here changes what is measured or booked."""

    can_wait: Mapping[str, float] = setting(
        MapOf(duration(900.0, 7 * 86400.0), "a mapping of names to durations", ".+", "a server or workload"),
        "Servers and workloads that can wait, and how long: `batch: 8h`. Advice is given for them alone, because no"
        " measurement shows what can wait.",
        default=dict,
        default_words="none",
    )
    contracts: tuple[str, ...] = setting(
        ListOf(FilePath(), "a list of files"),
        "Configurations with other tariffs, which are compared for the load of this node.",
        default=(),
    )
    metrics: bool = setting(
        switch(),
        "Expose what advice would save as `tpw_advice_saving_per_month`. Once an hour a process of its own reads the books"
        " for it. A change takes effect when the exporter starts.",
        default=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteLlm:
    """A price file that the daemon keeps fresh."""

    file: str = setting(
        FilePath(), "The file, which is replaced as a whole every hour. Its directory must be there and writable."
    )
    last: float = setting(
        duration(3600.0, 400 * 86400.0),
        "How far back the cost and the tokens reach. Below a week, it is that of some days of the week.",
        default=7 * 86400.0,
    )
    exchange_rate: float | None = setting(
        number("a number of US dollars", above=0.0),
        "US dollars for one unit of the currency of the books, because LiteLLM counts in dollars. Required where that is"
        " not USD; 1 writes prices in the currency of the books.",
        default=None,
        default_words="none",
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
    enable_lifecycle: bool = setting(
        switch(),
        "Allow `POST /-/reload`, `/-/release` and `/-/resume`. The signals SIGHUP, SIGUSR1 and SIGUSR2 do the same and are"
        " always allowed.",
        default=False,
        flag="web.enable-lifecycle",
    )
    external_url: str | None = setting(
        http_url(),
        "Address under which users reach the exporter, such as that of a reverse proxy. Its host name is allowed in"
        " `POST` requests.",
        default=None,
        flag="web.external-url",
    )
    allowed_hosts: tuple[str, ...] = setting(
        ListOf(text("a host name without port", pattern=r"[A-Za-z0-9_.-]+"), "a list of host names", or_one=True),
        "Further host names that are allowed in `POST` requests. IP addresses, localhost, the name of the machine and the"
        " address to listen on always are.",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log, on standard error."""

    level: str = setting(
        choice("debug", "info", "warning", "error", aliases={"warn": "warning"}),
        "Lowest severity in the log.",
        default="info",
        flag="log.level",
    )
    format: str = setting(choice("logfmt", "json"), "Format of a line.", default="logfmt", flag="log.format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. ``Config()`` is that of an empty file."""

    polling: Polling = setting(Section(Polling), "Intervals of reading.", default=Polling())
    state: State = setting(Section(State), "The books.", default=State())
    accelerators: tuple[Meter, ...] = setting(
        ListOf(MeterShape(), "a list of meters"),
        "Meters of accelerators, by name: `nvml` and others; each may be a mapping of its name to its options. An empty"
        " list reads none. A configured meter must be available; the default is optional.",
        default=lambda: (Meter("nvml", optional=True),),
        default_words="[nvml]",
    )
    calibration: tuple[GpuCalibration, ...] = setting(
        ListOf(Section(GpuCalibration), "a list of calibrations"),
        "Corrections of GPUs' own meters, for power and energy. A change applies to later consumption.",
        default=(),
    )
    host: Host = setting(Section(Host), "Meters of the host.", default=Host)
    servers: tuple[Server, ...] = setting(
        ListOf(Section(Server), "a list of servers"), "Inference servers to read.", default=()
    )
    slo: ServiceLevels = setting(
        Section(ServiceLevels), "Targets of latency for servers without their own.", default=ServiceLevels()
    )
    tenants: tuple[ServerTenants, ...] = setting(
        ListOf(Section(ServerTenants), "a list of servers with their tenants"),
        "Who uses the servers: energy, cost and emissions of a server are divided among its tenants by their tokens.",
        default=(),
    )
    dialects: tuple[Mapping[str, Any], ...] = setting(
        ListOf(FreeMapping("a mapping that describes an engine"), "a list of dialects"),
        "Engines of your own: the names of their metrics, in the form of the built-in rows.",
        default=(),
    )
    discovery: Discovery = setting(Section(Discovery), "Servers that are not configured.", default=Discovery())
    planned_off: tuple[PlannedOff, ...] = setting(
        ListOf(Section(PlannedOff), "a list of pauses"),
        "Times in which GPUs are free or hold a model by intention, such as nights without load: no waste.",
        default=(),
    )
    facility: Facility = setting(
        Section(Facility), "From the energy of the GPUs to the energy of the facility.", default=Facility()
    )
    tariff: Tariff = setting(Section(Tariff), "What electricity costs.", default=Tariff())
    site: SiteSettings | None = setting(
        Section(SiteSettings),
        "The site that the contract of `tariff` belongs to, where it has several nodes.",
        default=None,
        default_words="none: this node is the whole site",
    )
    carbon: CarbonSettings | None = setting(
        CARBON, "Carbon intensity of the grid.", default=None, default_words="none: no emissions"
    )
    emissions: Emissions = setting(Section(Emissions), "Emissions beside those of the grid's mix.", default=Emissions())
    costs: Costs = setting(Section(Costs), "Costs beside energy.", default=Costs())
    references: tuple[ReferencePrice, ...] = setting(
        ListOf(Section(ReferencePrice), "a list of references"),
        "Prices of the same work elsewhere.",
        default=(),
    )
    budgets: tuple[PeriodBudget, ...] = setting(
        ListOf(Section(PeriodBudget), "a list of budgets"),
        "Budgets: what is spent of them and what they come to is exposed, and an alert warns before one is exceeded.",
        default=(),
    )
    advice: AdviceSettings = setting(
        Section(AdviceSettings), "What advice needs beside the books.", default=AdviceSettings
    )
    litellm: LiteLlm | None = setting(
        Section(LiteLlm),
        "A file with the measured prices of tokens, with which LiteLLM bills.",
        default=None,
        default_words="none: no file",
    )
    web: Web = setting(Section(Web), "The HTTP server.", default=Web())
    log: Log = setting(Section(Log), "The log.", default=Log())
