"""The SMART pruner: separate, dynamic, differentiable (section 2)."""

import dataclasses

import numpy as np
import tensorflow as tf

from smart_tf.methods.base import Method, register_preset
from smart_tf.methods.masks import mask_groups, standardised
from smart_tf.methods.settings import check_number, sgd
from smart_tf.topk import soft_topk

_SETTLING = tuple(k / 48 for k in range(24, 48, 2))
"""When widths are settled, in shares of the search: as soon as they are worth it, and
over and over, since what the logits have for momentum takes them away again."""


@dataclasses.dataclass(frozen=True)
class Smart(Method):
    """Learns one logit for every block, and keeps the blocks with the largest.

    The kernel is `w * f`, with `f = sigmoid((m - theta) / tau)` the soft top-k of
    the logits `m` of ALL layers (eq. 2 and 5), at a temperature `tau` that falls
    with every step. N:M structures have no logits (appendix F, eq. 14): there `f`
    is the soft top-N of `|w|` within each group, scaled by kernel.

    The temperature is relative to the spread of the logits: the masks are decided
    while `tau` falls from about 3 to 0.05 of their standard deviation. By default the
    search begins above that, so that the logits have seen some batches when it matters.
    All blocks have a share of about `K / n` then, and a kernel that is multiplied by
    so little computes something else than it was trained for, unless a normalisation
    makes up for it: `keep_scale` does.
    The settings are those that did best in our trials;
    `Smart.paper()`, by name `"paper"`, has the paper's.

    Args:
        initial_temperature: Float > 0, `tau_0`.
        final_temperature: Float > 0, `tau_1`, at most `initial_temperature`.
        initial_spread: Float >= 0, standard deviation of the logits at the start,
            where they follow the blocks' magnitudes. 0 starts all at zero.
        group_scale: Float > 0, what the weights of N:M groups are scaled to: the root
            mean square of each kernel, in the unit of the temperature. None takes them
            as they are (eq. 14).
        mask_learning_rate: Float >= 0, peak learning rate of the logits' own SGD, which
            follows the decay of the weights' learning rate. None gives the logits a
            copy of the weights' optimizer, without weight decay.
        mask_momentum: Float in [0, 1), momentum of the logits' own SGD.
        keep_scale: Whether a kernel is multiplied by `f * sum(f) / sum(f^2)` rather
            than by `f`: the multiple of `w * f` that comes closest to `w`, if all
            blocks are alike. Equal shares leave a kernel as it is, and hard masks
            what they keep. For blocks and single weights; weights of N:M groups have
            `group_scale`, and channels do worse with it.
        settle_widths: Whether channels of several layers are brought to widths of
            whole units (`Channel.round_to`) while the search lasts, rather than by
            the freeze.
        behind_norms: Whether the masks of the channels of single kernels
            (`Channel(coupled=False)`) act behind the `BatchNormalization` that
            follows, which would cancel them.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        - [Zhu et al., 2024](https://arxiv.org/abs/2403.19969)
    """

    initial_temperature: float = 3.0
    final_temperature: float = 0.01
    initial_spread: float = 0.1
    group_scale: float | None = 300.0
    mask_learning_rate: float | None = 1.0
    mask_momentum: float = 0.9
    keep_scale: bool = True
    settle_widths: bool = True
    behind_norms: bool = True

    has_logits = True
    uses_threshold = True
    ranks_channels = True

    def __post_init__(self):
        check_number(self, "initial_temperature", lambda tau: tau > 0, "> 0")
        check_number(
            self,
            "final_temperature",
            lambda tau: 0 < tau <= self.initial_temperature,
            f"> 0 and at most initial_temperature={self.initial_temperature!r}",
        )
        check_number(self, "initial_spread", lambda spread: spread >= 0, ">= 0")
        check_number(self, "group_scale", lambda scale: scale > 0, "> 0", or_none=True)
        check_number(
            self, "mask_learning_rate", lambda rate: rate >= 0, ">= 0", or_none=True
        )
        check_number(self, "mask_momentum", lambda value: 0 <= value < 1, "in [0, 1)")

    @classmethod
    def paper(cls):
        """The settings of the paper (table 5, ResNet50 and YOLOv5m).

        The temperature falls from 10 to 1e-4, all logits start equal and have the
        weights' optimizer, the weights of N:M groups are taken as they are (eq. 14),
        kernels are multiplied by their masks and nothing else, and the masks of single
        kernels act on those kernels alone. Weight decay is kept off the logits: it
        would push them together.
        """
        return cls(
            initial_temperature=10.0,
            final_temperature=1e-4,
            initial_spread=0.0,
            group_scale=None,
            mask_learning_rate=None,
            keep_scale=False,
            settle_widths=False,
            behind_norms=False,
        )

    def supports(self, structure, coupled=False):
        return None

    def milestones(self):
        return _SETTLING if self.settle_widths else ()

    def update(self, ranking, index):
        ranking.settle_widths()

    def initial_logits(self, scores):
        return standardised(scores, self.initial_spread)

    def applied(self, shares):
        if not self.keep_scale:
            return shares
        squares = tf.maximum(tf.reduce_sum(tf.square(shares)), 1e-12)
        return shares * tf.stop_gradient(tf.reduce_sum(shares) / squares)

    def soft_mask(self, weights, weight_mask, state):
        """The soft top-N within each group of an N:M structure (eq. 14)."""
        return self.soft_masks([weights], [weight_mask], state)[0]

    def soft_masks(self, kernels, weight_masks, state):
        return mask_groups(
            [self._magnitudes(kernel) for kernel in kernels],
            weight_masks,
            lambda groups, keep: soft_topk(groups, keep, state.temperature, axis=-1),
        )

    def _magnitudes(self, kernel):
        magnitudes = tf.abs(tf.cast(kernel, tf.float32))
        if self.group_scale is None:
            return magnitudes
        # At a temperature that is high for them, all weights of a group have a share of
        # N / M: a trained network would be scaled down as a whole, and learn anew.
        rms = tf.sqrt(tf.reduce_mean(tf.square(magnitudes)))
        scale = self.group_scale / tf.maximum(rms, 1e-12)
        return magnitudes * tf.stop_gradient(scale)

    def final_scores(self, weight_mask):
        return weight_mask.logits.numpy().astype(np.float64)

    def mask_optimizer_config(self):
        if self.mask_learning_rate is None:
            return "same"
        return sgd(learning_rate=self.mask_learning_rate, momentum=self.mask_momentum)


register_preset("paper", Smart.paper)
