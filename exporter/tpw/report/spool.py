"""The lines of a report, sorted, in little memory: many lines are kept in a temporary file.

A report of a year by hour and GPU has hundreds of thousands of lines. The container of the daemon has 128 MiB, and its root
file system cannot be written, so the file is then in the state directory. It has no name: it is gone with the process.
"""

from __future__ import annotations

import heapq
import io
import pickle
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import IO, Any, Generic, TypeVar
from weakref import finalize

_HELD = 2000
"""Lines in memory while lines are added; a line has about 4 KB. Tuning: a run on disk for each so many."""
_BLOCK = 20
"""Lines of a run that are read at once."""

T = TypeVar("T")


class Spool(Generic[T]):
    """Things sorted by a key, which can be iterated over any number of times once all are added.

    Args:
        key: the order.
        folder: where the file is, if there is no other directory for temporary files. Without either all is in memory.
    """

    def __init__(self, key: Callable[[T], Any], folder: Path | None = None) -> None:
        self._key = key
        self._folder = folder
        self._held: list[T] = []
        self._runs: list[list[tuple[int, int]]] = []
        """Position and size of the blocks of each run."""
        self._bounds: list[tuple[Any, Any]] = []
        """The first and the last key of each run."""
        self._file: IO[bytes] | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: T) -> None:
        """Add one."""
        self._held.append(item)
        self._count += 1
        if len(self._held) >= _HELD:
            self._write()

    def __iter__(self) -> Iterator[T]:
        self._held.sort(key=self._key)
        runs = [self._read(run) for run in self._runs]
        bounds = [*self._bounds, *([(self._key(self._held[0]), None)] if self._held else [])]
        if all(before[1] <= after[0] for before, after in pairwise(bounds)):
            return chain(*runs, self._held)
        return heapq.merge(*runs, self._held, key=self._key)

    def _write(self) -> None:
        if self._file is None:
            self._file = _temporary(self._folder)
            if self._file is not None:
                finalize(self, self._file.close)
        if self._file is None:
            return
        self._held.sort(key=self._key)
        self._bounds.append((self._key(self._held[0]), self._key(self._held[-1])))
        blocks: list[tuple[int, int]] = []
        items = iter(self._held)
        position = self._file.seek(0, io.SEEK_END)
        while block := list(islice(items, _BLOCK)):
            data = zlib.compress(pickle.dumps(block, pickle.HIGHEST_PROTOCOL), 1)
            blocks.append((position, len(data)))
            position += self._file.write(data)
        self._runs.append(blocks)
        self._held.clear()

    def _read(self, blocks: list[tuple[int, int]]) -> Iterator[T]:
        assert self._file is not None  # noqa: S101 - it has the runs
        for position, size in blocks:
            self._file.seek(position)
            yield from pickle.loads(zlib.decompress(self._file.read(size)))  # noqa: S301 - written by this process


def _temporary(folder: Path | None) -> IO[bytes] | None:
    """A file without a name; None where none can be made."""
    for place in (None, folder):
        try:
            return tempfile.TemporaryFile(dir=place)
        except OSError:
            continue
    return None
