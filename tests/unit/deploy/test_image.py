"""The Dockerfile, without building it (``make test-image`` builds it)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tpw.config.flags import environment_name, flags
from tpw.config.schema import Config

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_exposed_port_is_the_default_port():
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    assert Config().web.listen_address == f":{port}"
    assert f"http://127.0.0.1:{port}/-/healthy" in DOCKERFILE


def test_our_environment_variables_are_flags():
    known = {flag.environment for flag in flags()} | {environment_name("config.file")}
    named = set(re.findall(r"\bTPW_[A-Z_]+", DOCKERFILE))
    assert named
    assert named <= known


def test_the_default_state_directory_is_a_volume():
    assert f'VOLUME ["{Config().state.dir}"]' in DOCKERFILE


def test_it_does_not_run_as_root():
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert 0 not in {int(user), int(group)}


@pytest.mark.parametrize("source", sorted(set(re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE))))
def test_copied_files_exist_and_are_not_ignored(source):
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    for name in source.split():
        assert (ROOT / name).exists()
        assert f"!{name.rstrip('/')}" in rules
