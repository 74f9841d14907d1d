"""What a plugin author imports: the contract of a method and the parts that methods are made of."""

from npasbench.addon import AddOn
from npasbench.budget import Budget
from npasbench.errors import BudgetTooSmall, MethodError
from npasbench.method import (
    Batch,
    Criterion,
    EpochContext,
    Findings,
    Knobs,
    Method,
    Progress,
    SearchContext,
    SharingMethod,
    Structure,
)
from npasbench.networks.members import Members, one_by_one
from npasbench.problem import Architecture, Problem
from npasbench.sharing.layers import LayerSpec
from npasbench.sharing.network import SharedNetwork, WeightGenerator

__all__ = [
    "AddOn",
    "Architecture",
    "Batch",
    "Budget",
    "BudgetTooSmall",
    "Criterion",
    "EpochContext",
    "Findings",
    "Knobs",
    "LayerSpec",
    "Members",
    "Method",
    "MethodError",
    "Problem",
    "Progress",
    "SearchContext",
    "SharedNetwork",
    "SharingMethod",
    "Structure",
    "WeightGenerator",
    "one_by_one",
]
