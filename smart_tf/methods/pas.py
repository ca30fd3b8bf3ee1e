"""Pruning as searching: binary masks with a straight-through gradient."""

import dataclasses

import tensorflow as tf

from smart_tf.methods.base import Method
from smart_tf.methods.masks import standardised, straight_through
from smart_tf.methods.settings import check_number, sgd
from smart_tf.theta import row_sum


@dataclasses.dataclass(frozen=True)
class PaS(Method):
    """Rounds a learned score of every block to a mask of 0 or 1.

    The mask is `b = round(s)`, and the gradient with respect to `b` is taken for that
    with respect to `s` (eq. 11 to 13 of the SMART paper, appendix E). What drives the
    masks towards the target is a term of the loss,

        strength * n * (sum(c b) / sum(c) - (1 - r)) ** 2

    for `n` blocks of cost `c`, or `n` channels of several layers, whose cost is that of
    the model when it is cut. Fine-tuning keeps the blocks of the largest scores,
    as many as the target allows.

    In a training loop of your own, add `sum(model.losses)` to the loss, as for any
    Keras model with regularizers. A `tf_keras` model that calls a pruned layer twice
    counts the term twice; so does, in the logged loss only, each replica of a
    distributed one. The best block of a kernel stays in any case.
    N:M structures are refused: their groups do not compete for a common budget.

    Args:
        strength: Float >= 0, which wants to be tuned: the masks reach the target
            during the search where it is large, and follow the loss where it is small.
        initial_spread: Float >= 0, standard deviation of the scores at the start,
            where they lie around 1 and follow the blocks' magnitudes.
        mask_learning_rate: Float >= 0, peak learning rate of the scores' own SGD,
            which follows the decay of the weights' learning rate.
        mask_momentum: Float in [0, 1), its momentum.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        - [Li et al., 2022](https://arxiv.org/abs/2206.01198)
    """

    strength: float = 3e-3
    initial_spread: float = 0.1
    mask_learning_rate: float = 1.0
    mask_momentum: float = 0.9

    has_logits = True
    ranks_channels = True
    behind_norms = True

    def __post_init__(self):
        for name in ("strength", "initial_spread", "mask_learning_rate"):
            check_number(self, name, lambda value: value >= 0, ">= 0")
        check_number(self, "mask_momentum", lambda value: 0 <= value < 1, "in [0, 1)")

    def initial_logits(self, scores):
        return [1.0 + s for s in standardised(scores, self.initial_spread)]

    def soft_mask(self, weights, weight_mask, state):
        return _binary(weight_mask)

    def penalty(self, ranking):
        excess = _channels_excess if ranking.lead is not None else _blocks_excess
        distance, count = excess(ranking)
        return self.strength * count * tf.square(distance)

    def final_scores(self, weight_mask):
        return weight_mask.logits.numpy().astype("float64")

    def mask_optimizer_config(self):
        return sgd(learning_rate=self.mask_learning_rate, momentum=self.mask_momentum)


def _binary(weight_mask):
    """The kernel's mask, 0 or 1, of the grid's shape: never all 0."""
    scores = tf.convert_to_tensor(weight_mask.logits)
    on = (scores > 0.5) | (scores >= tf.reduce_max(scores))
    return straight_through(scores, tf.cast(on, tf.float32))


def _channels_excess(ranking):
    """What the open masks cost beyond the budget, as a fraction of the full cost; and
    how many channels there are."""
    coupling, scores = ranking.lead.coupling, ranking.shared_logits()
    on = straight_through(scores, tf.cast(scores > 0.5, tf.float32))
    aim = coupling.budget / coupling.costs.total()
    return coupling.share_spent(on) - aim, coupling.size


def _blocks_excess(ranking):
    """The same for the blocks of kernels."""
    kept, total, aim, blocks = 0.0, 0.0, 0.0, 0
    for mask in ranking.masks:
        costs = mask.costs.ravel()
        open_costs = tf.reshape(_binary(mask), [-1]) * tf.cast(costs, tf.float32)
        kept += tf.cast(row_sum(open_costs)[0], tf.float32)
        aim += (1.0 - mask.sparsity) * costs.sum()
        total += costs.sum()
        blocks += costs.size
    return (kept - aim) / total, blocks
