"""Families -> bytes: the Prometheus text format 0.0.4 and OpenMetrics 1.0.

The two formats share every sample line of ours; they differ in the headers of counters and in the end mark. A line is kept
with its value, so a tick renders only what moved. The bytes are those prometheus_client prints for the same families
(a test holds the two equal), at a fraction of the time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from enum import Enum

from tpw.exposition.catalogue import Kind, Metric
from tpw.exposition.families import Drops, Family, families
from tpw.snapshot import Snapshot


class Format(Enum):
    """The two formats, by their content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


END_OF_OPENMETRICS = b"# EOF\n"

_SERIES_LIMIT = 20_000
"""Series whose lines are kept. Models and servers come and go for months: above this everything is forgotten once."""

Tail = Callable[[Format, Container[str] | None], bytes]
"""Families of others to append to a page (without the end mark), in a format, filtered by sample name."""


def number(value: float) -> str:
    """A sample value, shortest form that reads back the same; large numbers with an exponent, as Go prints them."""
    text = repr(float(value))
    if value < 1e6:
        return text
    dot = text.find(".")
    if dot <= 6:
        # Python's own exponent form, from 1e16 on.
        return text
    mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
    return f"{mantissa}e+{dot - 1:02d}"


def escape(text: str) -> str:
    """A label value as it stands between quotes. Half surrogates (a foreign page with broken bytes) become ``?``."""
    if "\\" in text or "\n" in text or '"' in text:
        text = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return text if text.isascii() else encodable(text)


def encodable(text: str) -> str:
    """The text with what UTF-8 cannot carry replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def header(metric: Metric, form: Format) -> str:
    """The HELP and TYPE lines. OpenMetrics names a counter's family without ``_total`` and escapes quotes too."""
    name = metric.name
    text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    if form is Format.OPENMETRICS:
        text = text.replace('"', r"\"")
        if metric.kind is Kind.COUNTER:
            name = name.removesuffix("_total")
    return f"# HELP {name} {text}\n# TYPE {name} {metric.kind}\n"


class _Lines:
    """The lines of one metric: the same labels come again every tick, and often the same value."""

    __slots__ = ("_kept", "_name", "_order", "headers")

    def __init__(self, metric: Metric) -> None:
        self.headers = {form: header(metric, form) for form in Format}
        self._name = metric.name
        self._order = sorted((label, place) for place, label in enumerate(metric.labels))
        # (value, line, length of the line up to the value); replaced as a whole, so threads may share it.
        self._kept: dict[tuple[str, ...], tuple[float, str, int]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self) -> None:
        """Start anew."""
        self._kept = {}

    def append_to(self, out: list[str], family: Family) -> None:
        """Append one line per sample."""
        kept = self._kept
        for labels, value in family.samples:
            entry = kept.get(labels)
            if entry is None:
                prefix = self._prefix(labels)
            elif entry[0] == value:
                out.append(entry[1])
                continue
            else:
                prefix = entry[1][: entry[2]]
            line = f"{prefix}{number(value)}\n"
            kept[labels] = (value, line, len(prefix))
            out.append(line)

    def _prefix(self, labels: tuple[str, ...]) -> str:
        if not labels:
            return f"{self._name} "
        pairs = ",".join(f'{label}="{escape(labels[place])}"' for label, place in self._order)
        return f"{self._name}{{{pairs}}} "


class Renderer:
    """Renders families. Safe to share between threads: two that render at once do the work twice, nothing else."""

    def __init__(self, series_limit: int = _SERIES_LIMIT) -> None:
        self._lines: dict[str, _Lines] = {}
        self._series_limit = series_limit

    def render(self, rows: Iterable[Family], form: Format, *, end: bool = True) -> bytes:
        """The page of these families; ``end`` says whether OpenMetrics' end mark is to be set."""
        if sum(map(len, list(self._lines.values()))) > self._series_limit:
            for lines in list(self._lines.values()):
                lines.forget()
        out: list[str] = []
        for family in rows:
            metric = family.metric
            kept = self._lines.get(metric.name)
            if kept is None:
                kept = self._lines[metric.name] = _Lines(metric)
            out.append(kept.headers[form])
            kept.append_to(out, family)
        page = "".join(out).encode()
        return page + END_OF_OPENMETRICS if end and form is Format.OPENMETRICS else page


@dataclass(slots=True)
class _Kept:
    """What was rendered of one snapshot."""

    snapshot: Snapshot
    pages: dict[tuple[Format, bool], bytes] = field(default_factory=dict)
    """By (format, compressed)."""
    asked: set[tuple[Format, bool]] = field(default_factory=set)
    """Pages that somebody wanted."""


class Page:
    """The metrics page of a snapshot, kept for the next scraper of the same tick.

    Args:
        tail: families to append that are not ours (``process_*``).
    """

    def __init__(self, tail: Tail | None = None) -> None:
        self.drops = Drops()
        self._tail = tail
        self._renderer = Renderer()
        self._kept: _Kept | None = None

    def body(
        self, snapshot: Snapshot, form: Format, names: Container[str] | None = None, *, compressed: bool = False
    ) -> bytes:
        """The page. Reads nothing but the snapshot; takes no lock.

        Args:
            snapshot: the tick to show.
            form: text or OpenMetrics.
            names: only these sample names (the ``name[]`` parameter); None for all.
            compressed: gzip it.
        """
        if names is not None:
            page = self._render(snapshot, form, names)
            return gzipped(page) if compressed else page
        kept = self._kept
        if kept is None or kept.snapshot is not snapshot:
            kept = self._kept = _Kept(snapshot)
        kept.asked.add((form, compressed))
        return self._fill(kept, form, compressed=compressed)

    def prepare(self, snapshot: Snapshot) -> None:
        """Render a new snapshot ahead, if the last one was scraped: then this one will be too, and it costs no more to
        render it now, before anyone waits for it. Where scrapes are rarer than ticks, nothing is done."""
        kept = self._kept
        if kept is not None and kept.snapshot is not snapshot and kept.asked:
            fresh = _Kept(snapshot)
            for form, compressed in tuple(kept.asked):
                self._fill(fresh, form, compressed=compressed)
            self._kept = fresh

    def _fill(self, kept: _Kept, form: Format, *, compressed: bool) -> bytes:
        """The page out of what is kept, rendered and kept if it is not there yet."""
        page = kept.pages.get((form, compressed))
        if page is None:
            page = (
                gzipped(self._fill(kept, form, compressed=False)) if compressed else self._render(kept.snapshot, form)
            )
            kept.pages[form, compressed] = page
        return page

    def _render(self, snapshot: Snapshot, form: Format, names: Container[str] | None = None) -> bytes:
        rows = families(snapshot, self.drops)
        if names is not None:
            rows = [family for family in rows if family.metric.name in names]
        if self._tail is None:
            return self._renderer.render(rows, form)
        page = self._renderer.render(rows, form, end=False) + self._tail(form, names)
        return page + END_OF_OPENMETRICS if form is Format.OPENMETRICS else page


def gzipped(page: bytes) -> bytes:
    """The page as a gzip stream, fastest level, without a time stamp."""
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    return stream.compress(page) + stream.flush()


def negotiate(accept: str) -> Format:
    """The format an ``Accept`` header asks for: OpenMetrics where its weight is the highest, else text.

    Weights count, since Prometheus can be configured to prefer the text format while it still offers OpenMetrics.
    """
    best = Format.TEXT
    best_weight = 0.0
    for part in accept.split(","):
        media, _, rest = part.partition(";")
        media = media.strip().lower()
        weight, version = _parameters(rest)
        if media == "application/openmetrics-text" and version in ("", "1.0.0"):
            form = Format.OPENMETRICS
        elif media in ("text/plain", "text/*", "*/*"):
            form = Format.TEXT
        else:
            continue
        if weight > best_weight:
            best, best_weight = form, weight
    return best


def _parameters(rest: str) -> tuple[float, str]:
    """(q, version) of the parameters of one media type."""
    weight, version = 1.0, ""
    for parameter in rest.split(";"):
        key, _, value = parameter.strip().partition("=")
        if key == "version":
            version = value.strip('"')
        elif key == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
    return weight, version


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an ``Accept-Encoding`` header allows gzip."""
    for part in accept_encoding.split(","):
        coding, _, rest = part.partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            return _parameters(rest)[0] > 0.0
    return False
