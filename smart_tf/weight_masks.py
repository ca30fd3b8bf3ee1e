"""The mask of one kernel: soft while it is searched for, then fixed."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from smart_tf import methods, prunable, structures
from smart_tf.theta import shares

_STAYS = 1e9  # a logit whose share is 1 whatever the threshold


@dataclasses.dataclass(eq=False)
class WeightMask:
    """The mask of one prunable kernel.

    Attributes:
        weight: The `prunable.PrunableWeight`.
        structure: The `structures.Structure` that cuts it into blocks.
        method: The `methods.Method`.
        sparsity: Fraction of this kernel's weights that leaves the common budget.
        max_sparsity: Fraction of this kernel's blocks that may go at most.
        logits: Trainable variable of the grid's shape, `m` in the paper, or None.
        mask: Variable of the grid's shape, 1 where a block stays; all ones until
            the freeze, unless the method sets it before.
        slots: Dict of variables that the method has asked for.
        price: What one weight costs in the budget: a number, or an array of the grid's
            shape.
        user_constraint: The constraint that the kernel had before.
    """

    weight: prunable.PrunableWeight
    structure: structures.Structure
    method: methods.Method
    sparsity: float
    max_sparsity: float
    logits: Any
    mask: Any
    slots: dict
    price: Any = 1.0
    user_constraint: Any = None

    channels = None
    is_kernel = True

    def __post_init__(self):
        shape = tuple(self.weight.variable.shape)
        self.counts = self.structure.costs(shape, self.layout)
        self.costs = self.counts * np.asarray(self.price, np.float64)

    @property
    def layout(self):
        """The `Layout` of the kernel."""
        return self.weight.layout

    def floor(self):
        """How many blocks stay at least: never none."""
        return max(1, math.ceil((1.0 - self.max_sparsity) * self.costs.size - 1e-9))

    def scores(self, reduction="rms"):
        """Block magnitudes, float64, of the grid's shape."""
        kernel = self.weight.variable.numpy()
        return self.structure.scores(kernel, self.layout, reduction)

    def final_scores(self):
        """Float64 array of the grid's shape, by which the freeze ranks the blocks."""
        return self.method.final_scores(self)

    def in_training(self, weights, step):
        """The kernel as the layer sees it while it is trained.

        Args:
            weights: Kernel tensor.
            step: `smart_tf.search.Step`, to which the gradient of the mask goes.
        """
        mask = tf.cast(step.masks[self], weights.dtype)
        structure, layout = self.structure, self.layout

        @tf.custom_gradient
        def apply(weights, outlet):
            del outlet

            def gradient(upstream):
                # That of an embedding is sparse, that of an einsum forgets its shape.
                dense = tf.ensure_shape(tf.convert_to_tensor(upstream), weights.shape)
                return structure.apply(dense, mask, layout), dense

            return structure.apply(weights, mask, layout), gradient

        return apply(weights, tf.cast(step.outlets[self], weights.dtype))

    def mask_gradient(self, weights, upstream):
        """What the blocks' masks get of a gradient (eq. 6).

        Args:
            weights: Kernel tensor.
            upstream: Tensor of the same shape and dtype, the gradient with respect to
                the masked kernel.

        Returns:
            Tensor of the grid's shape.
        """
        products = self.method.mask_gradient(weights * upstream)
        return self.structure.reduce_sum(products, self.layout)

    def in_evaluation(self, weights, state):
        """The kernel as the layer sees it while it is not trained.

        Args:
            weights: Kernel tensor.
            state: `smart_tf.search.SearchState`, the last one of the training.
        """

        def soft():
            return self.applied(self.soft(weights, state))

        hard = tf.convert_to_tensor(self.mask)
        if self.structure.is_global:
            # The soft mask of a few blocks costs less than a branch would.
            mask = tf.where(state.searching, soft(), hard)
        else:
            mask = tf.cond(state.searching, soft, lambda: hard)
        return self.structure.apply(weights, mask, self.layout)

    def soft(self, weights, state, logits=None):
        """The mask that a search at this state applies.

        Args:
            weights: Kernel tensor.
            state: `SearchState`.
            logits: Tensor of the logits of the channels of several layers; by default
                the copy that this mask has of them, if it is of such channels.

        Returns:
            Float32 tensor of the grid's shape.
        """
        if self.structure.is_global and self.method.uses_threshold:
            logits = tf.convert_to_tensor(self.logits)
            return shares(logits, state.a, state.s, state.temperature)
        return tf.cast(self.method.soft_mask(weights, self, state), tf.float32)

    def applied(self, shares):
        """What the kernel is multiplied by when its blocks have these shares."""
        if self.structure.keeps_scale and self.method.uses_threshold:
            return self.method.applied(shares)
        return shares

    def oihw(self, mask):
        """A mask of the grid's shape as `(outputs, inputs, height, width)`."""
        shape = tuple(self.weight.variable.shape)
        return self.structure.oihw(mask, shape, self.layout)

    def expanded(self, mask):
        """A mask of the grid's shape, spread over the kernel."""
        shape = tuple(self.weight.variable.shape)
        return self.structure.expand(mask, shape, self.layout)

    def freeze(self, keep):
        """Fixes the mask at `keep` (boolean, grid's shape) and zeroes the rest."""
        self.mask.assign(keep.astype(np.float32))
        self.fold()

    def fold(self, kernel=None):
        """Writes the mask's zeros into the kernel, or into a variable of its shape."""
        kernel = self.weight.variable if kernel is None else kernel
        keep = np.asarray(self.expanded(self.mask.numpy())) > 0
        kernel.assign(np.where(keep, kernel.numpy(), 0))

    def project(self, weights):
        """The kernel's constraint: what is pruned stays zero whatever the optimizer.

        Momentum and weight decay move pruned weights too. As a constraint this
        runs inside every optimizer update, so that checkpoints are sparse whoever
        writes them, and whenever.
        """
        weights = tf.convert_to_tensor(weights)
        if self.user_constraint is not None:
            weights = tf.convert_to_tensor(self.user_constraint(weights))
        weights = self.method.constrain(weights, self)
        return self.structure.apply(
            weights,
            tf.cast(tf.convert_to_tensor(self.mask), weights.dtype),
            self.layout,
        )


@dataclasses.dataclass(eq=False)
class ChannelMask(WeightMask):
    """The mask of a weight along which channels of several layers run.

    Its logits are a copy of the shared ones, brought up to date with every training
    step, so that a saved layer is complete in itself.

    Attributes:
        channels: int64 array of the grid's shape, which channel each slice is; -1
            where the slice stays.
        in_search: Whether the search acts on it, or the freeze alone.
        is_kernel: Whether its magnitudes tell what a channel is worth.
    """

    channels: Any = None
    in_search: bool = True
    is_kernel: bool = True

    def in_training(self, weights, step):
        if self.logits is not None and step.logits is not None and self.in_search:
            self.logits.assign(self._own(step.logits))
        return super().in_training(weights, step)

    def gathered(self, shares):
        """The mask when the channels have these shares, a tensor `(channels,)`."""
        return tf.where(self.channels < 0, 1.0, self._own(shares))

    def _own(self, values):
        return tf.gather(values, np.maximum(self.channels, 0))

    def soft(self, weights, state, logits=None):
        if not self.in_search:
            return tf.convert_to_tensor(self.mask)
        if self.logits is None:
            return super().soft(weights, state)
        logits = self.logits if logits is None else self._own(logits)
        return self._with(logits).soft(weights, state)

    def _with(self, logits):
        """The same mask on these logits, infinite where a slice stays."""
        logits = tf.where(self.channels < 0, _STAYS, tf.convert_to_tensor(logits))
        return WeightMask(
            self.weight,
            self.structure,
            self.method,
            self.sparsity,
            self.max_sparsity,
            logits,
            self.mask,
            self.slots,
        )

    def slices(self, keep):
        """The mask when the channels in `keep` (boolean, or shares in [0, 1]) stay."""
        stays = keep.dtype.type(1)
        return np.where(self.channels < 0, stays, keep[np.maximum(self.channels, 0)])
