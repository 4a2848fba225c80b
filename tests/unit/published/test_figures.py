"""Which published figure is near a server, and what is plausible. Figures by hand from figures.csv of the package."""

from __future__ import annotations

from datetime import date

import pytest

from tpw.published import figures as module
from tpw.published.figures import SOURCES, compare, figures, key_of

H100 = "NVIDIA H100 80GB HBM3"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def test_every_row_is_sound_and_has_a_dated_source():
    rows = figures()
    assert len(rows) > 150
    for row in rows:
        assert 0.01 < row.joules_per_output_token < 30.0, row
        assert row.gpu in {"H100", "B200", "MI300X"}, row
        assert row.source in SOURCES, row
    for source in SOURCES.values():
        assert date.fromisoformat(source.date) <= date(2026, 11, 25)
        assert source.address.startswith("https://")


@pytest.mark.parametrize(
    ("concurrency", "joules"), [(1.0, 0.4548), (9.0, 0.4548), (60.0, 0.1186), (700.0, 0.07019), (None, 0.4548)]
)
def test_the_nearest_is_that_of_the_model_on_the_gpu_at_the_load(concurrency: float | None, joules: float):
    nearest = compare(LLAMA, H100, 1, concurrency).nearest
    assert nearest is not None
    assert (nearest.model, nearest.gpu, nearest.joules_per_output_token) == ("Llama-3.1-8B-Instruct", "H100", joules)


@pytest.mark.parametrize(
    "name", ["llama3.1:8b", "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "/models/llama-3.1-8b", "llama_3_1_8b"]
)
def test_a_model_is_recognised_in_the_names_that_engines_report(name: str):
    nearest = compare(name, H100, 1, 8.0).nearest
    assert nearest is not None
    assert nearest.model == "Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    ("model", "gpu"),
    [
        ("mistral-7b", H100),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-3.1-8B", H100),
        ("Qwen/Qwen3-80B", H100),
        (LLAMA, "NVIDIA A100-SXM4-80GB"),
        (LLAMA, "NVIDIA H100 PCIe"),
        (LLAMA, "NVIDIA GB200"),
    ],
)
def test_where_none_is_near_the_reason_is_stated(model: str, gpu: str):
    found = compare(model, gpu, 1, 8.0)
    assert found.nearest is None
    assert found.reason
    assert found.differences == ()


def test_the_precision_in_the_name_is_preferred():
    row = compare("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", H100, 4, 8.0).nearest
    assert row is not None
    assert row.precision == "fp8"
    other = compare("Qwen/Qwen3-235B-A22B-Instruct-2507-bf16", H100, 8, 8.0).nearest
    assert other is not None
    assert other.precision == "bfloat16"


def test_differences_of_conditions_are_listed():
    found = compare("llama-3.3-70b-fp8", H100, 2, 16.0)
    text = "; ".join(found.differences)
    assert "4 GPUs, here 2" in text
    assert "bfloat16, here fp8" in text
    assert "7.98 requests in flight, here about 16" in text
    same = compare("Llama-3.3-70B-Instruct-bf16", H100, 4, 64.0)
    assert len(same.differences) == 1  # steady load


def test_what_is_plausible_is_a_multiple_of_the_best_figure_of_models_at_least_as_large():
    # Best of at least 8 billion parameters on an H100: Llama 3.1 8B, 0.07019 J.
    assert compare(LLAMA, H100, 1, 8.0).highest_tokens_per_joule == pytest.approx(4.0 / 0.07019)
    # A GPU without figures that is not better than those with: the best of all, Llama 3.1 8B on a B200, 0.0467 J.
    assert compare(LLAMA, "NVIDIA H200", 1, 8.0).highest_tokens_per_joule == pytest.approx(4.0 / 0.0467)


def test_a_gpu_that_may_be_better_than_all_with_figures_is_bounded_by_its_arithmetic_only():
    highest = compare(LLAMA, "NVIDIA GB300", 1, 8.0).highest_tokens_per_joule
    assert highest == pytest.approx(2.0 * 15000e12 / 1400.0 / (2.0 * 8e9))


def test_a_model_without_figures_is_bounded_by_its_size_or_not_at_all():
    assert compare("tiny-1.1b", H100, 1, None).highest_tokens_per_joule == pytest.approx(
        2.0 * 1979e12 / 700.0 / (2.0 * 1.1e9)
    )
    assert compare("mixtral-8x7b", H100, 1, None).highest_tokens_per_joule is None
    assert compare("mine", H100, 1, None).highest_tokens_per_joule is None
    assert compare("mistral-7b", "NVIDIA A100-SXM4-80GB", 1, None).highest_tokens_per_joule is None


def test_no_published_figure_is_implausible_and_eight_times_the_best_of_a_dense_model_is():
    for row in figures():
        name = {"H100": H100, "B200": "NVIDIA B200", "MI300X": "AMD Instinct MI300X"}[row.gpu]
        highest = compare(row.model, name, row.gpus or 1, row.concurrency).highest_tokens_per_joule
        assert highest is not None
        assert row.tokens_per_joule * 0.8 < row.tokens_per_joule < highest / 3.9, row
    for model in ("Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct", "Qwen3-32B", "Qwen3-14B"):
        best = max(row.tokens_per_joule for row in figures() if row.model == model and row.gpu == "H100")
        highest = compare(model, H100, 1, None).highest_tokens_per_joule
        assert highest is not None
        assert 8.0 * best > highest


def test_two_hundred_models_read_the_file_no_more_often_than_it_has_models(monkeypatch: pytest.MonkeyPatch):
    reads = 0

    def counted() -> list[module.Figure]:
        nonlocal reads
        reads += 1
        return figures()

    compare("warm-8b", H100, 1, None)  # the names are known
    monkeypatch.setattr(module, "figures", counted)
    for number in range(200):
        for concurrency in (1.0, 20.0, 300.0):
            compare(f"acme/model-{number}-7b", H100, 1, concurrency)
    assert reads == 0


def test_a_changing_load_reads_the_file_once_for_each_power_of_two():
    compare("gpt-oss-20b", H100, 1, 33.0)
    before = len({id(compare("gpt-oss-20b", H100, 1, load)) for load in (24.0, 30.0, 40.0, 45.0)})
    assert before == 1


def test_names_of_variants_have_one_key():
    assert key_of("Qwen3-30B-A3B-Instruct-2507") == key_of("Qwen3-30B-A3B-Thinking-2507") == "qwen330b"
    assert len({key_of(row.model) for row in figures()}) == 21
