"""``tpw-exporter run``: the daemon."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import structlog

from tpw import logs
from tpw.app import CurrencyError, Daemon
from tpw.assembly import state_directory
from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems, words
from tpw.cli.serving import serve
from tpw.config.problems import ConfigError
from tpw.store.sqlite import BooksFile, StateDirectoryError, StoreError

_log = structlog.get_logger("tpw")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Run until told to end."""
    try:
        config = configuration(setting)
    except ConfigError as error:
        print_problems(error)
        return 2
    logs.configure(config.log.level, config.log.format)
    notes: list[str] = []
    books: BooksFile | None = None
    try:
        books = BooksFile(state_directory(config), keep_seconds=config.state.keep)
    except StateDirectoryError as error:
        notes.append(f"The books are not kept: {error}. Counters begin anew with every start.")
        _log.warning("books not kept", detail=str(error), hint="give a directory it may write with --state.dir")
    except StoreError as error:
        _log.error("books not opened", detail=str(error))
        return 1
    if books is not None and books.set_aside is not None:
        _log.error("unreadable books set aside", file=str(books.set_aside), hint="counters begin anew")
        notes.append(f"The books could not be read and begin anew; the old file is {books.set_aside}.")
    try:
        daemon = Daemon(config, books, notes=notes)
    except (CurrencyError, ValueError) as error:
        print(f"{setting.config_file or '<no file>'}: {error}", file=sys.stderr)
        return 2

    def reload() -> Sequence[str]:
        try:
            daemon.reload(configuration(setting))
        except ConfigError as error:
            daemon.reload_failed()
            return words(error)
        except (CurrencyError, ValueError, TimeoutError) as error:
            return [str(error)]
        return []

    return serve(daemon, config.web, reload)
