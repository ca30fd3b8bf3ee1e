"""The SMART pruner: separate, dynamic, differentiable (section 2)."""

import dataclasses

import numpy as np
import tensorflow as tf

from smart_tf import topk
from smart_tf.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Smart(Method):
    """Learns one logit for every block, and keeps the blocks with the largest.

    The kernel is `w * f`, with `f = sigmoid((m - theta) / tau)` the soft top-k of
    the logits `m` of ALL layers (eq. 2 and 5), at a temperature `tau` that falls
    with every step. N:M structures have no logits (appendix F, eq. 14): there `f`
    is the soft top-N of `|w|` within each group, on every kernel's own scale.

    The temperature is relative to the spread of the logits: the masks are decided
    while `tau` falls from about 3 to 0.05 of their standard deviation.

    Args:
        initial_temperature: Float, `tau_0`.
        final_temperature: Float, `tau_1`.
        initial_spread: Float >= 0, standard deviation of the logits at the start,
            where they follow the blocks' magnitudes. 0 starts all at zero.
        mask_learning_rate: Float, peak learning rate of the logits' own SGD, which
            follows the decay of the weights' learning rate.
        mask_momentum: Float in [0, 1), its momentum.
    """

    initial_temperature: float = 1.0
    final_temperature: float = 0.01
    initial_spread: float = 0.1
    mask_learning_rate: float = 1.0
    mask_momentum: float = 0.9

    has_logits = True

    def initial_logits(self, scores):
        """Block magnitudes, standardised over all layers together.

        Standardising each layer on its own would forget which layers matter, and
        costs a point of accuracy at 90 %.
        """
        everything = np.concatenate([s.ravel() for s in scores])
        spread = everything.std()
        scale = self.initial_spread / spread if spread > 0 else 0.0
        return [(s - everything.mean()) * scale for s in scores]

    def soft_mask(self, weights, weight_mask, state):
        if weight_mask.structure.is_global:
            logits = tf.convert_to_tensor(weight_mask.logits)
            return topk.soft_mask(logits, state.a, state.s, state.temperature)
        return self._soft_mask_within_groups(weights, weight_mask, state.temperature)

    def _soft_mask_within_groups(self, weights, weight_mask, temperature):
        structure, layout = weight_mask.structure, weight_mask.layout
        weights = tf.cast(weights, tf.float32)
        scale = tf.sqrt(tf.reduce_mean(tf.square(weights)))
        scale = tf.stop_gradient(tf.maximum(scale, 1e-12))
        # The same spread as the logits have, so that one schedule fits both.
        magnitudes = tf.abs(weights) * (self.initial_spread / scale)
        masks = [
            topk.soft_topk(group, keep, temperature, axis=-1)
            if keep < group.shape[-1]
            else tf.ones_like(group)
            for group, keep in structure.to_groups(magnitudes, layout)
        ]
        return structure.from_groups(masks, weights.shape, layout)

    def final_scores(self, weight_mask):
        return weight_mask.logits.numpy().astype(np.float64)

    def mask_optimizer_config(self):
        return {
            "class_name": "SGD",
            "config": {
                "learning_rate": self.mask_learning_rate,
                "momentum": self.mask_momentum,
            },
        }
