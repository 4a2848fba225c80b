"""Compiles the fake NVML."""

from __future__ import annotations

from pathlib import Path

from support.compiling import shared_library

SOURCE = Path(__file__).with_name("fakenvml.c")
SONAME = "libnvidia-ml.so.1"


def library_path() -> Path:
    """Path of the compiled library; see :func:`support.compiling.shared_library`."""
    return shared_library(SOURCE, SONAME, ["-lm"])
