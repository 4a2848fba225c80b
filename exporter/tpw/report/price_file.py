"""A report as a price file for LiteLLM: what a token of each model has cost here, by kind.

All cost of a model's servers, parked time included, is on its tokens, so that bills of the same use sum to that cost.
Between input and output it is divided as the measured energy of the phases, where the books have that; otherwise output
tokens carry all of it. Cached input costs nothing: it was not computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum

from tpw import __version__
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.phases import PhaseWeights
from tpw.model import UNKNOWN_MODEL, TokenKind
from tpw.report.periods import Calendar
from tpw.report.tabulate import Report, Totals

PROVIDERS = ("hosted_vllm", "openai")
"""Providers in LiteLLM by which a server of one's own is reached; a model's key in the file begins with one of them."""


class NoExchangeRateError(Exception):
    """The books are not in US dollars. The message has what to do."""


@dataclass(frozen=True, slots=True)
class PriceFile:
    """The file, and why it has no price of some models."""

    prices: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The file."""
        return json.dumps(self.prices, indent=1, allow_nan=False) + "\n"


def price_file(
    report: Report,
    calendar: Calendar,
    weights: Mapping[tuple[str, str], PhaseWeights],
    exchange_rate: float | None = None,
) -> PriceFile:
    """The prices of a report by server and model.

    Args:
        report: by server and model.
        calendar: of its time zone.
        weights: joules of a token by phase, by (server, model), where they are known.
        exchange_rate: US dollars for one unit of the currency of the books, which LiteLLM reads as dollars.

    Raises:
        NoExchangeRateError: the rate is missing.
    """
    if exchange_rate is None and report.currency not in ("", "USD"):
        raise NoExchangeRateError(
            f"LiteLLM counts in US dollars and the books in {report.currency}: give the exchange rate (dollars for one"
            f" {report.currency}), or 1 to have {report.currency} there"
        )
    start, end = map(calendar.local, (report.covered.start_seconds, report.covered.end_seconds))
    span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {report.timezone}"
    models: dict[str, list[tuple[Totals, PhaseWeights | None]]] = {}
    for line in report.lines:
        if line.model:
            models.setdefault(line.model, []).append((line.totals, weights.get((line.server, line.model))))
    prices: dict[str, Mapping[str, object]] = {}
    left_out = []
    for model, parts in sorted(models.items()):
        problem = _problem(model, [totals for totals, _ in parts])
        if problem:
            left_out.append(f"{model}: {problem}")
            continue
        cost = fsum(totals.full_cost or 0.0 for totals, _ in parts) * (exchange_rate or 1.0)
        price = {**_prices(cost, parts), "source": f"tpw-exporter {__version__}, measured from {span}"}
        for provider in PROVIDERS:
            prices[f"{provider}/{model}"] = {"litellm_provider": provider, **price}
    return PriceFile(prices, tuple(left_out))


def _problem(model: str, parts: list[Totals]) -> str:
    """Why a model has no price; "" where it has one."""
    total = Totals(
        Amounts.total(part.amounts for part in parts),
        Served.total(part.served for part in parts),
        fsum(part.untariffed_joules for part in parts),
    )
    if model == UNKNOWN_MODEL:
        return "the server does not report its name"
    if total.output_tokens + total.served.tokens.get(TokenKind.INPUT, 0.0) <= 0.0:
        return "it has no tokens"
    if total.amounts.unpriced_joules > 0.0 or total.is_partly_tariffed:
        return "some of its energy has no price"
    if any(part.full_cost is None for part in parts):
        return (
            "its cost is not complete: that of electricity or of the GPUs (costs.hardware, costs.gpu_hour) is missing"
        )
    return ""


def _prices(cost: float, parts: list[tuple[Totals, PhaseWeights | None]]) -> dict[str, object]:
    """Prices of a token by kind: their products with the tokens sum to the cost."""
    input_tokens = fsum(totals.served.tokens.get(TokenKind.INPUT, 0.0) for totals, _ in parts)
    output_tokens = fsum(totals.output_tokens for totals, _ in parts)
    known = [(totals.output_tokens, weights) for totals, weights in parts if weights is not None]
    if output_tokens <= 0.0:
        shares, mode = (1.0, 0.0), "embedding"
    elif fsum(tokens for tokens, _ in known) > 0.0:
        shares = (
            fsum(tokens * one.input_joules for tokens, one in known),
            fsum(tokens * one.output_joules for tokens, one in known),
        )
        mode = "chat"
    else:
        shares, mode = (0.0, 1.0), "chat"
    unit = cost / (shares[0] * input_tokens + shares[1] * output_tokens)
    return {
        "mode": mode,
        "input_cost_per_token": unit * shares[0],
        "cache_read_input_token_cost": 0.0,
        "output_cost_per_token": unit * shares[1],
    }
