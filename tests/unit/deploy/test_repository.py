"""What must not be in a committed file: addresses of package registries, and paths of somebody's machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = [
    "".join(parts)
    for parts in [
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("registry", ".npmjs"),
        ("deb", ".debian.org"),
        ("snapshot", ".debian.org"),
        ("/work", "/main"),
        ("/work", "/shared"),
        ("/root", "/"),
        ("/home", "/user"),
    ]
]


def committed_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        [git, "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    offenders = [
        f"{path.relative_to(ROOT)} names {word}"
        for path in committed_files()
        for word in FORBIDDEN
        if word.encode() in path.read_bytes()
    ]
    assert offenders == []


def test_no_file_has_an_open_task():
    words = re.compile(rb"\b(" + b"|".join([b"TO" + b"DO", b"FIX" + b"ME", b"W" + b"IP"]) + rb")\b")
    offenders = [
        str(path.relative_to(ROOT))
        for path in committed_files()
        if path.suffix != ".png" and "captures" not in path.parts and words.search(path.read_bytes())
    ]
    assert offenders == []


def test_shell_scripts_are_sound():
    for path in committed_files():
        if path.suffix == ".sh" or path == ROOT / ".ci" / "run":
            done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), path
