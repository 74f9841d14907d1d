"""Trainings for one process or a team of two, in float64, where nothing but the order of sums differs.

A module of its own, since the processes that are started import it by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from npasbench.baselines.dense import Dense
from npasbench.card import Recipe, read_card
from npasbench.data import describe, load
from npasbench.data.batches import Batches
from npasbench.networks import architecture
from npasbench.training.loop import EpochRow, Training
from npasbench.training.team import Team

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A training to be done by one process and by two."""

    network: str
    batch_size: int
    norm_images: int | None
    epochs: int = 2


CASES = {
    "transformer": Case("row-transformer", 50, None, epochs=3),
    "transformer, last batch of 3": Case("row-transformer", 49, None),
    "half of each batch": Case("wrn-10-1", 50, 25),
    "last part smaller": Case("wrn-10-1", 40, 20),  # batches of 40 and 30: parts of 20+20 and 20+10
    "three parts": Case("wrn-10-1", 40, 15),  # 15+15+10 and 15+15
    "one image left": Case("wrn-10-1", 43, 21),  # 21+22 and one part of 21
}


class Quiet:
    """An observer of nothing but the mean losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_epoch(self, _: Training, row: EpochRow) -> None:
        self.losses.append(row.loss)

    def after_step(self, _: Training) -> None:
        pass


def train(case: Case, team: Team | None = None) -> dict[str, Tensor]:
    """The weights and statistics after training, and the losses."""
    card = read_card(ROOT / "tasks" / "digits15-transformer.toml")
    if case.network.startswith("wrn"):
        card = read_card(ROOT / "tasks" / "digits15-wrn-10-1.toml")
    recipe = Recipe.model_validate(
        {
            **card.recipe.model_dump(),
            "epochs": case.epochs,
            "batch_size": case.batch_size,
            "norm_images": case.norm_images,
        }
    )
    data = load(card.data, seed=0)
    data = replace(data, train_inputs=data.train_inputs.double(), test_inputs=data.test_inputs.double())
    classes, shape = describe(card.data)
    torch.manual_seed(0)
    network = architecture(case.network, classes=classes, input_shape=shape).create().double()
    batches = Batches(data, card.data, recipe.batch_size, 0, CPU)
    observer = Quiet()
    Training(Dense(), network, recipe, batches, CPU, team).run(observer)
    return {**network.state_dict(), "losses": torch.tensor(observer.losses, dtype=torch.float64)}


def join_and_train(rank: int, size: int, folder: Path) -> None:
    """The main function of one process of a team: every case, one after another."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    team = Team.join(rank, size, folder / "meeting", CPU)
    torch.save({name: train(case, team) for name, case in CASES.items()}, folder / f"rank{rank}.pt")
    team.leave()
