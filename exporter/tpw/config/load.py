"""Loading a configuration from a file or a text."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

from tpw.config.checks import Known, check
from tpw.config.flags import Override, laid_over
from tpw.config.nodes import Walk, described, is_null, parse
from tpw.config.problems import ConfigError, Problem
from tpw.config.reading import read_section
from tpw.config.schema import Config
from tpw.settings.shapes import BAD

MAX_BYTES = 4 * 1024 * 1024
"""No configuration is larger. Bounds the memory for a wrong path, such as that of a log file."""


def load(
    text: str, file_name: str = "<config>", *, overrides: Sequence[Override] = (), known: Known | None = None
) -> Config:
    """Read a configuration.

    ``file_name`` is for messages, and relative paths in the file start at its directory. ``known`` has the names that other
    packages define (meters, engines). Raises ConfigError with every problem.
    """
    walk = Walk(file_name, os.path.dirname(file_name))  # noqa: PTH120 - text in, text out
    root = parse(text.removeprefix("\ufeff"), walk)
    if walk.problems:
        raise ConfigError(walk.problems)
    tree = laid_over(None if root is None or is_null(root) else root, overrides)
    config: Config = Config() if tree is None else read_section(Config, tree, walk, "", "a mapping of sections")
    if config is BAD:
        assert tree is not None  # noqa: S101 - an absent tree is never BAD
        message = f"a configuration is a mapping of sections (polling: ..., servers: ...), not {described(tree)}"
        walk.problems[-1] = Problem(*_place(walk.problems[-1]), "", message)
        raise ConfigError(walk.problems)
    check(config, walk, known or Known())
    if walk.problems:
        found = dict.fromkeys(walk.problems)
        raise ConfigError(sorted(found, key=lambda problem: (problem.line, problem.column)))
    return config


def load_file(path: str | Path | None, *, overrides: Sequence[Override] = (), known: Known | None = None) -> Config:
    """Read a configuration file; None means no file, hence the defaults. Raises ConfigError."""
    if path is None:
        return load("", "<no file>", overrides=overrides, known=known)
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise _unreadable(name, f"is larger than {MAX_BYTES // 1024 // 1024} MiB: this is not a configuration")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(name, line, 1, "", "is not UTF-8 text")]) from error
    return load(text, name, overrides=overrides, known=known)


def _unreadable(name: str, message: str) -> ConfigError:
    return ConfigError([Problem(name, 0, 0, "", message)])


def _place(problem: Problem) -> tuple[str, int, int]:
    return problem.file, problem.line, problem.column
