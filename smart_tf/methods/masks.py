"""Masks and logits as several methods make them."""

import itertools

import numpy as np
import tensorflow as tf


def straight_through(logits, mask):
    """A mask that passes its gradient on to the logits unchanged.

    Args:
        logits: Float tensor or variable.
        mask: Float tensor or variable of the same shape; gets no gradient.

    Returns:
        Tensor with the value of `mask`.
    """
    mask = tf.stop_gradient(tf.convert_to_tensor(mask))

    @tf.custom_gradient
    def pass_on(logits):
        return tf.identity(mask), lambda upstream: upstream

    return pass_on(tf.convert_to_tensor(logits))


def standardised(scores, spread):
    """Scores with mean 0 and a given standard deviation over all layers together.

    Standardising each layer on its own would forget which layers matter, and costs
    a point of accuracy at 90 %.

    Args:
        scores: List of float64 arrays.
        spread: Float, the standard deviation.

    Returns:
        List of arrays of the same shapes; zeros where all scores are equal.
    """
    everything = np.concatenate([s.ravel() for s in scores])
    deviation = everything.std()
    scale = spread / deviation if deviation > 0 else 0.0
    return [(s - everything.mean()) * scale for s in scores]


def mask_groups(values, weight_masks, mask_of):
    """The masks of N:M structures, found group by group.

    Args:
        values: List of float32 tensors, of the kernels' shapes.
        weight_masks: List of the `WeightMask`s of the kernels.
        mask_of: Function `(groups, keep)` that returns a mask of the shape of
            `groups`, `(rows, M)`, from the values and how many of a row stay. It gets
            the groups of all kernels at once.

    Returns:
        List of float32 tensors of the kernels' shapes; ones where whole groups stay.
    """
    pairs = list(zip(values, weight_masks, strict=True))
    groups = [m.structure.to_groups(value, m.layout) for value, m in pairs]
    alike = {}
    for matrix, keep in itertools.chain.from_iterable(groups):
        alike.setdefault((keep, matrix.shape[-1]), []).append(matrix)
    masks = {}
    for (keep, width), matrices in alike.items():
        joined = tf.concat(matrices, 0)
        found = mask_of(joined, keep) if keep < width else tf.ones_like(joined)
        rows = [matrix.shape[0] for matrix in matrices]
        masks[keep, width] = iter(tf.split(found, rows))
    return [
        m.structure.from_groups(
            [next(masks[keep, matrix.shape[-1]]) for matrix, keep in matrices],
            value.shape,
            m.layout,
        )
        for (value, m), matrices in zip(pairs, groups, strict=True)
    ]
