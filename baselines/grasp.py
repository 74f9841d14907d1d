"""Wang, Zhang & Grosse, "Picking winning tickets before training by preserving gradient flow" (ICLR 2020).

Before training, each weight is asked how its removal changes the squared norm of the loss's gradient. To first order
removing w changes it by twice S(-w) = -w * (H g), H the Hessian and g the gradient (section 4). In this sign convention
weights of the largest S, whose removal reduces gradient flow least, go first; those of the smallest S, which have the
largest w * (H g), remain. Gains of norms that start at zero, which the paper's networks have none of, and behind which
nothing has a gradient, are one while the scores are computed, and zero again when training begins.
"""

from __future__ import annotations

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from npasbench.api import Findings, Knobs, Problem, SearchContext
from npasbench.pruning.gains import gains_at_one
from npasbench.pruning.masks import largest, ranked
from npasbench.pruning.method import PruningMethod, found, initial
from npasbench.pruning.scores import grasp


class GraspKnobs(Knobs):
    """``batches`` of training data, whose graphs are held together; logits are divided by ``temperature``.

    The default is one batch of the recipe; the paper takes ten examples of each class.
    """

    batches: PositiveInt = 1
    temperature: float = Field(200.0, gt=0)


class Grasp(PruningMethod):
    """Keeps the weights without which the gradient would shrink most, before the network is trained."""

    knobs = GraspKnobs
    cite = """@inproceedings{wang2020picking,
  title = {Picking winning tickets before training by preserving gradient flow},
  author = {Wang, Chaoqi and Zhang, Guodong and Grosse, Roger},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}"""

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """Algorithm 1 up to its masks: scores on the initial network, zero gains at one, of which the largest remain.

        Raises:
            LayerCollapse: if nothing of a layer remains, or a layer gets no gradient.
        """
        network = initial(problem, context.seed)
        tempered = Tempered(network, self.settings.temperature)
        with gains_at_one(network):
            scores = grasp(network.weights, context.losses(tempered, batches=self.settings.batches))
        return found(largest(ranked(scores, self.name), network.keep))


class Tempered(nn.Module):
    """``network`` with its logits divided by ``temperature``."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, ...] -> [batch, classes]``, of an ensemble ``[members, batch, classes]``."""
        logits: Tensor = self.network(inputs)
        return logits / self.temperature
