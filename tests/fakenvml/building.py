"""Compiles the fake NVML, once per version of its source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fakenvml.c")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "fakenvml"
SONAME = "libnvidia-ml.so.1"


def library_path() -> Path:
    """Path of the compiled library, in a directory of its own. Skips the test where there is no C compiler (fails in
    CI)."""
    directory = CACHE / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = directory / SONAME
    if library.exists():
        return library
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        message = "no C compiler (cc or gcc): the fake NVML cannot be compiled"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"{SONAME}.{os.getpid()}"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{SONAME}"]
    result = subprocess.run(
        [*command, "-o", str(fresh), str(SOURCE), "-lm"], check=False, capture_output=True, text=True
    )
    if result.returncode:
        pytest.fail(f"the NVML stand-in does not compile:\n{result.stderr}")
    fresh.replace(library)  # atomic: two test runs may build at once
    return library
