"""Counts tokens from the usage in a server's answers.

The usage is read where the answer's protocol has it (see :mod:`tpw.hook.usage`), never from the text of a model or the
arguments of its tool calls. At most 64 KiB of an answer are held.

Tokens of an answer without usage are not estimated: it is counted by its path.

Standard library only, and nothing of this project outside this package: it runs inside other servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tpw.hook.body import StreamBody, TextBody, body_of, form_of
from tpw.hook.paths import is_generating, name_of
from tpw.hook.usage import Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_MODELS_KEPT = 100
_PATHS_KEPT = 30
_OTHER = "other"


@dataclass
class _Totals:
    """Counters of one model."""

    output: float = 0.0
    prompt: float = 0.0
    cached: float = 0.0
    audio_seconds: float = 0.0
    requests: int = 0

    def add(self, usage: Mapping[str, float]) -> None:
        """Count one answer."""
        self.requests += 1
        self.output += usage.get("output", 0.0)
        self.prompt += usage.get("prompt", 0.0)
        self.cached += usage.get("cached", 0.0)
        self.audio_seconds += usage.get("audio_seconds", 0.0)


@dataclass
class Counters:
    """All counters since construction. For one process and one event loop.

    ``wall_clock`` returns Unix seconds; the time of construction is published as the start of the counters.
    """

    wall_clock: Callable[[], float] = time.time
    running: int = 0
    errors: int = 0
    without_usage_by_path: dict[str, int] = field(default_factory=dict)
    _models: dict[str, _Totals] = field(default_factory=dict)
    _tenants: dict[tuple[str, str], _Totals] = field(default_factory=dict)
    """By (tenant, model), of requests that name a tenant."""

    def __post_init__(self) -> None:
        self.began_wall_seconds = self.wall_clock()

    def add(self, model: str, usage: Mapping[str, float], tenant: str = "") -> None:
        """Count one answer. ``usage`` has output, prompt, cached and audio_seconds, if the answer has them."""
        if model not in self._models and len(self._models) >= _MODELS_KEPT:
            model = _OTHER
        self._models.setdefault(model, _Totals()).add(usage)
        if tenant:
            self._tenants.setdefault((tenant, model), _Totals()).add(usage)

    def add_without_usage(self, path: str) -> None:
        """Count one answer without known tokens."""
        name = name_of(path)
        if name not in self.without_usage_by_path and len(self.without_usage_by_path) >= _PATHS_KEPT:
            name = _OTHER
        self.without_usage_by_path[name] = self.without_usage_by_path.get(name, 0) + 1

    @property
    def without_usage(self) -> int:
        """Answers without known tokens."""
        return sum(self.without_usage_by_path.values())

    def page(self) -> bytes:
        """The counters in the Prometheus text format."""
        lines = []
        for field_name, name, text in (
            ("output", "output_tokens_total", "Tokens generated, from the usage of answers."),
            ("prompt", "prompt_tokens_total", "Prompt tokens, including cached ones, from the usage of answers."),
            ("cached", "cached_tokens_total", "Prompt tokens from the prefix cache, from the usage of answers."),
            ("audio_seconds", "audio_seconds_total", "Seconds of audio transcribed, from the usage of answers."),
            ("requests", "requests_total", "Answers with usage."),
        ):
            lines += [f"# HELP tpw_hook_{name} {text}", f"# TYPE tpw_hook_{name} counter"]
            for model, totals in self._models.items():
                value = getattr(totals, field_name)
                if value or field_name != "audio_seconds":  # only models that transcribe audio have this series
                    lines.append(f'tpw_hook_{name}{{model="{_escaped(model)}"}} {value:.15g}')
        for field_name in ("output", "prompt", "cached") if self._tenants else ():
            name = f"tpw_hook_tenant_{field_name}_tokens_total"
            lines += [f"# HELP {name} The same by tenant, from headers of requests.", f"# TYPE {name} counter"]
            for (tenant, model), totals in self._tenants.items():
                labels = f'tenant="{_escaped(tenant)}",model="{_escaped(model)}"'
                lines.append(f"{name}{{{labels}}} {getattr(totals, field_name):.15g}")
        without = "tpw_hook_requests_without_usage_total"
        text = "Answers without known tokens: streams without usage, unknown forms, aborted requests."
        lines += [f"# HELP {without} {text}", f"# TYPE {without} counter"]
        lines += [f'{without}{{path="{_escaped(path)}"}} {count}' for path, count in self.without_usage_by_path.items()]
        start = f"{self.began_wall_seconds:.3f}"
        for name, kind, text, now in (
            ("tpw_hook_requests_running", "gauge", "Requests being answered.", self.running),
            ("tpw_hook_errors_total", "counter", "Answers that caused an error in the counter.", self.errors),
            ("process_start_time_seconds", "gauge", "Start of these counters, Unix time in seconds.", start),
        ):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {now}"]
        return ("\n".join(lines) + "\n").encode()


class AnswerWatch:
    """Counts one answer: ``begin`` with its head, ``feed`` with every piece, ``end`` once. None of them raises.

    ``path`` is the request's. A path that is known to use tokens counts with any answer, another one only if its answer
    can be read.
    """

    def __init__(self, counters: Counters, path: str = "/v1/completions", tenant: str = "") -> None:
        self._counters = counters
        self._path = path
        self._tenant = tenant
        self._is_watched = is_generating(path)  # an answer that never started has no usage
        self._tally = Tally()
        self._body: TextBody | StreamBody | None = None
        self._has_ended = False

    def begin(self, status: int, content_type: str, content_encoding: str) -> None:
        """The head of the answer. Errors use no tokens; a compressed body cannot be read."""
        try:
            self._judge(status, content_type, content_encoding)
        except Exception:  # noqa: BLE001 - an error here must not reach the server
            self._counters.errors += 1

    def feed(self, piece: bytes) -> None:
        """A piece of the body that has been sent to the client."""
        if self._body is None:
            return
        try:
            self._body.feed(piece)
        except Exception:  # noqa: BLE001 - as above
            self._counters.errors += 1

    def end(self) -> None:
        """The answer has ended, complete or not."""
        if self._has_ended:
            return
        self._has_ended = True
        if not self._is_watched:
            return
        try:
            if self._body is not None:
                self._body.end()
            usage = self._tally.total()
            if any(usage.values()):  # a proxy that knows no usage may send zeros
                self._counters.add(self._tally.model, usage, self._tenant)
            else:
                self._counters.add_without_usage(self._path)
        except Exception:  # noqa: BLE001 - as above
            self._counters.errors += 1

    @property
    def held_bytes(self) -> int:
        """What is held of the answer."""
        return self._body.held_bytes if self._body is not None else 0

    def _judge(self, status: int, content_type: str, content_encoding: str) -> None:
        form = form_of(content_type) if content_encoding.strip().lower() in ("", "identity") else None
        self._is_watched = 200 <= status < 300 and (form is not None or self._is_watched)
        if form is not None and self._is_watched:
            self._body = body_of(form, self._tally)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
