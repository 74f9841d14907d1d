"""Under the papers' count the controls are held to it too, and fractions are of the dense network counted likewise."""

from __future__ import annotations

import pytest

from npasbench.budget import Budget
from npasbench.building import audited, build
from npasbench.errors import BudgetTooSmall
from npasbench.measuring.count import count
from npasbench.method import Findings, Method
from npasbench.networks import architecture
from npasbench.problem import Problem
from npasbench.registry import Registry, create

NET = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8))
COUNTED = count(NET.create())


def method(name: str) -> Method:
    return create(Registry().method(name), {}, name)


def problem(parameters: int, accounting: str, members: int) -> Problem:
    dense = members * COUNTED.held(accounting)
    budget = Budget(str(parameters), parameters, dense, "bank" if accounting == "bank" else "total")
    return Problem((NET,) * members, budget, 10, (1, 8, 8))


@pytest.mark.parametrize("name", ["narrow", "deep-ensemble", "batch-ensemble", "mimo"])
@pytest.mark.parametrize("budget", [20_000, 2 * COUNTED.bank_params])
def test_a_control_is_as_wide_as_its_bank_allows(name: str, budget: int) -> None:
    wide, less = (count(audited(method(name), problem(budget, how, 2), Findings(), 0)) for how in ("bank", "total"))
    assert less.total <= budget
    assert less.bank_params < wide.bank_params <= budget
    assert wide.total > less.total


def test_the_dense_network_fits_a_budget_of_its_own_bank() -> None:
    built = build(method("dense"), problem(COUNTED.bank_params, "bank", 1), Findings(), 0)
    assert count(built).total == COUNTED.total > COUNTED.bank_params
    with pytest.raises(BudgetTooSmall) as refused:
        build(method("dense"), problem(COUNTED.bank_params - 1, "bank", 1), Findings(), 0)
    assert refused.value.smallest == COUNTED.bank_params
