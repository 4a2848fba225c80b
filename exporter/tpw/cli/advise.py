"""``tpw-exporter advise``: what would save money, and how much, from the books of at least a week."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tpw.advice.advise import Question, advise
from tpw.advice.fleet import DAY, WEEK, Fleet
from tpw.advice.shifting import PeakCost
from tpw.advice.text import findings_json, findings_text
from tpw.billing.bill import Bill, bill
from tpw.billing.curve import Load
from tpw.cli import Setting
from tpw.cli.configuration import print_problems
from tpw.config.load import load, load_file
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.daemon.sources import known_names
from tpw.ledger.books import ROW_SECONDS
from tpw.ledger.calendar import Calendar
from tpw.settings.times import duration_seconds
from tpw.store.files import StoreError
from tpw.store.reading import BooksReader
from tpw.tariff.context import FeedContext
from tpw.tariff.settings import Tariff

_MOST_WEEKS = 52
_FREE = "tariff: {currency: EUR, energy: {kind: flat, price_per_kwh: 0}}"


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--weeks", type=int, default=4, metavar="N", help="Whole weeks of the books to read, up to now. Default: 4."
    )
    parser.add_argument(
        "--what-if",
        metavar="FILE",
        action="append",
        default=[],
        help="A configuration with another tariff to compare, beside those of advice.contracts; may be repeated.",
    )
    parser.add_argument(
        "--can-wait",
        metavar="NAME=TIME",
        action="append",
        default=[],
        help="A server or workload that can wait, and how long, such as batch=8h; may be repeated. Beside those of"
        " advice.can_wait.",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="Output format.")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0; 1 if there are no books of a week; 2 for an invalid configuration or option."""
    try:
        config = load_file(setting.config_file, overrides=setting.overrides, known=known_names())
        files = dict.fromkeys((*config.advice.contracts, *arguments.what_if))
        tariffs = {path: load_file(path, known=known_names()).tariff for path in files}
    except ConfigError as error:
        print_problems(error)
        return 2
    try:
        waits = {**config.advice.can_wait, **dict(map(_wait, arguments.can_wait))}
        weeks = arguments.weeks
        if not 1 <= weeks <= _MOST_WEEKS:
            raise ValueError(f"--weeks={weeks} is not between 1 and {_MOST_WEEKS}")
    except ValueError as error:
        return _failed(error, 2)
    calendar = Calendar(config.tariff.timezone or "UTC")
    try:
        with BooksReader(Path(config.state.dir)) as books:
            fleet = _fleet(books, weeks)
    except StoreError as error:
        return _failed(error, 1)
    except sqlite3.Error as error:
        return _failed(f"the books cannot be read completely: {error}", 1)
    findings = advise(fleet, _question(config, fleet, calendar, waits, tariffs))
    text = findings_json if arguments.format == "json" else findings_text
    sys.stdout.write(text(findings, fleet, calendar))
    return 0


def _failed(error: object, status: int) -> int:
    print(f"tpw-exporter advise: {error}", file=sys.stderr)
    return status


def _wait(text: str) -> tuple[str, float]:
    name, equals, time = text.rpartition("=")
    if not equals or not name:
        raise ValueError(f"--can-wait={text}: write a name and a time, such as batch=8h")
    return name, duration_seconds(time)


def _fleet(books: BooksReader, weeks: int) -> Fleet:
    """The last whole weeks of the books. Raises StoreError where there is not one."""
    head = books.head()
    end = head.until_seconds // ROW_SECONDS * ROW_SECONDS
    first = end if head.first_row_seconds is None else head.first_row_seconds
    whole = min(weeks, int((end - first) // (WEEK * ROW_SECONDS)))
    if whole < 1:
        days = (end - first) / DAY / ROW_SECONDS
        raise StoreError(f"the books hold {days:.1f} days, and advice needs a week: there is none yet")
    start = end - whole * WEEK * ROW_SECONDS
    fleet = Fleet(
        head.currency,
        start,
        whole * WEEK,
        gpus=head.gpus,
        limits=books.power_limits(),
        owners={account.name: account.belongs for account in books.servers()},
    )
    fleet.add(books.rows(start, end), books.served(start, end))
    return fleet


def _question(
    config: Config, fleet: Fleet, calendar: Calendar, waits: Mapping[str, float], tariffs: Mapping[str, Tariff]
) -> Question:
    all_tariffs = {"": config.tariff, **tariffs}

    def bill_of(name: str, loads: Sequence[Load], start: float, end: float) -> Bill:
        return bill(all_tariffs[name], loads, start, end, FeedContext())

    return Question(
        calendar,
        rented=frozenset(one.name for one in config.references if one.price_per_gpu_hour is not None),
        can_wait_hours={name: seconds / 3600.0 for name, seconds in waits.items()},
        peak_cost=_peak_cost(config, fleet),
        contracts={path: path for path in tariffs},
        bill_of=bill_of if config.tariff.energy else None,
    )


def _peak_cost(config: Config, fleet: Fleet) -> PeakCost | None:
    """What the peaks of this node cost by the charges of the configuration. None where it has none, or where they are those
    of a site with other nodes."""
    tariff = config.tariff
    if not tariff.energy or config.site is not None:
        return None
    if not tariff.is_local:  # the charges of the file; prices are those that were booked
        tariff = replace(tariff, energy=load(_FREE).tariff.energy, grid=(), levies=())

    def peak_cost(joules: Sequence[float]) -> float:
        loads = [Load(fleet.at(index), fleet.at(index + 1), used) for index, used in enumerate(joules)]
        found = bill(tariff, loads, fleet.start_seconds, fleet.at(len(joules)), FeedContext())
        return found.of("demand") * tariff.factor("demand")

    return peak_cost if peak_cost(fleet.total("facility_joules", lambda _: True)) > 0.0 else None
