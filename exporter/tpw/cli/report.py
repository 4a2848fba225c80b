"""``tpw-exporter report``: tokens, energy and cost by day, server and model, from the books."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.exposition.figures import figure
from tpw.ledger.amounts import JOULES_PER_KWH, Served
from tpw.ledger.books import Books
from tpw.ledger.replicas import merged
from tpw.report.focus import LINES_BY, LINES_BY_TENANT, VERSIONS, NoCurrencyError, Parties, focus_text
from tpw.report.notes import notes
from tpw.report.periods import Calendar, Period, Unit, range_of
from tpw.report.price_file import NoExchangeRateError
from tpw.report.reconcile import check_text, compared
from tpw.report.records import csv_text, json_text
from tpw.report.table import table_text
from tpw.report.tabulate import DEFAULT, Dimension, Label, Tabulation, dimensions
from tpw.store.files import StoreError
from tpw.store.reading import BooksReader

_FORMATS = ("table", "csv", "json", "focus", "litellm")
_WIDTH = 100
"""Width of a table that is written to a file; a terminal has its own width."""


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    when = parser.add_argument_group("time range", "Default: the last seven days, including today.")
    when.add_argument("--from", dest="since", metavar="DATE", help="First day, or an instant such as 2026-10-25T06:00.")
    when.add_argument("--to", dest="until", metavar="DATE", help="Last day (inclusive), or an instant.")
    when.add_argument("--month", metavar="YYYY-MM", help="A calendar month.")
    when.add_argument("--last", metavar="TIME", help="7d, 4w or 24h: up to now, including the current day or hour.")
    when.add_argument(
        "--timezone",
        metavar="ZONE",
        help="Time zone of the days. Default: tariff.timezone if it is set, else UTC.",
    )
    what = parser.add_argument_group("content")
    what.add_argument(
        "--by",
        metavar="NAMES",
        help=f"Group by any of {', '.join(Dimension)}, label_NAME, separated by commas. Default: {','.join(DEFAULT)}."
        " Tokens are counted by server and model: grouped by state, they are in the rows of `active`; by GPU or component,"
        " they are in rows of their own.",
    )
    what.add_argument(
        "--format",
        choices=_FORMATS,
        default="table",
        help="Output format. focus is CSV by the FinOps specification, litellm a price file for LiteLLM.",
    )
    what.add_argument("--output", metavar="FILE", help="Write to this file instead of standard output.")
    what.add_argument(
        "--check",
        action="store_true",
        help="Compare the sums of all quarter-hours with the counters instead. Exit status 1 if they differ.",
    )
    litellm = parser.add_argument_group("format litellm")
    litellm.add_argument(
        "--exchange-rate",
        type=float,
        metavar="RATE",
        help="US dollars for one unit of the currency of the books. Default: litellm.exchange_rate if it is set.",
    )
    focus = parser.add_argument_group("format focus")
    focus.add_argument(
        "--focus-version", choices=VERSIONS, default=VERSIONS[0], help=f"Version of FOCUS. Default: {VERSIONS[0]}."
    )
    focus.add_argument("--provider", metavar="NAME", default="self-hosted", help="Provider name. Default: self-hosted.")
    focus.add_argument("--invoice-id", metavar="ID", default="", help="Number of the invoice with these charges.")
    focus.add_argument("--billing-account", metavar="ID", help="Billing account. Default: the name of this host.")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0; 1 if there are no books or ``--check`` finds a difference; 2 for invalid options."""
    try:
        config = configuration(setting)
        request = _request(arguments, config)
    except ConfigError as error:
        print_problems(error)
        return 2
    except ValueError as error:
        return _failed(error, 2)
    is_consistent = True
    try:
        with BooksReader(Path(config.state.dir)) as books:
            if arguments.check:
                text, is_consistent = _checked(books, request.calendar)
            else:
                text = _reported(books, request, config)
    except (StoreError, NoCurrencyError, NoExchangeRateError) as error:
        return _failed(error, 1)
    except sqlite3.Error as error:
        return _failed(f"the books cannot be read completely: {error}", 1)
    try:
        _write(text, arguments.output)
    except OSError as error:
        return _failed(f"cannot write {arguments.output or 'to standard output'}: {error.strerror or error}", 1)
    return 0 if is_consistent else 1


def _failed(error: object, status: int) -> int:
    print(f"tpw-exporter report: {error}", file=sys.stderr)
    return status


@dataclass(frozen=True, slots=True)
class _Request:
    """The parsed options."""

    calendar: Calendar
    covered: Period
    by: tuple[Dimension | Label, ...]
    format: str
    parties: Parties
    focus_version: str
    exchange_rate: float | None


def _request(arguments: argparse.Namespace, config: Config) -> _Request:
    """Raises ValueError."""
    if arguments.exchange_rate is not None and not 0.0 < arguments.exchange_rate < float("inf"):
        raise ValueError(f"--exchange-rate={arguments.exchange_rate:g}: write a number above 0")
    timezone = arguments.timezone or config.tariff.timezone or "UTC"
    try:
        calendar = Calendar(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"--timezone={timezone} is not a time zone: write one such as Europe/Berlin") from None
    covered = range_of(
        calendar,
        time.time(),
        since=arguments.since,
        until=arguments.until,
        month=arguments.month,
        last=arguments.last,
    )
    return _Request(
        calendar,
        covered,
        _grouped_by(arguments.by, arguments.format),
        arguments.format,
        Parties(arguments.provider, arguments.billing_account or platform.node() or "this-host", arguments.invoice_id),
        arguments.focus_version,
        arguments.exchange_rate or (config.litellm.exchange_rate if config.litellm else None),
    )


def _grouped_by(text: str | None, format_: str) -> tuple[Dimension | Label, ...]:
    if format_ == "litellm":
        if text is not None:
            raise ValueError(f"--by={text}: the format litellm has a price of each model")
        return Dimension.SERVER, Dimension.MODEL
    if format_ != "focus":
        return DEFAULT if text is None else dimensions(text)
    by = dimensions(text or Dimension.DAY)
    units = [one for one in by if one is not Dimension.TENANT]
    if len(units) != 1 or units[0].unit is None:
        raise ValueError(
            f"--by={text}: the format focus has rows by GPU, server, model, state and component; give a unit of time, and"
            " `tenant` for rows by tenant in place of GPU"
        )
    return (units[0], *(LINES_BY if len(by) == 1 else LINES_BY_TENANT))


def _reported(books: BooksReader, request: _Request, config: Config) -> Iterable[str]:
    """The text of a report."""
    head, calendar = books.head(), request.calendar
    covered = request.covered
    if covered.start_seconds == 0.0 and head.first_row_seconds is not None:  # from the beginning of the books
        start = calendar.period(Unit.DAY, head.first_row_seconds).start_seconds
        covered = Period(min(start, covered.end_seconds), covered.end_seconds)
    months = config.tariff.months()

    def billing_period(at_seconds: float) -> Period:
        return Period(*months.bounds(at_seconds))

    cut = billing_period if request.format == "focus" else None
    accounts = merged(Books(servers={account.name: account for account in books.servers()})).servers
    owners = {name: account.belongs for name, account in accounts.items()}
    tabulation = Tabulation(request.by, covered, calendar, cut, owners, books.path.parent)
    corrections = books.corrections(covered.start_seconds, covered.end_seconds)
    corrected = sorted((one.at_seconds, one.server, one.model, one.kind, one.tokens) for one in corrections)
    rows: Iterable[Any] = books.rows(covered.start_seconds, covered.end_seconds)
    served: Iterable[Any] = books.served(covered.start_seconds, covered.end_seconds)
    if Dimension.TENANT in request.by:
        from tpw.report.tenants import divided_rows, divided_served

        rows = divided_rows(rows, books.tenant_rows(covered.start_seconds, covered.end_seconds))
        served = divided_served(served, books.tenant_served(covered.start_seconds, covered.end_seconds))
    tabulation.add(
        rows,
        served,
        ((at, server, model, Served(tokens={kind: tokens})) for at, server, model, kind, tokens in corrected),
    )
    report = tabulation.report(head.currency)
    remarks = notes(report, calendar, head.first_row_seconds, head.until_seconds, corrections)
    match request.format:
        case "csv":
            return csv_text(report, calendar, head.gpus)
        case "json":
            return json_text(report, calendar, head.gpus, remarks)
        case "litellm":
            from tpw.cli.price_file import of_report

            found = of_report(books, report, calendar, request.exchange_rate)
            for problem in found.left_out:
                print(f"tpw-exporter report: no price of {problem}", file=sys.stderr)
            return [found.text]
        case "focus":
            unpriced = report.totals.amounts.unpriced_joules
            if unpriced > 0.0:
                kwh = figure(unpriced / JOULES_PER_KWH)
                print(
                    f"tpw-exporter report: {kwh} kWh have no price yet and are not charged in this data set",
                    file=sys.stderr,
                )
            return focus_text(report, head.gpus, billing_period, request.parties, request.focus_version)
        case _:
            return table_text(report, calendar, head.gpus, remarks, _width())


def _checked(books: BooksReader, calendar: Calendar) -> tuple[Iterable[str], bool]:
    """The text of the comparison, and whether the books are consistent."""
    pruned = books.head().pruned_before_seconds
    before = None if pruned is None else calendar.local(pruned).isoformat(sep=" ", timespec="minutes")
    text, is_consistent = check_text(compared(books.rows(), books.served(), books.postings(), books.servers()), before)
    return [text], is_consistent


def _width() -> int:
    return max(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns) if sys.stdout.isatty() else _WIDTH


def _write(text: Iterable[str], path: str | None) -> None:
    """Raises OSError."""
    if path is not None:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            file.writelines(text)
        return
    try:
        sys.stdout.writelines(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Discard what is buffered, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
