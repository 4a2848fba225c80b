"""``tpw-exporter bill``: what a consumption costs under a tariff, line by line, and under others."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from tpw.billing.bill import Bill, bill
from tpw.billing.curve import Load, from_csv, from_rows
from tpw.billing.text import bill_text, bills_json, comparison_text
from tpw.cli import Setting
from tpw.cli.configuration import print_problems
from tpw.config.load import load_file
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.daemon.sources import known_names
from tpw.ledger.books import ROW_SECONDS
from tpw.model import SourceError
from tpw.report.periods import Calendar, Period, range_of
from tpw.store.files import StoreError
from tpw.store.reading import BooksReader
from tpw.tariff.context import FeedContext
from tpw.tariff.settings import Tariff


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--load",
        metavar="FILE",
        help="CSV file with the columns time and kW or kWh (and kVA, where it is metered). Default: the facility energy in"
        " the books.",
    )
    parser.add_argument(
        "--what-if",
        metavar="FILE",
        action="append",
        default=[],
        help="A configuration with another tariff, for the same consumption; may be repeated.",
    )
    when = parser.add_argument_group("time range", "Default: the whole load, or this month of the books.")
    when.add_argument("--month", metavar="YYYY-MM", help="A billing month, named by the month in which it begins.")
    when.add_argument("--year", metavar="YYYY", help="Twelve billing months from January.")
    when.add_argument("--from", dest="since", metavar="DATE", help="First day, or an instant.")
    when.add_argument("--to", dest="until", metavar="DATE", help="Last day (inclusive), or an instant.")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="Output format.")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0; 1 if the load cannot be read or some of it has no price; 2 for an invalid configuration or option."""
    try:
        config = load_file(setting.config_file, overrides=setting.overrides, known=known_names())
        others = {path: load_file(path, known=known_names()).tariff for path in arguments.what_if}
    except ConfigError as error:
        print_problems(error)
        return 2
    tariffs = {setting.config_file or "the configuration": config.tariff, **others}
    for name, tariff in tariffs.items():
        if not tariff.energy:
            print(f"tpw-exporter bill: {name} has no tariff: add `tariff.energy`", file=sys.stderr)
            return 2
    timezone = config.tariff.timezone or "UTC"
    try:
        asked = _asked(arguments, config.tariff, Calendar(timezone))
    except ValueError as error:
        print(f"tpw-exporter bill: {error}", file=sys.stderr)
        return 2
    try:
        loads = from_csv(arguments.load, timezone) if arguments.load else _booked(config)
    except (StoreError, SourceError) as error:
        print(f"tpw-exporter bill: {error}", file=sys.stderr)
        return 1
    if config.site is not None and not arguments.load:
        print(
            "tpw-exporter bill: the load is that of this node, the charges are those of the whole site", file=sys.stderr
        )
    if asked is None and loads:
        asked = Period(loads[0].start_seconds, loads[-1].end_seconds)
    if asked is None or not any(asked.start_seconds < load.end_seconds for load in loads):
        print("tpw-exporter bill: there is no load in this time", file=sys.stderr)
        return 1
    bills = {
        name: bill(tariff, loads, asked.start_seconds, asked.end_seconds, FeedContext())
        for name, tariff in tariffs.items()
    }
    sys.stdout.write(_text(bills, tariffs, timezone, arguments.format))
    return 1 if any(found.unpriced_kwh > 0.0 for found in bills.values()) else 0


def _text(bills: Mapping[str, Bill], tariffs: Mapping[str, Tariff], timezone: str, format_: str) -> str:
    if format_ == "json":
        return bills_json(bills, timezone)
    if len(bills) > 1:
        return comparison_text(bills, timezone)
    return "".join(bill_text(name, found, timezone, tariffs[name].fields_of_rates()) for name, found in bills.items())


def _asked(arguments: argparse.Namespace, tariff: Tariff, calendar: Calendar) -> Period | None:
    """The time on the command line; None for the whole load. Raises ValueError."""
    given = [arguments.month, arguments.year, arguments.since or arguments.until]
    if sum(value is not None for value in given) > 1:
        raise ValueError("--month, --year and --from/--to exclude each other: give one of them")
    if arguments.since or arguments.until:
        return range_of(calendar, time.time(), since=arguments.since, until=arguments.until)
    if not arguments.month and not arguments.year:
        if arguments.load:
            return None
        return Period(*tariff.months().bounds(time.time()))
    match = re.fullmatch(r"(\d{4})-(\d{2})" if arguments.month else r"(\d{4})", arguments.month or arguments.year)
    if match is None or (arguments.month and not 1 <= int(match.group(2)) <= 12):
        raise ValueError("write --month=2026-07, or --year=2026")
    months = tariff.months()
    year, month = int(match.group(1)), int(match.group(2)) if arguments.month else 1
    start, end = months.bounds(calendar.midnight(date(year, month, tariff.billing_day)))
    for _ in range(0 if arguments.month else 11):
        end = months.bounds(end)[1]
    return Period(start, end)


def _booked(config: Config) -> Sequence[Load]:
    """The facility energy of every quarter-hour of the books. Raises StoreError."""
    with BooksReader(Path(config.state.dir)) as books:
        return from_rows(((start, amounts.facility_joules) for start, _, amounts in books.rows()), ROW_SECONDS)
