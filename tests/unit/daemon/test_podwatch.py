"""When the API of a cluster is read, and what its absence costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support.pageserver import PageServer, answer
from tpw.config.schema import Kubernetes
from tpw.daemon.podwatch import PodWatch, address_of_api

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
POD = '{"metadata":{"name":"p","namespace":"chat","uid":"u","labels":{}}}'
LIST = f'{{"metadata":{{"resourceVersion":"7"}},"items":[{POD}]}}'


@pytest.fixture
def settings(tmp_path: Path) -> Kubernetes:
    (tmp_path / "token").write_text("abc\n")
    return Kubernetes(token_file=str(tmp_path / "token"), ca_file=str(tmp_path / "ca.crt"))


def test_it_is_off_without_a_token_and_without_a_cluster(settings: Kubernetes):
    assert address_of_api(settings, IN_CLUSTER) == "https://10.96.0.1:6443"
    assert address_of_api(settings, {"KUBERNETES_SERVICE_HOST": "fd00::1"}) == "https://[fd00::1]:443"
    assert address_of_api(settings, {}) == ""
    assert address_of_api(replace(settings, token_file="/nowhere"), IN_CLUSTER) == ""  # noqa: S106 - a path
    assert address_of_api(replace(settings, url="https://api"), {}) == "https://api"


def test_without_the_name_of_the_node_nothing_is_read_and_that_is_reported(
    settings: Kubernetes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("NODE_NAME", raising=False)
    watch = PodWatch()
    watch.update(replace(settings, url="https://127.0.0.1:1"))

    assert watch.pods() == {}
    assert len(watch.problems()) == 1
    watch.update(settings)  # of no cluster
    assert watch.problems() == ()


@pytest.mark.parametrize(("status", "problems", "pods"), [(200, 0, ["u"]), (403, 1, [])])
def test_the_first_scan_knows_the_pods_or_why_not(settings: Kubernetes, status: int, problems: int, pods: list[str]):
    with PageServer(lambda asked: answer(LIST if "watch" not in asked.path else "", status=status)) as server:
        watch = PodWatch()
        watch.update(replace(settings, url=server.url, node="gpu-1"))

        assert list(watch.pods()) == pods
        assert len(watch.problems()) == problems
        assert server.asked[0].headers["authorization"] == "Bearer abc"
        watch.update(replace(settings, url=None))  # a reload without it
        assert (dict(watch.pods()), watch.problems()) == ({}, ())


def test_outside_a_cluster_its_client_is_not_even_imported():
    code = "import sys, tpw.daemon.ownership as used; used.Scanner(); print('tpw.discovery.kubernetes' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert found.stdout == "False\n"
