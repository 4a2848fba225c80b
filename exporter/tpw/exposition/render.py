"""Families -> bytes: the Prometheus text format 0.0.4 and OpenMetrics 1.0.

The two formats differ in the headers of counters and in ``# EOF``; the sample lines are the same. Lines are cached with
their values, so a tick renders only changed values. The bytes equal those of prometheus_client (a test compares them).
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


EOF_LINE = b"# EOF\n"

_SERIES_LIMIT = 20_000
"""Upper bound of cached lines; above it the cache is cleared. A page of 16 GPUs and 16 servers has 1,092 series, so
only months of changing models and servers reach it."""

Tail = Callable[[Format, Container[str] | None], bytes]
"""Renders further families for the end of a page (without ``# EOF``), in a format, filtered by sample name."""


def number(value: float) -> str:
    """A sample value in its shortest exact form; large numbers with an exponent, as Go prints them."""
    text = repr(float(value))
    if value < 1e6:
        return text
    dot = text.find(".")
    if dot <= 6:
        # repr() already uses an exponent from 1e16 on.
        return text
    mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
    return f"{mantissa}e+{dot - 1:02d}"


def escape(text: str) -> str:
    """A label value, escaped. Lone surrogates (from a page with invalid bytes) become ``?``."""
    if "\\" in text or "\n" in text or '"' in text:
        text = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return text if text.isascii() else encodable(text)


def encodable(text: str) -> str:
    """The text with characters that UTF-8 cannot encode replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def header(metric: Metric, form: Format) -> str:
    """The HELP and TYPE lines. OpenMetrics drops ``_total`` from the family name and also escapes quotes."""
    name = metric.name
    text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    if form is Format.OPENMETRICS:
        text = text.replace('"', r"\"")
        if metric.kind is Kind.COUNTER:
            name = name.removesuffix("_total")
    return f"# HELP {name} {text}\n# TYPE {name} {metric.kind}\n"


class _Lines:
    """Cached lines of one metric: labels repeat at every tick, and often the value too."""

    __slots__ = ("_cache", "_name", "_order", "headers", "labels")

    def __init__(self, metric: Metric) -> None:
        self.headers = {form: header(metric, form) for form in Format}
        self.labels = metric.labels
        self._name = metric.name
        self._order = sorted((label, position) for position, label in enumerate(metric.labels))
        # Labels -> (value, line, length of the line up to the value). Tuples are replaced whole: safe across threads.
        self._cache: dict[tuple[str, ...], tuple[float, str, int]] = {}

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        """Empty the cache."""
        self._cache = {}

    def append_to(self, out: list[str], family: Family) -> None:
        """Append one line per sample."""
        cache = self._cache
        for labels, value in family.samples:
            entry = cache.get(labels)
            if entry is None:
                prefix = self._prefix(labels)
            elif entry[0] == value:
                out.append(entry[1])
                continue
            else:
                prefix = entry[1][: entry[2]]
            line = f"{prefix}{number(value)}\n"
            cache[labels] = (value, line, len(prefix))
            out.append(line)

    def _prefix(self, labels: tuple[str, ...]) -> str:
        if not labels:
            return f"{self._name} "
        pairs = ",".join(f'{label}="{escape(labels[position])}"' for label, position in self._order)
        return f"{self._name}{{{pairs}}} "


class Renderer:
    """Renders families. Thread-safe: two threads that render at once only do the work twice."""

    def __init__(self, series_limit: int = _SERIES_LIMIT) -> None:
        self._lines: dict[str, _Lines] = {}
        self._series_limit = series_limit

    def render(self, rows: Iterable[Family], form: Format, tail: bytes = b"") -> bytes:
        """The page of these families, followed by ``tail``."""
        if sum(map(len, list(self._lines.values()))) > self._series_limit:
            for cached in list(self._lines.values()):
                cached.clear()
        out: list[str] = []
        for family in rows:
            metric = family.metric
            lines = self._lines.get(metric.name)
            if lines is None or lines.labels != metric.labels:  # pod labels come and go
                lines = self._lines[metric.name] = _Lines(metric)
            out.append(lines.headers[form])
            lines.append_to(out, family)
        page = "".join(out).encode() + tail
        return page + EOF_LINE if form is Format.OPENMETRICS else page


@dataclass(slots=True)
class _Rendered:
    """Rendered pages of one snapshot, by (format, compressed)."""

    snapshot: Snapshot
    pages: dict[tuple[Format, bool], bytes] = field(default_factory=dict)
    requested: set[tuple[Format, bool]] = field(default_factory=set)
    """Pages that were scraped."""


class Page:
    """The metrics page, cached per snapshot for further scrapers of the same tick.

    Args:
        tail: renders the families to append (``process_*``).
    """

    def __init__(self, tail: Tail | None = None) -> None:
        self.drops = Drops()
        self._tail = tail
        self._renderer = Renderer()
        self._rendered: _Rendered | None = None

    def body(
        self, snapshot: Snapshot, form: Format, names: Container[str] | None = None, *, compressed: bool = False
    ) -> bytes:
        """The page. Reads only the snapshot; holds no lock.

        Args:
            snapshot: the tick to render.
            form: text or OpenMetrics.
            names: only these sample names (the ``name[]`` parameter); None for all.
            compressed: whether to gzip it.
        """
        if names is not None:
            page = self._render(snapshot, form, names)
            return gzipped(page) if compressed else page
        rendered = self._rendered
        if rendered is None or rendered.snapshot is not snapshot:
            rendered = self._rendered = _Rendered(snapshot)
        rendered.requested.add((form, compressed))
        return self._cached(rendered, form, compressed=compressed)

    def prepare(self, snapshot: Snapshot) -> None:
        """Render a new snapshot ahead of its scrape if the last one was scraped. Does nothing where scrapes are rarer than
        ticks."""
        rendered = self._rendered
        if rendered is not None and rendered.snapshot is not snapshot and rendered.requested:
            ahead = _Rendered(snapshot)
            for form, compressed in tuple(rendered.requested):
                self._cached(ahead, form, compressed=compressed)
            self._rendered = ahead

    def _cached(self, rendered: _Rendered, form: Format, *, compressed: bool) -> bytes:
        page = rendered.pages.get((form, compressed))
        if page is None:
            if compressed:
                page = gzipped(self._cached(rendered, form, compressed=False))
            else:
                page = self._render(rendered.snapshot, form)
            rendered.pages[form, compressed] = page
        return page

    def _render(self, snapshot: Snapshot, form: Format, names: Container[str] | None = None) -> bytes:
        rows = families(snapshot, self.drops)
        if names is not None:
            rows = [family for family in rows if family.metric.name in names]
        return self._renderer.render(rows, form, self._tail(form, names) if self._tail is not None else b"")


def gzipped(page: bytes) -> bytes:
    """The page as a gzip stream, fastest level, without a timestamp."""
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    return stream.compress(page) + stream.flush()


def negotiate(accept: str) -> Format:
    """The format for an ``Accept`` header: OpenMetrics if its weight is the highest, else text.

    Weights matter: Prometheus can prefer the text format and still accept OpenMetrics.
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
