"""``tpw-exporter books``: show, verify, back up and correct the books, and forget a server that is gone."""

from __future__ import annotations

import argparse
import getpass
import sqlite3
import sys
import time
from contextlib import closing
from math import fsum
from pathlib import Path

from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems
from tpw.config.problems import ConfigError
from tpw.exposition.figures import duration, figure
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.books import Books, Correction
from tpw.ledger.replicas import merged
from tpw.model import TokenKind, server_of_replica
from tpw.report.periods import Calendar
from tpw.report.reconcile import check_text, compared
from tpw.store.editing import correct, editing, forget
from tpw.store.files import FILE_NAME, DamagedError, StoreError, check_whole, connect_read_only
from tpw.store.reading import BooksReader
from tpw.store.upkeep import back_up

_ACTIONS = ("show", "verify", "backup", "correct", "forget")
_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M")


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "action",
        choices=_ACTIONS,
        help="show: accounts with sums and ages. verify: the file and its laws. backup: a verified copy, also while the"
        " daemon runs. correct: an entry that reports add to the tokens of a day; counters never fall. forget: move the"
        " sums of a server that is gone to one account. The last two need the daemon to be stopped.",
    )
    parser.add_argument(
        "target", nargs="?", metavar="FILE|SERVER", help="With backup the copy, with forget the server."
    )
    entry = parser.add_argument_group("correct")
    entry.add_argument("--server", help="Name of the server.")
    entry.add_argument("--model", help="Name of the model.")
    entry.add_argument("--kind", choices=[str(kind) for kind in TokenKind], help="Kind of the tokens.")
    entry.add_argument("--tokens", type=float, metavar="N", help="Tokens to add; negative where too many were booked.")
    entry.add_argument("--at", metavar="DATE", help="Day or moment (UTC) of the use, such as 2026-11-24T10:30.")
    entry.add_argument("--reason", help="Why. It is part of every report of that time.")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0; 1 if there are no books, they are damaged or in use; 2 for invalid options."""
    try:
        directory = Path(configuration(setting).state.dir)
        match arguments.action:
            case "show":
                print(_shown(directory, time.time()), end="")
            case "verify":
                return _verified(directory)
            case "backup":
                _back_up(directory, _target(arguments, "the file of the copy"))
            case "correct":
                correction = _correction(arguments, time.time())
                with editing(directory) as connection:
                    correct(connection, correction)
            case "forget":
                server = _target(arguments, "the name of the server")
                with editing(directory) as connection:
                    forget(connection, server)
    except ConfigError as error:
        print_problems(error)
        return 2
    except ValueError as error:
        return _failed(error, 2)
    except (StoreError, DamagedError, sqlite3.Error, OSError) as error:
        return _failed(error, 1)
    return 0


def _failed(error: object, status: int) -> int:
    print(f"tpw-exporter books: {error}", file=sys.stderr)
    return status


def _target(arguments: argparse.Namespace, what: str) -> str:
    if not arguments.target:
        raise ValueError(f"{arguments.action}: give {what}")
    return str(arguments.target)


def _shown(directory: Path, now_seconds: float) -> str:
    calendar = Calendar("UTC")
    with BooksReader(directory) as books:
        head = books.head()
        used: dict[str, tuple[float, float]] = {}
        for key, amounts in books.postings():
            server = server_of_replica(key.server)
            joules, cost = used.get(server, (0.0, 0.0))
            used[server] = (joules + amounts.joules, cost + amounts.net_cost)
        accounts = merged(Books(servers={account.name: account for account in books.servers()})).servers
        corrections = books.corrections()
    size = sum(path.stat().st_size for path in directory.glob(f"{FILE_NAME}*"))
    until = f"{calendar.local(head.until_seconds):%Y-%m-%d %H:%M} UTC"
    lines = [
        f"{directory / FILE_NAME}: {size / 1e6:.1f} MB with backups, written up to {until}, {len(head.gpus)} GPUs",
        "",
        f"{'SERVER':32} {'TOKENS':>9} {'GPU kWh':>9} {'COST':>9} {'LAST SEEN':>10}",
    ]
    for name in sorted({*accounts, *used}):
        joules, cost = used.get(name, (0.0, 0.0))
        account = accounts.get(name)
        tokens = fsum(account.tokens.values()) if account else None
        seen = account.seen.get("") if account else None
        age = "" if seen is None else duration(max(0.0, now_seconds - seen))
        figures = f"{figure(tokens):>9} {figure(joules / JOULES_PER_KWH):>9} {figure(cost):>9}"
        lines.append(f"{name or '(no server)':32} {figures} {age:>10}")
    lines.extend(
        f"corrected: {one.tokens:+,.0f} {one.kind} tokens of {one.server}, {one.model} on"
        f" {calendar.local(one.at_seconds):%Y-%m-%d} by {one.author}: {one.reason}"
        for one in corrections
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _verified(directory: Path) -> int:
    """Prints what was compared. Exit status 1 for a difference. Raises DamagedError."""
    with BooksReader(directory) as books:
        with closing(connect_read_only(directory / FILE_NAME)) as connection:
            check_whole(connection)
        pruned = books.head().pruned_before_seconds
        before = None if pruned is None else Calendar("UTC").local(pruned).isoformat(sep=" ", timespec="minutes")
        text, is_consistent = check_text(
            compared(books.rows(), books.served(), books.postings(), books.servers()), before
        )
    print(f"The file is sound.\n{text}", end="")
    return 0 if is_consistent else 1


def _back_up(directory: Path, target: str) -> None:
    with BooksReader(directory):
        pass  # reports what is missing
    back_up(directory / FILE_NAME, Path(target))
    print(f"{target}: complete and verified")


def _correction(arguments: argparse.Namespace, now_seconds: float) -> Correction:
    """Raises ValueError."""
    names = ("server", "model", "kind", "tokens", "at", "reason")
    missing = [f"--{name}" for name in names if getattr(arguments, name) in (None, "")]
    if missing:
        raise ValueError(f"correct: give {', '.join(missing)}")
    if arguments.tokens - arguments.tokens != 0.0 or arguments.tokens == 0.0:
        raise ValueError("--tokens: give a number of tokens other than 0")
    return Correction(
        at_seconds=_moment(arguments.at),
        server=arguments.server,
        model=arguments.model,
        kind=TokenKind(arguments.kind),
        tokens=arguments.tokens,
        reason=arguments.reason,
        made_seconds=now_seconds,
        author=getpass.getuser(),
    )


def _moment(text: str) -> float:
    import calendar

    for form in _TIMES:
        try:
            return float(calendar.timegm(time.strptime(text, form)))
        except ValueError:
            continue
    raise ValueError(f"--at={text}: write a day or a moment such as 2026-11-24T10:30")
