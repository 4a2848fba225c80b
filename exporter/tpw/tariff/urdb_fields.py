"""Fields of a rate of the Utility Rate Database: which are read, which describe it, and which charge for something that no
figure includes.

Nothing that costs money is left out in silence. A charge that is not included is named with its size for a load that is
easily scaled, and so is a field that is not known. Source: OpenEI, "Utility Rates" API, versions 3 to 8, and the columns of
its download, with shorter names (``demandReactPwrCharge``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import acos, tan
from typing import Any

from tpw.settings.words import shortened

SAMPLE_KW = 1000.0
SAMPLE_POWER_FACTOR = 0.9
SAMPLE_KWH = 730_000.0
"""The load by which sizes are given: constant, over a month of 730 hours."""

READ = frozenset(
    {"label", "startdate", "enddate", "energyratestructure", "energyweekdayschedule", "energyweekendschedule"}
    | {"fueladjustmentsmonthly", "flatdemandstructure", "flatdemandmonths", "flatdemandunit", "flatdemandunits"}
    | {"demandratestructure", "demandweekdayschedule", "demandweekendschedule", "demandrateunit", "demandrateunits"}
    | {"demandwindow", "fixedchargefirstmeter", "fixedmonthlycharge", "fixedchargeunits", "servicetype"}
)

_DESCRIBES = frozenset(
    {"_id", "approved", "basicinformationcomments", "coincidentrateunit", "coincidentrateunits", "coincidentsched"}
    | {"coincidentschedule", "country", "demandcomments", "demandtoulabels", "demandunits", "description", "dgrules"}
    | {"eiaid", "energycomments", "energytoulabels", "flatdemandlabels", "is_default", "isdefault", "latest_update"}
    | {"lookbackmonths", "lookbackrange", "maxdemand", "minchargeunits", "mindemand", "name", "peakkwcapacityhistory"}
    | {"peakkwcapacitymax", "peakkwcapacitymin", "peakkwhusagehistory", "peakkwhusagemax", "peakkwhusagemin"}
    | {"phasewiring", "revisions", "sector", "servicemax", "servicemin", "source", "sourceparent", "sourcereference"}
    | {"supercedes", "supersedes", "uri", "usenetmetering", "utility", "utilityname", "version", "voltagecategory"}
    | {"voltagemaximum", "voltageminimum"}
)
"""Who and what it is for, notes for people, and the units and calendars of charges that are named by themselves."""

_MINIMUM_BILLS = {"mincharge": "minchargeunits", "minmonthlycharge": "$/month", "annualmincharge": "$/year"}
"""Key -> its unit, or the key of its unit."""

_DEMAND_TERMS = {
    "demandratchetpercentage": "a ratchet (demandratchetpercentage)",
    "lookbackpercent": "a look back at earlier peaks (lookbackpercent)",
}
"""Terms that change the demand charges themselves."""

_ATTRIBUTES = ("energyattrs", "demandattrs", "fixedattrs", "energykeyvals", "demandkeyvals", "fixedkeyvals")
_REACTIVE = ("demandreactivepowercharge", "demandreactpwrcharge")
_NAMED = frozenset(
    {*_MINIMUM_BILLS, *_DEMAND_TERMS, *_ATTRIBUTES, *_REACTIVE, "coincidentratestructure", "fixedchargeeaaddl"}
)


def fates(item: Mapping[str, Any], charges: AbstractSet[str]) -> dict[str, list[str]]:
    """The fields of a rate by what becomes of them. ``charges`` are those that are included beside the energy."""
    optional = {key for key in READ if key.startswith("fixed") and "fixed" not in charges}
    optional |= {key for key in READ if key.startswith(("demand", "flatdemand")) and "demand" not in charges}
    given = [key for key, value in item.items() if value not in (None, "", [], {})]
    return {
        "fields that are read": [key for key in given if key in READ - optional],
        "left out by `charges`": [key for key in given if key in optional],
        "not read, they describe the rate": [key for key in given if key in _DESCRIBES],
        "not read": [key for key in given if key not in READ | _DESCRIBES],
    }


def is_nonzero(value: Any) -> bool:
    """Whether it holds a number other than 0, at any depth."""
    if isinstance(value, list):
        return any(map(is_nonzero, value))
    if isinstance(value, dict):
        return any(is_nonzero(value.get(key)) for key in ("rate", "adj"))
    return value not in (None, "") and float(value) != 0.0


def unsupported_terms(item: Mapping[str, Any]) -> str:
    """Terms by which demand is not charged by the kW of the month alone, in words; "" where there are none."""
    return ", ".join(words for key, words in _DEMAND_TERMS.items() if is_nonzero(item.get(key)))


def not_included(item: Mapping[str, Any]) -> Iterator[str]:
    """What of a rate no figure includes, a sentence each. Keys are in lower case."""
    yield from _minimum_bills(item)
    for key in _REACTIVE:
        if is_nonzero(item.get(key)):
            price = float(item[key])
            size = price * SAMPLE_KW * tan(acos(SAMPLE_POWER_FACTOR))
            yield (
                f"the rate charges reactive power ({key}: {price:g} per kVAr), which no cost here includes:"
                f" {size:,.2f} for {SAMPLE_KW:g} kW at a power factor of {SAMPLE_POWER_FACTOR:g}"
            )
    coincident: Any = item.get("coincidentratestructure")
    if is_nonzero(coincident):
        price = max(_price(tier) for tiers in coincident for tier in tiers)
        yield (
            f"the rate charges the peak of the utility's grid (coincidentratestructure: {price:g} per kW), which no cost"
            f" here includes: {price * SAMPLE_KW:,.2f} for {SAMPLE_KW:g} kW at that peak"
        )
    if is_nonzero(item.get("fixedchargeeaaddl")):
        yield (
            f"the rate has a charge for each further meter (fixedchargeeaaddl: {float(item['fixedchargeeaaddl']):g}),"
            " which no cost here includes"
        )
    for key in _ATTRIBUTES:
        for name, value in _pairs(item.get(key)):
            yield f"the rate has `{name}` ({key}: {shortened(value)}), which no cost here includes{_size(name, value)}"
    service = str(item.get("servicetype") or "Bundled")
    if service not in {"Bundled", "Delivery with Standard Offer"}:
        other = "the energy itself" if service == "Delivery" else "its delivery"
        yield (
            f"the rate is for {service.lower()} alone (servicetype): {other} is another contract, which no cost here"
            " includes"
        )
    for key in sorted(item.keys() - READ - _DESCRIBES - _NAMED):
        if item[key] not in (None, "", [], {}):
            yield f"the rate has a field `{key}` ({shortened(str(item[key]))}) that is not known: no cost here includes it"


def _minimum_bills(item: Mapping[str, Any]) -> Iterator[str]:
    """A minimum bill is known at the end of the month and applies to the whole meter, so no hour or server has a share of
    it."""
    for key, unit in _MINIMUM_BILLS.items():
        if is_nonzero(item.get(key)):
            per = item.get(unit) or "without a unit" if unit.endswith("units") else unit
            yield (
                f"the rate has a minimum bill ({key}: {float(item[key]):g} {per}), which no cost here includes: where the"
                " bill of the meter is lower, the utility charges the difference"
            )


def minimum_bill_per_month(item: Mapping[str, Any]) -> float:
    """The highest of the rate's minimum bills, as an amount for a month; one per day counts for 30.4 days. 0 where its unit
    is not known."""
    factors = {"$/month": 1.0, "$/year": 1.0 / 12.0, "$/day": 365.0 / 12.0}
    found = [0.0]
    for key, unit in _MINIMUM_BILLS.items():
        if is_nonzero(item.get(key)):
            per = str(item.get(unit) or "") if unit.endswith("units") else unit
            found.append(float(item[key]) * factors.get(per.strip().lower(), 0.0))
    return max(found)


def _price(tier: Mapping[str, Any]) -> float:
    return float(tier.get("rate") or 0.0) + float(tier.get("adj") or 0.0)


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    """(name, value) of attributes, which are ``{name: value}`` or ``{"key": name, "val": value}``."""
    for entry in value if isinstance(value, Sequence) and not isinstance(value, str) else ():
        if not isinstance(entry, Mapping):
            yield str(entry), ""
        elif {"key", "val"} <= entry.keys():
            yield str(entry["key"]), str(entry["val"])
        else:
            yield from ((str(name), str(content)) for name, content in entry.items())


def _size(name: str, value: str) -> str:
    """The size of an attribute with a price per kWh or kW."""
    number = re.search(r"-?\d*\.?\d+", value)
    unit = re.search(r"(?:/|per )\s*(kwh|kw)\b", f"{name} {value}", re.IGNORECASE)
    if number is None or unit is None:
        return ""
    quantity, words = (SAMPLE_KWH, "kWh") if unit.group(1).lower() == "kwh" else (SAMPLE_KW, "kW")
    return f": {float(number.group()) * quantity:,.2f} for {quantity:g} {words}"
