"""A simulated inference server: a vLLM-like metrics page over HTTP, and the load on its GPUs.

The demo runs the real pipeline on it. The page is fetched and recognised like any server's, and the simulated GPUs draw
power by the same load, so tokens per watt rise with concurrency as they do on hardware.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

_PAGE: Final = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started!r}
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{model}"}} {running:.1f}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="{model}"}} {waiting:.1f}
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{engine="0",model_name="{model}"}} {prompt:.1f}
# HELP vllm:prompt_tokens_by_source_total Number of prompt tokens by source.
# TYPE vllm:prompt_tokens_by_source_total counter
vllm:prompt_tokens_by_source_total{{engine="0",model_name="{model}",source="local_compute"}} {computed:.1f}
vllm:prompt_tokens_by_source_total{{engine="0",model_name="{model}",source="local_cache_hit"}} {cached:.1f}
# HELP vllm:prompt_tokens_cached_total Number of cached prompt tokens.
# TYPE vllm:prompt_tokens_cached_total counter
vllm:prompt_tokens_cached_total{{engine="0",model_name="{model}"}} {cached:.1f}
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="{model}"}} {output:.1f}
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{{engine="0",finished_reason="stop",model_name="{model}"}} {requests:.1f}
"""

_INPUT_PER_REQUEST = 900.0
_CACHED_SHARE = 0.35
_OUTPUT_PER_REQUEST = 250.0


class SimulatedServer:
    """One simulated engine on an ephemeral loopback port.

    Load comes in waves: busy for most of ``period_seconds``, then idle long enough to count as parked; lower and shorter at
    hours with a lower ``share``. A batch of n
    requests generates ``peak * n / (n + half)`` output tokens per second: larger batches, more tokens for the same watts.

    Args:
        model: name on the page.
        peak: output tokens per second of a very large batch.
        most: requests in flight at the top of a wave.
        period_seconds: length of a wave.
        clock: monotonic seconds.
        wall: Unix time of the simulated start.
        share: Unix time -> requests then, as a share of the most; 0: none at all.
    """

    def __init__(
        self,
        model: str,
        *,
        peak: float,
        most: int,
        period_seconds: float,
        clock: Callable[[], float],
        wall: float,
        share: Callable[[float], float] = lambda at: 1.0,
    ) -> None:
        self.model = model
        self._peak, self._most, self._period = peak, most, period_seconds
        self._clock = clock
        self._wall = wall
        self._share = share
        self._started_at = clock()
        self._generated = 0.0
        self._generated_at = self._started_at
        self._lock = threading.Lock()
        page = self.page

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            """Head and body go out together: one after the other, the second waits for the client's acknowledgement."""

            def do_GET(self) -> None:
                known = self.path == "/metrics"
                body = page().encode() if known else b"not found\n"
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """No log."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        """Begin to serve."""
        threading.Thread(target=self._http.serve_forever, name=f"simulated-{self.model}", daemon=True).start()

    def stop(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()

    def running(self, at_seconds: float) -> int:
        """Requests in flight at a monotonic instant."""
        elapsed = at_seconds - self._started_at
        phase, share = elapsed % self._period / self._period, self._share(self._wall + elapsed)
        busy = 0.75 * (0.3 + 0.7 * share)
        return (
            0
            if phase > busy or not share
            else max(1, round(self._most * share * math.sin(math.pi * phase / busy) ** 2))
        )

    def load(self, at_seconds: float) -> float:
        """Load of its GPUs, 0 to 1. The first requests of a batch draw most of the power."""
        running = self.running(at_seconds)
        return 0.0 if running == 0 else 0.45 + 0.5 * running / (running + 8.0)

    def page(self) -> str:
        """The metrics page now."""
        with self._lock:
            now = self._clock()
            # In steps of a tenth of a second, so that the result does not depend on how often the page is fetched; in a
            # hundred after a long pause.
            step = max(0.1, (now - self._generated_at) / 100.0)
            while self._generated_at + step <= now:
                running = self.running(self._generated_at)
                self._generated += step * self._peak * running / (running + 12.0)
                self._generated_at += step
            generated = math.floor(self._generated)
            running = self.running(now)
        requests = math.floor(generated / _OUTPUT_PER_REQUEST)
        prompt = float(requests) * _INPUT_PER_REQUEST
        cached = math.floor(prompt * _CACHED_SHARE)
        return _PAGE.format(
            started=self._wall,
            model=self.model,
            running=float(running),
            waiting=float(max(0, running - 24)),
            prompt=prompt,
            computed=prompt - cached,
            cached=float(cached),
            output=float(generated),
            requests=float(requests),
        )
