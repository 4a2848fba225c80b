from __future__ import annotations

import pytest
from grafana.metrics import UnknownNameError, Vocabulary, tokens
from grafana.rules import vocabulary
from grafana.values import Values

WORDS = vocabulary(Values())


@pytest.mark.parametrize(
    "expr",
    [
        'sum by (job, instance) (rate(tpw_gpu_energy_joules_total{gpu="0"}[5m])) > 0',
        "1e6 * 1e-3 * avg_over_time(tpw_gpu_power_watts[7d] offset 1h)",
        'label_replace(up == 0, "server", "$1", "instance", "(.+)")',
        "sum(tpw_server_gpu) / on (server) group_left () (sum by (server) (tpw_server_up) > 0)",
        'tpw_gpu_state_seconds_total{state=~"parked|idle"} and on () hour() > 3',
        'tpw_server_tokens_total{kind="$kind", server=~"${server:regex}"}',
    ],
)
def test_exposed_names_pass(expr: str):
    WORDS.check(expr)


@pytest.mark.parametrize(
    ("expr", "complaint"),
    [
        ("rate(tpw_gpu_energy_millijoules_total[5m])", "no series tpw_gpu_energy_millijoules_total"),
        ('tpw_gpu_power_watts{server="chat"}', "tpw_gpu_power_watts has no label server"),
        ("sum by (podname) (tpw_gpu_power_watts)", "no series has a label podname"),
        ("sum(tpw_server_up) by (hostname)", "no series has a label hostname"),
        ('tpw_gpu_state_seconds_total{state="asleep"}', "state is never 'asleep'"),
        ('tpw_gpu_state_seconds_total{state=~"idle|asleep"}', "state is never 'asleep'"),
        ("model:tpw_tokens_per_watt:ratio_rate5m", "no series model:tpw_tokens_per_watt:ratio_rate5m"),
        ("vector(1) and no_such_metric", "no series no_such_metric"),
    ],
)
def test_unknown_names_fail_the_build(expr: str, complaint: str):
    with pytest.raises(UnknownNameError, match=complaint.replace("(", r"\(")):
        WORDS.check(expr)


def test_tokens_of_an_expression_join_to_the_expression():
    expr = 'sum by (a, b) (rate(x{y=~"z\\"}"}[$__rate_interval])) / 1e-6 >= bool .5 # not a comment here'
    assert "".join(piece.text for piece in tokens(expr)) == expr


def test_filters_go_to_the_selectors_that_have_the_label_and_do_not_match_it_yet():
    expr = (
        'rate(tpw_server_tokens_total{kind="output"}[5m]) / on (server) tpw_server_up{server="chat"} + tpw_gpu_up'
        " + time() + tpw_server_energy_joules_total{}"
    )
    actual = WORDS.filtered(expr, ("server", "model"))
    assert actual == (
        'rate(tpw_server_tokens_total{server=~"$server", model=~"$model", kind="output"}[5m])'
        ' / on (server) tpw_server_up{server="chat"} + tpw_gpu_up + time()'
        ' + tpw_server_energy_joules_total{server=~"$server", model=~"$model"}'
    )


def test_the_last_name_of_an_expression_is_filtered_too():
    assert WORDS.filtered("tpw_server_up", ("server",)) == 'tpw_server_up{server=~"$server"}'


def test_every_series_of_the_catalogue_has_the_labels_of_the_scrape():
    labels = Vocabulary.of_catalogue().series["tpw_tokens_per_watt"]
    assert labels == {"server", "model", "kind", "boundary", "job", "instance", "cluster", "namespace"}
