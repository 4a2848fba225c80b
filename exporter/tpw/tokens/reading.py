"""A dialect applied to pages: which candidate counts what, and the readings that follow. No I/O, no clock.

Which candidate is taken must not change under a running server: two counters of one quantity differ, and a change would
book the difference. So a candidate counts as present as soon as the page *declares* it (``# TYPE`` or ``# HELP``), though
its first sample may come with the first request; and once taken it is kept until it is gone from the page while another
one is there (a server that was replaced by another version).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tpw.model import UNKNOWN_MODEL, Cadence, InFlight, Load, Role, TokenSeries, WorkSeries
from tpw.tokens.dialects import Candidate, Dialect, Kind, Mark
from tpw.tokens.page import Page, head_of, labels_of

_HEADS_KEPT = 4096
"""Label sets remembered per sample name. Far above what one engine has; a page of ever new labels must not fill memory."""

_STILL_LOOKS = 5

START_TIME = "process_start_time_seconds"
"""Written by the official client libraries about their own process: the identity of the counters behind the page."""


@dataclass(frozen=True, slots=True)
class PageReading:
    """What a dialect finds on one page."""

    series: tuple[TokenSeries, ...]
    loads: tuple[Load, ...]
    work: tuple[WorkSeries, ...]
    started_wall_seconds: float | None
    """When the process behind the page started, as the page says; None where it does not."""
    cadence: Cadence
    in_flight: tuple[InFlight, ...] = ()


@dataclass(frozen=True, slots=True)
class _Head:
    """One label set of a sample, understood once."""

    key: str
    """Its name and its labels but the pinned ones, in order: rows of one key are replicas of each other."""
    model: str | None
    """None where the labels name none."""


@dataclass(slots=True)
class _Slot:
    """One quantity: its candidates and the one that was taken."""

    candidates: tuple[Candidate, ...]
    sample: str = ""
    chosen: Candidate | None = None
    heads: dict[bytes, _Head | None] = field(default_factory=dict)


class _Ahead:
    """By how much a live counter is ahead of the one that moves when requests end: what is in flight, of one model.

    The two never agree exactly, so the difference is taken from where it was least, and anew whenever both have stood
    still for some looks: nothing was in flight then.
    """

    __slots__ = ("_ended", "_least", "_live", "_still")

    def __init__(self) -> None:
        self._live = self._ended = -1.0
        self._least = 0.0
        self._still = 0

    def tokens(self, live: float, ended: float) -> float:
        """Output tokens in flight at this look."""
        ahead = live - ended
        if live < self._live or ended < self._ended or self._live < 0.0:
            self._least = ahead  # the first look, or another process
        self._still = self._still + 1 if (live, ended) == (self._live, self._ended) else 0
        self._live, self._ended = live, ended
        self._least = ahead if self._still >= _STILL_LOOKS else min(self._least, ahead)
        return ahead - self._least


class DialectReader:
    """Reads the pages of one server. Remembers what it chose and the label sets it has understood.

    Args:
        dialect: the engine's row.
        model: the model's name where the series carry none; may be asked anew at every read.
    """

    def __init__(self, dialect: Dialect, model: Callable[[], str] = lambda: "") -> None:
        self.dialect = dialect
        self._model = model
        self._roles = {
            role: _Slot(dialect.candidates(role))
            for role in (Role.OUTPUT, Role.INPUT, Role.CACHED_INPUT, Role.REQUESTS)
            if dialect.candidates(role)
        }
        if dialect.prompt:
            self._roles[Role.PROMPT] = _Slot(dialect.prompt)
        self._live = _Slot(dialect.live_output)
        self._ahead: dict[str, _Ahead] = {}
        self._work = {work.unit: _Slot(work.candidates) for work in dialect.work}
        self._running = _Slot(dialect.running)
        self._waiting = _Slot(dialect.waiting)

    def read(self, page: Page) -> PageReading:
        """What the page says now. Never raises: what is not there is not in the reading."""
        series = self._series(page)
        in_flight = self._in_flight(page, series) if self.dialect.live_output else ()
        return PageReading(
            series=series,
            loads=self._loads(page, {one.model for one in series}),
            work=tuple(
                WorkSeries(unit, self._named(head), f"{unit}:{head.key}", value)
                for unit, slot in self._work.items()
                for head, value in self._rows(page, slot)
            ),
            started_wall_seconds=started(page),
            cadence=self._cadence(),
            in_flight=in_flight,
        )

    def counts(self, page: Page) -> bool:
        """Whether the page has a counter of tokens or work, if only declared. Asked when a reading has no series."""
        return any(slot.chosen and _is_present(page, slot.sample, slot.chosen) for slot in self._counters())

    def wanted(self) -> tuple[str, ...]:
        """Samples that would be taken as tokens or work, by their usual names, for messages."""
        prefix = self.dialect.prefixes[0]
        return tuple(dict.fromkeys(prefix + sample_name(c) for slot in self._counters() for c in slot.candidates))

    def _counters(self) -> list[_Slot]:
        return [slot for role, slot in self._roles.items() if role is not Role.REQUESTS] + list(self._work.values())

    def _in_flight(self, page: Page, series: tuple[TokenSeries, ...]) -> tuple[InFlight, ...]:
        live: dict[str, float] = {}
        for head, value in self._rows(page, self._live):
            model = self._named(head)
            live[model] = live.get(model, 0.0) + value
        found = []
        for model, value in live.items():
            ended = sum(one.value for one in series if one.role is Role.OUTPUT and one.model == model)
            tokens = self._ahead.setdefault(model, _Ahead()).tokens(value, ended)
            if tokens:
                found.append(InFlight(model, tokens))
        return tuple(found)

    def _series(self, page: Page) -> tuple[TokenSeries, ...]:
        found = []
        for role, slot in self._roles.items():
            for head, value in self._rows(page, slot):
                assigned = slot.chosen.role if slot.chosen is not None and slot.chosen.role is not None else role
                found.append(TokenSeries(assigned, self._named(head), head.key, value))
        return tuple(found)

    def _loads(self, page: Page, models: set[str]) -> tuple[Load, ...]:
        # Gauges of an engine that labels only its counters are of the one model that those name.
        only = next(iter(models)) if len(models) == 1 else None
        running = self._gauge(page, self._running, only)
        waiting = self._gauge(page, self._waiting, only)
        return tuple(Load(model, running.get(model), waiting.get(model)) for model in {**running, **waiting})

    def _gauge(self, page: Page, slot: _Slot, only: str | None) -> dict[str, float]:
        """By model: the sum over shards, the highest of replicas (an old multi-process client shows one per process)."""
        shards: dict[tuple[str, str], float] = {}
        for head, value in self._values(page, slot):
            place = (only if head.model is None and only is not None else self._named(head), head.key)
            shards[place] = max(value, shards.get(place, 0.0))
        models: dict[str, float] = {}
        for (model, _), value in shards.items():
            models[model] = models.get(model, 0.0) + value
        return models

    def _rows(self, page: Page, slot: _Slot) -> list[tuple[_Head, float]]:
        """The counter's series, of replicas the one that is furthest: so one that appears or lags takes nothing back."""
        rows = self._values(page, slot)
        if len(rows) < 2:
            return rows
        kept: dict[str, tuple[_Head, float]] = {}
        for row in rows:
            other = kept.get(row[0].key)
            if other is None or row[1] > other[1]:
                kept[row[0].key] = row
        return list(kept.values())

    def _values(self, page: Page, slot: _Slot) -> list[tuple[_Head, float]]:
        lines = page.lines(slot.sample) if slot.sample else []
        if not lines and slot.candidates:
            self._choose(page, slot)
            lines = page.lines(slot.sample) if slot.sample else []
        heads = slot.heads
        rows = []
        for raw, value in lines:
            head = heads[raw] if raw in heads else self._understand(slot, raw)
            if head is not None:
                rows.append((head, value))
        return rows

    def _choose(self, page: Page, slot: _Slot) -> None:
        """Take the first candidate that is there; keep what was taken while it is there, or while nothing else is."""
        if slot.chosen is not None and _is_present(page, slot.sample, slot.chosen):
            return
        for candidate in slot.candidates:
            for prefix in self.dialect.prefixes:
                for sample in spellings(prefix + sample_name(candidate), candidate.kind):
                    if _is_present(page, sample, candidate):
                        slot.sample, slot.chosen = sample, candidate
                        slot.heads.clear()
                        return

    def _understand(self, slot: _Slot, raw: bytes) -> _Head | None:
        if len(slot.heads) >= _HEADS_KEPT:
            slot.heads.clear()
        head: _Head | None
        try:
            head = self._head(slot, raw)
        except ValueError:
            head = None
        slot.heads[raw] = head
        return head

    def _head(self, slot: _Slot, raw: bytes) -> _Head | None:
        labels = labels_of(raw)
        if slot.chosen is not None and not _matches(slot.chosen, labels):
            return None
        return _Head(
            key=head_of(slot.sample, {name: value for name, value in labels.items() if name not in self.dialect.pin}),
            model=next((labels[label] for label in self.dialect.model_labels if labels.get(label)), None),
        )

    def _named(self, head: _Head) -> str:
        return head.model if head.model is not None else (self._model() or UNKNOWN_MODEL)

    def _cadence(self) -> Cadence:
        if self._live.chosen is not None:
            return self._live.chosen.cadence or self.dialect.cadence
        for role in (Role.OUTPUT, Role.INPUT):
            slot = self._roles.get(role)
            if slot is not None and slot.chosen is not None:
                return slot.chosen.cadence or self.dialect.cadence
        return self.dialect.cadence


def _matches(candidate: Candidate, labels: Mapping[str, str]) -> bool:
    wanted: dict[str, set[str]] = {}
    for label, value in candidate.match:
        wanted.setdefault(label, set()).add(value)
    return all(labels.get(label) in values for label, values in wanted.items()) and not any(
        labels.get(label) == value for label, value in candidate.unless
    )


def sample_name(candidate: Candidate) -> str:
    """The sample's name as the row spells it, without prefix."""
    return candidate.name + "_sum" if candidate.kind is Kind.HISTOGRAM_SUM else candidate.name


def spellings(sample: str, kind: Kind) -> tuple[str, ...]:
    """A counter may stand with or without ``_total``, whatever its source says (client libraries add it or do not)."""
    if kind is not Kind.COUNTER:
        return (sample,)
    return (sample, sample.removesuffix("_total") if sample.endswith("_total") else sample + "_total")


def started(page: Page) -> float | None:
    """When the process behind the page started, Unix seconds.

    None where the page does not say, or speaks of several processes: then its counters may outlive any of them.
    """
    lines = page.lines(START_TIME)
    return lines[0][1] if len(lines) == 1 and lines[0][0] == START_TIME.encode() else None


def recognise(page: Page, dialects: tuple[Dialect, ...]) -> Dialect | None:
    """The first dialect whose mark the page bears; None where no one's does."""
    return next((dialect for dialect in dialects if bears(page, dialect.mark)), None)


def bears(page: Page, mark: Mark) -> bool:
    """Whether a page bears a mark. An empty mark is borne by no page."""
    if mark == Mark():
        return False
    return (
        (not mark.any_prefix or any(page.prefixed(prefix) for prefix in mark.any_prefix))
        and all(page.prefixed(prefix) for prefix in mark.all_prefix)
        and all(page.samples(name) or page.declared(name) is not None for name in mark.all_series)
        and not any(page.prefixed(prefix) for prefix in mark.absent_prefix)
    )


def _is_present(page: Page, sample: str, candidate: Candidate) -> bool:
    """Sampled, or declared as something that such a sample can belong to."""
    if page.samples(sample):
        return True
    if candidate.kind is Kind.HISTOGRAM_SUM:
        return page.declared(sample.removesuffix("_sum")) in ("histogram", "summary", "")
    declared = page.declared(sample)
    if declared is None and sample.endswith("_total"):
        # OpenMetrics declares the family without the suffix that its samples carry.
        declared = page.declared(sample.removesuffix("_total"))
    return declared is not None and declared not in ("histogram", "summary")


def summary(series: tuple[TokenSeries, ...]) -> Mapping[Role, float]:
    """The series of a reading added up by role, all models together: for people, not for the books."""
    totals: dict[Role, float] = {}
    for one in series:
        totals[one.role] = totals.get(one.role, 0.0) + one.value
    return totals
