"""Kernels in their canonical view, and back (see `smart_tf.layouts.Layout`)."""

import numpy as np
import tensorflow as tf


def reshape(values, shape):
    """As `tf.reshape`, and nothing at all where the shape is that already."""
    return values if tuple(values.shape) == tuple(shape) else tf.reshape(values, shape)


def canonical(weights, layout, np_or_tf):
    """Returns the canonical view of a kernel, as an array or a tensor."""
    shape = layout.canonical_shape(weights.shape)
    order = layout.permutation(len(weights.shape))
    if order is not None:
        weights = np_or_tf.transpose(weights, order)
    return np_or_tf.reshape(weights, shape)


def kernel_view(values, shape, layout):
    """Brings a tensor from the canonical view back to the kernel's shape."""
    order = layout.permutation(len(shape))
    if order is None:
        return reshape(values, shape)
    values = tf.reshape(values, [shape[axis] for axis in order])
    return tf.transpose(values, np.argsort(order))
