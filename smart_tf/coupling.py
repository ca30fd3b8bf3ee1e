"""The search for channels: one logit for each, whatever layers it runs through."""

import dataclasses

import numpy as np
import tensorflow as tf

from smart_tf import topk
from smart_tf.cut_costs import CutCosts

_MARGIN = 0.02  # of a channel: by so much a full group stays short of its width


@dataclasses.dataclass(frozen=True)
class Coupling:
    """What the channels of a model compete for.

    Attributes:
        costs: `CutCosts` of the model as it will be cut.
        budget: Float, the cost that may be left.
        floors: Tuple of integers, how many channels of each group stay at least.
        kind: String, what the costs count.
        reasons: Dict from the names of kernels to why their channels stay.
    """

    costs: CutCosts
    budget: float
    floors: tuple
    kind: str
    reasons: dict

    def get_config(self):
        return {
            "costs": self.costs.get_config(),
            "budget": self.budget,
            "floors": list(self.floors),
            "kind": self.kind,
            "reasons": self.reasons,
        }

    @classmethod
    def from_config(cls, config):
        costs = CutCosts.from_config(config["costs"])
        return cls(**{**config, "costs": costs, "floors": tuple(config["floors"])})

    @property
    def size(self):
        """The number of channels."""
        return sum(self.costs.sizes)

    def linear_problem(self, shares, spend=1.0):
        """The budget as the soft top-k takes it: costs of single channels.

        Both sides of a kernel shrink, so that what a channel costs depends on the
        others. This is Newton's linear model of the cost around the shares of the
        last step, which differ little from those of this one; its slopes are what
        the derivative of the threshold needs.

        Args:
            shares: float32 tensor `(channels,)`, the last soft masks.
            spend: Number or scalar tensor in (0, 1], the share of the budget to use.

        Returns:
            Tuple `(budget, costs)`: a float32 scalar tensor inside (0, sum(costs)),
            and a float32 tensor `(channels,)`.
        """
        kept, slopes, spent = self._cost_of(shares)
        costs = tf.gather(tf.maximum(slopes, 1e-6), self.costs.group_of)
        total = tf.reduce_sum(costs)
        aim = spend * (self.budget / self.costs.total() * self.size)
        budget = tf.reduce_sum(slopes * kept) + aim - spent
        return tf.clip_by_value(budget, 1e-3 * total, 0.999 * total), costs

    def share_spent(self, shares):
        """The fraction of the full cost that is left with these masks.

        Args:
            shares: float32 tensor `(channels,)`.

        Returns:
            float32 scalar tensor, differentiable in `shares`.
        """
        return self._cost_of(shares)[2] / self.size

    def _cost_of(self, shares):
        """Kept channels and slopes of the cost, `(groups,)`, and the cost itself.

        In units of what a channel costs on average when all stay.
        """
        matrix, vector, constant = self.costs.quadratic()
        unit = self.costs.total() / self.size
        matrix, vector = (tf.constant(a / unit, tf.float32) for a in (matrix, vector))
        group_of = tf.constant(self.costs.group_of)
        kept = tf.math.unsorted_segment_sum(shares, group_of, len(self.costs.sizes))
        product = tf.linalg.matvec(matrix, kept)
        slopes = product + tf.linalg.matvec(matrix, kept, transpose_a=True) + vector
        spent = tf.reduce_sum(kept * (product + vector)) + constant / unit
        return kept, slopes, spent

    def select(self, scores, share=1.0):
        """Boolean array `(channels,)`: what stays, exactly within the budget.

        Args:
            scores: float64 array `(channels,)`.
            share: Float in [0, 1], how much of the reduction is asked for.
        """
        total = self.costs.total()
        budget = total - share * (total - self.budget)
        return self.costs.select(scores, budget, self.floors)

    def settled(self, logits, theta, temperature):
        """Moves each group as a whole, so that its soft masks sum to a whole width.

        The widths are those that `select` would leave now: whole units, within the
        budget. How the channels of a group compare with each other stays as it is.

        Args:
            logits: float32 array `(channels,)`.
            theta: Float, their threshold.
            temperature: Positive float.

        Returns:
            Tuple of the moved logits, and of the share of the budget that the widths
            cost.
        """
        group_of, sizes = self.costs.group_of, self.costs.sizes
        keep = self.select(logits.astype(np.float64))
        widths = np.bincount(group_of, weights=keep, minlength=len(sizes))
        moved = logits.copy()
        for group, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            own = group_of == group
            short = np.clip(width, _MARGIN, size - _MARGIN)
            a, s = topk.threshold(logits[own], short, temperature)
            moved[own] += theta - float(a + temperature * s)
        return moved, self.costs.total(widths) / self.budget

    def sparsity(self, keep):
        """Float: which fraction of the cost is gone when `keep` stays."""
        kept = np.bincount(
            self.costs.group_of, weights=keep, minlength=len(self.costs.sizes)
        )
        return 1.0 - self.costs.total(kept) / self.costs.total()
