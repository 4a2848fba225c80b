"""The price, carbon intensity and PUE of ``probe``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpw.carbon import CARBON
from tpw.config.schema import Config, PueQuery
from tpw.snapshot import Snapshot
from tpw.tariff.settings import LAYER


def surroundings(snapshot: Snapshot, config: Config) -> dict[str, Any]:
    """Price, carbon intensity and PUE now, with their source and why it is unavailable."""
    why_not = {source.name: source.detail for source in snapshot.sources if not source.up}
    price, carbon, pue = snapshot.prices.now, snapshot.carbon, config.facility.pue
    layers = config.tariff.energy
    return {
        "price": None
        if not layers
        else {
            "per_kwh": None if price is None else price.price_per_kwh,
            "currency": snapshot.prices.currency,
            "state": "missing" if price is None else str(price.state),
            "source": " + ".join(dict.fromkeys(LAYER.kind(layer) for layer in layers)),
            "why_not": why_not.get("tariff", ""),
        },
        "carbon": None
        if config.carbon is None
        else {
            "grams_per_kwh": None if carbon is None else carbon.grams_per_kwh,
            "basis": None if carbon is None else carbon.basis,
            "source": CARBON.kind(config.carbon),
            "why_not": why_not.get("carbon", ""),
        },
        "pue": {
            "ratio": snapshot.pue,
            "source": "query" if isinstance(pue, PueQuery) and "pue" not in why_not else "configuration",
            "why_not": why_not.get("pue", ""),
        },
    }


def print_surroundings(found: Mapping[str, Any]) -> None:
    """At most three lines."""
    price, carbon, pue = found["price"], found["carbon"], found["pue"]
    if price is None:
        print("price: no tariff is configured")
    elif price["per_kwh"] is None:
        print(f"price: unknown, from {price['source']}{_because(price)}")
    else:
        text = f"{price['per_kwh']:g} {price['currency']}/kWh ({price['state']})"
        print(f"price: {text}, from {price['source']}{_because(price)}")
    if carbon is not None:
        known = carbon["grams_per_kwh"] is not None
        text = f"{carbon['grams_per_kwh']:g} g/kWh ({carbon['basis']})" if known else "unknown"
        print(f"carbon: {text}, from {carbon['source']}{_because(carbon)}")
    print(f"PUE: {pue['ratio']:g}, from the {pue['source']}{_because(pue)}")


def _because(entry: Mapping[str, Any]) -> str:
    return f"; source down: {entry['why_not']}" if entry["why_not"] else ""
