"""The FOCUS data set, held against the columns of the specification."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest

from support.goldens import golden
from support.quarters import END, GPUS, POLICY, START, UNPRICED_FROM, write_books
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import PostingKey
from tpw.ledger.tick import Policy
from tpw.model import State, Workload, WorkloadKind
from tpw.report.focus import COLUMNS, LINES_BY, VERSIONS, NoCurrencyError, Parties, focus_text
from tpw.report.periods import Calendar, Period
from tpw.report.tabulate import Dimension, Report, Tabulation
from tpw.store.reading import BooksReader
from tpw.tariff.months import BillingMonths

BERLIN = Calendar("Europe/Berlin")
PARTIES = Parties("Example GmbH", "node-7")


def is_text(value: str) -> bool:
    return value == value.strip() != ""


def is_decimal(value: str) -> bool:
    """Numeric Format: no exponent, no sign for what is positive, nothing else."""
    return re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", value) is not None


def is_date_time(value: str) -> bool:
    """Date/Time Format: UTC, to the second."""
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value) is not None and bool(datetime.fromisoformat(value))


def is_currency(value: str) -> bool:
    return re.fullmatch(r"[A-Z]{3}", value) is not None


def is_unit(value: str) -> bool:
    """Unit Format: capitalised nouns, plural at the end, joined by hyphens."""
    return re.fullmatch(r"([A-Z][A-Za-z]*-)*[A-Z][a-z]*s", value) is not None


def is_key_values(value: str) -> bool:
    """Key-Value Format: one flat JSON object."""
    return all(isinstance(item, str | int | float | bool) for item in json.loads(value).values())


def one_of(*allowed: str) -> Callable[[str], bool]:
    return lambda value: value in allowed


MANDATORY, CONDITIONAL, RECOMMENDED, CUSTOM = "Mandatory", "Conditional", "Recommended", "Custom"


@dataclass(frozen=True)
class Column:
    """A row of the specification: feature level, whether null is allowed at all, and what values are."""

    level: str
    may_be_null: bool
    is_valid: Callable[[str], bool]


# FOCUS 1.2, https://focus.finops.org/focus-specification/v1-2/, section Columns; conditional columns for what this
# data set cannot know (unit prices, commitments, reservations, regions, sub accounts) are not in it.
SPECIFICATION = {
    "BilledCost": Column(MANDATORY, False, is_decimal),
    "BillingAccountId": Column(MANDATORY, False, is_text),
    "BillingAccountName": Column(MANDATORY, True, is_text),
    "BillingCurrency": Column(MANDATORY, False, is_currency),
    "BillingPeriodEnd": Column(MANDATORY, False, is_date_time),
    "BillingPeriodStart": Column(MANDATORY, False, is_date_time),
    "ChargeCategory": Column(MANDATORY, False, one_of("Usage", "Purchase", "Tax", "Credit", "Adjustment")),
    "ChargeClass": Column(MANDATORY, True, one_of("Correction")),
    "ChargeDescription": Column(MANDATORY, True, is_text),
    "ChargeFrequency": Column(RECOMMENDED, False, one_of("One-Time", "Recurring", "Usage-Based")),
    "ChargePeriodEnd": Column(MANDATORY, False, is_date_time),
    "ChargePeriodStart": Column(MANDATORY, False, is_date_time),
    "ConsumedQuantity": Column(CONDITIONAL, True, is_decimal),
    "ConsumedUnit": Column(CONDITIONAL, True, is_unit),
    "ContractedCost": Column(MANDATORY, False, is_decimal),
    "EffectiveCost": Column(MANDATORY, False, is_decimal),
    "InvoiceId": Column(RECOMMENDED, True, is_text),
    "InvoiceIssuerName": Column(MANDATORY, False, is_text),
    "ListCost": Column(MANDATORY, False, is_decimal),
    "PricingQuantity": Column(MANDATORY, True, is_decimal),
    "PricingUnit": Column(MANDATORY, True, is_unit),
    "ProviderName": Column(MANDATORY, False, is_text),
    "PublisherName": Column(MANDATORY, False, is_text),
    "ResourceId": Column(CONDITIONAL, True, is_text),
    "ResourceName": Column(CONDITIONAL, True, is_text),
    "ResourceType": Column(CONDITIONAL, True, is_text),
    "ServiceCategory": Column(MANDATORY, False, one_of("AI and Machine Learning")),
    "ServiceName": Column(MANDATORY, False, is_text),
    "ServiceSubcategory": Column(RECOMMENDED, False, one_of("Generative AI")),
    "SkuId": Column(CONDITIONAL, True, is_text),
    "SkuMeter": Column(CONDITIONAL, True, is_text),
    "SubAccountId": Column(CONDITIONAL, True, is_text),
    "SubAccountName": Column(CONDITIONAL, True, is_text),
    "Tags": Column(CONDITIONAL, True, is_key_values),
    "x_UnpricedKilowattHours": Column(CUSTOM, True, is_decimal),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("books")
    write_books(made)
    return made


def grouped(directory: Path, unit: Dimension, months: BillingMonths, covered: Period) -> Report:
    tabulation = Tabulation((unit, *LINES_BY), covered, BERLIN, lambda at: Period(*months.bounds(at)))
    with BooksReader(directory) as books:
        tabulation.add(
            books.rows(covered.start_seconds, covered.end_seconds),
            books.served(covered.start_seconds, covered.end_seconds),
        )
        return tabulation.report(books.head().currency)


def data_set(
    directory: Path,
    unit: Dimension = Dimension.DAY,
    months: BillingMonths | None = None,
    covered: Period | None = None,
) -> str:
    months = months or BillingMonths("Europe/Berlin")
    report = grouped(directory, unit, months, covered or Period(START, END))
    return "".join(focus_text(report, {gpu.uuid: gpu for gpu in GPUS}, lambda at: Period(*months.bounds(at)), PARTIES))


def charges(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_data_set_is_the_golden_one(directory: Path) -> None:
    golden("report/focus.csv", data_set(directory))


def test_every_mandatory_column_is_there_and_no_column_is_of_ones_own_naming(directory: Path) -> None:
    header = data_set(directory).splitlines()[0].split(",")
    assert header == list(COLUMNS)
    assert set(header) == set(SPECIFICATION)
    assert sum(column.level == MANDATORY for column in SPECIFICATION.values()) == 21
    assert [name for name in header if name.startswith("x_")] == [
        name for name, column in SPECIFICATION.items() if column.level == CUSTOM
    ]


@pytest.mark.parametrize("unit", [Dimension.HOUR, Dimension.DAY, Dimension.MONTH])
def test_every_value_has_its_type_and_is_null_only_where_it_may(directory: Path, unit: Dimension) -> None:
    found = charges(data_set(directory, unit))
    assert len(found) > 20
    for charge in found:
        for name, value in charge.items():
            column = SPECIFICATION[name]
            assert column.is_valid(value) if value else column.may_be_null, (name, value)


def test_quantities_are_null_exactly_where_the_specification_requires(directory: Path) -> None:
    seen = set()
    for charge in charges(data_set(directory)):
        seen.add(charge["ChargeCategory"])
        is_usage = charge["ChargeCategory"] == "Usage"
        for name in ("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit"):
            assert bool(charge[name]) is is_usage, charge
        assert charge["SkuMeter"], charge
        assert charge["ResourceName"] != charge["ResourceId"] or charge["ResourceType"] == "Inference Server"
    assert seen == {"Usage", "Credit"}


def test_a_charge_lies_in_its_period_and_that_in_its_billing_period(directory: Path) -> None:
    """Also where billing months begin within a month of the calendar."""
    found = charges(data_set(directory, Dimension.MONTH, BillingMonths("Europe/Berlin", day=25)))
    for charge in found:
        assert charge["BillingPeriodStart"] <= charge["ChargePeriodStart"] < charge["ChargePeriodEnd"]
        assert charge["ChargePeriodEnd"] <= charge["BillingPeriodEnd"]
    assert {charge["BillingPeriodStart"] for charge in found} == {"2026-09-24T22:00:00Z", "2026-10-24T22:00:00Z"}


def test_costs_and_credits_sum_to_the_net_cost(directory: Path) -> None:
    report = grouped(directory, Dimension.DAY, BillingMonths("Europe/Berlin"), Period(START, END))
    found = charges(data_set(directory))
    for name in ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost"):
        assert sum(float(charge[name]) for charge in found) == pytest.approx(report.totals.net_cost, rel=1e-12)
    paid_back = [float(charge["BilledCost"]) for charge in found if charge["ChargeCategory"] == "Credit"]
    assert -sum(paid_back) == pytest.approx(report.totals.amounts.credit, rel=1e-12)
    assert max(paid_back) < 0.0


def test_charges_have_the_number_of_the_invoice_that_is_given(directory: Path) -> None:
    report = grouped(directory, Dimension.DAY, BillingMonths("Europe/Berlin"), Period(START, END))
    for number in ("", "2026-1042"):
        parties = replace(PARTIES, invoice=number)
        text = "".join(focus_text(report, {}, lambda at: Period(START, END), parties))
        assert {charge["InvoiceId"] for charge in charges(text)} == {number}


def test_newer_versions_name_the_provider_of_the_service_and_its_host(directory: Path) -> None:
    """1.3 deprecates two columns and has both pairs, 1.4 has removed them. Nothing else differs."""
    report = grouped(directory, Dimension.DAY, BillingMonths("Europe/Berlin"), Period(START, END))
    old, new = {"ProviderName", "PublisherName"}, {"HostProviderName", "ServiceProviderName"}
    sets = {
        version: charges("".join(focus_text(report, {}, lambda at: Period(START, END), PARTIES, version)))
        for version in VERSIONS
    }
    names = {version: set(found[0]) for version, found in sets.items()}
    assert names == {"1.2": set(COLUMNS), "1.3": set(COLUMNS) | new, "1.4": set(COLUMNS) - old | new}
    for one, other in zip(sets["1.2"], sets["1.4"], strict=True):
        assert {other[name] for name in new} == {one["ProviderName"]} == {PARTIES.provider}
        assert {name: one[name] for name in names["1.2"] - old} == {name: other[name] for name in names["1.4"] - new}


def test_the_smallest_cost_has_no_exponent() -> None:
    tabulation = Tabulation((Dimension.DAY, *LINES_BY), Period(START, END), BERLIN)
    posting = Amounts(1e-5, 1e-6, 1e-6, cost={"energy": 3.25e-12})
    tabulation.add([(START, PostingKey(GPUS[0].uuid, "", "", State.IDLE), posting)])
    text = "".join(focus_text(tabulation.report("EUR"), {}, lambda at: Period(START, END), PARTIES))
    assert charges(text)[0]["BilledCost"] == "0.00000000000325"
    assert all(is_decimal(charges(text)[0][name]) for name in ("ListCost", "PricingQuantity", "ConsumedQuantity"))


def test_tokens_are_charges_of_no_cost_once_per_server_and_model(directory: Path) -> None:
    report = grouped(directory, Dimension.DAY, BillingMonths("Europe/Berlin"), Period(START, END))
    tokens = [charge for charge in charges(data_set(directory)) if charge["ConsumedUnit"] == "Tokens"]
    assert sum(float(charge["ConsumedQuantity"]) for charge in tokens) == report.totals.tokens
    assert {charge["BilledCost"] for charge in tokens} == {"0"}
    assert {charge["ResourceId"] for charge in tokens} == {"chat", "code"}


def test_energy_without_a_price_is_no_charge(directory: Path) -> None:
    """Neither a charge of nothing, where none of it has a price, nor in the quantity of what is charged."""
    none = charges(data_set(directory, covered=Period(UNPRICED_FROM, END)))
    assert not [charge for charge in none if charge["SkuId"] == "energy"]
    assert [charge for charge in none if charge["SkuId"] == "hardware"]

    some = grouped(directory, Dimension.DAY, BillingMonths("Europe/Berlin"), Period(START, END))
    energy = [charge for charge in charges(data_set(directory)) if charge["SkuId"] == "energy"]
    kwh = sum(float(charge["PricingQuantity"] or 0.0) for charge in energy)
    left = sum(float(charge["x_UnpricedKilowattHours"] or 0.0) for charge in energy)
    assert left == pytest.approx(some.totals.amounts.unpriced_joules / 3.6e6)
    assert kwh + left == pytest.approx(some.totals.amounts.facility_joules / 3.6e6)


def test_energy_from_before_a_tariff_is_no_quantity_of_what_is_charged(tmp_path: Path) -> None:
    noon = START + 3600.0
    write_books(
        tmp_path, Policy(interval_seconds=300.0, pue=1.2, currency="EUR"), later=(noon, POLICY), end=UNPRICED_FROM
    )
    months = BillingMonths("Europe/Berlin")
    priced = (
        grouped(tmp_path, Dimension.DAY, months, Period(noon, UNPRICED_FROM)).totals.amounts.facility_joules / 3.6e6
    )
    covered = Period(START, UNPRICED_FROM)
    energy = [charge for charge in charges(data_set(tmp_path, covered=covered)) if charge["SkuId"] == "energy"]
    assert sum(float(charge["PricingQuantity"] or 0.0) for charge in energy) == pytest.approx(priced)


def test_an_idle_gpu_is_charged_to_nobody(directory: Path) -> None:
    idle = [charge for charge in charges(data_set(directory)) if json.loads(charge["Tags"])["tpw/state"] == "idle"]
    assert {charge["ResourceId"] for charge in idle} == {GPUS[2].uuid}
    assert json.loads(idle[0]["Tags"]) == {"tpw/state": "idle"}
    assert idle[0]["ChargeDescription"] == "Facility Energy: GPU 2, idle"


def test_books_without_money_make_no_data_set(tmp_path: Path) -> None:
    write_books(tmp_path, Policy(interval_seconds=300.0))
    with pytest.raises(NoCurrencyError, match="configure `tariff` or `costs`"):
        data_set(tmp_path)


def test_other_use_is_charged_to_its_workload() -> None:
    tabulation = Tabulation((Dimension.DAY, *LINES_BY), Period(START, END), BERLIN)
    key = PostingKey("GPU-1", "", "", State.OTHER, Workload(WorkloadKind.SLURM, "4711"))
    tabulation.add([(START, key, Amounts(900.0, 3.6e6, 3.6e6, cost={"energy": 1.0}))])
    text = "".join(focus_text(tabulation.report("EUR"), {}, lambda at: Period(START, END), PARTIES))
    [row] = csv.DictReader(io.StringIO(text))
    assert json.loads(row["Tags"]) == {"tpw/state": "other", "tpw/workload": "4711", "tpw/workload_kind": "slurm"}
    assert row["ChargeDescription"] == "Facility Energy: a GPU, other (4711)"
