"""Magnitude pruning: the smallest blocks go."""

import dataclasses

import numpy as np

from smart_tf.methods.base import Method, check


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
        per_layer: Whether every kernel reaches the sparsity by itself, to about one
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
        check(self, self.updates >= 1, "updates", ">= 1")
        check(self, self.power > 0, "power", "positive")
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
        return _ranks(scores, weight_mask.costs) if self.per_layer else scores


def _ranks(scores, costs):
    """Minus the share of a kernel that a block and all larger ones make up.

    Ranked by this, blocks of all layers go in the same proportion.
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    ranks = np.empty(scores.size)
    ranks[order] = -np.cumsum(costs.ravel()[order]) / costs.sum()
    return ranks.reshape(scores.shape)
