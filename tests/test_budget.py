"""How a budget may be written, what it resolves to, and what is refused."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npasbench.budget import Budget, canonical, resolve
from npasbench.errors import UsageError

DENSE = 77_562

fractions = st.decimals("0.0001", "999.9999", places=4).map(lambda value: format(value, "f"))
counts = st.integers(1000, 10**12)


@pytest.mark.parametrize("written", ["0.1", ".1", "0.10", "10%", "10 %", "0.1x", "0.1X", "1e-1", " 0.1 ", 0.1, "1E-1x"])
def test_every_spelling_of_a_tenth_reads_as_one_tenth(written: str | float):
    assert canonical(written) == "0.1"


@pytest.mark.parametrize(
    "written", ["18M", "18m", "18 M", "18000k", "0.018B", "18000000", "18_000_000", "18,000,000", 18_000_000, "18e6"]
)
def test_every_spelling_of_eighteen_million_reads_as_one_count(written: str | int):
    assert canonical(written) == "18000000"


def test_a_number_below_1000_is_a_fraction_and_1000_is_a_count():
    assert resolve(999, 10).parameters == 9990
    assert resolve(1000, 10).parameters == 1000


@pytest.mark.parametrize(
    ("written", "text"), [("1", "1"), ("1.0", "1"), (2, "2"), ("100%", "1"), ("250k", "250000"), ("1.5k", "1500")]
)
def test_the_canonical_form_has_no_exponent_and_no_trailing_zeros(written: str | int, text: str):
    assert canonical(written) == text


def test_a_hundred_times_dense_is_written_without_an_exponent():
    assert canonical("10000%") == canonical("1e2") == "100"


@pytest.mark.parametrize(
    ("fraction", "parameters"),
    [("0.02", 1551), ("0.05", 3878), ("0.1", 7756), ("0.25", 19390), ("0.5", 38781), ("1", 77562), ("2", 155124)],
)
def test_the_digits_budgets_resolve_to_these_counts(fraction: str, parameters: int):
    assert resolve(fraction, DENSE) == Budget(fraction, parameters, DENSE)


def test_fractions_are_decimal_where_binary_ones_would_lose_a_parameter():
    assert int(0.29 * 100) == 28
    assert resolve("0.29", 100).parameters == 29
    assert resolve("29%", 100).parameters == 29


def test_a_resolved_budget_knows_its_fraction():
    assert resolve("38781", DENSE).fraction == pytest.approx(0.5)


@pytest.mark.parametrize("written", ["0", 0, "0.0", "0%", "0k", "0e5"])
def test_a_budget_of_nothing_is_refused(written: str | int):
    with pytest.raises(UsageError, match="leaves no parameters"):
        canonical(written)


@pytest.mark.parametrize(
    "written",
    [
        "-1",
        -0.1,
        "nan",
        float("nan"),
        "inf",
        float("-inf"),
        "tenth",
        "",
        " ",
        "10%%",
        "1..5",
        "0x10",
        "1 0 %x",
        True,
        None,
    ],
)
def test_what_is_no_positive_finite_number_is_refused_with_the_forms_that_are_understood(written: object):
    with pytest.raises(UsageError, match=r"is not a parameter budget\. Write a fraction"):
        canonical(written)  # type: ignore[arg-type]


@pytest.mark.parametrize("written", ["0,1", "0,25", "1,5", "12,5%", "0,100", "1_0", "1,00,000"])
def test_a_decimal_comma_is_refused_instead_of_read_as_thousands(written: str):
    with pytest.raises(UsageError, match="is not a parameter budget"):
        canonical(written)


@pytest.mark.parametrize("written", ["0.5k", "0.0001M", "0.9999k"])
def test_a_count_below_1000_is_refused_because_it_would_read_as_a_fraction(written: str):
    with pytest.raises(UsageError, match="count below 1000"):
        canonical(written)


@pytest.mark.parametrize("written", ["1000x", "100000%", "18000000x"])
def test_a_thousand_times_dense_and_more_is_refused(written: str):
    with pytest.raises(UsageError, match="times the dense network"):
        canonical(written)


@pytest.mark.parametrize("written", ["1000000000001", "1001B", "1e13", "1" + "0" * 40, "1e400"])
def test_a_count_above_ten_to_the_twelfth_is_refused(written: str):
    with pytest.raises(UsageError, match=r"is more than 10\^12 parameters\. Write a fraction"):
        canonical(written)


@pytest.mark.parametrize("written", ["1000000000000", "1000B", "1e12", 10**12])
def test_a_count_of_ten_to_the_twelfth_is_read(written: str | int):
    assert canonical(written) == "1000000000000"


def test_a_count_above_a_thousand_times_the_dense_network_is_refused_with_both_numbers():
    said = r"77,562,001 parameters is more than 1,000 times the dense network of 77,562\. Give at most 77,562,000\."
    with pytest.raises(UsageError, match=said):
        resolve(1000 * DENSE + 1, DENSE)
    assert resolve(1000 * DENSE, DENSE).parameters == 77_562_000


def test_a_fraction_that_rounds_down_to_nothing_is_refused():
    with pytest.raises(UsageError, match="rounds down to none"):
        resolve("0.0001", 9_999)
    assert resolve("0.0001", 10_000).parameters == 1


@given(fractions.filter(lambda text: float(text) > 0) | counts.map(str))
@settings(max_examples=200, deadline=None)
def test_the_canonical_form_of_a_canonical_form_is_itself(written: str):
    once = canonical(written)
    assert canonical(once) == once


@given(fractions.filter(lambda text: float(text) > 0))
@settings(max_examples=100, deadline=None)
def test_a_fraction_and_its_percentage_are_the_same_budget(written: str):
    percent = format(Decimal(written) * 100, "f")
    assert canonical(f"{percent}%") == canonical(written) == canonical(f"{written}x")


@given(fractions.filter(lambda text: float(text) >= 0.001), st.integers(1000, 10**11))
@settings(max_examples=200, deadline=None)
def test_fractions_round_down_exactly(written: str, dense: int):
    exact = Fraction(written) * dense
    assert resolve(written, dense).parameters == exact.numerator // exact.denominator


@given(counts, st.integers(1, 10**11))
@settings(max_examples=100, deadline=None)
def test_a_count_up_to_a_thousand_times_the_dense_network_is_kept_and_one_above_refused(count: int, dense: int):
    if count <= 1000 * dense:
        assert resolve(count, dense).parameters == count
    else:
        with pytest.raises(UsageError, match="more than 1,000 times the dense network"):
            resolve(count, dense)
