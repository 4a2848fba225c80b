"""Applies a dialect to pages: chooses the candidate for each quantity and reads its series. No I/O, no clock.

The choice must not change while a server runs: two counters of one quantity differ, and a change would book the
difference. So a candidate is present as soon as the page *declares* it (``# TYPE`` or ``# HELP``), even if its first sample
appears with the first request; and a chosen candidate is replaced only if it disappears from the page while another is
present (the server was replaced by another version).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tpw.model import (
    UNKNOWN_MODEL,
    Cadence,
    InFlight,
    KvTransfer,
    Load,
    Phase,
    Role,
    ServiceReading,
    Slo,
    Tier,
    TokenSeries,
    UncountedSeries,
    WorkSeries,
    label_text,
)
from tpw.tokens.dialects import Candidate, Dialect, Kind, Mark
from tpw.tokens.page import Page, head_of, labels_of

_HEADS_KEPT = 4096
"""Label sets remembered per quantity, far more than an engine has: a page of ever new labels must not fill memory."""

_KEY_LENGTH = 2048
"""Longest key of a series that is kept as on the page. Tuning: far above the label sets of engines."""

_IDLE_READS = 5

ALONE = KvTransfer()
_BESIDE = (Role.ELSEWHERE, Role.REQUESTS)
"""Roles without which a page has no counters."""
_COUNTED_BY_PREFILL = (Role.INPUT, Role.PROMPT, Role.CACHED_INPUT)

START_TIME = "process_start_time_seconds"
"""Published by the official client libraries for their process: identifies the counters of the page."""


@dataclass(frozen=True, slots=True)
class PageReading:
    """The values of one page."""

    series: tuple[TokenSeries, ...]
    loads: tuple[Load, ...]
    work: tuple[WorkSeries, ...]
    started_wall_seconds: float | None
    """Start of the process behind the page, from the page; None if the page does not report it."""
    cadence: Cadence
    in_flight: tuple[InFlight, ...] = ()
    uncounted: tuple[UncountedSeries, ...] = ()
    refused: int = 0
    """Samples of counters with a value that no counter has: negative, not finite or above 2^63."""
    service: ServiceReading | None = None
    """None without targets of latency."""
    note: str = ""
    """Which targets the page does not show; "" where it shows all."""


@dataclass(frozen=True, slots=True)
class Head:
    """One parsed label set."""

    key: str
    """Name and sorted labels without the pinned ones: samples with the same key are replicas."""
    model: str | None
    """None if the labels name none."""
    path: str = ""
    tier: Tier | None = None


@dataclass(slots=True)
class Slot:
    """One quantity: its candidates and the chosen one."""

    candidates: tuple[Candidate, ...]
    sample: str = ""
    chosen: Candidate | None = None
    heads: dict[bytes, Head | None] = field(default_factory=dict)


class _Lead:
    """Tokens in flight of one model: the lead of a live counter over the counter of ended requests.

    The two never agree exactly, so the lead is relative to its minimum. The minimum is reset when both counters have not
    moved for some reads: nothing is in flight then.
    """

    __slots__ = ("_ended", "_idle_reads", "_live", "_minimum")

    def __init__(self) -> None:
        self._live = self._ended = -1.0
        self._minimum = 0.0
        self._idle_reads = 0

    def tokens(self, live: float, ended: float) -> float:
        """Output tokens in flight at this read."""
        lead = live - ended
        if live < self._live or ended < self._ended or self._live < 0.0:
            self._minimum = lead  # the first read, or another process
        self._idle_reads = self._idle_reads + 1 if (live, ended) == (self._live, self._ended) else 0
        self._live, self._ended = live, ended
        self._minimum = lead if self._idle_reads >= _IDLE_READS else min(self._minimum, lead)
        return lead - self._minimum


class DialectReader:
    """Reads the pages of one server. Remembers the chosen candidates and the parsed label sets.

    Args:
        dialect: the engine's row.
        model: the model's name if the series carry none; called at every read.
        targets: seconds of each latency that has a target.
    """

    def __init__(
        self, dialect: Dialect, model: Callable[[], str] = lambda: "", targets: Mapping[Slo, float] | None = None
    ) -> None:
        self.dialect = dialect
        self._model = model
        self._roles = {
            role: Slot(dialect.candidates(role))
            for role in (Role.OUTPUT, Role.INPUT, Role.CACHED_INPUT, Role.ELSEWHERE, Role.REQUESTS)
            if dialect.candidates(role)
        }
        if dialect.prompt:
            self._roles[Role.PROMPT] = Slot(dialect.prompt)
        self._stored = Slot(dialect.stored)
        self._live = Slot(dialect.live_output)
        self._leads: dict[str, _Lead] = {}
        self._work = {work.unit: Slot(work.candidates) for work in dialect.work}
        self._uncounted = Slot(dialect.uncounted)
        self._running = Slot(dialect.running)
        self._waiting = Slot(dialect.waiting)
        self._refused = 0
        """On the page that is read."""
        self._latencies: LatencyReader | None = None
        if targets:
            from tpw.tokens.latency import LatencyReader  # only servers with targets pay for it

            self._latencies = LatencyReader(dialect, targets, model)

    def read(self, page: Page, transfer: KvTransfer = ALONE) -> PageReading:
        """The values of the page. Never raises: missing quantities are missing in the reading."""
        self._refused = 0
        series = self._series(page, transfer)
        counts_output = self.dialect.live_output and transfer.phase is not Phase.PREFILL
        in_flight = self._in_flight(page, series) if counts_output else ()
        service, note = None, ""
        if self._latencies is not None:
            has_served = any(one.value for one in series)
            service, note = self._latencies.read(page, transfer.phase, has_served=has_served)
        return PageReading(
            series=series,
            loads=self._loads(page, {one.model for one in series}),
            work=tuple(
                WorkSeries(unit, self._model_of(head), f"{unit}:{head.key}", value)
                for unit, slot in self._work.items()
                for head, value in self._rows(page, slot)
            ),
            started_wall_seconds=started(page),
            cadence=self._cadence(),
            in_flight=in_flight,
            uncounted=tuple(
                UncountedSeries(head.path, head.key, value) for head, value in self._rows(page, self._uncounted)
            ),
            refused=self._refused,
            service=service,
            note=note,
        )

    def counts(self, page: Page) -> bool:
        """Whether the page has or declares a counter of tokens or work. For a reading without series."""
        return any(slot.chosen and _is_present(page, slot.sample, slot.chosen) for slot in self._counters())

    def wanted(self) -> tuple[str, ...]:
        """Usual names of the samples that count tokens or work, for messages."""
        prefix = self.dialect.prefixes[0]
        return tuple(dict.fromkeys(prefix + sample_name(c) for slot in self._counters() for c in slot.candidates))

    def _counters(self) -> list[Slot]:
        return [slot for role, slot in self._roles.items() if role not in _BESIDE] + list(self._work.values())

    def _in_flight(self, page: Page, series: tuple[TokenSeries, ...]) -> tuple[InFlight, ...]:
        live: dict[str, float] = {}
        for head, value in self._rows(page, self._live):
            model = self._model_of(head)
            live[model] = live.get(model, 0.0) + value
        found = []
        for model, value in live.items():
            ended = sum(one.value for one in series if one.role is Role.OUTPUT and one.model == model)
            tokens = self._leads.setdefault(model, _Lead()).tokens(value, ended)
            if tokens:
                found.append(InFlight(model, tokens))
        return tuple(found)

    def _series(self, page: Page, transfer: KvTransfer) -> tuple[TokenSeries, ...]:
        slots = [*self._roles.items(), (Role.CACHED_INPUT, self._stored)]
        found = []
        for role, slot in slots:
            rows = self._rows(page, slot)
            own = slot.chosen.role if slot.chosen is not None and slot.chosen.role is not None else role
            own = _role_in(transfer, own)
            found += [TokenSeries(own, self._model_of(head), head.key, value, head.tier) for head, value in rows]
        return tuple(found)

    def _loads(self, page: Page, models: set[str]) -> tuple[Load, ...]:
        # If an engine labels only its counters and they name one model, the gauges are of that model.
        only = next(iter(models)) if len(models) == 1 else None
        running = self._gauge(page, self._running, only)
        waiting = self._gauge(page, self._waiting, only)
        return tuple(Load(model, running.get(model), waiting.get(model)) for model in {**running, **waiting})

    def _gauge(self, page: Page, slot: Slot, only: str | None) -> dict[str, float]:
        """By model: the sum over shards, the highest value of replicas (an old client library has one per process)."""
        shards: dict[tuple[str, str], float] = {}
        for head, value in self._values(page, slot):
            shard = (only if head.model is None and only is not None else self._model_of(head), head.key)
            shards[shard] = max(value, shards.get(shard, 0.0))
        models: dict[str, float] = {}
        for (model, _), value in shards.items():
            models[model] = models.get(model, 0.0) + value
        return models

    def _rows(self, page: Page, slot: Slot) -> list[tuple[Head, float]]:
        """The counter's series; of replicas the highest, so that one that appears or lags does not lower the value."""
        rows = self._values(page, slot)
        for raw in page.refused(slot.sample):
            self._refused += self._head_of(slot, raw) is not None
        if len(rows) < 2:
            return rows
        highest: dict[str, tuple[Head, float]] = {}
        for row in rows:
            other = highest.get(row[0].key)
            if other is None or row[1] > other[1]:
                highest[row[0].key] = row
        return list(highest.values())

    def _values(self, page: Page, slot: Slot) -> list[tuple[Head, float]]:
        lines = page.lines(slot.sample) if slot.sample else []
        if not lines and slot.candidates:
            self._choose(page, slot)
            lines = page.lines(slot.sample) if slot.sample else []
        rows = []
        for raw, value in lines:
            head = self._head_of(slot, raw)
            if head is not None:
                rows.append((head, value))
        return rows

    def _choose(self, page: Page, slot: Slot) -> None:
        """Choose the first candidate that is present; keep the chosen one while it or no other is present."""
        if slot.chosen is not None and _is_present(page, slot.sample, slot.chosen):
            return
        for candidate in slot.candidates:
            for prefix in self.dialect.prefixes:
                for sample in spellings(prefix + sample_name(candidate), candidate.kind):
                    if _is_present(page, sample, candidate):
                        slot.sample, slot.chosen = sample, candidate
                        slot.heads.clear()
                        return

    def _head_of(self, slot: Slot, raw: bytes) -> Head | None:
        """None for a sample that is not counted."""
        return slot.heads[raw] if raw in slot.heads else self._parse(slot, raw)

    def _parse(self, slot: Slot, raw: bytes) -> Head | None:
        if len(slot.heads) >= _HEADS_KEPT:
            slot.heads.clear()
        head: Head | None
        try:
            head = self._head(slot, raw)
        except ValueError:
            head = None
        slot.heads[raw] = head
        return head

    def _head(self, slot: Slot, raw: bytes) -> Head | None:
        return self._head_by(slot, labels_of(raw))

    def _head_by(self, slot: Slot, labels: Mapping[str, str]) -> Head | None:
        if slot.chosen is not None and not _matches(slot.chosen, labels):
            return None
        return self._parsed(slot, labels)

    def _parsed(self, slot: Slot, labels: Mapping[str, str]) -> Head:
        """What is read of the labels of a series that is counted."""
        key = head_of(slot.sample, {name: value for name, value in labels.items() if name not in self.dialect.pin})
        model = next((labels[label] for label in self.dialect.model_labels if labels.get(label)), None)
        tiers = slot.chosen.tiers if slot.chosen is not None else ()
        tier = next((tier for label, value, tier in tiers if labels.get(label, "") == value), None)
        return Head(_short(key), None if model is None else label_text(model), label_text(labels.get("path", "")), tier)

    def _model_of(self, head: Head) -> str:
        return head.model if head.model is not None else (self._model() or UNKNOWN_MODEL)

    def _cadence(self) -> Cadence:
        if self._live.chosen is not None:
            return self._live.chosen.cadence or self.dialect.cadence
        for role in (Role.OUTPUT, Role.INPUT):
            slot = self._roles.get(role)
            if slot is not None and slot.chosen is not None:
                return slot.chosen.cadence or self.dialect.cadence
        return self.dialect.cadence


def _short(key: str) -> str:
    """The key, or its beginning and a digest of it if it is very long. Usual keys stay as they are: books have them."""
    if len(key) <= _KEY_LENGTH:
        return key
    from hashlib import sha256

    return f"{label_text(key)}{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _role_in(transfer: KvTransfer, role: Role) -> Role:
    """The role of a series in an instance of a pair: prompts are the prefill instance's, the output is the other's.

    No other instance counts the prompts that a prefill instance takes from outside.
    """
    if role is Role.ELSEWHERE and (transfer.from_store or transfer.phase is Phase.PREFILL):
        role = Role.CACHED_INPUT
    if transfer.phase is Phase.PREFILL and role is Role.OUTPUT:
        return Role.ELSEWHERE
    return Role.ELSEWHERE if transfer.phase is Phase.DECODE and role in _COUNTED_BY_PREFILL else role


def _matches(candidate: Candidate, labels: Mapping[str, str]) -> bool:
    wanted: dict[str, set[str]] = {}
    for label, value in candidate.match:
        wanted.setdefault(label, set()).add(value)
    return all(labels.get(label) in values for label, values in wanted.items()) and not any(
        labels.get(label) == value for label, value in candidate.unless
    )


def sample_name(candidate: Candidate) -> str:
    """The sample's name as in the row, without prefix."""
    return candidate.name + "_sum" if candidate.kind is Kind.HISTOGRAM_SUM else candidate.name


def spellings(sample: str, kind: Kind) -> tuple[str, ...]:
    """A counter with and without ``_total``: client libraries add it or do not."""
    if kind is not Kind.COUNTER:
        return (sample,)
    return (sample, sample.removesuffix("_total") if sample.endswith("_total") else sample + "_total")


def started(page: Page) -> float | None:
    """Start of the process behind the page, Unix seconds.

    None if the page reports none or several processes: then its counters may outlive any of them.
    """
    lines = page.lines(START_TIME)
    return lines[0][1] if len(lines) == 1 and lines[0][0] == START_TIME.encode() else None


def recognise(page: Page, dialects: tuple[Dialect, ...]) -> Dialect | None:
    """The first dialect with a mark that the page has; None if there is none."""
    return next((dialect for dialect in dialects if has_mark(page, dialect.mark)), None)


def has_mark(page: Page, mark: Mark) -> bool:
    """Whether a page has a mark. No page has an empty one."""
    if mark == Mark():
        return False
    return (
        (not mark.any_prefix or any(page.prefixed(prefix) for prefix in mark.any_prefix))
        and all(page.prefixed(prefix) for prefix in mark.all_prefix)
        and all(page.samples(name) or page.declared(name) is not None for name in mark.all_series)
        and not any(page.prefixed(prefix) for prefix in mark.absent_prefix)
    )


def _is_present(page: Page, sample: str, candidate: Candidate) -> bool:
    """Sampled, or declared with a type that such a sample can belong to."""
    if page.samples(sample):
        return True
    if candidate.kind is Kind.HISTOGRAM_SUM:
        return page.declared(sample.removesuffix("_sum")) in ("histogram", "summary", "")
    declared = page.declared(sample)
    if declared is None and sample.endswith("_total"):
        # OpenMetrics declares the family without the suffix that its samples carry.
        declared = page.declared(sample.removesuffix("_total"))
    return declared is not None and declared not in ("histogram", "summary")
