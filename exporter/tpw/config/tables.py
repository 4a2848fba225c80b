"""Settings of a list of numbers by interval, in a file or at an address: where it is and how it is laid out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tpw.config.nodes import BAD
from tpw.config.scalars import choice, file_path, switch, text
from tpw.config.shapes import ListOf, MapOf, setting
from tpw.config.values import duration, http_url, time_zone

Report = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Any JSON or CSV from a `url` or `file`, or a series in a Prometheus."""

    url: str | None = setting(
        http_url(),
        "Address of the list; `{start}` and `{end}` in it are replaced by times in UTC. With format prometheus, the"
        " address of Prometheus.",
        default=None,
    )
    file: str | None = setting(file_path(), "File with the list, looked at once a minute.", default=None)
    token_file: str | None = setting(file_path(), "File with a bearer token to send.", default=None)
    headers_file: str | None = setting(
        file_path(), "File with HTTP headers to send, one `Name: value` a line.", default=None
    )
    format: str = setting(
        choice("json", "csv", "prometheus"),
        "Form of the list; `prometheus` asks a Prometheus for `query`.",
        default="json",
    )
    query: str | None = setting(
        text("a PromQL query"),
        "With format prometheus: PromQL that gives one series. A value holds until the next; without a sample nothing is"
        " known.",
        default=None,
    )
    delimiter: str = setting(text("one character", pattern="."), "CSV: what separates the columns.", default=",")
    rows: tuple[str, ...] = setting(
        ListOf(text("a path"), "a path, or a list of paths", or_one=True),
        "JSON: path of the list of rows, such as `data.prices`; several are read one after the other.",
        default=(),
        default_words="the document itself",
    )
    columns: bool = setting(
        switch(), "JSON: times and numbers are parallel lists instead of fields of a row.", default=False
    )
    time: str | None = setting(text("a field"), "Field, column or path of the time.", default=None)
    end: str | None = setting(text("a field"), "Field of the end of the interval, where there is one.", default=None)
    where: Mapping[str, str] = setting(
        MapOf(text("a value"), "a mapping of fields to values"),
        "Only rows whose fields have these values.",
        default=dict,
        default_words="all rows",
    )
    stamp: str = setting(
        choice("start", "end"), "Whether the time is the start or the end of its interval.", default="start"
    )
    time_format: str = setting(
        text("iso, unix, unix_ms or a pattern such as %d.%m.%Y %H:%M", pattern="iso|unix|unix_ms|.*%.*"),
        "How times are written.",
        default="iso",
    )
    timezone: str | None = setting(
        time_zone(), "Zone of times that name none.", default=None, default_words="tariff.timezone, else UTC"
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
        "How often the list is asked for at least.",
        default=None,
        default_words="6h; with format prometheus 1m",
    )


_OF_A_LIST = ("rows", "time", "end", "where")
_OF_A_LIST_PLAIN = {"delimiter": ",", "columns": False, "stamp": "start", "time_format": "iso", "ignore_offset": False}


def check_table(path: str, table: Table, number_key: str, timezone: str | None, report: Report) -> None:
    """Note what a list of one's own lacks. ``number_key`` is the setting that names the number's field."""
    if table.format == "prometheus":
        _check_prometheus(path, table, number_key, report)
        return
    if table.query is not None:
        report(f"{path}.query", "is for `format: prometheus` alone")
    for key in ("time", number_key):
        if getattr(table, key) is None:
            report(path, f"needs `{key}`: where in the list the {key} is")
    if table.format == "csv" and (table.rows or table.columns):
        report(f"{path}.format", "csv has no `rows` or `columns`: a line is a row")
    if table.file is not None and (table.token_file is not None or table.headers_file is not None):
        report(f"{path}.file", "is read, not fetched: `token_file` and `headers_file` have no meaning")
    if table.ignore_offset and table.timezone is None and timezone is None:
        report(f"{path}.ignore_offset", "needs `timezone`: which clock the times really show")


def _check_prometheus(path: str, table: Table, number_key: str, report: Report) -> None:
    if table.file is not None:
        report(f"{path}.file", "is no Prometheus: give its address as `url`, or another `format`")
    elif table.query is None:
        report(path, "needs `query`: which series of Prometheus it is")
    if table.url and ("{" in table.url or "?" in table.url):
        report(
            f"{path}.url", "the address of Prometheus alone, such as http://prometheus:9090: the times are added to it"
        )
    idle = [key for key in (number_key, *_OF_A_LIST) if getattr(table, key)]
    idle += [key for key, plain in _OF_A_LIST_PLAIN.items() if getattr(table, key) not in (plain, BAD)]
    for key in idle:
        report(f"{path}.{key}", "has no meaning with `format: prometheus`: a series has nothing but times and values")
