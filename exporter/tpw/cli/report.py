"""``tpw-exporter report``: tokens, energy and money by day, server and model, from the local books."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfoNotFoundError

from tpw.assembly import state_directory
from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems
from tpw.config.prices import billing_months
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.exposition.figures import figure
from tpw.report.focus import LINES_BY, NoCurrencyError, Parties, focus_text
from tpw.report.notes import notes
from tpw.report.periods import Calendar, Period, Unit, range_of
from tpw.report.reconcile import check_text, compared
from tpw.report.records import csv_text, json_text
from tpw.report.table import table_text
from tpw.report.tabulate import DEFAULT, JOULES_PER_KWH, Dimension, Tabulation, dimensions
from tpw.store.reading import BooksReader
from tpw.store.sqlite import StoreError

_FORMATS = ("table", "csv", "json", "focus")
_WIDTH = 100
"""Of a table that goes into a file; a terminal has its own."""


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    when = parser.add_argument_group("when", "Without any of these, the last seven days, today included.")
    when.add_argument("--from", dest="since", metavar="DATE", help="First day, or moment such as 2026-10-25T06:00.")
    when.add_argument("--to", dest="until", metavar="DATE", help="Last day, that day included, or moment.")
    when.add_argument("--month", metavar="YYYY-MM", help="A calendar month.")
    when.add_argument("--last", metavar="TIME", help="7d, 4w or 24h: up to now, today or this hour included.")
    when.add_argument(
        "--timezone",
        metavar="ZONE",
        help="Whose days these are. Default: tariff.timezone, where there is one, else UTC.",
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--by",
        metavar="NAMES",
        help=f"Group by any of {', '.join(Dimension)}, separated by commas. Default: {','.join(DEFAULT)}. Tokens are"
        " counted by server and model: by state they stand with `active`, by GPU and by component in lines of their own.",
    )
    what.add_argument(
        "--format", choices=_FORMATS, default="table", help="focus is CSV by the FinOps specification FOCUS 1.2."
    )
    what.add_argument("--output", metavar="FILE", help="Write there and not to standard output.")
    what.add_argument(
        "--check",
        action="store_true",
        help="Compare the sums of all quarter-hours with the counters instead; exit status 1 where they differ.",
    )
    focus = parser.add_argument_group("format focus")
    focus.add_argument("--provider", metavar="NAME", default="self-hosted", help="Who charges. Default: self-hosted.")
    focus.add_argument("--billing-account", metavar="ID", help="Whose account. Default: the name of this host.")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0; 1 where there are no books or they do not add up; 2 for a mistake in what was asked."""
    try:
        config = configuration(setting)
        asked = _asked(arguments, config)
    except ConfigError as error:
        print_problems(error)
        return 2
    except ValueError as error:
        return _failed(error, 2)
    is_sound = True
    try:
        with BooksReader(state_directory(config)) as books:
            if arguments.check:
                text, is_sound = _checked(books, asked.calendar)
            else:
                text = _reported(books, asked, config)
    except (StoreError, NoCurrencyError) as error:
        return _failed(error, 1)
    except sqlite3.Error as error:
        return _failed(f"the books cannot be read to their end: {error}", 1)
    try:
        _put_out(text, arguments.output)
    except OSError as error:
        return _failed(f"cannot write {arguments.output or 'to standard output'}: {error.strerror or error}", 1)
    return 0 if is_sound else 1


def _failed(error: object, status: int) -> int:
    print(f"tpw-exporter report: {error}", file=sys.stderr)
    return status


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line wants."""

    calendar: Calendar
    covered: Period
    by: tuple[Dimension, ...]
    format: str
    parties: Parties


def _asked(arguments: argparse.Namespace, config: Config) -> _Asked:
    """Raises ValueError with a whole sentence."""
    timezone = arguments.timezone or config.tariff.timezone or "UTC"
    try:
        calendar = Calendar(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"--timezone={timezone} is no time zone: write one such as Europe/Berlin") from None
    covered = range_of(
        calendar,
        time.time(),
        since=arguments.since,
        until=arguments.until,
        month=arguments.month,
        last=arguments.last,
    )
    return _Asked(
        calendar,
        covered,
        _grouped_by(arguments.by, arguments.format),
        arguments.format,
        Parties(arguments.provider, arguments.billing_account or platform.node() or "this-host"),
    )


def _grouped_by(text: str | None, format_: str) -> tuple[Dimension, ...]:
    if format_ != "focus":
        return DEFAULT if text is None else dimensions(text)
    by = dimensions(text or Dimension.DAY)
    if len(by) != 1 or by[0].unit is None:
        raise ValueError(
            f"--by={text}: the format focus is by GPU, server, model, state and component; give hour, day or month"
        )
    return (by[0], *LINES_BY)


def _reported(books: BooksReader, asked: _Asked, config: Config) -> str:
    """The text of a report."""
    head, calendar = books.head(), asked.calendar
    covered = asked.covered
    if covered.start_seconds == 0.0 and head.first_row_seconds is not None:  # from the beginning
        begun = calendar.period(Unit.DAY, head.first_row_seconds).start_seconds
        covered = Period(min(begun, covered.end_seconds), covered.end_seconds)
    months = billing_months(config)

    def billing_period(at_seconds: float) -> Period:
        return Period(*months.bounds(at_seconds))

    tabulation = Tabulation(asked.by, covered, calendar, billing_period if asked.format == "focus" else None)
    tabulation.add_rows(books.rows(covered.start_seconds, covered.end_seconds))
    tabulation.add_served(books.served(covered.start_seconds, covered.end_seconds))
    report = tabulation.report(head.currency)
    words = notes(report, calendar, head.first_row_seconds, head.until_seconds)
    match asked.format:
        case "csv":
            return csv_text(report, calendar, head.gpus)
        case "json":
            return json_text(report, calendar, head.gpus, words)
        case "focus":
            unpriced = report.totals.unpriced_joules
            if unpriced > 0.0:
                kwh = figure(unpriced / JOULES_PER_KWH)
                print(
                    f"tpw-exporter report: {kwh} kWh have no price yet: they are no charge in this data set",
                    file=sys.stderr,
                )
            return focus_text(report, head.gpus, billing_period, asked.parties)
        case _:
            return table_text(report, calendar, head.gpus, words, _width())


def _checked(books: BooksReader, calendar: Calendar) -> tuple[str, bool]:
    """The text of a comparison, and whether the books are sound."""
    pruned = books.head().pruned_before_seconds
    before = None if pruned is None else calendar.local(pruned).isoformat(sep=" ", timespec="minutes")
    return check_text(compared(books.rows(), books.served(), books.postings(), books.servers()), before)


def _width() -> int:
    return max(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns) if sys.stdout.isatty() else _WIDTH


def _put_out(text: str, path: str | None) -> None:
    """Raises OSError."""
    if path is not None:
        Path(path).write_text(text, encoding="utf-8", newline="")
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has seen enough (`| head`). What is still buffered goes nowhere, at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
