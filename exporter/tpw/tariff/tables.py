"""A list of numbers by interval, in a file, at an address or in a Prometheus: its settings, and what reads it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tpw.settings.scalars import choice, switch, text
from tpw.settings.shapes import BAD, FilePath, ListOf, MapOf, Report, Scalar, setting
from tpw.settings.values import duration, http_url, time_zone
from tpw.tariff.context import FeedContext
from tpw.tariff.feed import Reader
from tpw.tariff.layout import Layout
from tpw.tariff.lists import PLACEHOLDER
from tpw.tariff.schedule import DAILY_LIMIT, Publication, Schedule

_MINUTE_SECONDS, _SIX_HOURS_SECONDS = 60.0, 6 * 3600.0
_DAY_SECONDS = 86400.0
_ROW_KEYS = ("rows", "time", "hour", "period", "end", "where")
_ROW_DEFAULTS = {
    "header": True,
    "encoding": "utf-8",
    "delimiter": ",",
    "columns": False,
    "stamp": "start",
    "time_format": "iso",
    "ignore_offset": False,
}


def _encoding() -> Scalar:
    def parse(value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError(f"`{value}` is not an encoding: write utf-8, shift_jis or latin-1") from None

    return Scalar("an encoding such as utf-8", parse, {"type": "string"})


@dataclass(frozen=True, kw_only=True)
class Table:  # without slots, because it is a second base
    """Any JSON or CSV from a `url` or `file`, or a series in a Prometheus."""

    url: str | None = setting(
        http_url(),
        "Address of the list. `{start}` and `{end}` in it are replaced by times in UTC, `{local_start}` and `{local_end}`"
        " by local ones, `{date}`, `{week}` (its Monday) and `{fiscal_year}` (from April) by local days, with a request"
        " for each address that they make. A format may follow: `{date:%Y/%m-%d}`, `{week:unix_ms}`. With format"
        " prometheus, the address of Prometheus.",
        default=None,
    )
    file: str | None = setting(FilePath(), "File with the list, read once a minute.", default=None)
    token_file: str | None = setting(FilePath(), "File with a bearer token to send.", default=None)
    headers_file: str | None = setting(
        FilePath(),
        "File with HTTP headers, one `Name: value` per line, or one bearer token. Lines that start with # are comments.",
        default=None,
    )
    format: str = setting(
        choice("json", "csv", "prometheus"),
        "Format of the list; `prometheus` evaluates `query` in a Prometheus.",
        default="json",
    )
    query: str | None = setting(
        text("a PromQL query"),
        "With format prometheus: PromQL of one series. A value is in force until the next; time without a sample is"
        " unknown.",
        default=None,
    )
    delimiter: str = setting(text("one character", pattern="."), "CSV: the separator of the columns.", default=",")
    rows: tuple[str, ...] = setting(
        ListOf(text("a path"), "a path, or a list of paths", or_one=True),
        "JSON: path of the list of rows, such as `data.prices`; several lists are read in order.",
        default=(),
        default_words="the document itself",
    )
    columns: bool = setting(
        switch(), "JSON: times and numbers are parallel lists instead of fields of a row.", default=False
    )
    header: bool = setting(
        switch(),
        "CSV: the first line names the columns. Without it they are `1`, `2`, `3`, and lines with one field are skipped.",
        default=True,
    )
    encoding: str = setting(_encoding(), "CSV, JSON: encoding of the text.", default="utf-8")
    time: tuple[str, ...] = setting(
        ListOf(text("a field"), "a field, or a list of fields", or_one=True),
        "Field, column or path of the time; several are joined with spaces.",
        default=(),
        default_words="none",
    )
    hour: str | None = setting(
        text("a field"),
        "Where the time is a date: field of the hour of the local clock, from 1 (hour ending). The time is its start.",
        default=None,
    )
    period: str | None = setting(
        text("a field"),
        "Where the time is a date: field of the number of the interval, from 1, in the `hour`, or without one in the local"
        " day. Needs `resolution`.",
        default=None,
    )
    end: str | None = setting(text("a field"), "Field of the end of the interval, where there is one.", default=None)
    where: Mapping[str, str] = setting(
        MapOf(text("a value"), "a mapping of fields to values"),
        "Only rows with these values in these fields.",
        default=dict,
        default_words="all rows",
    )
    stamp: str = setting(
        choice("start", "end"), "Whether the time is the start or the end of its interval.", default="start"
    )
    time_format: str = setting(
        text("iso, unix, unix_ms or a pattern such as %d.%m.%Y %H:%M", pattern="iso|unix|unix_ms|.*%.*"),
        "Format of the times.",
        default="iso",
    )
    timezone: str | None = setting(
        time_zone(), "Zone of times without one.", default=None, default_words="tariff.timezone, else UTC"
    )
    ignore_offset: bool = setting(
        switch(), "The offset or Z of the times is wrong: they are local to `timezone`.", default=False
    )
    resolution: float | None = setting(
        duration(60.0, 31 * 86400.0),
        "Length of an interval, where no end is given. With format prometheus, the step of the query.",
        default=None,
        default_words="the shortest distance between two times; with format prometheus 1m",
    )
    every: float | None = setting(
        duration(60.0, 7 * 86400.0),
        "Longest interval between two requests.",
        default=None,
        default_words="6h; with format prometheus 1m",
    )

    def check_list(self, path: str, number_key: str, timezone: str | None, report: Report) -> None:
        """Report what a list lacks. ``number_key`` is the setting that names the number's field."""
        if self.format == "prometheus":
            self._check_prometheus(path, number_key, report)
            return
        if self.query is not None:
            report(f"{path}.query", "needs `format: prometheus`")
        for key in ("time", number_key):
            if not getattr(self, key):
                report(path, f"needs `{key}`: the field of the {key} in the list")
        if (self.period or self.hour) and self.stamp == "end":
            report(f"{path}.stamp", "has no effect with `hour` or `period`, which are the start: remove it")
        if self.period and self.resolution is None:
            report(f"{path}.period", "needs `resolution`: the length of an interval")
        if self.format != "csv" and self.header is False:
            report(f"{path}.header", "is for format csv: remove it")
        for name in re.findall(r"\{(\w+)", PLACEHOLDER.sub("", self.url or "")):
            report(
                f"{path}.url",
                f"`{{{name}}}` is unknown: use start, end, local_start, local_end, date, week, fiscal_year",
            )
        if self.format == "csv" and (self.rows or self.columns):
            report(f"{path}.format", "csv has no `rows` or `columns`: a line is a row; remove them")
        if self.file is not None and (self.token_file is not None or self.headers_file is not None):
            report(f"{path}.file", "is not fetched over HTTP: remove `token_file` and `headers_file`")
        if self.ignore_offset and self.timezone is None and timezone is None:
            report(f"{path}.ignore_offset", "needs `timezone`: the zone of the times")

    def _check_prometheus(self, path: str, number_key: str, report: Report) -> None:
        if self.file is not None:
            report(f"{path}.file", "is not a Prometheus: give its address as `url`, or another `format`")
        elif self.query is None:
            report(path, "needs `query`: the PromQL of one series")
        if self.url and ("{" in self.url or "?" in self.url):
            report(
                f"{path}.url",
                "give the address of Prometheus alone, such as http://prometheus:9090: times are added to it",
            )
        unused = [key for key in (number_key, *_ROW_KEYS) if getattr(self, key)]
        unused += [key for key, plain in _ROW_DEFAULTS.items() if getattr(self, key) not in (plain, BAD)]
        for key in unused:
            report(
                f"{path}.{key}",
                "has no effect with `format: prometheus`: remove it",
            )

    @property
    def _is_fetched(self) -> bool:
        """Whether it is a list at an address. A file and a Prometheus keep their own numbers and cost nothing to read."""
        return self.file is None and self.format != "prometheus"

    def layout(self, number_field: str | None, factor: float, timezone: str | None) -> Layout:
        """Where the numbers are in the list, and the factor to their unit."""
        return Layout(
            price=number_field or "",
            time=self.time[0] if self.time else "",
            more_time=self.time[1:],
            hour=self.hour or "",
            period=self.period or "",
            end=self.end or "",
            rows=self.rows or ("",),
            is_columnar=self.columns,
            is_csv=self.format == "csv",
            delimiter=self.delimiter,
            has_header=self.header,
            encoding="utf-8-sig" if self.encoding == "utf-8" else self.encoding,
            where=self.where,
            stamps_end=self.stamp == "end",
            time_format=self.time_format,
            timezone=self.timezone or timezone or "UTC",
            ignores_offset=self.ignore_offset,
            factor=factor,
            resolution_seconds=self.resolution,
        )

    def reader(self, layout: Layout, context: FeedContext) -> Reader:
        """What reads the list."""
        url, login = self.url or "", (self.token_file, self.headers_file)
        if self.format == "prometheus":
            from tpw.tariff.prometheus import STEP_SECONDS, FromPrometheus

            step = self.resolution or STEP_SECONDS
            return FromPrometheus(url, self.query or "", context.fetch, step, layout.factor, *login)
        from tpw.tariff.lists import FromAddress, FromFile

        if self.file is not None:
            return FromFile(self.file, layout)
        return FromAddress(url, layout, context.fetch, token_file=self.token_file, headers_file=self.headers_file)

    def schedule(self, publication: Publication | None, context: FeedContext) -> Schedule:
        """When the list is read: a file and a Prometheus once a minute, an address by `every` and `published_at`."""
        if self._is_fetched:
            limit = max(DAILY_LIMIT, round(2 * _DAY_SECONDS / self.every)) if self.every else DAILY_LIMIT
            return Schedule(
                publication,
                refresh_seconds=self.every or _SIX_HOURS_SECONDS,
                jitter=context.jitter,
                daily_limit=limit,
            )
        every = self.every if self.file is None else None
        return Schedule(
            refresh_seconds=every or _MINUTE_SECONDS,
            pending_seconds=_MINUTE_SECONDS,
            max_backoff_seconds=_MINUTE_SECONDS,
            daily_limit=None,
        )

    def cache_file(self, context: FeedContext, reader: Reader, layout: Layout) -> Path | None:
        """Where fetched numbers are kept. Numbers read with another layout (unit, zone, end of an interval) have another
        file, though they came from the same address."""
        return context.cache_file(reader.name, f"{reader.identity} {layout!r}") if self._is_fetched else None
