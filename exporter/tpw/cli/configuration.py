"""Reading the configuration for a command, and saying what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tpw.assembly import examine, known_names
from tpw.cli import Setting
from tpw.config.flags import Override
from tpw.config.load import load_file
from tpw.config.problems import ConfigError, Problem
from tpw.config.schema import Config


def configuration(setting: Setting) -> Config:
    """The configuration as the command line, the environment and the file say. Raises ConfigError."""
    return checked(setting.config_file, setting.overrides)


def checked(path: str | Path | None, overrides: Sequence[Override] = ()) -> Config:
    """A file's configuration; None means no file. Raises ConfigError, also for what only the rooms themselves can tell:
    options of meters, dialects of the user's."""
    config = load_file(path, overrides=overrides, known=known_names())
    try:
        examine(config)
    except ValueError as error:
        name = "<no file>" if path is None else str(path)
        raise ConfigError(Problem(name, 0, 0, "", line) for line in str(error).splitlines()) from error
    return config


def print_problems(error: ConfigError) -> None:
    """Every problem, one per line, on standard error."""
    for problem in error.problems:
        print(problem, file=sys.stderr)


def words(error: ConfigError) -> list[str]:
    """The same, for an answer."""
    return [str(problem) for problem in error.problems]
