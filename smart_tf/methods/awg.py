"""Accumulated weight and gradient: magnitudes times gradients, over many batches."""

import dataclasses

import numpy as np
import tensorflow as tf

from smart_tf.methods.base import Method
from smart_tf.methods.masks import straight_through
from smart_tf.methods.settings import check_count, check_number, sgd


@dataclasses.dataclass(frozen=True)
class AWG(Method):
    """Prunes in several steps, by importances measured while the weights are held.

    Each step has two parts (algorithm 3, appendix G of the SMART paper). First the
    kernels stay as they are, and the importance of a block is the moving average

        E <- decay * E + (1 - decay) * sum over the block of |w * dL/dw|

    over the batches. Then the least important blocks of all layers go, an equal part
    of the sparsity in every step, and the weights are trained on. What is pruned stays
    so. Blocks are ranked by the mean of `E` over their weights, times a factor that
    favours layers that are sparse already: one over the share of the kernel that is
    left, since the paper gives no formula.

    `E` takes the place of the logits, and plain SGD with weight decay 1 does the
    averaging: `E <- E - (1 - decay) * (E + g)` with `g = -sum |w * dL/dw|`. Biases and
    normalisations, which are not pruned, are trained all the time. Holding takes a copy
    of every kernel. Channels that run through several layers have the sum of the
    importances of their slices; behind a normalisation those are its scale and offset.
    N:M structures are refused: their groups do not compete for a common budget.

    Args:
        steps: Integer >= 1, how many times blocks are pruned.
        calibration: Float in (0, 1), share of each step in which kernels are held.
            One pass over the data is what the paper takes.
        decay: Float in [0, 1), of the moving average.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        - [Zhu et al., 2024](https://arxiv.org/abs/2403.19969), appendix G
    """

    steps: int = 5
    calibration: float = 0.25
    decay: float = 0.9

    has_logits = True
    keeps_mask_optimizer = True
    ranks_channels = True

    def __post_init__(self):
        check_count(self, "steps")
        check_number(self, "calibration", lambda part: 0 < part < 1, "in (0, 1)")
        check_number(self, "decay", lambda decay: 0 <= decay < 1, "in [0, 1)")

    def slots(self, weights, grid):
        """`held`: the kernel as it is held; `holding`: whether it is."""
        return {"held": np.zeros_like(weights), "holding": np.array(0.0, np.float32)}

    def milestones(self):
        parts = (0.0, self.calibration)
        return tuple(
            (k + part) / self.steps for k in range(self.steps) for part in parts
        )

    def update(self, ranking, index):
        step, calibrated = divmod(index, 2)
        if calibrated:
            ranking.prune((step + 1) / self.steps)
        for mask in ranking.masks:
            mask.slots["held"].assign(mask.weight.variable.numpy())
            mask.slots["holding"].assign(0.0 if calibrated else 1.0)

    def soft_mask(self, weights, weight_mask, state):
        return straight_through(weight_mask.logits, weight_mask.mask)

    def mask_gradient(self, products):
        return -tf.abs(products)

    def constrain(self, weights, weight_mask):
        holding = tf.convert_to_tensor(weight_mask.slots["holding"]) > 0.0
        return tf.where(
            holding, tf.convert_to_tensor(weight_mask.slots["held"]), weights
        )

    def final_scores(self, weight_mask):
        mask, counts = weight_mask.mask.numpy(), weight_mask.counts
        importance = weight_mask.logits.numpy().astype("float64") / counts
        left = (mask * counts).sum() / counts.sum()
        # Before the first batch all are equally unimportant: magnitudes decide.
        return mask * (importance / left + 1e-12 * weight_mask.scores())

    def final_channel_scores(self, ranking):
        groups = ranking.lead.coupling.costs.group_of
        weights = np.maximum(ranking.channel_weights(), 1.0)
        stays = ranking.channel_shares([m.mask.numpy() for m in ranking.masks])
        left = np.bincount(groups, stays * weights) / np.bincount(groups, weights)
        importance = ranking.shared_logits().numpy() / weights / left[groups]
        return stays * (importance + 1e-12 * ranking.channel_magnitudes())

    def mask_optimizer_config(self):
        return sgd(learning_rate=1.0 - self.decay, momentum=0.0, weight_decay=1.0)
