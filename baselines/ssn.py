"""Plummer, Dryden, Frost, Hoefler & Saenko, "Neural Parameter Allocation Search" (ICLR 2022, arXiv 2006.10598).

Shapeshifter Networks. (a) Layers are mapped to groups, by hand or by what they learn in a throw-away network (section
3.2); (b) each group owns one flat bank, and each of its layers reads templates from it: mixed with coefficients where the
bank is large enough, taken as they are where it holds one, upsampled where it is smaller than the layer (section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from npasbench import streams
from npasbench.api import BudgetTooSmall, Findings, Knobs, LayerSpec, Method, Problem, SearchContext, SharedNetwork
from npasbench.errors import UnknownName, UsageError
from npasbench.sharing import grouping
from npasbench.sharing.generate import DIMENSIONS, BankedWeights, Share, described
from npasbench.sharing.initial import normal
from npasbench.sharing.layers import shareable_layers
from npasbench.sharing.learning import BANK_STD, LearningWeights
from npasbench.sharing.network import WeightGenerator, build_shared
from npasbench.sharing.placement import Block, by_frequency, place_blocks
from npasbench.sharing.store import Division, Extras, Group
from npasbench.sharing.upsample import Stretch, TooSmall, Upsampling
from npasbench.sharing.warping import TEMPLATES, smallest_bank

GROUPINGS = ("single", "random", "type", "shape", "learned", "learning", *(f"manual-{t}" for t in grouping.TABLES))


class SsnKnobs(Knobs):
    """The release's settings, under the paper's names; its flags in brackets.

    ``share`` [share_type] is how templates are mixed, ``max_templates`` [bank_size] the most that a layer mixes.
    ``upsample`` and ``window`` [upsample_type, upsample_window] say what a layer larger than its bank does. ``groups``
    [param_groups, param_group_type] is one of GROUPINGS or a list with a group number for each layer; ``learning`` is
    the throw-away network itself. ``group_count`` is P for random and learned groups. ``search_bank``
    [param_group_max_params, published: 5000000] is by default the smaller of that and twice the dense network.
    """

    share: Share = "wavg"
    max_templates: PositiveInt = 8
    upsample: Upsampling = "inter"
    window: PositiveInt = 1
    groups: str | tuple[int, ...] = "single"
    group_count: PositiveInt = 4
    search_share: Literal["wavg", "emb"] = "emb"
    search_bank: PositiveInt | None = None
    search_epochs: PositiveInt = 15
    search_milestones: tuple[PositiveInt, ...] = (8, 13)
    search_factor: PositiveFloat = 0.1

    @field_validator("groups", mode="before")
    @classmethod
    def _no_number(cls, value: object) -> object:
        if not isinstance(value, str) and not (isinstance(value, list | tuple) and all(type(g) is int for g in value)):
            raise ValueError(
                f"expected one of {', '.join(GROUPINGS)}, or a list with a whole number for each layer; the release's 0 is "
                "type here, its -1 shape, and its n random or learned with group_count = n"
            )
        return value

    @field_validator("groups")
    @classmethod
    def _known(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(value, str) and value not in GROUPINGS:
            raise ValueError(
                f"{UnknownName('grouping', value, GROUPINGS)} Or give a list, a group number for each layer"
            )
        if not isinstance(value, str) and sorted(set(value)) != list(range(len(set(value)))):
            raise ValueError("a list of groups numbers them 0, 1, 2 and so on, without a gap")
        return value

    @model_validator(mode="after")
    def _heard(self) -> Self:
        """No knob is given that would do nothing."""
        late = [epoch for epoch in self.search_milestones if epoch >= self.search_epochs]
        if late:
            raise ValueError(
                f"search_milestones {list(self.search_milestones)} lower the rate at epoch {late[0]}, which a search of "
                f"{self.search_epochs} epochs does not reach; set both, such as search_epochs = 15 and "
                "search_milestones = [8, 13]"
            )
        if self.groups == "learning" and self.share == "avg":
            raise ValueError(
                "groups = learning mixes with what is learned, so share is wavg or emb, not avg; set one of them"
            )
        if self.groups == "learning" and self.upsample != "inter":
            raise ValueError(
                f"groups = learning resizes every layer bilinearly, so upsample is inter, not {self.upsample}; leave it out"
            )
        return self


class Ssn(Method):
    """Shapeshifter Networks: layers draw templates from shared banks, whatever their shapes; any budget, any network."""

    knobs = SsnKnobs
    cite = """@inproceedings{plummer2022neural,
  title = {Neural Parameter Allocation Search},
  author = {Plummer, Bryan A. and Dryden, Nikoli and Frost, Julius and Hoefler, Torsten and Saenko, Kate},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}"""

    # Section 3.2: which layers share

    def needs_search(self) -> bool:
        """Only learned groups are searched for."""
        return bool(self.settings.groups == "learned")

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """Train a network in which every layer mixes the same templates, and cluster what the layers have learned.

        Raises:
            UsageError: if ``search_bank`` is too small for the network's layers.
        """
        one = self.settings
        bank = one.search_bank or min(5_000_000, 2 * problem.budget.dense)
        with streams.global_stream(context.seed, "search"):
            network = problem.create()
        layers = shareable_layers(network, problem.excluded)
        _enough(bank, layers)
        rng = streams.generator(context.seed, "search")
        shared = SharedNetwork(network, layers, LearningWeights(layers, bank, one.search_share, rng))
        trained = context.train(
            "groups", shared, epochs=one.search_epochs, milestones=one.search_milestones, factor=one.search_factor
        )
        vectors = trained.generator.vectors().cpu()  # type: ignore[union-attr,operator]
        seed = streams.stream_seed(context.seed, "groups")
        groups = grouping.by_similarity(vectors, one.group_count, seed, standardised=self.standardised)
        return Findings({"groups": groups}, {"vectors": vectors})

    def grouped(self, layers: Sequence[LayerSpec], findings: Findings, rng: torch.Generator) -> list[int]:
        """A group number for each layer.

        Raises:
            UsageError: for a list of another length, a table of another network, or learned groups without a search.
        """
        wanted = self.settings.groups
        if wanted == "learned":
            return _found(layers, findings)
        if wanted == "random":
            return grouping.at_random(len(layers), self.settings.group_count, rng)
        if wanted == "type":
            return grouping.by_class(layers)
        if wanted == "shape":
            return grouping.by_class_and_shape(layers)
        if isinstance(wanted, str):
            return grouping.by_table(wanted.removeprefix("manual-"), layers) if "-" in wanted else [0] * len(layers)
        if len(wanted) != len(layers):
            raise UsageError(
                f"groups holds {len(wanted)} numbers; this network has {len(layers)} shareable layers. "
                "'npasbench inspect' lists them; give a number for each."
            )
        return list(wanted)

    # Section 3.1: what each layer reads

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> SharedNetwork:
        """Banks as large as the budget allows once norms, biases and coefficients are counted."""
        exact = problem.budget.accounting == "bank"  # the paper's budget is the store itself
        return build_shared(problem, lambda layers, parameters: self.weights(layers, parameters, findings, rng, exact))

    def weights(
        self, layers: Sequence[LayerSpec], parameters: int, findings: Findings, rng: torch.Generator, exact: bool
    ) -> WeightGenerator:
        """A generator with a store of exactly ``parameters``, or the largest that fits them with its coefficients.

        Raises:
            BudgetTooSmall: with the smallest ``parameters``.
        """
        if self.settings.groups == "learning":
            return self._learning(layers, parameters, rng, exact)
        groups = self.divided(self.division(layers, self.grouped(layers, findings, rng)), parameters, exact)
        return self.generator(groups, rng)

    def divided(self, division: Division, parameters: int, exact: bool) -> list[Group]:
        """The groups of a store of exactly ``parameters``, or of the largest that fits them with its coefficients.

        Raises:
            BudgetTooSmall: with the smallest ``parameters``.
        """
        if not exact:
            return division.largest(parameters)
        try:
            return division.at(parameters)
        except TooSmall:
            raise BudgetTooSmall(smallest=division.smallest(parameters)) from None

    def division(self, layers: Sequence[LayerSpec], numbers: Sequence[int]) -> Division:
        """How a store is divided among groups by the release's rule, and what coefficients cost beside it."""
        sliding = self.settings.groups in ("type", "shape")
        order = [[layer for layer, one in zip(layers, numbers, strict=True) if one == n] for n in sorted(set(numbers))]
        if sliding:  # the release registers these anew, shape after shape
            order = [_shape_after_shape(group) for group in order]
        return Division(tuple(map(tuple, order)), lambda shapes, bank: self.place(shapes, bank, sliding), self.extras)

    def place(self, shapes: Sequence[tuple[int, ...]], bank: int, sliding: bool) -> list[Block]:
        """Each layer's block of its group's bank."""
        return place_blocks(shapes, bank, self.most(shapes, bank), self.stretch, sliding=sliding)

    def most(self, shapes: Sequence[tuple[int, ...]], bank: int) -> list[int]:  # noqa: ARG002
        """The most templates that each layer of a group mixes."""
        return [self.settings.max_templates] * len(shapes)

    def extras(self, groups: Sequence[Group]) -> Extras:
        """What generating weights costs beside the banks: coefficients or embeddings, projections, upsamplers."""
        rising = falling = other = 0
        for group in groups:
            counts = [block.templates for block in group.blocks if block.templates > 1]
            if self.settings.share == "wavg":
                rising += sum(counts)
            elif self.settings.share == "emb":
                rising += DIMENSIONS * len(counts)
                other += sum((DIMENSIONS + 1) * k for k in set(counts))
            copies = [block.copies for block in group.blocks if block.copies is not None]
            falling += sum(math.prod(self.stretch.parameters(number)) for number in copies)
        return Extras(rising, falling, other)

    def generator(self, groups: Sequence[Group], rng: torch.Generator) -> BankedWeights:
        """Banks and coefficients with their initial values, by the release's rule."""
        weights = BankedWeights(groups, self.settings.share, self.stretch, rng)
        with torch.no_grad():
            for index, group in enumerate(groups):
                if not group.dense:
                    weights.bank[str(index)].copy_(_kaiming_bank(group, rng))
        return weights

    def allocation(self, network: nn.Module) -> dict[str, Any]:
        """Groups, their banks, and each layer's block."""
        weights: BankedWeights | LearningWeights = network.generator  # type: ignore[assignment]
        if isinstance(weights, LearningWeights):
            return {"groups": weights.described()}
        return {"groups": described(weights.groups, network.layers)}  # type: ignore[arg-type]

    def side_information_bits(self, network: nn.Module) -> int:
        """The group of each layer."""
        groups = len(self.allocation(network)["groups"])
        return len(network.layers) * max(0, math.ceil(math.log2(groups)))  # type: ignore[arg-type]

    def _learning(
        self, layers: Sequence[LayerSpec], parameters: int, rng: torch.Generator, exact: bool
    ) -> LearningWeights:
        share: Literal["wavg", "emb"] = self.settings.share
        extras = TEMPLATES * len(layers) if share == "wavg" else DIMENSIONS * len(layers) + (DIMENSIONS + 1) * TEMPLATES
        bank = parameters - (0 if exact else extras)
        smallest = smallest_bank([layer.shape for layer in layers])
        if bank < smallest:
            raise BudgetTooSmall(smallest=smallest + parameters - bank)
        return LearningWeights(layers, bank, share, rng)

    @property
    def stretch(self) -> Stretch:
        """The upsampling of layers larger than their bank."""
        return Stretch(self.settings.upsample, self.settings.window)

    @property
    def standardised(self) -> bool:
        """Whether learned groups are clustered by standardised vectors; published: raw."""
        return False


def _enough(bank: int, layers: Sequence[LayerSpec]) -> None:
    smallest = smallest_bank([layer.shape for layer in layers])
    if bank < smallest:
        raise UsageError(
            f"The search resizes four templates of one bank to every layer; its bank of {bank:,} is too small for this "
            f"network, which needs {smallest:,}. Set search_bank to that or more."
        )


def _found(layers: Sequence[LayerSpec], findings: Findings) -> list[int]:
    groups = findings.facts.get("groups")
    if groups is None:
        raise UsageError(
            "groups = learned needs the search of a run (npasbench run ...). To look at or share a model with a map that "
            "was found before, give it as a list: groups = [0, 1, ...], one number for each layer."
        )
    if len(groups) != len(layers):
        raise UsageError(f"The search found groups for {len(groups)} layers; this network has {len(layers)}.")
    return [int(group) for group in groups]


def _shape_after_shape(layers: Sequence[LayerSpec]) -> list[LayerSpec]:
    shapes = list(dict.fromkeys(layer.shape for layer in layers))
    return sorted(layers, key=lambda layer: shapes.index(layer.shape))


def _kaiming_bank(group: Group, rng: torch.Generator) -> Tensor:
    """Kaiming-normal for a 3x3 kernel everywhere, then for each layer over its block; the commonest shape comes last."""
    bank = normal(group.bank, std=BANK_STD, rng=rng)
    blocks: dict[tuple[int, int, float], None] = {}
    for position in by_frequency([layer.shape for layer in group.layers]):
        layer, block = group.layers[position], group.blocks[position]
        if not block.upsampled:
            blocks.setdefault((block.start, block.end, math.sqrt(2 / layer.fan_in)))
    for start, end, std in reversed(blocks):
        bank[start:end] = normal(end - start, std=std, rng=rng)
    return bank
