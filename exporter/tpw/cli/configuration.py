"""Reading the configuration for a command, and saying what is wrong with it."""

from __future__ import annotations

import sys

from tpw.assembly import known_names
from tpw.cli import Setting
from tpw.config.load import load_file
from tpw.config.problems import ConfigError
from tpw.config.schema import Config


def configuration(setting: Setting) -> Config:
    """The configuration as the command line, the environment and the file say. Raises ConfigError."""
    return load_file(setting.config_file, overrides=setting.overrides, known=known_names())


def print_problems(error: ConfigError) -> None:
    """Every problem, one per line, on standard error."""
    for problem in error.problems:
        print(problem, file=sys.stderr)


def words(error: ConfigError) -> list[str]:
    """The same, for an answer."""
    return [str(problem) for problem in error.problems]
