"""SuperWeight Networks out of other libraries' architectures: built, trained a step, exported; who may share there."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from stacks import images
from test_superweight_search import method
from torch.nn import functional as F

import npasbench
from npasbench.api import BudgetTooSmall, Findings, Problem, SharedNetwork
from npasbench.baselines.superweight import Superweight
from npasbench.budget import resolve
from npasbench.building import build
from npasbench.measuring.count import count
from npasbench.networks import architecture
from npasbench.sharing.clusters import by_member, clusters_of, coarse_map
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.superweights import Cluster

BUDGETS = (0.5, 1, 2)
TRANSFORMER = (("row-transformer",), (1, 8, 8), {"linear": True})
ANY = (
    (("timm:resnet18",), (3, 32, 32), {}),
    (("timm:resnet50",), (3, 32, 32), {}),
    (("torchvision:densenet121",), (3, 64, 64), {}),
    (("torchvision:efficientnet_b0",), (3, 64, 64), {}),
    (("torchvision:efficientnet_b0",), (3, 64, 64), {"linear": True}),
    (("timm:resnet18", "timm:resnet34"), (3, 32, 32), {}),
)
any_network = pytest.mark.parametrize(
    ("names", "shape", "knobs"),
    [TRANSFORMER, *(pytest.param(*one, marks=pytest.mark.slow) for one in ANY)],
    ids=["-".join((*names, *knobs)) for names, _, knobs in (TRANSFORMER, *ANY)],
)


@any_network
def test_any_network_is_built_trained_and_exported(names: tuple[str, ...], shape: tuple[int, ...], knobs: Any):
    networks = tuple(architecture(name, classes=10, input_shape=shape) for name in names)
    with torch.device("meta"):
        dense = sum(count(network.create()).total for network in networks)
    one, buildable = method(phase="untied", **knobs), 0
    for fraction in BUDGETS:
        problem = Problem(networks, resolve(fraction, dense), 10, shape)
        smallest = refused(one, problem)
        if smallest is not None:
            assert smallest > problem.budget.parameters
            continue
        buildable += 1
        shared = build(one, problem, Findings(), 0)
        assert 0.99 * problem.budget.parameters <= one.final_count(shared) <= problem.budget.parameters
        step(shared, images(shape[-1], shape[0]))
        same_output(shared, images(shape[-1], shape[0]))
    assert buildable >= 2


def refused(one: Superweight, problem: Problem) -> int | None:
    """The smallest budget that would be enough, where this one is not."""
    try:
        build(one, problem, Findings(), 0)
    except BudgetTooSmall as error:
        return error.smallest
    return None


def step(network: SharedNetwork, inputs: torch.Tensor) -> None:
    """One step of SGD, which moves templates and coefficients."""
    before = copy.deepcopy(network.generator.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001)
    logits = network.train()(inputs)
    F.cross_entropy(logits.view(-1, 10), torch.tensor([1, 2]).repeat(logits.numel() // 20)).backward()
    optimizer.step()
    after = network.generator.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(after["templates"], before["templates"])


def same_output(network: SharedNetwork, inputs: torch.Tensor) -> None:
    plain = npasbench.export(network).eval()
    with torch.no_grad():
        expected = network.eval()(inputs)
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(plain(inputs), expected, rtol=1e-5, atol=1e-5)


# What may share


def clusters_of_network(name: str, **knobs: Any) -> list[Cluster]:
    one = method(**knobs)
    with torch.device("meta"):
        layers = shareable_layers(architecture(name, classes=10, input_shape=(3, 32, 32)).create())
    members = by_member([layer for layer in layers if one.composes(layer)])
    return clusters_of(members, coarse_map(members, one.settings.bins))


def test_resnet_50s_equal_sized_shapes_come_once_each_in_an_order_of_their_own():
    clusters = clusters_of_network("timm:resnet50")
    for cluster in clusters:
        assert len(set(cluster.shapes)) == len(cluster.shapes)
        assert list(cluster.shapes) == sorted(cluster.shapes, key=lambda shape: (math.prod(shape), *shape))
    (pair,) = [one for one in clusters if (64, 256, 1, 1) in one.shapes and (256, 64, 1, 1) in one.shapes]
    assert pair.shapes.index((256, 64, 1, 1)) == pair.shapes.index((64, 256, 1, 1)) + 1


def test_depthwise_convolutions_share_with_depthwise_ones_of_their_kernel_only():
    for cluster in clusters_of_network("torchvision:efficientnet_b0"):
        assert len({(layer.shape[2:], layer.groups > 1) for layer in cluster.layers}) == 1


@pytest.mark.parametrize("linear", [False, True])
def test_linear_layers_are_composed_where_the_knob_says_so(linear: bool):
    kernels = {cluster.kernel for cluster in clusters_of_network("timm:resnet18", linear=linear)}
    assert (() in kernels) == linear
