"""Building a network for a problem, and the audit: nothing over its budget is trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from npasbench import streams
from npasbench.addon import classes
from npasbench.data import describe
from npasbench.errors import BudgetTooSmall, MethodError, NpasbenchError, UsageError
from npasbench.explaining import explain
from npasbench.measuring.count import count, rounding
from npasbench.method import Findings, Method, SearchContext
from npasbench.networks import architecture
from npasbench.plan import RunSpec
from npasbench.problem import Problem
from npasbench.registry import Registry


def method_of(spec: RunSpec) -> Method:
    """A run's method with its knobs set, within its add-ons."""
    added = [(one.name, dict(one.knobs)) for one in spec.addons]
    return Registry(spec.plugins).assemble(spec.method, dict(spec.knobs), added)


def problem_of(spec: RunSpec) -> Problem:
    """What a run asks its method to solve."""
    classes, input_shape = describe(spec.task.data)
    members = tuple(architecture(name, classes=classes, input_shape=input_shape) for name in spec.task.members)
    return Problem(members, spec.resolved_budget, classes, input_shape)


def build(method: Method, problem: Problem, findings: Findings, seed: int) -> nn.Module:
    """The method's network for a seed: the same seed gives the same network, whoever builds it.

    Raises:
        BudgetTooSmall: if the method cannot meet the budget.
        MethodError: if the method's own code fails or returns no network.
        UsageError: if the network does not fit memory.
    """
    try:
        with streams.global_stream(seed, "init"):
            network = method.build(problem, findings, streams.generator(seed, "method"))
    except NpasbenchError:
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise UsageError(_too_large(method, problem)) from None
        raise MethodError(f"{method.title}.build raised {explain(error, *classes(method))}.") from error
    if not isinstance(network, nn.Module):
        raise MethodError(f"{method.title}.build returned {type(network).__name__}; a torch.nn.Module is expected.")
    return network


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _too_large(method: Method, problem: Problem) -> str:
    size = max(problem.budget.parameters, problem.budget.dense)
    return (
        f"{method.title} does not fit this machine's memory with a budget of {problem.budget.parameters:,} parameters: the "
        f"numbers alone take {4 * size / 2**30:,.1f} GiB. Give a smaller budget, or use a machine with more memory."
    )


def audited(method: Method, problem: Problem, findings: Findings, seed: int) -> nn.Module:
    """Build, and refuse what will be over the budget at the end of training.

    Raises:
        BudgetTooSmall: naming the smallest number of parameters that the method can be built with.
        MethodError: if the method builds the same number of parameters whatever its budget, and that is too many.
    """
    try:
        network = build(method, problem, findings, seed)
        final = _held_against(method, network, problem)
    except BudgetTooSmall as error:
        smallest = error.smallest or smallest_buildable(method, problem, findings, seed)
        said = _sentence(method, problem, smallest)
        raise BudgetTooSmall(said, smallest=smallest, hint=error.hint) from None
    if final > problem.budget.parameters:
        _must_follow(method, problem, findings, seed, built=final)
        smallest = smallest_buildable(method, problem, findings, seed)
        raise BudgetTooSmall(_sentence(method, problem, smallest, built=final), smallest=smallest)
    return network


def searched(method: Method, problem: Problem, context: SearchContext) -> Findings:
    """What the method's search finds.

    Raises:
        BudgetTooSmall: as :func:`audited`, where the search says no more than a number.
    """
    try:
        return method.search(problem, context)
    except BudgetTooSmall as error:
        plain = BudgetTooSmall(smallest=error.smallest, hint=error.hint)
        if error.smallest is None or str(error) != str(plain):
            raise
        said = _sentence(method, problem, error.smallest)
        raise BudgetTooSmall(said, smallest=error.smallest, hint=error.hint) from None


def smallest_buildable(method: Method, problem: Problem, findings: Findings, seed: int) -> int | None:
    """The least budget at which the method builds a network within it, by bisection up to four times the dense count."""

    def fits(parameters: int) -> bool:
        size = _built_at(parameters, method, problem, findings, seed)
        return size is not None and size <= parameters

    low, high = problem.budget.parameters, _plenty(problem)
    if not fits(high):
        return None
    while high - low > max(1, low // 1_000_000):
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _must_follow(method: Method, problem: Problem, findings: Findings, seed: int, built: int) -> None:
    """Refuse a method that has built too much and builds as much when it is given plenty."""
    plenty = _plenty(problem)
    if _built_at(plenty, method, problem, findings, seed) == built:
        raise MethodError(
            f"{method.title} was given a budget of {problem.budget.parameters:,} parameters and built {built:,}, and builds "
            f"{built:,} for a budget of {plenty:,} too: it does not follow its budget. Build from the parameters that are "
            "given, or raise BudgetTooSmall with the smallest number where they are too few."
        )


def _plenty(problem: Problem) -> int:
    """More than any method needs that can be built at all."""
    return 4 * max(problem.budget.dense, problem.budget.parameters)


def _built_at(parameters: int, method: Method, problem: Problem, findings: Findings, seed: int) -> int | None:
    """What the method builds within another budget, as the budget counts it; None if it cannot."""
    other = replace(problem, budget=replace(problem.budget, parameters=parameters))
    try:
        return _held_against(method, build(method, other, findings, seed), other)
    except NpasbenchError:
        return None


def _held_against(method: Method, network: nn.Module, problem: Problem) -> int:
    """The count that the budget limits: all trained scalars at the end, or only the bank's under bank accounting."""
    final = method.final_count(network)
    if problem.budget.accounting == "bank":
        counted = count(network, masks=method.structure(network).masks)
        return counted.bank_params - (counted.total - final) - rounding(network, "bank")  # what will go is of the bank
    return final


def _sentence(method: Method, problem: Problem, smallest: int | None, built: int | None = None) -> str:
    budget = problem.budget
    given = f"the budget is {budget.parameters:,}" + (f" and it built {built:,}" if built else "")
    if smallest is None:
        return f"{method.title} meets no budget up to four times the dense count; {given}."
    share = (
        f" ({smallest / budget.dense:.3g} of the dense network's {budget.dense:,})" if smallest != budget.dense else ""
    )
    return f"{method.title} needs at least {smallest:,} parameters{share}; {given}."
