"""What all trainings have in common, whoever prunes: the optimizer and the batches.

Nothing here imports Keras or `smart_tf`: other libraries train by it too, in processes
of their own.
"""

import numpy as np
import tensorflow as tf


def compile_model(keras, model, rate, steps):
    """Prepares a model of logits for AdamW along a cosine.

    Args:
        keras: The module `keras` or `tf_keras`, whichever the model is of.
        model: The model.
        rate: Float, peak learning rate.
        steps: Integer, how many batches there will be.
    """
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.AdamW(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # see examples/training.py
    )


def batch_order(images, epochs, size, seed):
    """The images of each batch of all epochs.

    Keras's own shuffling hangs on how many random operations a model has.

    Args:
        images: Integer, how many there are.
        epochs: Integer. What is left over of an epoch is dropped.
        size: Integer, images in a batch.
        seed: Integer or list of integers.

    Returns:
        Array of integers `(batches, size)`.
    """
    rng = np.random.default_rng(seed)
    used = images // size * size
    order = np.stack([rng.permutation(images)[:used] for _ in range(epochs)])
    return order.reshape(-1, size)


def batches(x, y, order):
    """`tf.data.Dataset` of batches.

    Args:
        x: Array of images.
        y: Array of labels.
        order: Array of integers `(batches, size)`.
    """
    x, y = tf.constant(x), tf.constant(y)
    return (
        tf.data.Dataset.from_tensor_slices(order)
        .map(lambda index: (tf.gather(x, index), tf.gather(y, index)))
        .prefetch(2)
    )
