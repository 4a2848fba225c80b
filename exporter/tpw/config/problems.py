"""Problems of a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, which prevents the start of the daemon.

    ``file`` is the origin of the value: the file's name, a flag (``--log.level``) or an environment variable. ``line`` and
    ``column`` count from 1; 0 where there is no line, as for a flag.
    """

    file: str
    line: int
    column: int
    path: str
    """Key path, such as ``servers[1].gpus[0]``; "" for the file as a whole."""
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used, with all its problems in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
