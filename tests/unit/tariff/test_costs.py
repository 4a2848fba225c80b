"""Costs that accrue with time, compared with figures calculated by hand."""

from __future__ import annotations

import pytest

from tpw.model import Reference, TokenKind
from tpw.tariff import costs


@pytest.mark.parametrize(("server_price", "per_gpu_hour"), [(250_000, 0.97), (300_000, 1.17), (400_000, 1.56)])
def test_eight_gpu_server_by_the_hour(server_price: float, per_gpu_hour: float) -> None:
    """Interest 10 %, four years, 20 % left at the end; to the cent."""
    rate = costs.Hardware(price_per_gpu=server_price / 8, years=4, interest=0.10, residual=0.20).rate()
    assert rate.component == "hardware"
    assert rate.per_gpu_second * 3600 == pytest.approx(per_gpu_hour, abs=0.006)


def api(prices: costs.TokenPrices) -> Reference:
    return costs.ReferencePrice(name="api", price_per_million=prices).reference()


def test_annuity_by_hand() -> None:
    """1000 over two years at 10 %: 1000 = A / 1.1 + A / 1.21, so A = 576.19."""
    assert costs.annuity(1000, 2, 0.10) == pytest.approx(576.190476, abs=1e-6)


def test_annuity_pays_back_the_price_with_interest() -> None:
    price, years, interest, residual = 30_000.0, 5, 0.07, 0.15
    yearly = costs.annuity(price, years, interest, residual)
    debt = price
    for _ in range(years):
        debt = debt * (1 + interest) - yearly
    assert debt == pytest.approx(price * residual)


def test_annuity_without_interest_is_a_straight_line() -> None:
    assert costs.annuity(30_000, 4, 0, 0.2) == 6000


def test_annuity_is_continuous_at_no_interest() -> None:
    assert costs.annuity(30_000, 4, 1e-9, 0.2) == pytest.approx(6000, rel=1e-4)


@pytest.mark.parametrize("interest", [1e-9, 1e-13, 1e-17, 5e-324])
def test_annuity_at_a_tiny_interest_is_a_straight_line(interest: float) -> None:
    assert costs.annuity(30_000, 4, interest, 0.2) == pytest.approx(costs.annuity(30_000, 4, 0.0, 0.2), rel=1e-8)


def test_hardware_over_a_year_of_8760_hours_is_the_annuity() -> None:
    assert costs.Hardware(
        price_per_gpu=30_000, years=4, residual=0.2
    ).rate().per_gpu_second * 8760 * 3600 == pytest.approx(6000)


def test_hosting_by_hand() -> None:
    """194.95 per kW-month times 1.73 kW: 0.46 per GPU-hour; a tenth of 10.2 kW split over eight: 0.34."""
    assert costs.Hosting(price_per_kw_month=194.95, kw_per_gpu=1.73).rate().per_gpu_second * 3600 == pytest.approx(
        0.46, abs=0.005
    )
    assert costs.Hosting(price_per_kw_month=194.95, kw_per_gpu=10.2 / 8).rate().per_gpu_second * 3600 == pytest.approx(
        0.34, abs=0.005
    )
    assert costs.Hosting(price_per_kw_month=194.95, kw_per_gpu=1.73).rate().component == "hosting"


def test_gpu_hour_and_operations() -> None:
    assert costs.GpuHour(price=3.6).rate().per_gpu_second == pytest.approx(0.001)
    assert costs.Operations(price_per_gpu_month=730).rate().per_gpu_second == pytest.approx(1 / 3600)


def test_rented_reference() -> None:
    reference = costs.ReferencePrice(name="rent", price_per_gpu_hour=2.69).reference()
    assert reference.price_per_gpu_second == pytest.approx(2.69 / 3600)
    assert reference.price_per_token == {}


def test_api_reference() -> None:
    reference = api(costs.TokenPrices(input=0.59, output=0.79, cached_input=0.30))
    assert reference.price_per_gpu_second is None
    assert reference.price_per_token == {
        TokenKind.INPUT: pytest.approx(0.59e-6),
        TokenKind.CACHED_INPUT: pytest.approx(0.30e-6),
        TokenKind.OUTPUT: pytest.approx(0.79e-6),
    }


def test_api_without_a_price_for_cached_input_charges_it_as_input() -> None:
    reference = api(costs.TokenPrices(input=0.59, output=0.79))
    assert reference.price_per_token[TokenKind.CACHED_INPUT] == reference.price_per_token[TokenKind.INPUT]
