"""How inference engines name their counters, as data. Nothing here reads or parses.

A :class:`Dialect` is one row: where an engine publishes its metrics page, how the page is recognised, which samples count
what, and which setting of the engine switches them on. The built-in rows are in :mod:`tpw.tokens.engines`;
:mod:`tpw.tokens.mapping` makes a row from a user's configuration.

Each quantity has an ordered list of candidates, best first: engines rename their counters, and a counter that moves at
every step is preferred to one that moves when a request ends. The first candidate that a page declares or samples is
used (see :mod:`tpw.tokens.reading` for how long).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tpw.model import Cadence, Role, Tier


class Kind(StrEnum):
    """How a candidate appears on the page."""

    COUNTER = "counter"
    """The sample has this name, with or without ``_total``, whichever of the two the row has."""
    HISTOGRAM_SUM = "histogram_sum"
    """The name of a histogram or summary; its ``_sum`` is the counter."""
    GAUGE = "gauge"


class Level(StrEnum):
    """Where on a request's path a server counts. Tokens of two levels are never added: they are the same tokens."""

    ENGINE = "engine"
    FRONTEND = "frontend"
    GATEWAY = "gateway"


class Climb(StrEnum):
    """Where an engine's GPU processes are, relative to the process that listens."""

    SELF = "self"
    """The listener or its descendants."""
    ANCESTOR = "ancestor"
    """Possibly siblings of the listener: up to the common ancestor, then down."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sample that may count a quantity.

    Args:
        name: the sample's name without the engine's prefix; for ``HISTOGRAM_SUM`` the name of the histogram.
        match: label values the sample must have; a label that is listed twice may have either value.
        unless: label values it must not have.
        tiers: for cached tokens, the tier by a label's value; the label "" stands for every series.
        cadence: when it moves, if different from the row's.
        role: what it counts, if different from its list's (a prompt counter that includes cached tokens is in the
            ``input`` list with ``Role.PROMPT``).
    """

    name: str
    kind: Kind = Kind.COUNTER
    match: tuple[tuple[str, str], ...] = ()
    cadence: Cadence | None = None
    role: Role | None = None
    unless: tuple[tuple[str, str], ...] = ()
    tiers: tuple[tuple[str, str, Tier], ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A counter of work for engines that are not measured in tokens: its unit and its candidates."""

    unit: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """How a page is recognised: every part that is not empty must hold. Prefixes are of sample or family names."""

    any_prefix: tuple[str, ...] = ()
    all_prefix: tuple[str, ...] = ()
    all_series: tuple[str, ...] = ()
    absent_prefix: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lookup:
    """A value in a JSON document: the path to GET and the keys and indices that lead to the value."""

    path: str
    pointer: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """A JSON list of running requests, for an engine with an output counter that moves only when a request ends.

    Args:
        path: relative to the page: ``/slots`` for a page at ``/metrics``. Requested only while requests are running.
        busy: key that is true in the entry of a running request.
        identity: keys that together identify the request.
        tokens: where an entry has its output tokens so far; the first pointer that leads to a number is used.
        note: which setting of the engine enables the list.
    """

    path: str
    busy: str
    identity: tuple[str, ...]
    tokens: tuple[tuple[str | int, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Processes:
    """Names of an engine's processes.

    A pattern is a prefix of the process title or of ``comm`` (which the kernel truncates to 15 characters; a longer
    pattern is truncated too), or the base name of a program, script or module on the command line.
    """

    listener: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    climb: Climb = Climb.ANCESTOR


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine. The source of each fact is beside its row."""

    name: str
    mark: Mark = Mark()
    prefixes: tuple[str, ...] = ("",)
    """Spellings of the prefix that all candidate names share, the usual one first."""
    paths: tuple[str, ...] = ("/metrics",)
    """Paths of the page, the usual one first; tried in order on a base address. Query parameters included."""
    port: int | None = None
    other_ports: tuple[int, ...] = ()
    level: Level = Level.ENGINE
    cadence: Cadence = Cadence.FINISH
    """When counters move that have no cadence of their own."""
    output: tuple[Candidate, ...] = ()
    input: tuple[Candidate, ...] = ()
    cached_input: tuple[Candidate, ...] = ()
    stored: tuple[Candidate, ...] = ()
    """Prompt tokens from the engine's stores outside the GPU's memory, which ``cached_input`` does not include: they are
    added to it."""
    external: tuple[Candidate, ...] = ()
    """Prompt tokens that came from outside the instance: cached input of a server that has a store there, else of the
    instance that computed them."""
    prompt: tuple[Candidate, ...] = ()
    """All prompt tokens, beside an ``input`` without the cached ones: for engines that have no counter of cached tokens.
    Not a sample that is in ``input`` too: it would be counted twice."""
    requests: tuple[Candidate, ...] = ()
    running: tuple[Candidate, ...] = ()
    waiting: tuple[Candidate, ...] = ()
    work: tuple[Work, ...] = ()
    uncounted: tuple[Candidate, ...] = ()
    """Requests with unknown tokens, by the label ``path``."""
    model_labels: tuple[str, ...] = ()
    """Labels that name the model; the first that is present and not empty is used."""
    pin: tuple[str, ...] = ()
    """Labels that distinguish replicas of one quantity (tensor-parallel ranks): one of their series is used. Values of all
    other labels are shards: each has its own series, and the ledger adds their rises."""
    late: bool = False
    """Token series appear with the first request: a page without them is of a server that has had none."""
    model_source: tuple[Lookup, ...] = ()
    """Where the model's name is, if the series do not carry it."""
    version_source: tuple[Lookup, ...] = ()
    live_output: tuple[Candidate, ...] = ()
    """A counter of about the same tokens as ``output`` that moves at every step: the difference is in flight."""
    progress: Progress | None = None
    """Output tokens of running requests. When a request ends, by itself or not, the counter rises by all of them."""
    ttft: tuple[str, ...] = ()
    """Histograms, in seconds, of the time from the arrival of a request to its first output token."""
    tpot: tuple[str, ...] = ()
    """Histograms of the mean time of a request's output tokens after the first: one observation per request. Those with one
    observation per token are none of them."""
    e2e: tuple[str, ...] = ()
    """Histograms of the time from the arrival of a request to its end."""
    paired: bool = False
    """Whether a request that ends is in each of these histograms exactly once."""
    processes: Processes = Processes()
    enable: str = ""
    """Which setting switches the counters on: the hint of an error."""
    caveats: str = ""
    """What the counters do not mean, for the documentation."""

    def candidates(self, role: Role) -> tuple[Candidate, ...]:
        """The list that a role's candidates are in (``PROMPT`` shares the list of ``INPUT``)."""
        lists = {
            Role.OUTPUT: self.output,
            Role.INPUT: self.input,
            Role.PROMPT: self.input,
            Role.CACHED_INPUT: self.cached_input,
            Role.ELSEWHERE: self.external,
            Role.REQUESTS: self.requests,
        }
        return lists[role]
