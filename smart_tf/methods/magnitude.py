"""Magnitude pruning: the smallest blocks go."""

import dataclasses

import numpy as np

from smart_tf.methods.base import Method
from smart_tf.methods.settings import check, check_count, check_number


@dataclasses.dataclass(frozen=True)
class Magnitude(Method):
    """Prunes the blocks of the smallest weights, gradually or at once.

    Gradually, the sparsity rises from 0 at the beginning of the search to the target
    at its end, as `s(p) = r * (1 - (1 - p) ** power)` for the share `p` of the search
    that is over. The masks are found anew `updates` times; between two of them the
    pruned weights stay zero. At once, all of them go when the search begins. An N:M
    pattern has no in-between: it is whole after the first update.

    Args:
        gradual: Whether the sparsity rises over the search.
        per_layer: Whether every kernel reaches its sparsity by itself, to about one
            block; the blocks of all layers together reach it to one block even so.
            By default the blocks of all layers compete.
        updates: Integer >= 1, how many times the sparsity rises.
        power: Number > 0, the exponent.
        reduction: `"mean"`, `"rms"`, `"max"` or `"sum"` of the magnitudes in a block.
            Channels that run through several layers are ranked by `"rms"` always.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    gradual: bool = True
    per_layer: bool = False
    updates: int = 20
    power: float = 3.0
    reduction: str = "mean"

    ranks_channels = True

    def __post_init__(self):
        reductions = ("mean", "rms", "max", "sum")
        check_count(self, "updates")
        check_number(self, "power", lambda power: power > 0, "> 0")
        check(self, self.reduction in reductions, "reduction", f"one of {reductions}")

    def supports(self, structure, coupled=False):
        if coupled and self.per_layer:
            return "channels that run through several layers belong to none of them"
        return super().supports(structure, coupled)

    def milestones(self):
        if not self.gradual:
            return (0.0,)
        return tuple(k / self.updates for k in range(1, self.updates))

    def update(self, ranking, index):
        done = (index + 1) / self.updates if self.gradual else 1.0
        ranking.prune(1.0 - (1.0 - done) ** self.power)

    def final_scores(self, weight_mask):
        scores = weight_mask.scores(self.reduction)
        if not self.per_layer:
            return scores
        return _ranks(scores, weight_mask.costs, weight_mask.sparsity)


def _ranks(scores, costs, sparsity):
    """How far each block is from going when its kernel is as sparse as it shall be.

    In parts of the kernel's sparsity: ranked by this, all kernels are at the same share
    of their own sparsities, whatever share is asked for.
    """
    if sparsity == 0:
        return np.full(scores.shape, np.inf)
    order = np.argsort(-scores, axis=None, kind="stable")
    ranks = np.empty(scores.size)
    # What a block and all larger ones make up, against what is to stay of the kernel.
    made_up = np.cumsum(costs.ravel()[order]) / costs.sum()
    ranks[order] = ((1.0 - sparsity) - made_up) / sparsity
    return ranks.reshape(scores.shape)
