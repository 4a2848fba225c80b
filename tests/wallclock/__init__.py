"""The wall clock of a process under test, which the test steps while the process runs::

clock = WallClock(tmp_path)
process = subprocess.Popen([...], env={**os.environ, **clock.env()})
clock.step(30 * 86400.0)
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

from support.compiling import shared_library

SOURCE = Path(__file__).with_name("wallclock.c")


class WallClock:
    """Unix time as the process reads it. Monotonic time is not changed.

    Args:
        directory: for the file with the shift.
        start_seconds: Unix time now; None: that of this machine.
    """

    def __init__(self, directory: Path, start_seconds: float | None = None) -> None:
        self.library = shared_library(SOURCE, "libwallclock.so", ["-lm"])
        self.file = directory / "wallclock.shift"
        self.shift_seconds = 0.0 if start_seconds is None else start_seconds - time.time()
        self._write()

    def env(self) -> dict[str, str]:
        """Environment of the process."""
        return {"LD_PRELOAD": str(self.library), "WALLCLOCK_FILE": str(self.file)}

    def now(self) -> float:
        """Unix time as the process reads it."""
        return time.time() + self.shift_seconds

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back."""
        self.shift_seconds += seconds
        self._write()

    def _write(self) -> None:
        if self.file.exists():
            with self.file.open("r+b") as file:  # the same file: it is mapped
                file.write(struct.pack("d", self.shift_seconds))
        else:
            self.file.write_bytes(struct.pack("d", self.shift_seconds))
