"""Teterwak et al., "Learning to Compose SuperWeights for Neural Parameter Allocation Search" (WACV 2024, arXiv 2312.01274).

SuperWeight Networks. Layer weights are composed from SuperWeights, each a learned mixture of its own templates (section
3.1). Gradients decide who shares: layers whose gradients disagree get separate clusters before training starts, and
separate coefficients while it runs (section 3.2). Several architectures may draw from one store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import nn

from npasbench import streams
from npasbench.api import BudgetTooSmall, Findings, Knobs, LayerSpec, Method, Problem, SearchContext, SharedNetwork
from npasbench.errors import UsageError
from npasbench.method import EpochContext, Progress, Structure
from npasbench.sharing.agreement import Linkage
from npasbench.sharing.clusters import by_member, clusters_of, coarse_map
from npasbench.sharing.composed import Classes, ComposedWeights
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.network import build_shared, unshared_parameters
from npasbench.sharing.splitting import Evidence, Split, linked_classes
from npasbench.sharing.superweights import Cluster, Piece, full_templates, published_templates, published_within
from npasbench.sharing.unsharing import unshare

_LOWEST = -1.01
"""Every cosine lies above it, whatever its rounding: with this threshold every coarse cluster is whole."""


class SuperweightKnobs(Knobs):
    """The release's settings, its flags in brackets.

    ``bins`` [param_group_bins] coarse clusters for the deepest member; ``linear`` composes linear layers too, attention's
    projections and the classifier included. ``allocation`` is how the budget becomes templates: ``full`` uses all of it,
    ``published`` is the release's rule, with at most 8 templates; by default full, but published where a task counts as
    the papers do.

    ``phase``: ``search`` is the method; ``coarse`` the network before the search, where the layers of a bin start with
    the same coefficients; ``untied`` the same with coefficients of their own. ``clusters`` is a map that was found before,
    a list for each member with the cluster of each of its layers, and replaces the search; layers then start with
    coefficients of their own.

    Search: ``search_epochs`` [group_split_epochs] with tied coefficients, then the gradients of ``batches`` mini-batches
    (published: 1); layers stay together above ``threshold`` [group_split_threshold_start], lowered by ``decrement`` while
    the clusters do not fit the budget. ``linkage`` is average linkage or the release's order-dependent rule. Layers of
    other members start with the coefficients of the layer that they are ``linked`` to [coefficient_share], if their
    gradients' cosine exceeds ``link_threshold`` [group_split_coeff_threshold].

    Training: after epoch ``unshare_epoch`` [coefficient_unshare_epochs] (0: never), and then every ``unshare_gap`` epochs
    (0: once), layers that mix alike get coefficients of their own where their gradients' cosine is not above
    ``unshare_threshold``. ``initial``: ``he`` starts every layer at its architecture's own deviation (layers with
    common coefficients at their mean square), ``published`` at sqrt(2 / 9).
    """

    bins: PositiveInt = 4
    linear: bool = False
    allocation: Literal["full", "published"] | None = None
    phase: Literal["search", "coarse", "untied"] = "search"
    clusters: tuple[tuple[NonNegativeInt, ...], ...] | None = None
    search_epochs: PositiveInt = 20
    batches: PositiveInt = 8
    threshold: float = Field(0.1, ge=-1, le=1)
    decrement: float = Field(0.05, ge=0.001, le=2)
    linkage: Linkage = "average"
    linked: bool = True
    link_threshold: float | None = Field(None, ge=-1, le=1)
    unshare_epoch: NonNegativeInt = 10
    unshare_gap: NonNegativeInt = 0
    unshare_threshold: float = Field(0.9, ge=-1, le=1)
    initial: Literal["he", "published"] = "he"

    @field_validator("clusters", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if value is not None and not (
            isinstance(value, list | tuple) and value and all(isinstance(own, list | tuple) and own for own in value)
        ):
            raise ValueError(
                "expected a list for each member with a cluster number for each layer, such as [[0, 0, 1]]"
            )
        return value


class Superweight(Method):
    """Layers composed from shared SuperWeights; gradients decide who shares. Any budget from the smallest composition up."""

    knobs = SuperweightKnobs
    cite = """@inproceedings{teterwak2024learning,
  title = {Learning to Compose {SuperWeights} for Neural Parameter Allocation Search},
  author = {Teterwak, Piotr and Nelson, Soren and Dryden, Nikoli and Bashkirova, Dina and Saenko, Kate and Plummer, Bryan A.},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision},
  year = {2024}
}"""

    def skip(self, problem: Problem) -> str | None:
        """A network without layers to compose."""
        with torch.device("meta"):
            layers = [layer for layer in shareable_layers(problem.create(), problem.excluded) if self.composes(layer)]
        if layers:
            return None
        return "it has no convolution to compose" + (
            " and no linear layer" if self.settings.linear else "; try linear=true"
        )

    def composes(self, layer: LayerSpec) -> bool:
        """Whether a layer is composed: convolutions, and by a knob linear layers."""
        return layer.kind == "convolution" or (self.settings.linear and layer.kind in ("linear", "attention"))

    # Section 3.2: who shares

    def needs_search(self) -> bool:
        """Only the search phase without a given map searches."""
        return bool(self.settings.phase == "search" and self.settings.clusters is None)

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """Train with tied coefficients, and split the clusters whose layers' gradients disagree."""
        one = self.settings
        with streams.global_stream(context.seed, "search"):
            network = problem.create()
        layers = [layer for layer in shareable_layers(network, problem.excluded) if self.composes(layer)]
        members = by_member(layers)
        coarse = coarse_map(members, one.bins)
        exact = problem.budget.accounting == "bank"
        available = problem.budget.parameters - (0 if exact else unshared_parameters(network, layers))
        least = self.least(members, Split(coarse, []), exact, tied=True)
        if least > available:
            raise BudgetTooSmall(smallest=problem.budget.parameters + least - available)
        weights = self.composed(
            layers, Split(coarse, []), available, exact, tied=True, rng=streams.generator(context.seed, "search")
        )
        weights.keeps_classes, weights.listening = True, False
        trained = context.train("clusters", SharedNetwork(network, layers, weights), epochs=one.search_epochs)
        generator: ComposedWeights = trained.generator  # type: ignore[assignment]
        generator.weight_gradients = {}
        context.accumulate(trained, batches=one.batches)
        depths = [_depth(problem, member, own) for member, own in enumerate(members)]
        evidence = Evidence(members, generator.weight_gradients, coarse, depths)
        split, threshold = self.affordable(evidence, members, available, exact)
        return Findings({"clusters": split.clusters, "links": split.links, "threshold": threshold})

    def affordable(
        self, evidence: Evidence, members: Sequence[Sequence[LayerSpec]], available: int, exact: bool
    ) -> tuple[Split, float | None]:
        """The split at the highest threshold whose clusters fit the budget; the coarse bins, and None, if none does."""
        one, threshold = self.settings, self.settings.threshold
        while True:
            split = evidence.split(threshold, one.linkage, one.link_threshold)
            if self.least(members, split, exact) <= available:
                return split, threshold
            if threshold <= _LOWEST:
                return Split(evidence.coarse, split.links), None
            threshold = max(_LOWEST, threshold - one.decrement)

    def least(self, members: Sequence[Sequence[LayerSpec]], split: Split, exact: bool, *, tied: bool = False) -> int:
        """What one template of every SuperWeight of a split costs, with its coefficients unless only templates count."""
        clusters = clusters_of(members, split.clusters)
        pieces = self.pieces(clusters, linked_classes(clusters, members, split.links, tied))
        return sum(piece.size if exact else piece.cost for piece in pieces)

    # Section 3.1: what layers are composed of

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> SharedNetwork:
        """As many templates as the budget allows once norms, classifiers and coefficients are counted."""
        exact = problem.budget.accounting == "bank"  # the paper's budget is for templates alone

        def make(layers: Sequence[LayerSpec], parameters: int) -> ComposedWeights:
            split = self.split(by_member(layers), findings)
            weights = self.composed(layers, split, parameters, exact, tied=self.settings.phase == "coarse", rng=rng)
            weights.searched = {"threshold": findings.facts["threshold"]} if "threshold" in findings.facts else {}
            return weights

        return build_shared(problem, make, self.composes)

    def split(self, members: Sequence[Sequence[LayerSpec]], findings: Findings) -> Split:
        """The clusters and links: as found, as given, or coarse.

        Raises:
            UsageError: without the findings of a search that the knobs ask for.
        """
        if self.settings.clusters is not None:
            return Split([list(numbers) for numbers in self.settings.clusters], [])
        if self.settings.phase != "search":
            return Split(coarse_map(members, self.settings.bins), [])
        if "clusters" not in findings.facts:
            raise UsageError(
                "phase = search needs the search of a run (npasbench run ...). To look at or share a model without it, set "
                "phase = untied or phase = coarse, or give a map that was found before: clusters = [[0, 1, ...], ...]."
            )
        links = findings.facts["links"] if self.settings.linked else []
        return Split(
            findings.facts["clusters"], [[None if one is None else tuple(one) for one in own] for own in links]
        )

    def composed(
        self,
        layers: Sequence[LayerSpec],
        split: Split,
        parameters: int,
        exact: bool,
        *,
        tied: bool,
        rng: torch.Generator,
    ) -> ComposedWeights:
        """Templates and coefficients for the clusters of a split, within ``parameters``.

        Raises:
            BudgetTooSmall: with the smallest ``parameters``.
        """
        members = by_member(layers)
        clusters = clusters_of(members, split.clusters)
        classes = linked_classes(clusters, members, split.links, tied)
        counts = self.counts(clusters, classes, parameters, exact)
        weights = ComposedWeights(layers, clusters, counts, classes, he=self.settings.initial == "he", rng=rng)
        weights.listening = self._unshares(weights) and self._unshares_after(0)
        return weights

    def counts(self, clusters: Sequence[Cluster], classes: Classes, parameters: int, exact: bool) -> list[list[int]]:
        """The templates of each cluster's SuperWeights, with room for all coefficients that unsharing may add."""
        pieces = self.pieces(clusters, classes)
        rule = self.settings.allocation or ("published" if exact else "full")
        if rule == "full" and parameters > 0:
            flat = full_templates(pieces, parameters, counts_coefficients=not exact)
        elif exact:
            flat = published_templates(pieces, parameters)
        else:
            flat = published_within(pieces, parameters)
        rest: Iterator[int] = iter(flat)
        return [[next(rest) for _ in cluster.sizes] for cluster in clusters]

    def pieces(self, clusters: Sequence[Cluster], classes: Classes) -> list[Piece]:
        """All SuperWeights, with room for the coefficients that unsharing may add."""
        return [
            Piece(size, len(cluster.users(index)), self._most_rows(classes[f"{number}_{index}"]))
            for number, cluster in enumerate(clusters)
            for index, size in enumerate(cluster.sizes)
        ]

    # Step 2 of section 3.2: coefficients during training

    def final_count(self, network: nn.Module) -> int:
        """The count once every layer has coefficients of its own, if unsharing may come to that."""
        weights: ComposedWeights = network.generator  # type: ignore[assignment]
        more = sum(
            (self._most_rows(numbers) - max(numbers) - 1) * weights.stores[key].templates
            for key, numbers in weights.classes.items()
        )
        return super().final_count(network) + more

    def after_step(self, network: nn.Module, progress: Progress) -> None:
        """Listen to the coefficients' gradients in every epoch that unsharing follows."""
        weights: ComposedWeights = network.generator  # type: ignore[assignment]
        epoch = progress.step * progress.epochs // progress.steps
        weights.listening = self._unshares(weights) and self._unshares_after(epoch)

    def after_epoch(self, network: nn.Module, context: EpochContext) -> None:
        """Unshare, if this is the epoch."""
        weights: ComposedWeights = network.generator  # type: ignore[assignment]
        if self._unshares(weights) and self._unshares_after(context.progress.epoch):
            unshare(weights, context.optimizer, self.settings.unshare_threshold, self.settings.linkage)

    def structure(self, network: nn.Module) -> Structure:
        """Who mixes alike at present."""
        weights: ComposedWeights = network.generator  # type: ignore[assignment]
        return Structure(facts={"classes": weights.classes, "listening": weights.listening})

    def restore(self, network: nn.Module, structure: Structure) -> None:
        """Let the same layers mix alike."""
        weights: ComposedWeights = network.generator  # type: ignore[assignment]
        weights.set_classes(structure.facts["classes"])
        weights.listening = structure.facts["listening"]

    def allocation(self, network: nn.Module) -> dict[str, Any]:
        """Clusters, their SuperWeights, and the layers composed of them; after a search the threshold that it ended with."""
        weights: ComposedWeights = network.generator  # type: ignore[assignment]
        return {"clusters": weights.described(), **weights.searched}

    def side_information_bits(self, network: nn.Module) -> int:
        """The cluster of each layer, and for each SuperWeight the class of each user."""
        weights: ComposedWeights = network.generator  # type: ignore[assignment]
        clusters = len(weights.layers) * _bits(len(weights.clusters))
        return clusters + sum(len(numbers) * _bits(max(numbers) + 1) for numbers in weights.classes.values())

    def _unshares(self, weights: ComposedWeights) -> bool:
        """Whether there is anything left to unshare."""
        return not weights.keeps_classes and any(
            max(numbers) + 1 < len(numbers) for numbers in weights.classes.values()
        )

    def _unshares_after(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is one that unsharing follows."""
        done, first, gap = epoch + 1, self.settings.unshare_epoch, self.settings.unshare_gap
        return bool(first) and (done == first or (gap > 0 and done > first and done % gap == 0))

    def _most_rows(self, numbers: Sequence[int]) -> int:
        """The most classes that a SuperWeight may have at the end of training."""
        return len(numbers) if self.settings.unshare_epoch else max(numbers) + 1


def _depth(problem: Problem, member: int, layers: Sequence[LayerSpec]) -> object:
    """Equal for members of one depth: the family's depth setting where it has one, else the layers' names."""
    architecture = problem.architectures[member]
    if architecture.depth is not None and architecture.depths:
        return architecture.depth, architecture.depths
    return tuple(layer.name.split(".", 2)[-1] if layer.name.startswith("members.") else layer.name for layer in layers)


def _bits(number: int) -> int:
    return max(0, math.ceil(math.log2(number)))
