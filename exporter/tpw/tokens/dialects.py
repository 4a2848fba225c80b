"""What an inference engine calls its counters, as data.

A :class:`Dialect` is one row: where an engine publishes its page, how the page is recognised, which samples count what,
and what to tell a person when the samples are not there. The rows are in :mod:`tpw.tokens.engines`; a user's own mapping
becomes a row through :meth:`Dialect.from_mapping`. Nothing here reads or parses.

For every quantity there is an ordered list of candidates, best first: engines rename their counters, and one that moves
at every step is worth more than one that moves when a request ends. The first candidate a page declares or samples is
taken (see :mod:`tpw.tokens.reading` for how long it is kept).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tpw.model import Cadence, Role


class Kind(StrEnum):
    """How a candidate stands on the page."""

    COUNTER = "counter"
    """The sample is the name; ``_total`` may be there or not, whatever the row says."""
    HISTOGRAM_SUM = "histogram_sum"
    """The name is a histogram or summary; its ``_sum`` is the counter."""
    GAUGE = "gauge"


class Level(StrEnum):
    """Where in a request's way a server counts. Tokens of two levels are never added: they are the same tokens."""

    ENGINE = "engine"
    FRONTEND = "frontend"
    GATEWAY = "gateway"


class Climb(StrEnum):
    """Where an engine's GPU processes are, seen from its listening socket."""

    SELF = "self"
    """The listener itself or its descendants."""
    ANCESTOR = "ancestor"
    """Siblings of the listener: up to what started both, then down."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sample that may count a quantity.

    Args:
        name: the sample's name without the engine's prefix; for ``HISTOGRAM_SUM`` the name of the histogram.
        match: label values the sample must have; a label that stands twice may have either.
        unless: label values that it must not have.
        cadence: when it moves, where that differs from the row's.
        role: what it counts, where that differs from its list's (a prompt counter that includes cached tokens stands in
            the ``input`` list with ``Role.PROMPT``).
    """

    name: str
    kind: Kind = Kind.COUNTER
    match: tuple[tuple[str, str], ...] = ()
    cadence: Cadence | None = None
    role: Role | None = None
    unless: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A counter of work where tokens are not the measure: its unit and its candidates."""

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
    """A value in a JSON answer: the path to GET and the keys and positions that lead to it."""

    path: str
    pointer: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an engine, whose output counter moves when a request ends, tells how far the requests in work are: a JSON list.

    Args:
        path: beside the page: ``/slots`` for a page at ``/metrics``. Asked only while requests are running.
        busy: key of an entry that is true while it works.
        identity: keys of an entry that together name its request.
        tokens: where an entry has its output tokens so far; the first that is there.
        note: what to tell where it is switched off.
    """

    path: str
    busy: str
    identity: tuple[str, ...]
    tokens: tuple[tuple[str | int, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Processes:
    """How an engine's processes are called.

    Patterns are beginnings of the process title or ``comm`` (which the kernel cuts to 15 characters; a longer pattern is
    compared as cut), or the base name of a word at the head of the command line.
    """

    listener: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    climb: Climb = Climb.ANCESTOR


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine. See the module's text; sources of the facts are beside the rows."""

    name: str
    mark: Mark = Mark()
    prefixes: tuple[str, ...] = ("",)
    """Spellings of the prefix that all candidate names share, the usual one first."""
    paths: tuple[str, ...] = ("/metrics",)
    """Where the page is, the usual place first; tried in order on a base address. Query parameters included."""
    port: int | None = None
    other_ports: tuple[int, ...] = ()
    level: Level = Level.ENGINE
    cadence: Cadence = Cadence.FINISH
    """When counters move that say nothing else."""
    output: tuple[Candidate, ...] = ()
    input: tuple[Candidate, ...] = ()
    cached_input: tuple[Candidate, ...] = ()
    prompt: tuple[Candidate, ...] = ()
    """All prompt tokens, beside an ``input`` without the cached ones: for engines that count cached ones nowhere. Not a
    sample that stands in ``input`` too: it would be counted twice."""
    requests: tuple[Candidate, ...] = ()
    running: tuple[Candidate, ...] = ()
    waiting: tuple[Candidate, ...] = ()
    work: tuple[Work, ...] = ()
    model_labels: tuple[str, ...] = ()
    """Labels that name the model, the first that is there and not empty; none where the engine names none."""
    pin: tuple[str, ...] = ()
    """Labels whose values are replicas of one quantity (tensor-parallel ranks): one series of them is kept. All other
    labels are real shards: each keeps its own series, and the ledger adds their rises."""
    late: bool = False
    """Token series appear with the first request: a page of this engine without them is a server that has not worked."""
    model_source: tuple[Lookup, ...] = ()
    """Where the model's name is, for engines whose series do not carry it."""
    version_source: tuple[Lookup, ...] = ()
    live_output: tuple[Candidate, ...] = ()
    """A counter of about the same tokens as ``output`` that moves at every step: what it is ahead by is in flight."""
    progress: Progress | None = None
    """Where output tokens of requests in work are told, which the counter takes over when they end, however they end."""
    processes: Processes = Processes()
    enable: str = ""
    """How to switch the counters on, in words, for the hint of an error."""

    def candidates(self, role: Role) -> tuple[Candidate, ...]:
        """The list that a role's candidates stand in (``PROMPT`` stands in the list of ``INPUT``)."""
        lists = {
            Role.OUTPUT: self.output,
            Role.INPUT: self.input,
            Role.PROMPT: self.input,
            Role.CACHED_INPUT: self.cached_input,
            Role.REQUESTS: self.requests,
        }
        return lists[role]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, name: str = "custom") -> Dialect:
        """A row from plain words: see :mod:`tpw.tokens.words`. Raises ValueError with every problem, one per line."""
        from tpw.tokens.words import dialect_of

        return dialect_of(mapping, name)
