"""Sample inputs for an exported model: given by the user, or made up."""

import itertools

import numpy as np
import tensorflow as tf

MAX_SAMPLES = 512
"""How many samples of representative data are looked at.  Ranges settle after a
few hundred, and a repeated dataset never ends."""


def check_representative_data(data):
    """Raise unless `data` is of a kind that `sample_batches` can read."""
    kinds = (np.ndarray, tf.Tensor, tf.data.Dataset, list, tuple, dict)
    if not isinstance(data, kinds) and not callable(data):
        raise TypeError(
            "Argument `representative_data` must be an array, a list, tuple or dict "
            "of arrays (one per input), a `tf.data.Dataset`, or a callable that "
            "returns a new iterator over batches of inputs. "
            f"Received: {data} (of type {type(data)})"
        )


def input_dtype(data):
    """The type of the input of a model that does not say it: that of ids and strings
    in the representative data, else float32."""
    first = () if data is None else next(_items(data), ())
    for array in tf.nest.flatten(first):
        dtype = np.asarray(array).dtype
        # Unsigned numbers are rather those of pictures, which layers take as floats.
        return tf.as_dtype(dtype) if dtype.kind in "biOSU" else tf.float32
    return tf.float32


def sample_batches(data, signature, limit=MAX_SAMPLES):
    """Cut representative data into batches that the signature takes.

    Args:
        data: What the user gave as `representative_data`.
        signature: The model's `Signature`.
        limit: The number of samples after which to stop.

    Yields:
        Lists of arrays, one per input, with as many rows as the signature's batch
        (1 where the batch is open).  A last short batch is filled up by repetition.
    """
    rows = signature.specs[0].shape[0] or 1
    taken = 0
    for item in _items(data):
        arrays = _flat_arrays(item, signature)
        for start in range(0, len(arrays[0]), rows):
            picked = range(start, start + rows)
            yield [np.take(a, picked, axis=0, mode="wrap") for a in arrays]
            taken += rows
            if taken >= limit:
                return
    if not taken:
        raise ValueError("Argument `representative_data` must not be empty.")


def random_batches(signature, count, seed=0):
    """`count` batches of made-up inputs: floats in [0, 1), integers (as
    text for strings) 0 and 1."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield [
            random_array(s.shape, s.dtype.as_numpy_dtype, rng) for s in signature.specs
        ]


def random_array(shape, dtype, rng):
    """Made-up values that every model can digest (ids 0 and 1 are in any table)."""
    shape = [size or 1 for size in shape]
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape).astype(dtype)
    numbers, is_text = rng.integers(0, 2, shape), np.dtype(dtype).kind == "O"
    return (numbers.astype(str) if is_text else numbers).astype(dtype)


def verification_batches(data, signature, count):
    """A few batches to compare two models on: the user's where there are any."""
    if data is None:
        return list(random_batches(signature, count))
    return list(itertools.islice(sample_batches(data, signature), count))


def _items(data):
    """Batches of inputs in whatever nesting the user has them."""
    if isinstance(data, tf.data.Dataset):
        for element in data.as_numpy_iterator():
            # As in `fit`: a tuple is (x, y) or (x, y, sample_weight).
            yield element[0] if isinstance(element, tuple) else element
    elif callable(data):
        yield from data()
    else:
        yield data


def _flat_arrays(item, signature):
    """One array per input, in the order and dtype of the signature."""
    specs, names = signature.specs, signature.names
    if isinstance(item, dict):
        keys = names
        if isinstance(signature.structure, dict):
            keys = sorted(signature.structure)
        if set(item) != set(keys):
            raise ValueError(
                f"Argument `representative_data` must have the keys {keys}. "
                f"Received: {sorted(item)}"
            )
        flat = [item[key] for key in keys]
    else:
        flat = list(item) if isinstance(item, list | tuple) else [item]
    if len(flat) != len(specs):
        raise ValueError(
            f"Argument `representative_data` must hold one array per input, {names}. "
            f"Received: {len(flat)} arrays"
        )
    arrays = [
        np.asarray(array, spec.dtype.as_numpy_dtype)
        for array, spec in zip(flat, specs, strict=True)
    ]
    for array, spec in zip(arrays, specs, strict=True):
        if array.shape[1:] != tuple(spec.shape[1:]) or array.ndim != len(spec.shape):
            raise ValueError(
                "Argument `representative_data` must hold batches of shape "
                f"{(None, *spec.shape[1:])} for input {spec.name!r}. "
                f"Received: shape {array.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                "Argument `representative_data` must be finite. "
                f"Received: NaN or infinity for input {spec.name!r}"
            )
    rows = [len(array) for array in arrays]
    if len(set(rows)) > 1:
        raise ValueError(
            "Argument `representative_data` must hold as many rows for each input, "
            f"{names}. Received: {rows} rows"
        )
    return arrays
