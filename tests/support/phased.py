"""A simulated server with known energy of prefill and decode.

It batches continuously, as vLLM does: every step of the engine decodes one token of each running request and computes a
part of the waiting prompts. A step costs the time to read the weights, some for each request, and some for each prompt
token; the power differs between the phases. The time to read the weights is decode's while anything is decoded. The page
counts a prompt when its prefill ends, and output tokens at every step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Served:
    """The totals of a server at one moment."""

    at_seconds: float
    joules: float
    prefill_joules: float
    decode_joules: float
    input_tokens: float
    output_tokens: float
    running: int


@dataclass(frozen=True)
class Engine:
    """A model on a GPU, and what it is asked for.

    ``spread``: of the lengths of prompts and answers (sigma of a log-normal distribution); ``growth``: by what part each
    further thousand tokens of context make a decode step slower.
    """

    requests_per_second: float
    prompt_tokens: float
    answer_tokens: float
    prefill_tokens_per_second: float = 10000.0
    step_seconds: float = 0.015
    request_seconds: float = 0.0002
    prefill_watts: float = 650.0
    decode_watts: float = 420.0
    no_load_watts: float = 90.0
    spread: float = 0.8
    growth: float = 0.0
    most_running: int = 64
    step_tokens: int = 2048


def ticks(engine: Engine, seconds: float, seed: int = 1) -> Iterator[Served]:
    """The server's totals at every second. Energy while nothing runs is in neither phase."""
    random = Random(f"phases {seed}")
    at = joules = prefill = decode = 0.0
    computed = generated = 0
    next_request = random.expovariate(engine.requests_per_second)
    queue: deque[tuple[int, int]] = deque()
    prompts: deque[list[int]] = deque()
    """Requests in prefill: prompt tokens left, all of them, answer tokens."""
    answers: list[list[int]] = []
    """Requests in decode: answer tokens left, and the context."""
    tick = 1.0
    while tick <= seconds:
        while next_request <= at:
            queue.append((_length(random, engine.prompt_tokens, engine), _length(random, engine.answer_tokens, engine)))
            next_request += random.expovariate(engine.requests_per_second)
        while queue and len(prompts) + len(answers) < engine.most_running:
            prompt, answer = queue.popleft()
            prompts.append([prompt, prompt, answer])
        if not prompts and not answers:
            until = min(max(next_request, at), tick)
            joules += engine.no_load_watts * (until - at)
            at = until
        else:
            budget, chunk, ready = engine.step_tokens - len(answers), 0, []
            while prompts and budget > 0:
                part = min(budget, prompts[0][0])
                prompts[0][0] -= part
                budget, chunk = budget - part, chunk + part
                if prompts[0][0] == 0:
                    ready.append(prompts.popleft())
            context = sum(one[1] for one in answers)
            slower = engine.request_seconds * len(answers) + engine.step_seconds * engine.growth * context / 1000.0
            decode_seconds = engine.step_seconds + slower if answers else 0.0
            prefill_seconds = chunk / engine.prefill_tokens_per_second + (0.0 if answers else engine.step_seconds)
            prefill += engine.prefill_watts * prefill_seconds
            decode += engine.decode_watts * decode_seconds
            joules += engine.prefill_watts * prefill_seconds + engine.decode_watts * decode_seconds
            at += prefill_seconds + decode_seconds
            generated += len(answers) + len(ready)
            computed += sum(prompt for _, prompt, _ in ready)
            for one in answers:
                one[0] -= 1
                one[1] += 1
            answers = [one for one in answers if one[0] > 0]
            answers += [[answer - 1, prompt] for _, prompt, answer in ready if answer > 1]
        while at >= tick and tick <= seconds:
            yield Served(tick, joules, prefill, decode, computed, generated, len(prompts) + len(answers))
            tick += 1.0


def _length(random: Random, mean: float, engine: Engine) -> int:
    return max(1, round(mean * random.lognormvariate(-0.5 * engine.spread**2, engine.spread)))


def drawn(seed: int) -> Engine:
    """A random model, GPU and load, that the server can serve."""
    random = Random(f"engine {seed}")
    speed = random.choice([3000.0, 6000.0, 10000.0, 20000.0, 40000.0])
    step = random.choice([0.004, 0.008, 0.015, 0.03, 0.045])
    prompt = random.choice([100.0, 300.0, 1000.0, 3000.0, 8000.0, 20000.0])
    answer = random.choice([20.0, 80.0, 200.0, 600.0])
    per_request = prompt / speed + answer * (step / 24.0 + 0.0002)
    return Engine(
        random.uniform(0.05, 0.85) / per_request,
        prompt,
        answer,
        speed,
        step,
        prefill_watts=random.uniform(500.0, 700.0),
        decode_watts=random.uniform(300.0, 550.0),
        spread=random.choice([0.3, 0.8, 1.1]),
        growth=random.choice([0.0, 0.002, 0.008]),
    )
