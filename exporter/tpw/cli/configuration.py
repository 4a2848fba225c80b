"""Reads the configuration for a command and reports what is wrong with it."""

from __future__ import annotations

import sys

from tpw.cli import Setting
from tpw.config.load import load_file
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.daemon.sources import known_names


def configuration(setting: Setting) -> Config:
    """The configuration from the command line, the environment and the file. Raises ConfigError."""
    return load_file(setting.config_file, overrides=setting.overrides, known=known_names())


def print_problems(error: ConfigError) -> None:
    """Every problem, one per line, on standard error."""
    for problem in error.problems:
        print(problem, file=sys.stderr)


def problem_lines(error: ConfigError) -> list[str]:
    """Every problem as one line."""
    return [str(problem) for problem in error.problems]
