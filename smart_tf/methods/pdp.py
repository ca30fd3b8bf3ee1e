"""Parameter-free differentiable pruning: a soft mask made of the weights themselves."""

import dataclasses

import numpy as np
import tensorflow as tf

from smart_tf.methods.base import Method
from smart_tf.methods.masks import mask_groups
from smart_tf.methods.settings import check_count, check_number


@dataclasses.dataclass(frozen=True)
class PDP(Method):
    """Masks a block by how far its magnitude is from the threshold of its kernel.

    For a block of magnitude `a` (the root mean square of its weights) the mask is

        softmax([t^2 / tau, a^2 / tau])[1] = sigmoid((a^2 - t^2) / tau)

    with `t` halfway between the smallest magnitude that is kept in this kernel and
    the largest that is not, and a fixed temperature `tau`. The gradient reaches the
    weights through both factors of `w * f`; `t` is taken for a constant.

    How many blocks each kernel keeps in the end follows from the ranking of all
    magnitudes when the search begins; the number falls linearly, in `updates` steps,
    from all to that. N:M groups have a threshold of their own, and no ramp.

    `t` takes a sort of every kernel's magnitudes in each step: cheap for blocks, and
    most of a step for single weights.

    Args:
        temperature: Positive float, `tau`, in the unit of the squared weights.
        updates: Integer >= 1, how many times the sparsity rises.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        - [Cho et al., 2023](https://arxiv.org/abs/2305.11203)
    """

    temperature: float = 1e-4
    updates: int = 20

    def __post_init__(self):
        check_number(self, "temperature", lambda tau: tau > 0, "> 0")
        check_count(self, "updates")

    # What the log of a run says.
    initial_temperature = property(lambda self: self.temperature)
    final_temperature = property(lambda self: self.temperature)

    def slots(self, weights, grid):
        """`kept`: how many blocks stay now; `kept_at_last`: when the ramp is over."""
        blocks = np.array(np.prod(grid), np.int64)
        return {"kept": blocks, "kept_at_last": blocks}

    def milestones(self):
        return tuple(k / self.updates for k in range(self.updates))

    def update(self, ranking, index):
        if index == 0:
            _share_out(ranking)
        done = (index + 1) / self.updates
        for mask in ranking.ranked:
            blocks = mask.costs.size
            gone = blocks - int(mask.slots["kept_at_last"].numpy())
            mask.slots["kept"].assign(blocks - int(done * gone + 1e-9))

    def soft_mask(self, weights, weight_mask, state):
        weights = tf.cast(weights, tf.float32)
        if not weight_mask.structure.is_global:
            return self.soft_masks([weights], [weight_mask], state)[0]
        sums = weight_mask.structure.reduce_sum(tf.square(weights), weight_mask.layout)
        squares = sums / tf.cast(weight_mask.counts, tf.float32)
        magnitudes = tf.sqrt(tf.stop_gradient(tf.reshape(squares, [-1])))
        kept = tf.convert_to_tensor(weight_mask.slots["kept"])
        threshold = tf.cond(
            state.searching,
            lambda: _squared_threshold(magnitudes, kept),
            lambda: tf.constant([0.0]),
        )
        return tf.sigmoid((squares - threshold[0]) / self.temperature)

    def soft_masks(self, kernels, weight_masks, state):
        magnitudes = [tf.abs(tf.cast(kernel, tf.float32)) for kernel in kernels]
        return mask_groups(magnitudes, weight_masks, self._mask_within)

    def _mask_within(self, groups, keep):
        threshold = _squared_threshold(tf.stop_gradient(groups), keep)
        return tf.sigmoid((tf.square(groups) - threshold) / self.temperature)

    def final_scores(self, weight_mask):
        """`a^2 - t^2`: positive for as many blocks as the kernel keeps."""
        magnitudes = weight_mask.scores()
        kept = int(weight_mask.slots["kept_at_last"].numpy())
        if kept == magnitudes.size:
            return magnitudes**2
        falling = np.sort(magnitudes, axis=None)[::-1]
        return magnitudes**2 - falling[kept - 1 : kept + 1].mean() ** 2


def _share_out(ranking):
    """Gives every kernel as many blocks as the ranking of all magnitudes does."""
    for mask in ranking.ranked:
        mask.slots["kept_at_last"].assign(mask.costs.size)
    for mask, keep in zip(ranking.masks, ranking.hard_masks(), strict=True):
        mask.slots["kept_at_last"].assign(int(keep.sum()))


def _squared_threshold(magnitudes, kept):
    """`t^2` for each row of magnitudes `(..., n)`, of shape `(..., 1)`.

    Where all `n` are kept it lies below any magnitude.
    """
    n = magnitudes.shape[-1]
    falling = tf.sort(magnitudes, direction="DESCENDING")
    around = tf.stack([kept - 1, tf.minimum(kept, n - 1)])
    threshold = tf.reduce_mean(tf.gather(falling, around, axis=-1), -1, keepdims=True)
    return tf.where(kept < n, tf.square(threshold), -1e30)
