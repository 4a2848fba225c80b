"""Replicas of a workload on one node are one server, through rollouts, rescales and restarts of the exporter."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kubenode import Node, Pod
from tpw.cli import main


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    one = Node(tmp_path, monkeypatch)
    yield one
    one.close()


def rolled_out(node: Node, old: Pod) -> Pod:
    """A new pod that loads for two minutes, then serves; the old one ends after it."""
    new = node.begin()
    for _ in range(2):
        node.scan()
        node.tick(3)
    node.now += 90.0
    node.ready(new)
    new.tokens = 5  # before it is found
    node.scan()
    node.tick(2)
    node.end(old)
    node.scan()
    node.tick(1)
    return new


def test_one_server_through_twenty_rollouts_and_five_rescales(node: Node) -> None:
    node.daemon.poll_all()
    first = node.begin()
    node.scan()
    node.ready(first)
    node.scan()
    node.tick(10)
    series: list[int] = []
    counted = 0.0

    def check() -> None:
        nonlocal counted
        assert node.servers() == {"chat/llama"}
        assert node.counted() == node.truth
        assert node.counted() >= counted
        counted = node.counted()
        series.append(len(node.page()))

    check()
    pod = first
    for number in range(20):
        pod = rolled_out(node, pod)
        check()
        if number % 4 == 0:  # a rescale to three and back, the oldest one first
            others = [node.begin(), node.begin()]
            node.scan()
            for other in others:
                node.ready(other)
            node.scan()
            node.tick(7)
            check()
            node.end(pod)
            node.end(others[0])
            pod = others[1]
            node.scan()
            node.tick(1)
            check()
    assert len(node.daemon._node.books.servers) == 3  # the most that ran at a time
    assert max(series[-3:]) <= max(series[:4])


def test_replicas_share_one_name_and_keep_their_own_states_and_one_that_is_away_lowers_nothing(node: Node) -> None:
    node.daemon.poll_all()
    pods = [node.begin(), node.begin()]
    node.scan()
    for pod in pods:
        node.ready(pod)
    node.scan()
    node.tick(10)
    busy, away = pods
    before = node.counted()
    assert before == node.truth

    away.is_away = True
    for _ in range(5):
        node.now += 1.0
        busy.tokens += 100
        node.daemon.tick()
    page = node.page()
    assert node.counted() == before + 500
    assert page.value("tpw_server_up", server="chat/llama") == 1.0
    assert {dict(labels)["gpu"] for name, labels in page if name == "tpw_server_gpu"} == {"0", "1"}
    away.tokens += 40
    away.is_away = False
    node.now += 60.0
    node.tick()
    node.tick()
    assert node.counted() == node.truth

    # A replica without load beside one with load is parked.
    parked = node.page().sum("tpw_gpu_state_seconds_total", gpu="1", state="parked")
    active = node.page().sum("tpw_gpu_state_seconds_total", gpu="0", state="active")
    for _ in range(3):
        node.now += 1.0
        busy.tokens += 100
        node.daemon.tick()
    assert node.page().sum("tpw_gpu_state_seconds_total", gpu="1", state="parked") == pytest.approx(parked + 3)
    assert node.page().sum("tpw_gpu_state_seconds_total", gpu="0", state="active") == pytest.approx(active + 3)
    joules = node.page().sum("tpw_server_energy_joules_total", server="chat/llama")
    other = node.page().sum("tpw_gpu_state_energy_joules_total", state="idle")
    other += node.page().sum("tpw_gpu_state_energy_joules_total", state="other")
    assert joules + other == pytest.approx(node.page().sum("tpw_gpu_energy_joules_total"))


def test_replicas_keep_their_accounts_over_a_restart_of_the_exporter_in_another_order(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    node.daemon.poll_all()
    pods = [node.begin() for _ in range(3)]
    node.scan()
    for pod in reversed(pods):
        node.ready(pod)
        node.scan()
    node.tick(10)
    node.end(pods[1])
    node.scan()
    node.tick(10)
    assert node.counted() == node.truth

    node.daemon.stop()
    pods[0].tokens += 1000
    pods[2].tokens += 20
    node.now += 30.0
    node.start()
    node.daemon.poll_all()
    node.tick(5)

    assert node.counted() == node.truth
    assert node.servers() == {"chat/llama"}

    node.daemon.stop()
    state = f"--state.dir={node.directory / 'state'}"
    capsys.readouterr()  # the log of the daemon
    assert main(["report", state, "--by=server", "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["server"]: float(row["tokens_output"]) for row in rows}.get("chat/llama") == node.truth
    assert not any("replica" in row["server"] for row in rows)
    assert main(["books", "show", state]) == 0
    assert "llama:replica" not in capsys.readouterr().out
    assert main(["books", "verify", state]) == 0
    assert main(["books", "forget", "chat/llama", state]) == 0
    capsys.readouterr()
    assert main(["books", "show", state]) == 0
    assert "chat/llama" not in capsys.readouterr().out


def test_the_live_ratios_are_those_of_all_replicas(node: Node) -> None:
    node.daemon.poll_all()
    pods = [node.begin(), node.begin()]
    node.scan()
    for pod in pods:
        node.ready(pod)
    node.scan()
    energies = []
    for _ in range(70):
        node.now += 1.0
        pods[0].tokens += 30
        pods[1].tokens += 10
        node.daemon.tick()
        energies.append(node.page().sum("tpw_server_energy_joules_total", server="chat/llama"))
    page = node.page()

    assert page.value("tpw_tokens_per_second", server="chat/llama", kind="output") == pytest.approx(40.0)
    assert page.value("tpw_window_seconds", server="chat/llama") == pytest.approx(60.0)
    per_watt = page.value("tpw_tokens_per_watt", server="chat/llama", kind="output", boundary="gpu")
    assert per_watt == pytest.approx(60 * 40.0 / (energies[-1] - energies[-61]))
