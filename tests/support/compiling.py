"""Compiles a C source of the tests into a shared library, once per version of the source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache"


def shared_library(source: Path, name: str, options: Sequence[str] = ()) -> Path:
    """Path of the library ``name``, in a directory of its own. Skips the test where there is no C compiler (fails in
    CI)."""
    directory = CACHE / source.stem / hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    library = directory / name
    if library.exists():
        return library
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        message = f"no C compiler (cc or gcc): {source.name} cannot be compiled"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"{name}.{os.getpid()}"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{name}"]
    result = subprocess.run(
        [*command, "-o", str(fresh), str(source), *options], check=False, capture_output=True, text=True
    )
    if result.returncode:
        pytest.fail(f"{source.name} does not compile:\n{result.stderr}")
    fresh.replace(library)  # atomic: two test runs may build at once
    return library
