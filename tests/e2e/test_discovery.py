"""Servers and their GPUs, found by the daemon itself: real processes, a real llama-server, the stand-in NVML.

Other servers may run on the machine at the same time and are found too, so only the test's own are spoken of.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support.scraped import Page, parse
from support.servers import (
    Child,
    Exporter,
    Llama,
    clean_environment,
    exporter_command,
    free_port,
    wait_until,
)

SCAN_SECONDS = 15.0

LISTENER = '''
"""An API server with a child that computes, as engines have it. The child ends with its parent."""
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/metrics"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(PAGE if known else b"")

    def log_message(self, *what):
        pass

PAGE = open(sys.argv[2], "rb").read()
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print("child", child.pid, flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''


LOADER = '''
"""Named vllm: loads its model until a file is there, then serves a page."""
import pathlib, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

*_, port, page, ready = sys.argv
while not pathlib.Path(ready).exists():
    time.sleep(0.05)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(pathlib.Path(page).read_bytes() if self.path == "/metrics" else b"{}")

    def log_message(self, *what):
        pass

HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
'''


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    """Four GPUs at 100 W without processes."""
    with FakeNvml(tmp_path, 4, refresh_seconds=0.1) as fake:
        yield fake


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """``start(name, *arguments)``: a Python of the test's own."""
    with ExitStack() as stack:

        def child(name: str, *arguments: str) -> Child:
            started = Child(name, [sys.executable, *arguments])
            stack.callback(started.stop)
            return started

        yield child


def page(exporter: Exporter) -> Page:
    return parse(exporter.metrics())


def owned(metrics: Page, server: str) -> set[str]:
    """Indices of the GPUs it owns."""
    return {
        dict(labels)["gpu"] for name, labels in metrics if name == "tpw_server_gpu" and dict(labels)["server"] == server
    }


def attribution(metrics: Page, server: str) -> str:
    return next(
        dict(labels)["attribution"]
        for name, labels in metrics
        if name == "tpw_server_info" and dict(labels)["server"] == server
    )


def busy_joules(metrics: Page, gpu: str) -> float:
    """What was not booked as idle."""
    states = ("active", "parked")
    return sum(metrics.sum("tpw_gpu_state_energy_joules_total", gpu=gpu, state=state) for state in states)


def test_a_server_that_loads_its_model_is_starting_under_the_name_it_will_have(
    exporter: Callable[..., Exporter], start: Callable[..., Child], nvml: FakeNvml, tmp_path: Path
) -> None:
    program, ready, port = tmp_path / "vllm", tmp_path / "ready", free_port()
    program.write_text(LOADER)
    capture = Path(__file__).parents[1] / "captures" / "servers" / "vllm-0.32.0-start.txt"
    daemon = exporter(environment=nvml.env())
    wait_until(lambda: page(daemon).sum("tpw_gpu_energy_joules_total", gpu="3") > 0.0, "a reading")

    loading = start("vllm", str(program), "serve", "m", "--port", str(port), str(capture), str(ready))
    nvml.processes(3, [loading.pid])
    nvml.memory(3, 40 * 2**30)

    def starting() -> float:
        return page(daemon).sum("tpw_server_energy_joules_total", server=f"vllm-{port}", state="starting")

    wait_until(lambda: starting() > 200.0, "two seconds of loading")
    assert page(daemon).sum("tpw_gpu_state_energy_joules_total", gpu="3", state="starting") > 0.0
    ready.touch()
    name = f"vllm-{port}"
    wait_until(lambda: page(daemon).values_of("tpw_server_up", server=name) == [1.0], "it is read")
    loaded = starting()
    wait_until(
        lambda: page(daemon).sum("tpw_server_energy_joules_total", server=name, state="parked") > 100.0,
        "it is parked",
    )
    assert starting() <= loaded + 200.0
    assert owned(page(daemon), name) == {"3"}


def test_a_server_nobody_configured_is_found_owns_what_its_process_holds_and_goes_without_a_trace(
    exporter: Callable[..., Exporter],
    start_llama: Callable[..., Llama],
    start: Callable[..., Child],
    nvml: FakeNvml,
) -> None:
    own = start_llama()
    other = start("somebody-else", "-c", "import time; time.sleep(600)")
    nvml.processes(0, [own.child.pid])
    nvml.processes(2, [own.child.pid, other.pid + 100_000])  # and a process that nobody can see
    nvml.processes(1, [other.pid])
    port = int(own.url.rpartition(":")[2])
    name = f"llamacpp-{port}"
    daemon = exporter(environment=nvml.env())  # no configuration at all
    wait_until(lambda: page(daemon).values_of("tpw_server_up", server=name) == [1.0], "found and read")

    first = page(daemon)
    assert owned(first, name) == {"0", "2"}
    assert attribution(first, name) == "processes"
    before = first.sum("tpw_server_tokens_total", server=name)
    usages = [own.complete(f"Number {n} is", 12 + n) for n in range(3)]
    made = sum(usage["completion_tokens"] for usage in usages)
    asked = sum(usage["prompt_tokens"] for usage in usages)
    wait_until(
        lambda: page(daemon).sum("tpw_server_tokens_total", server=name) - before >= made + asked,
        "all tokens",
    )
    served = page(daemon)
    output = {"server": name, "model": "smollm", "kind": "output"}
    assert served.value("tpw_server_tokens_total", **output) - first.sum("tpw_server_tokens_total", **output) == made
    assert served.sum("tpw_server_tokens_total", server=name) - before == made + asked
    assert busy_joules(served, "0") > 0.0
    assert busy_joules(served, "2") > 0.0
    # The GPU of another process and the GPU without processes are not the server's.
    assert busy_joules(served, "1") == 0.0
    assert busy_joules(served, "3") == 0.0
    assert served.sum("tpw_server_energy_joules_total", server=name) == pytest.approx(
        busy_joules(served, "0") + busy_joules(served, "2"), rel=1e-9
    )

    own.child.stop()
    nvml.processes(0, [])
    nvml.processes(2, [])
    wait_until(lambda: page(daemon).values_of("tpw_server_up", server=name) == [], "gone")
    wait_until(lambda: owned(page(daemon), name) == set(), "its GPUs let go")
    gone = page(daemon)
    time.sleep(2.5)
    later = page(daemon)
    for gpu in "02":
        assert busy_joules(later, gpu) == busy_joules(gone, gpu)
        idle = {"gpu": gpu, "state": "idle"}
        energy = "tpw_gpu_state_energy_joules_total"
        assert later.value(energy, **idle) > gone.value(energy, **idle)
    assert later.values_of("tpw_source_up", source=f"server:{name}") == []
    assert later.value("tpw_server_tokens_total", **output) == served.value("tpw_server_tokens_total", **output)

    again = start_llama(port=port)
    more = again.complete("Once more", 8)["completion_tokens"]
    nvml.processes(3, [again.child.pid])
    wait_until(lambda: owned(page(daemon), name) == {"3"}, "found again", timeout=3 * SCAN_SECONDS)
    wait_until(
        lambda: (
            page(daemon).value("tpw_server_tokens_total", **output) > later.value("tpw_server_tokens_total", **output)
        ),
        "its tokens",
    )
    # It began after its name was first watched: everything it counted is a rise.
    last = page(daemon)
    assert last.value("tpw_server_tokens_total", **output) - later.value("tpw_server_tokens_total", **output) == more
    log = daemon.child.log.read_text()
    assert log.count(f"event=server_found server={name} ") == 2
    assert log.count(f"event=source_down source=server:{name} ") == 1
    assert log.count(f"event=server_removed server={name}\n") == 1


def test_servers_given_by_address_alone_own_what_their_processes_or_a_child_of_them_hold(
    exporter: Callable[..., Exporter],
    start_llama: Callable[..., Llama],
    start: Callable[..., Child],
    nvml: FakeNvml,
    tmp_path: Path,
) -> None:
    own = start_llama()
    captured = Path(__file__).parents[1] / "captures" / "servers" / "llamacpp-b11669-after-16-requests.txt"
    script = tmp_path / "listener.py"
    script.write_text(LISTENER)
    port = free_port()
    edge = start("edge", str(script), str(port), str(captured))
    edge.wait_ready(f"http://127.0.0.1:{port}/metrics")
    child = int(edge.log.read_text().split()[1])
    other = start("somebody-else-too", "-c", "import time; time.sleep(600)")
    for gpu, pid in enumerate((own.child.pid, other.pid, child)):
        nvml.processes(gpu, [pid])
    daemon = exporter(
        {
            "discovery": {"processes": False},
            "servers": [{"name": "chat", "url": own.url}, {"name": "edge", "url": f"http://127.0.0.1:{port}"}],
        },
        environment=nvml.env(),
    )
    wait_until(lambda: owned(page(daemon), "chat") == {"0"}, "chat's GPU")
    wait_until(lambda: owned(page(daemon), "edge") == {"2"}, "edge's GPU")

    first = page(daemon)
    assert [attribution(first, name) for name in ("chat", "edge")] == ["processes", "processes"]
    made = own.complete("Once upon a time", 16)["completion_tokens"]
    output = {"server": "chat", "kind": "output"}
    wait_until(
        lambda: (
            page(daemon).value("tpw_server_tokens_total", **output) > first.value("tpw_server_tokens_total", **output)
        ),
        "its tokens",
    )
    last = page(daemon)
    assert last.value("tpw_server_tokens_total", **output) - first.value("tpw_server_tokens_total", **output) == made
    assert last.sum("tpw_server_energy_joules_total", server="edge", state="active") == 0.0
    assert last.sum("tpw_server_energy_joules_total", server="edge") == pytest.approx(busy_joules(last, "2"), rel=1e-9)
    assert last.sum("tpw_server_energy_joules_total", server="chat") == pytest.approx(busy_joules(last, "0"), rel=1e-9)
    assert busy_joules(last, "1") == busy_joules(last, "3") == 0.0

    # Started anew it is another process, and owns what that one holds as soon as it answers.
    own.child.stop()
    nvml.processes(0, [])
    wait_until(lambda: page(daemon).value("tpw_server_up", server="chat") == 0.0, "chat down")
    wait_until(lambda: owned(page(daemon), "chat") == set(), "chat's GPU let go")
    again = start_llama(port=int(own.url.rpartition(":")[2]))
    nvml.processes(3, [again.child.pid])
    wait_until(lambda: page(daemon).value("tpw_server_up", server="chat") == 1.0, "chat back")
    wait_until(lambda: owned(page(daemon), "chat") == {"3"}, "chat's new GPU at once", timeout=0.8 * SCAN_SECONDS)


def test_probe_lists_the_processes_on_a_gpu_that_belongs_to_no_server(
    start_llama: Callable[..., Llama], start: Callable[..., Child], nvml: FakeNvml
) -> None:
    own = start_llama()
    other = start("somebody-else-again", "-c", "import time; time.sleep(600)")
    nvml.processes(0, [own.child.pid])
    nvml.processes(1, [other.pid])
    command = exporter_command("probe", "--json")
    done = subprocess.run(command, env=clean_environment(**nvml.env()), capture_output=True, timeout=60, check=True)

    gpus = json.loads(done.stdout)["gpus"]
    assert [gpu["owner"] for gpu in gpus] == [f"llamacpp-{own.url.rpartition(':')[2]}", None, None, None]
    assert [[holder["pid"] for holder in gpu["held_by"]] for gpu in gpus] == [[own.child.pid], [other.pid], [], []]
    assert [gpus[0]["held_by"][0]["runs"].split()[-1], gpus[1]["held_by"][0]["runs"]] == [
        "llama-server",
        Path(sys.executable).name,
    ]
