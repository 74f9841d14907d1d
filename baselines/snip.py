"""Lee, Ajanthan & Torr, "SNIP: Single-shot network pruning based on connection sensitivity" (ICLR 2019).

Before training, a mask of ones on every weight is asked how the loss of a mini-batch changes with it; the weights whose
mask matters most remain (section 4, Algorithm 1). Initial weights are the architecture's own, but for the gains of norms
that start at zero, as behind residual branches of many networks: the paper's networks have none, and nothing behind them
has a gradient. They are one while the scores are computed, and zero again when training begins.
"""

from __future__ import annotations

from pydantic import PositiveInt

from npasbench.api import Findings, Knobs, Problem, SearchContext
from npasbench.pruning.gains import gains_at_one
from npasbench.pruning.masks import largest, ranked
from npasbench.pruning.method import PruningMethod, found, initial
from npasbench.pruning.scores import snip


class SnipKnobs(Knobs):
    """``batches`` of training data whose gradients are added up; the paper takes one."""

    batches: PositiveInt = 1


class Snip(PruningMethod):
    """Keeps the weights of the largest ``|gradient * weight|`` over the whole network, before it is trained."""

    knobs = SnipKnobs
    cite = """@inproceedings{lee2019snip,
  title = {{SNIP}: Single-shot network pruning based on connection sensitivity},
  author = {Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""

    def search(self, problem: Problem, context: SearchContext) -> Findings:
        """Algorithm 1 up to its masks: sensitivities on the initial network, zero gains at one, of which the largest remain.

        Raises:
            LayerCollapse: if nothing of a layer remains, or a layer gets no gradient.
        """
        network = initial(problem, context.seed)
        with gains_at_one(network):
            sensitivity = snip(network.weights, context.losses(network, batches=self.settings.batches))
        return found(largest(ranked(sensitivity, self.name), network.keep))
