"""Real servers for the end-to-end tests. Every test in this directory carries the marker ``e2e``.

Factories start as many as a test wants and stop them all when it ends; ``llama`` is one server for the whole session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from support import realparts
from support.cluster import ControlPlane, control_plane
from support.servers import Child, Exporter, Llama, Prometheus, clean_environment, exporter_command, free_port

HERE = Path(__file__).parent

StartLlama = Callable[..., Llama]
StartPrometheus = Callable[..., Prometheus]
StartExporter = Callable[..., Exporter]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def _start_llama(stack: ExitStack, *arguments: str, port: int | None = None, name: str = "llama") -> Llama:
    parts = realparts.llama_server()
    port = port or free_port()
    child = Child(f"{name}-{port}", parts.command(port, *arguments), parts.environment())
    stack.callback(child.stop)
    child.wait_ready(f"http://127.0.0.1:{port}/health")
    return Llama(child, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def llama() -> Iterator[Llama]:
    """One llama-server, shared by all tests: they measure rises of its counters, not totals."""
    with ExitStack() as stack:
        yield _start_llama(stack)


@pytest.fixture
def start_llama() -> Iterator[StartLlama]:
    """``start_llama(*arguments, port=None)``: a llama-server of the test's own, to be stopped or restarted."""
    with ExitStack() as stack:
        yield lambda *arguments, port=None: _start_llama(stack, *arguments, port=port, name="own-llama")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real Kubernetes control plane, one for the tests of a file; for tests marked ``heavy`` (built from source)."""
    with control_plane(tmp_path_factory.mktemp("cluster")) as plane:
        yield plane


@pytest.fixture
def prometheus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartPrometheus]:
    """``prometheus(scrape={job: [targets]}, rules=[paths], config={...}, version="3")``: a real Prometheus.

    ``scrape`` is short for jobs scraped every second; ``config`` is merged over what that makes.
    """
    with ExitStack() as stack:

        def start(
            scrape: Mapping[str, Sequence[str]] | None = None,
            *,
            rules: Sequence[Path] = (),
            config: Mapping[str, Any] | None = None,
            version: Literal["2", "3"] = "3",
            arguments: Sequence[str] = (),
        ) -> Prometheus:
            port = free_port()
            directory = tmp_path / f"prometheus-{port}"
            directory.mkdir()
            document = {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(path.resolve()) for path in rules],
                "scrape_configs": [
                    {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                    for job, targets in (scrape or {}).items()
                ],
                **(config or {}),
            }
            file = directory / "prometheus.yaml"
            file.write_text(yaml.safe_dump(document))
            child = Child(
                f"{request.node.name}-prometheus-{port}",
                [
                    str(realparts.prometheus_dir(version) / "prometheus"),
                    f"--config.file={file}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--web.enable-lifecycle",
                    "--log.level=warn",
                    *arguments,
                ],
            )
            stack.callback(child.stop)
            child.wait_ready(f"http://127.0.0.1:{port}/-/ready")
            return Prometheus(child, f"http://127.0.0.1:{port}", directory)

        yield start


@pytest.fixture
def alertmanager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """``alertmanager(config)``: a real Alertmanager; returns its host:port for Prometheus' ``alerting`` section."""
    with ExitStack() as stack:

        def start(config: Mapping[str, Any], *, version: Literal["2", "3"] = "3") -> str:
            port = free_port()
            directory = tmp_path / f"alertmanager-{port}"
            directory.mkdir()
            file = directory / "alertmanager.yaml"
            file.write_text(yaml.safe_dump(dict(config)))
            child = Child(
                f"{request.node.name}-alertmanager-{port}",
                [
                    str(realparts.prometheus_dir(version) / "prometheus-alertmanager"),
                    f"--config.file={file}",
                    f"--storage.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--cluster.listen-address=",
                ],
                directory=realparts.alertmanager_root(version),
            )
            stack.callback(child.stop)
            child.wait_ready(f"http://127.0.0.1:{port}/-/ready")
            return f"127.0.0.1:{port}"

        yield start


@pytest.fixture
def exporter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartExporter]:
    """``exporter(config, *arguments, environment={}, command="run")``: the installed daemon, ready to be scraped.

    ``config`` is a mapping (written as YAML), the text of the file, or None for no file. ``state`` and ``port`` let a
    test start it again on the same books.
    """
    with ExitStack() as stack:

        def start(
            config: Mapping[str, Any] | str | None = None,
            *arguments: str,
            environment: Mapping[str, str] | None = None,
            command: str = "run",
            state: Path | None = None,
            port: int | None = None,
        ) -> Exporter:
            port = port or free_port()
            state = state or tmp_path / f"state-{port}"
            flags = [f"--web.listen-address=127.0.0.1:{port}", f"--state.dir={state}"]
            if config is not None:
                file = tmp_path / f"exporter-{port}.yaml"
                file.write_text(config if isinstance(config, str) else yaml.safe_dump(dict(config)))
                flags.append(f"--config.file={file}")
            child = Child(
                f"{request.node.name}-exporter-{port}",
                exporter_command(command, *flags, *arguments),
                clean_environment(**(environment or {})),
            )
            stack.callback(child.stop)
            child.wait_ready(f"http://127.0.0.1:{port}/-/ready")
            return Exporter(child, f"http://127.0.0.1:{port}", state)

        yield start
