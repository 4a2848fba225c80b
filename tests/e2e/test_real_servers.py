"""The real servers that other tests rely on do what those tests take for granted."""

from __future__ import annotations

import time

import pytest


def counter(page: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"{name} "))


def test_llama_server_counts_exactly_what_its_responses_report(llama):
    before = counter(llama.metrics(), "llamacpp:tokens_predicted_total")
    usage = llama.complete("Once upon a time", 20)
    after = counter(llama.metrics(), "llamacpp:tokens_predicted_total")

    assert usage["completion_tokens"] == 20
    assert after - before == 20


@pytest.mark.parametrize("version", ["2", "3"])
def test_prometheus_scrapes_a_real_llama_server(llama, prometheus, version):
    started = prometheus({"llama": [llama.url.removeprefix("http://")]}, version=version)
    begin = time.time()

    samples = started.wait_for('up{job="llama"} == 1')
    assert [sample.labels["job"] for sample in samples] == ["llama"]
    assert started.value("count(llamacpp:tokens_predicted_total)") == 1
    ranges = started.query_range('up{job="llama"}', begin, time.time() + 1)
    assert {value for sample in ranges for _, value in sample.values} == {1.0}


def test_alertmanager_takes_alerts_from_prometheus(prometheus, alertmanager, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("groups: [{name: g, rules: [{alert: Always, expr: vector(1)}]}]")
    address = alertmanager({"route": {"receiver": "none"}, "receivers": [{"name": "none"}]})
    started = prometheus(
        rules=[rules], config={"alerting": {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}}
    )

    samples = started.wait_for('ALERTS{alertstate="firing"}')
    assert [sample.labels["alertname"] for sample in samples] == ["Always"]
    assert [alert["state"] for alert in started.alerts()] == ["firing"]
