"""``tpw-exporter run``: the daemon."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tpw import logs
from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems, problem_lines
from tpw.cli.serving import AdviceRoute, StartError, serve
from tpw.config.problems import ConfigError
from tpw.config.schema import Config

if TYPE_CHECKING:
    from tpw.daemon.daemon import Daemon

_log = structlog.get_logger("tpw")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Run until SIGTERM or SIGINT."""
    try:
        config = configuration(setting)
    except ConfigError as error:
        print_problems(error)
        return 2
    logs.configure(config.log.level, config.log.format)

    def reload(daemon: Daemon) -> Sequence[str]:
        from tpw.daemon.persistence import CurrencyError

        try:
            changed = configuration(setting)
            daemon.reload(changed)
        except ConfigError as error:
            daemon.reload_failed()
            return problem_lines(error)
        except (CurrencyError, ValueError, TimeoutError) as error:
            return [str(error)]
        keep_prices(daemon, changed)
        return []

    file = [] if setting.config_file is None else [f"--config.file={setting.config_file}"]
    advice = AdviceRoute((*file, f"--state.dir={config.state.dir}"), has_metric=config.advice.metrics)
    return serve(lambda: new_daemon(config, setting.config_file), config.web, reload, advice=advice)


def _boot() -> str:
    """Identity of this start of the machine (proc(5)); "" if it is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def new_daemon(config: Config, config_file: str | None) -> Daemon:
    """The daemon on its books, not started. Raises StartError."""
    # Imported here, where the HTTP server listens already.
    from tpw.daemon.daemon import Daemon
    from tpw.daemon.persistence import CurrencyError
    from tpw.store.files import StoreError
    from tpw.store.sqlite import BooksFile

    try:
        books = BooksFile(Path(config.state.dir), boot=_boot())
    except StoreError as error:
        _log.error("books_open_failed", detail=str(error))
        raise StartError("", 1) from error
    try:
        daemon = Daemon(config, books)
    except (CurrencyError, ValueError) as error:
        raise StartError(f"{config_file or '<no file>'}: {error}", 2) from error
    keep_prices(daemon, config)
    return daemon


def keep_prices(daemon: Daemon, config: Config) -> None:
    """Keep the price file of a configuration fresh, where it has one or the one before had one."""
    if config.litellm is not None or "litellm" in daemon.jobs:
        from tpw.cli.price_file import keep_fresh

        keep_fresh(daemon, config)
