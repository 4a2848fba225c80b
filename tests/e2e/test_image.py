"""The image, built from the Dockerfile as it is and run: ``make test-image``. Needs root, and no Docker.

The base is a Debian with Python under the official image's name, so this proves the Dockerfile's steps and what they make,
not the official base image. Nothing here limits memory or makes the root read-only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import tpw
from support import realparts
from support.servers import Child, free_port, http_get, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = Path("/etc/ssl/certs")


class Image:
    """The built image and a container of it."""

    def __init__(self, parts: realparts.Buildah, store: Path) -> None:
        self.parts = parts
        self.store = store
        self.container = ""

    def buildah(self, *arguments: str) -> str:
        command = self.parts.command(self.store, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def inside(self, *command: str) -> list[str]:
        """The command line that runs something in the container, as the image's user."""
        return self.parts.command(self.store, "run", "--isolation", "chroot", self.container, "--", *command)

    def run(self, *command: str) -> str:
        return self.buildah("run", "--isolation", "chroot", self.container, "--", *command).strip()

    def config(self) -> dict[str, object]:
        return dict(json.loads(self.buildah("inspect", "--type", "image", "tpw-exporter"))["Docker"]["config"])


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    parts = realparts.buildah()
    store = tmp_path_factory.mktemp("store")
    built = Image(parts, store)
    base = tmp_path_factory.mktemp("base")
    os.link(parts.base, base / "base.tar")
    (base / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    # pip in the build reaches the index that pip here reaches.
    index = subprocess.run(["pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False)
    pip = base / "pip.conf"
    pip.write_text("[global]\n" + (f"index-url = {index.stdout.strip()}\n" if index.returncode == 0 else ""))
    options = ["--isolation", "chroot", "--pull-never", "--format", "docker"]
    mounts = ["--volume", f"{pip}:/etc/pip.conf:ro"]
    if CERTIFICATES.exists():
        mounts += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    try:
        built.buildah("bud", *options, "--tag", "docker.io/library/python:3.11-slim", str(base))
        values = {
            "PYTHON_VERSION": "3.11",
            "VERSION": tpw.__version__,
            "REVISION": "abc",
            "SOURCE": "https://example.com",
        }
        build = [part for name, value in values.items() for part in ("--build-arg", f"{name}={value}")]
        arguments = [*build, *mounts, "--tag", "tpw-exporter"]
        built.buildah("bud", *options, *arguments, str(ROOT))
        built.container = built.buildah("from", "--pull-never", "tpw-exporter").strip()
        yield built
    finally:
        shutil.rmtree(store)


def test_image_runs_the_exporter_as_a_user_without_rights(image):
    config = image.config()
    assert config["Entrypoint"] == ["tpw-exporter"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"] == {"10101/tcp": {}}
    assert image.run("id", "--user") == "10101"
    assert image.run("tpw-exporter", "--version").startswith("tpw-exporter ")


def test_labels_name_the_version_the_sources_and_the_base(image):
    labels = image.config()["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == tpw.__version__
    assert labels[f"{prefix}revision"] == "abc"
    assert labels[f"{prefix}source"] == "https://example.com"
    assert labels[f"{prefix}base.name"] == "docker.io/library/python:3.11-slim"
    assert labels[f"{prefix}licenses"] == "Apache-2.0"


def test_image_keeps_neither_pip_nor_sources(image):
    assert "pip" not in image.run("ls", "/opt/tpw/bin").split()
    listing = image.run("sh", "-c", "ls -d /src /opt/build /etc/pip.conf 2>/dev/null || true")
    assert "/src" not in listing
    assert "/opt/build" not in listing


def test_image_adds_no_more_to_its_base_than_is_stated(image):
    """docs/kubernetes.md has the figure."""
    megabytes = int(image.run("du", "-sm", "/opt/tpw").split()[0])
    print(f"/opt/tpw: {megabytes} MB")
    assert megabytes <= 36


def test_image_can_do_basic_auth_and_knows_holidays(image):
    image.run(
        "python",
        "-c",
        "import bcrypt, holidays; bcrypt.hashpw(b'x', bcrypt.gensalt(4)); holidays.country_holidays('DE')",
    )


def test_books_can_be_written_where_the_volume_is(image):
    assert image.run("sh", "-c", "touch $TPW_STATE_DIR/books && stat --format=%u $TPW_STATE_DIR/books") == "10101"


def test_exporter_in_the_image_is_healthy_and_ends_well(image):
    port = free_port()
    # `timeout` inside the container, since a signal to the builder does not reach what it runs.
    command = ["timeout", "--preserve-status", "15", "tpw-exporter", "demo", f"--web.listen-address=127.0.0.1:{port}"]
    child = Child("image", image.inside(*command))
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/-/ready")
        wait_until(lambda: b"tpw_tokens_per_watt{" in http_get(f"http://127.0.0.1:{port}/metrics"), "a ratio")
        (kind, *check) = image.config()["Healthcheck"]["Test"]
        assert kind == "CMD"
        image.run(*(word.replace(":10101/", f":{port}/") for word in check))
        assert child.process.wait(20) == 0
    finally:
        child.stop()
