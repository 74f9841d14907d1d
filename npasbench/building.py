"""Building a network for a problem, and the audit: nothing over its budget is trained."""

from __future__ import annotations

from torch import nn

from npasbench import streams
from npasbench.data import describe
from npasbench.errors import BudgetTooSmall, MethodError, NpasbenchError
from npasbench.measuring.count import count
from npasbench.method import Findings, Method
from npasbench.networks import architecture
from npasbench.plan import RunSpec
from npasbench.problem import Problem


def problem_of(spec: RunSpec) -> Problem:
    """What a run asks its method to solve."""
    classes, input_shape = describe(spec.task.data.set)
    members = tuple(architecture(name, classes=classes, input_shape=input_shape) for name in spec.task.members)
    return Problem(members, spec.resolved_budget, classes, input_shape)


def build(method: Method, problem: Problem, findings: Findings, seed: int) -> nn.Module:
    """The method's network for a seed: the same seed gives the same network, whoever builds it.

    Raises:
        BudgetTooSmall: if the method cannot meet the budget.
        MethodError: if the method's own code fails or returns no network.
    """
    try:
        with streams.global_stream(seed, "init"):
            network = method.build(problem, findings, streams.generator(seed, "method"))
    except NpasbenchError:
        raise
    except Exception as error:
        raise MethodError(f"{method.name}.build raised {type(error).__name__}: {error}.") from error
    if not isinstance(network, nn.Module):
        raise MethodError(f"{method.name}.build returned {type(network).__name__}; a torch.nn.Module is expected.")
    return network


def audited(method: Method, problem: Problem, findings: Findings, seed: int) -> nn.Module:
    """Build, and refuse what will be over the budget at the end of training.

    Raises:
        BudgetTooSmall: naming the smallest number of parameters that the method can be built with.
    """
    try:
        network = build(method, problem, findings, seed)
        final = _held_against(method, network, problem)
    except BudgetTooSmall as error:
        smallest = error.smallest or smallest_buildable(method, problem, findings, seed)
        raise BudgetTooSmall(_sentence(method, problem, smallest), smallest=smallest) from None
    if final > problem.budget.parameters:
        smallest = smallest_buildable(method, problem, findings, seed)
        raise BudgetTooSmall(_sentence(method, problem, smallest, built=final), smallest=smallest)
    return network


def smallest_buildable(method: Method, problem: Problem, findings: Findings, seed: int) -> int | None:
    """The least budget at which the method builds a network within it, by bisection up to four times the dense count."""

    def fits(parameters: int) -> bool:
        from dataclasses import replace

        smaller = replace(problem, budget=replace(problem.budget, parameters=parameters))
        try:
            return _held_against(method, build(method, smaller, findings, seed), smaller) <= parameters
        except NpasbenchError:
            return False

    low, high = problem.budget.parameters, 4 * max(problem.budget.dense, problem.budget.parameters)
    if not fits(high):
        return None
    while high - low > max(1, low // 1_000_000):
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _held_against(method: Method, network: nn.Module, problem: Problem) -> int:
    """The count that the budget limits: all trained scalars at the end, or only the bank's under bank accounting."""
    if problem.budget.accounting == "bank":
        return count(network, masks=method.structure(network).masks).bank_params
    return method.final_count(network)


def _sentence(method: Method, problem: Problem, smallest: int | None, built: int | None = None) -> str:
    budget = problem.budget
    given = f"the budget is {budget.parameters:,}" + (f" and it built {built:,}" if built else "")
    if smallest is None:
        return f"{method.name} meets no budget up to four times the dense count; {given}."
    share = (
        f" ({smallest / budget.dense:.3g} of the dense network's {budget.dense:,})" if smallest != budget.dense else ""
    )
    return f"{method.name} needs at least {smallest:,} parameters{share}; {given}."
