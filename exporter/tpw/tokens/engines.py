"""The known engines, one row each.

Names are from the engines' own source or, where that is closed, from the vendor's documentation; the source is above each
row as ``owner/repository: path``. Candidates' names are without the row's prefix. If a row and an engine disagree, capture
the engine's page, add it to ``tests/captures/servers``, and change the row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tpw.model import Cadence, Role, Tier
from tpw.tokens.dialects import Candidate, Climb, Dialect, Kind, Level, Lookup, Mark, Processes, Progress, Work

STEP, CHUNK, FINISH = Cadence.STEP, Cadence.CHUNK, Cadence.FINISH


def _counter(name: str, *match: tuple[str, str], cadence: Cadence | None = None) -> Candidate:
    return Candidate(name, match=match, cadence=cadence)


def _prompt(name: str, *match: tuple[str, str]) -> Candidate:
    """Prompt tokens, cached ones included."""
    return Candidate(name, match=match, role=Role.PROMPT)


def _sum(name: str, *match: tuple[str, str], cadence: Cadence | None = None) -> Candidate:
    return Candidate(name, Kind.HISTOGRAM_SUM, match, cadence)


def _prompt_sum(name: str, *match: tuple[str, str]) -> Candidate:
    return Candidate(name, Kind.HISTOGRAM_SUM, match, role=Role.PROMPT)


def _gauge(name: str, *match: tuple[str, str]) -> Candidate:
    return Candidate(name, Kind.GAUGE, match)


def _absolute(dialect: Dialect, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """A row's candidates with its usual prefix written out, for pages that carry several engines' names."""
    return tuple(replace(candidate, name=dialect.prefixes[0] + candidate.name) for candidate in candidates)


# vllm-project/vllm: vllm/v1/metrics/loggers.py, vllm/v1/metrics/stats.py; measured against 0.32.0.
# prompt_tokens_total includes cached tokens and moves when prefill ends. by_source splits it into local_compute,
# local_cache_hit and external_kv_transfer; the last is cached input only of a server that has a store behind its connector
# (kv_role kv_both): else the instance that sent the blocks has counted the prompt as its own local_compute.
# gpu_prefix_cache_hits is not used: releases that have it alone count blocks, not tokens. Of the names in the wheels (read
# 2026-11-24), 0.15.1 no longer has gpu_*, and 0.32.0 is the first of those read with by_source and prompt_tokens_cached.
# prompt_tokens_cached_by_source (vllm/v1/metrics/cache_hit_source.py) splits external_kv_transfer: host and disk are the
# instance's own offloaded blocks. p2p comes from another instance; external_unspecified is the default of every connector,
# those between prefill and decode instances included.
VLLM = Dialect(
    name="vllm",
    # vllm_router_* is a router without tokens or GPUs.
    mark=Mark(any_prefix=("vllm:", "vllm_"), absent_prefix=("vllm_router_",)),
    prefixes=("vllm:", "vllm_"),
    port=8000,
    cadence=STEP,
    output=(_counter("generation_tokens_total"),),
    input=(_counter("prompt_tokens_by_source_total", ("source", "local_compute")), _prompt("prompt_tokens_total")),
    cached_input=(
        Candidate(
            "prompt_tokens_by_source_total",
            match=(("source", "local_cache_hit"),),
            tiers=(("", "", Tier.DEVICE),),
        ),
        _counter("prompt_tokens_cached_total"),
        _counter("prefix_cache_hits_total"),
    ),
    stored=(
        Candidate(
            "prompt_tokens_cached_by_source_total",
            match=(("source", "host"), ("source", "disk")),
            tiers=(("source", "host", Tier.HOST), ("source", "disk", Tier.DISK)),
        ),
    ),
    external=(
        Candidate(
            "prompt_tokens_cached_by_source_total",
            match=(("source", "p2p"), ("source", "external_unspecified")),
            tiers=(("source", "p2p", Tier.REMOTE),),
        ),
        _counter("prompt_tokens_by_source_total", ("source", "external_kv_transfer")),
    ),
    requests=(_counter("request_success_total"),),
    running=(_gauge("num_requests_running"),),
    waiting=(_gauge("num_requests_waiting"),),
    model_labels=("model_name",),
    pin=("pid",),
    version_source=(Lookup("/version", ("version",)),),
    ttft=("time_to_first_token_seconds",),
    tpot=("request_time_per_output_token_seconds",),
    e2e=("e2e_request_latency_seconds",),
    paired=True,
    processes=Processes(listener=("VLLM::APIServer", "vllm", "vllm-rs"), gpu=("VLLM::EngineCore", "VLLM::Worker")),
    enable="start vLLM without --disable-log-stats; the nodes of a server started with --headless publish nothing",
    caveats="`n > 1` counts the prompt once for each answer. A request is not counted if its client"
    " disconnects, its tokens are. Prompt tokens are counted when the prefill ends. With prefill and"
    " decode instances of an unknown role each prompt is counted where it was computed, and the prefill"
    " instance counts one output token of each request too: set `role`.",
)

# Fork of vLLM: the same names under its own prefix.
APHRODITE = replace(
    VLLM,
    name="aphrodite",
    mark=Mark(any_prefix=("aphrodite:",)),
    prefixes=("aphrodite:",),
    port=2242,
    version_source=(),
    processes=Processes(
        listener=("APHRODITE::APIServer", "aphrodite"), gpu=("APHRODITE::EngineCore", "APHRODITE::Worker")
    ),
    enable="start Aphrodite without --disable-log-stats",
    caveats="As vLLM.",
)

# vllm-project/vllm: vllm/v1/metrics/ray_wrappers.py. Names pass through Ray's sanitiser; zero is not published, so every
# series appears with its first increment, and again with every new replica.
RAY_SERVE = replace(
    VLLM,
    name="ray_serve",
    mark=Mark(any_prefix=("ray_vllm_", "ray_vllm:")),
    prefixes=("ray_vllm_", "ray_vllm:"),
    port=None,
    late=True,
    version_source=(),
    processes=Processes(gpu=("ray::",), climb=Climb.SELF),
    enable="Ray publishes engine metrics on the node's --metrics-export-port; log_engine_metrics must be true",
    caveats="Series appear with their first increment and end with their replica.",
)

# triton-inference-server/vllm_backend: src/utils/metrics.py. Versions of a model that are loaded side by side are separate
# engines: their tokens are added.
TRITON_VLLM = replace(
    VLLM,
    name="triton_vllm",
    mark=Mark(all_prefix=("vllm:", "nv_inference_")),
    port=8002,
    late=True,
    model_labels=("model",),
    pin=(),
    version_source=(),
    processes=Processes(listener=("tritonserver",), gpu=("tritonserver", "triton_python_backend_stub")),
    enable="Triton's vLLM backend publishes engine counters when the model's configuration sets REPORT_CUSTOM_METRICS",
    caveats="Versions of a model that are loaded side by side are added.",
)

# sgl-project/sglang: python/sglang/srt/observability/metrics_collector.py, srt/managers/tokenizer_manager.py.
# realtime_tokens_total moves with every decode step and prefill batch, the request counters when a request has
# finished. Of output it counts decode steps only, without the token that each prefill generates (metrics_reporter.py): it
# shows what is in flight, the request counter is the exact count. Of prompts it counts the work of retracted requests
# again; prefill_effective_tokens_total does not. A prefill instance generates one token of each request, which the decode
# instance counts too, and a decode instance counts with each request the prompt that the prefill instance has counted.
# Every pipeline stage, and with --enable-metrics-for-all-schedulers every tensor rank, publishes a full copy;
# data-parallel ranks are real shards.
SGLANG = Dialect(
    name="sglang",
    mark=Mark(any_prefix=("sglang:", "sglang_", "ray_sglang_", "ray_sglang:")),
    prefixes=("sglang:", "sglang_", "ray_sglang_", "ray_sglang:"),
    port=30000,
    cadence=FINISH,
    output=(Candidate("generation_tokens_total", unless=(("engine_type", "prefill"),)),),
    live_output=(_counter("realtime_tokens_total", ("mode", "decode"), cadence=STEP),),
    input=(
        _counter("prefill_effective_tokens_total", ("mode", "input"), cadence=STEP),
        _counter("realtime_tokens_total", ("mode", "prefill_compute"), cadence=STEP),
        Candidate("prompt_tokens_total", role=Role.PROMPT, unless=(("engine_type", "decode"),)),
    ),
    cached_input=(
        Candidate(
            "prefill_effective_tokens_total",
            match=(("mode", "device_hit"), ("mode", "host_hit"), ("mode", "storage_hit")),
            cadence=STEP,
            tiers=(("mode", "device_hit", Tier.DEVICE), ("mode", "host_hit", Tier.HOST)),
        ),
        _counter("realtime_tokens_total", ("mode", "prefill_cache"), cadence=STEP),
        Candidate("cached_tokens_total", unless=(("engine_type", "decode"),)),
    ),
    requests=(_counter("num_requests_total"),),
    running=(_gauge("num_running_reqs"),),
    waiting=(_gauge("num_queue_reqs"),),
    model_labels=("model_name", "name"),
    pin=("tp_rank", "pp_rank", "moe_ep_rank", "pid"),
    late=True,
    version_source=(Lookup("/server_info", ("version",)), Lookup("/get_server_info", ("version",))),
    ttft=("time_to_first_token_seconds",),
    tpot=("request_time_per_output_token_seconds",),
    e2e=("e2e_request_latency_seconds",),
    processes=Processes(listener=("sglang", "sglang.launch_server"), gpu=("sglang::scheduler",), climb=Climb.SELF),
    enable="start SGLang with --enable-metrics",
    caveats="Output is the exact counter of ended requests; the surplus of the live counter is shown while"
    " requests run. Prompts of retracted requests are counted once if the release distinguishes them"
    " (`prefill_effective_tokens_total`).",
)

# ggml-org/llama.cpp: tools/server/README.md, tools/server/server-http.cpp; measured against b11669.
# prompt_tokens_total excludes cached tokens, and moves with the prompt; tokens_predicted_total moves when a request ends.
# The *_seconds gauges are averages since the last scrape by any client: never used. n_tokens_max is a maximum of type
# counter.
# /slots has the progress of each request (next_token is a list, in older builds a mapping); when a request ends, also by
# a client that disconnects, the counter rises by exactly its n_decoded. Reading /slots resets nothing.
LLAMACPP = Dialect(
    name="llamacpp",
    mark=Mark(any_prefix=("llamacpp:",)),
    prefixes=("llamacpp:",),
    port=8080,
    cadence=FINISH,
    output=(_counter("tokens_predicted_total"),),
    input=(_counter("prompt_tokens_total"),),
    cached_input=(_counter("prompt_tokens_cached_total"),),
    running=(_gauge("requests_processing"),),
    waiting=(_gauge("requests_deferred"),),
    model_labels=("model",),
    model_source=(Lookup("/v1/models", ("data", 0, "id")), Lookup("/props", ("model_path",))),
    version_source=(Lookup("/props", ("build_info",)),),
    progress=Progress(
        path="/slots",
        busy="is_processing",
        identity=("id", "id_task"),
        tokens=(("next_token", 0, "n_decoded"), ("next_token", "n_decoded")),
        note="start llama-server with --slots (or without --no-slots) to count tokens while requests are running",
    ),
    processes=Processes(listener=("llama-server",), gpu=("llama-server",), climb=Climb.SELF),
    enable="start llama-server with --metrics (or LLAMA_ARG_ENDPOINT_METRICS=1, which Ollama passes to its child process)",
    caveats="`n > 1` counts the prompt once and every answer, while `usage` has the first answer alone. Tokens"
    " generated for a client that disconnected are counted. Builds before 2026 print six digits: above a"
    " million tokens the counter moves in steps of ten. No counter of requests. The models of a router"
    " are discovered on its own host; elsewhere configure each by its full address:"
    " `http://HOST/metrics?model=NAME&autoload=false`.",
)

# huggingface/text-generation-inference: router/src/server.rs, docs/source/reference/metrics.md. There is no token counter:
# histogram sums, output for successful requests only, input at validation.
TGI = Dialect(
    name="tgi",
    mark=Mark(any_prefix=("tgi_",)),
    prefixes=("tgi_",),
    port=80,
    other_ports=(3000, 8080, 9000),
    cadence=FINISH,
    output=(_sum("request_generated_tokens"),),
    input=(_prompt_sum("request_input_length"),),
    requests=(_counter("request_success"),),
    running=(_gauge("batch_current_size"),),
    waiting=(_gauge("queue_size"),),
    late=True,
    model_source=(Lookup("/info", ("model_id",)),),
    version_source=(Lookup("/info", ("version",)),),
    tpot=("request_mean_time_per_token_duration",),
    e2e=("request_duration",),
    processes=Processes(listener=("text-generation-router",), gpu=("text-generation-server",)),
    enable="TGI publishes its metrics on its HTTP port and on --prometheus-port",
    caveats="Only successful requests count output; input counts rejected ones too. No cached input.",
)

# NVIDIA/TensorRT-LLM: tensorrt_llm/metrics/collector.py, tensorrt_llm/serve/openai_server.py. /metrics is a JSON list that
# every read empties, so it is never requested.
TRTLLM_SERVE = Dialect(
    name="trtllm_serve",
    mark=Mark(any_prefix=("trtllm_",)),
    prefixes=("trtllm_",),
    paths=("/prometheus/metrics",),
    port=8000,
    cadence=FINISH,
    output=(_counter("generation_tokens_total"),),
    input=(_prompt("prompt_tokens_total"),),
    cached_input=(_counter("prompt_cached_tokens_total"),),
    requests=(_counter("request_success_total"),),
    running=(_gauge("num_requests_running"),),
    waiting=(_gauge("num_requests_waiting"),),
    model_labels=("model_name",),
    pin=("pid",),
    late=True,
    version_source=(Lookup("/version", ("version",)),),
    ttft=("time_to_first_token_seconds",),
    tpot=("time_per_output_token_seconds",),
    e2e=("e2e_request_latency_seconds",),
    processes=Processes(listener=("trtllm-serve",), gpu=("mpi4py.futures.server", "trtllm-serve")),
    enable="set return_perf_metrics: true (and enable_iter_perf_stats: true for the load) in trtllm-serve's configuration;"
    " token counters need a release of 2026",
    caveats="Its `/metrics` is a list that every read empties; it is never requested.",
)

# NVIDIA/TensorRT-LLM: triton_backend/inflight_batcher_llm/src/custom_metrics_reporter/custom_metrics_reporter.cc;
# triton-inference-server/server: docs/user_guide/metrics.md. Every step of an ensemble counts a request: the engine's is
# used. total_context_tokens is of one iteration and not cumulative: not used.
TRITON_TRTLLM = Dialect(
    name="triton_trtllm",
    mark=Mark(any_prefix=("nv_trt_llm_", "nv_llm_")),
    port=8002,
    cadence=FINISH,
    output=(_sum("nv_llm_output_token_len", ("response_metric_type", "total_output_tokens")),),
    input=(_prompt_sum("nv_llm_input_token_len", ("response_metric_type", "total_input_tokens")),),
    requests=(_counter("nv_inference_request_success", ("model", "tensorrt_llm")),),
    running=(
        _gauge("nv_trt_llm_request_metrics", ("request_type", "scheduled")),
        _gauge("nv_trt_llm_request_metrics", ("request_type", "active")),
    ),
    waiting=(_gauge("nv_trt_llm_request_metrics", ("request_type", "waiting")),),
    model_labels=("model",),
    late=True,
    processes=Processes(
        listener=("tritonserver",), gpu=("tritonserver", "triton_python_backend_stub", "trtllmExecutorWorker")
    ),
    enable="token histograms (nv_llm_*_token_len) need a recent Triton TensorRT-LLM backend, and Triton's --allow-metrics",
    caveats="Requests are those of the model `tensorrt_llm`; the other steps of an ensemble count them again. No"
    " cached input.",
)

# docs.nvidia.com, NIM for LLMs 1.x, observability (closed source; names from the vendor's documentation). No prefix.
NIM = Dialect(
    name="nim",
    mark=Mark(all_series=("num_request_max", "generation_tokens_total")),
    paths=("/v1/metrics", "/metrics"),
    port=8000,
    cadence=STEP,
    output=(_counter("generation_tokens_total"),),
    input=(_prompt("prompt_tokens_total"),),
    requests=(_counter("request_success_total"), _counter("request_finish_total")),
    running=(_gauge("num_requests_running"),),
    waiting=(_gauge("num_requests_waiting"),),
    model_labels=("model_name",),
    pin=("pid",),
    model_source=(Lookup("/v1/models", ("data", 0, "id")),),
    version_source=(Lookup("/v1/version", ("release",)),),
    ttft=("time_to_first_token_seconds",),
    e2e=("e2e_request_latency_seconds",),
    processes=Processes(listener=("nim_llm",)),
    enable="NIM 1.x publishes at /v1/metrics, its first releases at /metrics",
    caveats="Names from the vendor's documentation. Without a prefix: recognised by two of them together.",
)

# ai-dynamo/dynamo: lib/runtime/src/metrics/prometheus_names.rs, lib/llm/src/http/service/metrics.rs; measured against
# 1.6.1. The frontend counts a user's request once, the workers every phase of it: the two are never added.
# DYN_METRICS_PREFIX changes the prefix. output_tokens_total, input_sequence_tokens and cached_tokens leave out streams of
# /v1/completions; output_sequence_tokens, which has one answer of several prompts, and the histogram of the router in the
# frontend have them. The router counts a prompt in each phase.
DYNAMO_FRONTEND = Dialect(
    name="dynamo_frontend",
    mark=Mark(any_prefix=("dynamo_frontend_",)),
    prefixes=("dynamo_frontend_", "dynamo_component_"),
    port=8000,
    level=Level.FRONTEND,
    cadence=FINISH,
    output=(_sum("output_sequence_tokens"), _counter("output_tokens_total", cadence=CHUNK)),
    live_output=(_counter("output_tokens_total", cadence=CHUNK),),
    input=(
        Candidate("router_input_sequence_tokens", Kind.HISTOGRAM_SUM, role=Role.PROMPT, unless=(("phase", "decode"),)),
        _prompt_sum("input_sequence_tokens"),
    ),
    cached_input=(_sum("cached_tokens"),),
    requests=(_counter("requests_total"),),
    running=(_gauge("active_requests"), _gauge("inflight_requests")),
    waiting=(_gauge("queued_requests"),),
    model_labels=("model",),
    late=True,
    ttft=("time_to_first_token_seconds",),
    e2e=("request_duration_seconds",),
    processes=Processes(listener=("dynamo.frontend", "dynamo-run")),
    enable="a prefix changed with DYN_METRICS_PREFIX needs a dialect of its own",
    caveats="Counts a user's request once; its workers count every phase of it. Read one or the other. Discovery"
    " ignores it, because its tokens are its workers' tokens. 1.6.1 leaves out the cached prompt tokens of streams"
    " of `/v1/completions` (they are in `input`), and the output of all but one of several prompts in a request.",
)

_PASSED_ON = (VLLM, SGLANG, TRTLLM_SERVE)


def _passed_on(field: str) -> tuple[Candidate, ...]:
    lists: Iterable[tuple[Candidate, ...]] = (_absolute(engine, getattr(engine, field)) for engine in _PASSED_ON)
    cadences = (engine.cadence for engine in _PASSED_ON)
    return tuple(
        candidate if candidate.cadence is not None else replace(candidate, cadence=cadence)
        for candidates, cadence in zip(lists, cadences, strict=True)
        for candidate in candidates
    )


# ai-dynamo/dynamo: docs/observability/metrics.md. A worker publishes its engine's names with labels of its own; of its own
# counters (dynamo_component_*, captured from 1.6.1) none counts tokens.
DYNAMO_WORKER = Dialect(
    name="dynamo_worker",
    mark=Mark(any_prefix=("dynamo_component_",)),
    port=8081,
    cadence=FINISH,
    output=_passed_on("output"),
    live_output=_absolute(SGLANG, SGLANG.live_output),
    input=_passed_on("input"),
    cached_input=_passed_on("cached_input"),
    stored=_passed_on("stored"),
    external=_passed_on("external"),
    requests=(
        *_passed_on("requests"),
        _counter("dynamo_component_requests_total", ("dynamo_endpoint", "generate")),
    ),
    running=_passed_on("running"),
    waiting=_passed_on("waiting"),
    model_labels=("model_name", "model"),
    pin=("tp_rank", "pp_rank", "moe_ep_rank", "pid"),
    late=True,
    processes=Processes(listener=("dynamo.vllm", "dynamo.sglang", "dynamo.trtllm"), climb=Climb.SELF),
    enable="set DYN_SYSTEM_PORT for the worker; a TensorRT-LLM worker also needs --publish-events-and-metrics",
    caveats="Publishes its engine's own names. A request that moves to another worker is prefilled twice.",
)

# InternLM/lmdeploy: lmdeploy/metrics/loggers.py (read 2026-11-24)
LMDEPLOY = Dialect(
    name="lmdeploy",
    mark=Mark(any_prefix=("lmdeploy:",)),
    prefixes=("lmdeploy:",),
    port=23333,
    cadence=STEP,
    output=(_counter("generation_tokens_total"),),
    input=(_prompt("prompt_tokens_total"),),
    cached_input=(_counter("cached_tokens_total"),),
    requests=(_counter("request_success_total"),),
    running=(_gauge("num_requests_running"),),
    waiting=(_gauge("num_requests_waiting"),),
    model_labels=("model_name",),
    pin=("pid",),
    late=True,
    ttft=("time_to_first_token_seconds",),
    e2e=("e2e_request_latency_seconds",),
    processes=Processes(listener=("lmdeploy",), gpu=("lmdeploy",), climb=Climb.SELF),
    enable="start LMDeploy without --disable-metrics (older releases: with --enable-metrics)",
    caveats="With Turbomind only the first data-parallel rank is counted.",
)

# ModelTC/lightllm: lightllm/server/metrics/metrics.py
LIGHTLLM = Dialect(
    name="lightllm",
    mark=Mark(any_prefix=("lightllm_",)),
    prefixes=("lightllm_",),
    port=8000,
    cadence=FINISH,
    output=(_sum("request_generated_tokens"),),
    input=(_prompt_sum("request_input_length"),),
    cached_input=(_sum("cache_length"),),
    requests=(_counter("request_success_total"),),
    running=(_gauge("batch_current_size"),),
    waiting=(_gauge("queue_size"),),
    late=True,
    model_source=(Lookup("/v1/models", ("data", 0, "id")),),
    processes=Processes(listener=("lightllm.server.api_server", "lightllm"), climb=Climb.ANCESTOR),
    enable="LightLLM publishes its metrics on its HTTP port",
    caveats="Input moves when a request arrives.",
)

# EricLBuehler/mistral.rs: mistralrs-core/src/engine/logger.rs. One counter for prompt (cached part included) and generated
# tokens, not separable: exposed as work, because kinds of tokens are never guessed.
MISTRALRS = Dialect(
    name="mistralrs",
    mark=Mark(any_prefix=("mistralrs_",)),
    prefixes=("mistralrs_",),
    port=1234,
    cadence=STEP,
    requests=(_counter("sequences_completed_total"),),
    running=(_gauge("sequences_running"),),
    waiting=(_gauge("sequences_waiting"),),
    work=(Work("tokens_processed", (_counter("tokens_processed_total"),)),),
    model_source=(Lookup("/v1/models", ("data", 0, "id")),),
    late=True,
    ttft=("time_to_first_token_seconds",),
    processes=Processes(listener=("mistralrs-server", "mistralrs"), climb=Climb.SELF),
    enable="start mistral.rs without --disable-metrics",
    caveats="One counter for prompt and output, exposed as `tpw_server_work_units_total`.",
)

# mlc-ai/mlc-llm: cpp/serve/metrics.h, python/mlc_llm/serve/engine_base.py. `name<TAB>value` lines; a read runs a
# small dummy request through the engine; only the first model is reported. prefill_tokens_sum excludes cached prompt
# tokens, prompt_tokens_sum includes them.
MLC_LLM = Dialect(
    name="mlc_llm",
    mark=Mark(all_series=("prompt_tokens_sum", "completion_tokens_sum", "engine_decode_time_sum")),
    port=8000,
    cadence=FINISH,
    output=(_counter("completion_tokens_sum"),),
    input=(_counter("prefill_tokens_sum"),),
    prompt=(_prompt("prompt_tokens_sum"),),
    model_source=(Lookup("/v1/models", ("data", 0, "id")),),
    processes=Processes(listener=("mlc_llm",), climb=Climb.SELF),
    enable="MLC publishes its metrics at /metrics of mlc_llm serve",
    caveats="A read runs a small request through the engine. Only the first model is counted.",
)

# xorbitsai/inference: xinference/core/metrics.py. generate_tokens_total repeats output_tokens_total_counter.
XINFERENCE = Dialect(
    name="xinference",
    mark=Mark(any_prefix=("xinference:",)),
    prefixes=("xinference:",),
    port=9997,
    cadence=FINISH,
    output=(_counter("output_tokens_total_counter"),),
    input=(_prompt("input_tokens_total_counter"),),
    requests=(_counter("model_request_total"),),
    running=(_gauge("model_serve_count"),),
    model_labels=("model_name", "model_uid"),
    late=True,
    ttft=("time_to_first_token_seconds",),
    processes=Processes(listener=("xinference", "xinference-local", "xinference-supervisor")),
    enable="start the worker with --metrics-exporter-host and --metrics-exporter-port",
    caveats="Each worker publishes its own replicas.",
)

# mudler/LocalAI: core/services/routing/billing/prom.go
LOCALAI = Dialect(
    name="localai",
    mark=Mark(any_prefix=("localai_",)),
    prefixes=("localai_",),
    port=8080,
    cadence=FINISH,
    output=(_counter("tokens_total", ("kind", "completion")),),
    input=(_prompt("tokens_total", ("kind", "prompt")),),
    requests=(_counter("billed_requests_total"),),
    model_labels=("served_model", "model"),
    late=True,
    processes=Processes(listener=("local-ai",), climb=Climb.SELF),
    enable="start LocalAI without LOCALAI_DISABLE_METRICS_ENDPOINT; with users enabled the page needs an admin key",
    caveats="With several users, their tokens are added.",
)

# huggingface/text-embeddings-inference: core/src/tokenization.rs, core/src/queue.rs. Embeddings: the work is the input.
TEI = Dialect(
    name="tei",
    mark=Mark(any_prefix=("te_",)),
    prefixes=("te_",),
    port=80,
    other_ports=(3000, 8080, 9000),
    cadence=FINISH,
    input=(_sum("batch_next_tokens", cadence=STEP), _sum("request_input_length")),
    requests=(_counter("request_success"),),
    waiting=(_gauge("queue_size"),),
    late=True,
    model_source=(Lookup("/info", ("model_id",)),),
    version_source=(Lookup("/info", ("version",)),),
    e2e=("request_duration",),
    processes=Processes(
        listener=("text-embeddings-router",),
        gpu=("text-embeddings-router", "python-text-embeddings-server"),
        climb=Climb.SELF,
    ),
    enable="TEI publishes its metrics on its HTTP port, its gRPC build on --prometheus-port",
    caveats="Embeddings: input alone, as it was sent to the model.",
)

# michaelfeil/infinity: HTTP metrics only. No token counter: finished requests of the model's routes are the work. Any
# instrumented FastAPI server has this name, so it is never recognised by its page.
INFINITY = Dialect(
    name="infinity",
    port=7997,
    work=(
        Work("requests", (_counter("http_requests_total", ("handler", "/embeddings"), ("status", "2xx")),)),
        Work("rerank_requests", (_counter("http_requests_total", ("handler", "/rerank"), ("status", "2xx")),)),
    ),
    late=True,
    model_source=(Lookup("/models", ("data", 0, "id")),),
    processes=Processes(listener=("infinity_emb",), climb=Climb.SELF),
    enable="Infinity publishes HTTP metrics at /metrics of its HTTP port",
    caveats="No tokens: successful requests are counted as work. Never recognised by its page.",
)

# BerriAI/litellm: litellm/types/integrations/prometheus.py. Retries and cache hits are counted without GPU work.
LITELLM = Dialect(
    name="litellm",
    mark=Mark(any_prefix=("litellm_",)),
    prefixes=("litellm_",),
    port=4000,
    level=Level.GATEWAY,
    cadence=FINISH,
    output=(_counter("output_tokens_metric_total"),),
    input=(_prompt("input_tokens_metric_total"),),
    cached_input=(_counter("input_cached_tokens_metric_total"),),
    requests=(_counter("proxy_total_requests_metric_total"),),
    model_labels=("model", "requested_model"),
    pin=("pid",),
    late=True,
    enable="set litellm_settings.callbacks: [prometheus]; the page needs a key (headers_file) unless"
    " litellm_settings.require_auth_for_metrics_endpoint is false",
    caveats="A gateway: retries and its own cache are counted without any GPU. Read the engines behind it.",
)

# sgl-project/sglang, model gateway (sglang-router). Only gRPC routes count tokens: the page of 0.3.2 after requests over
# HTTP has none.
SGLANG_GATEWAY = Dialect(
    name="sglang_gateway",
    mark=Mark(any_prefix=("smg_",)),
    prefixes=("smg_",),
    port=29000,
    level=Level.GATEWAY,
    cadence=CHUNK,
    output=(_counter("router_tokens_total", ("token_type", "output")),),
    input=(_prompt("router_tokens_total", ("token_type", "input")),),
    requests=(_counter("router_requests_total"),),
    model_labels=("model",),
    late=True,
    enable="the gateway counts tokens on gRPC routes only: read the engines behind it",
    caveats="A gateway: counts gRPC routes only. Read the engines behind it.",
)

# open-telemetry/semantic-conventions-genai, and envoyproxy/ai-gateway, which adds cached_input as a part of input. Unit
# suffixes and dots depend on the exporter.
OTEL_GENAI = Dialect(
    name="otel_genai",
    mark=Mark(any_prefix=("gen_ai_", "gen_ai.")),
    level=Level.GATEWAY,
    cadence=FINISH,
    output=(
        _sum("gen_ai_client_token_usage", ("gen_ai_token_type", "output")),
        _sum("gen_ai_client_token_usage_tokens", ("gen_ai_token_type", "output")),
        Candidate("gen_ai.client.token.usage", Kind.HISTOGRAM_SUM, (("gen_ai.token.type", "output"),)),
        _counter("gen_ai_client_inference_usage_output_tokens_total"),
    ),
    input=(
        _prompt_sum("gen_ai_client_token_usage", ("gen_ai_token_type", "input")),
        _prompt_sum("gen_ai_client_token_usage_tokens", ("gen_ai_token_type", "input")),
        Candidate("gen_ai.client.token.usage", Kind.HISTOGRAM_SUM, (("gen_ai.token.type", "input"),), role=Role.PROMPT),
        _prompt("gen_ai_client_inference_usage_input_tokens_total"),
    ),
    cached_input=(
        _sum("gen_ai_client_token_usage", ("gen_ai_token_type", "cached_input")),
        _sum("gen_ai_client_token_usage_tokens", ("gen_ai_token_type", "cached_input")),
        Candidate("gen_ai.client.token.usage", Kind.HISTOGRAM_SUM, (("gen_ai.token.type", "cached_input"),)),
        _counter("gen_ai_client_inference_usage_cache_read_input_tokens_total"),
    ),
    model_labels=(
        "gen_ai_response_model",
        "gen_ai_request_model",
        "gen_ai_original_model",
        "gen_ai.response.model",
        "gen_ai.request.model",
    ),
    late=True,
    enable="Envoy AI Gateway publishes on its admin port 1064",
    caveats="A gateway or client; `cached_input` is a part of `input`, as in Envoy AI Gateway.",
)

ENVOY_AI_GATEWAY = replace(
    OTEL_GENAI,
    name="envoy_ai_gateway",
    mark=Mark(),
    port=1064,
    caveats="A gateway, with OpenTelemetry's names.",
)

# Kong AI plugins; names from secondary sources, the plugin is closed.
KONG_AI = Dialect(
    name="kong_ai",
    mark=Mark(any_prefix=("kong_ai_",)),
    prefixes=("kong_ai_",),
    level=Level.GATEWAY,
    cadence=FINISH,
    output=(_counter("llm_tokens_total", ("token_type", "completion_tokens")),),
    input=(_prompt("llm_tokens_total", ("token_type", "prompt_tokens")),),
    requests=(_counter("llm_requests_total"),),
    model_labels=("ai_model",),
    late=True,
    enable="set ai_metrics: true in Kong's Prometheus plugin",
    caveats="A gateway. Names from secondary sources.",
)

# llm-d/llm-d-router: pkg/epp/metrics/llm_d_router_metrics.go. inference_objective_* is marked there as deprecated in favour
# of llm_d_epp_* (read 2026-11-24); for a while a page has both. inference_model_* is older still.
LLM_D = Dialect(
    name="llm_d",
    mark=Mark(any_prefix=("llm_d_epp_", "inference_objective_", "inference_model_")),
    prefixes=("llm_d_epp_", "inference_objective_", "inference_model_"),
    port=9090,
    level=Level.GATEWAY,
    cadence=FINISH,
    output=(_sum("request_output_tokens"), _sum("output_tokens")),
    input=(_prompt_sum("request_input_tokens"), _prompt_sum("input_tokens")),
    cached_input=(_sum("request_cached_tokens"), _sum("prompt_cached_tokens")),
    requests=(_counter("request_total"),),
    running=(_gauge("request_running"), _gauge("running_requests")),
    model_labels=("target_model_name", "model_name"),
    late=True,
    enable="the scheduler publishes on its own metrics port (9090)",
    caveats="A scheduler in front of engines: read the engines behind it.",
)

# modular/modular: max/python/max/serve/telemetry/metrics.py (read 2026-11-24). Input tokens are prompt tokens of the API.
# Series carry no model. The page has its own port, MAX_SERVE_METRICS_ENDPOINT_PORT.
MAX = Dialect(
    name="max",
    mark=Mark(any_prefix=("maxserve_",)),
    prefixes=("maxserve_",),
    port=8001,
    cadence=FINISH,
    output=(_counter("num_output_tokens_total"),),
    input=(_prompt("num_input_tokens_total"),),
    requests=(_counter("request_count_total", ("code", "200")),),
    running=(_gauge("num_requests_running"),),
    waiting=(_gauge("num_requests_queued"),),
    model_labels=("model",),
    late=True,
    processes=Processes(listener=("max serve", "max.serve"), climb=Climb.SELF),
    enable="start MAX with MAX_SERVE_METRIC_LEVEL=BASIC or DETAILED",
    caveats="Cached prompt tokens are not separate. Series have no model: configure it.",
)

# PaddlePaddle/FastDeploy: fastdeploy/metrics/metrics.py (read 2026-11-24)
FASTDEPLOY = Dialect(
    name="fastdeploy",
    mark=Mark(any_prefix=("fastdeploy:",)),
    prefixes=("fastdeploy:",),
    port=8000,
    cadence=STEP,
    output=(_counter("generation_tokens_total"),),
    input=(_prompt("prompt_tokens_total"),),
    requests=(_counter("request_success_total"),),
    running=(_gauge("num_requests_running"),),
    waiting=(_gauge("num_requests_waiting"),),
    model_labels=("model_name", "model"),
    pin=("pid",),
    late=True,
    processes=Processes(listener=("fastdeploy.entrypoints",), climb=Climb.SELF),
    enable="set --metrics-port of FastDeploy to read its page on a port of its own",
    caveats="Cached prompt tokens are not separate.",
)

# This project's own counters inside a server (tpw.hook) or in front of it (tpw.hook.proxy).
TPW_HOOK = Dialect(
    name="tpw_hook",
    mark=Mark(any_prefix=("tpw_hook_",)),
    prefixes=("tpw_hook_",),
    paths=("/tpw/metrics", "/metrics"),
    cadence=FINISH,
    output=(_counter("output_tokens_total"),),
    input=(_prompt("prompt_tokens_total"),),
    cached_input=(_counter("cached_tokens_total"),),
    requests=(_counter("requests_total"),),
    running=(_gauge("requests_running"),),
    work=(Work("audio_seconds", (_counter("audio_seconds_total"),)),),
    uncounted=(_counter("requests_without_usage_total"),),
    model_labels=("model",),
    late=True,
    enable="wrap the application in tpw.hook.TokenCounter, or run the counting proxy in front of it",
    caveats="For servers without counters: see [their page](uncounted-servers.md).",
)

# KServe's Hugging Face server publishes vLLM's names on its own port when that backend runs.
KSERVE = replace(
    VLLM,
    name="kserve",
    mark=Mark(),
    port=8080,
    late=True,
    processes=Processes(),
    caveats="Its Hugging Face server publishes vLLM's names; not recognised by its page.",
)

DIALECTS: tuple[Dialect, ...] = (
    TPW_HOOK,
    DYNAMO_FRONTEND,
    DYNAMO_WORKER,
    TRITON_TRTLLM,
    TRITON_VLLM,
    RAY_SERVE,
    APHRODITE,
    VLLM,
    SGLANG,
    LLAMACPP,
    TGI,
    TRTLLM_SERVE,
    LMDEPLOY,
    LIGHTLLM,
    MISTRALRS,
    XINFERENCE,
    LOCALAI,
    TEI,
    LITELLM,
    SGLANG_GATEWAY,
    OTEL_GENAI,
    ENVOY_AI_GATEWAY,
    KONG_AI,
    LLM_D,
    MAX,
    FASTDEPLOY,
    KSERVE,
    INFINITY,
    MLC_LLM,
    NIM,
)
"""All rows, in the order in which a page is compared with their marks: the most specific first."""

ENGINES: dict[str, Dialect] = {dialect.name: dialect for dialect in DIALECTS}
"""By the name in a configuration (``engine: vllm``). ``custom`` is not one of them: it is made from ``tokens:``."""

KNOWN_PATHS: tuple[str, ...] = tuple(
    dict.fromkeys(
        path
        for row in (TRTLLM_SERVE, VLLM, *(one for one in DIALECTS if one is not TPW_HOOK), TPW_HOOK)
        for path in row.paths
    )
)
"""Paths to try if no engine is configured. trtllm-serve's comes first because a read of its ``/metrics`` empties that
list; every other engine answers it with a harmless 404."""
