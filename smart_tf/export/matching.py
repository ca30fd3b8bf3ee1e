"""Which Keras weight a tensor of an exported file comes from."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Match:
    """Where the zeros of a pruned Keras weight are in a file.

    Attributes:
        tensors: Indices of the tensors that have at least the same zeros: one, four for
            the gates of an LSTM, none if the zeros are gone.
        zeros: Boolean array of the Keras weight's shape: where the file has zeros.
            `None` if they are gone.
    """

    tensors: tuple
    zeros: np.ndarray | None


def match_weight(weights, zeros, taken=()):
    """Find a pruned Keras weight's zeros in a file.

    A file renames, transposes and rescales weights (it folds BatchNorm into them),
    but none of that turns a zero into something else.  So a Keras weight is matched
    by the positions of its zeros.

    Args:
        weights: The file's tensors, a list of `WeightTensor`.
        zeros: Boolean array: where the Keras weight is zero.
        taken: Indices of tensors that other weights were matched to, and which this one
            gets only if there is no other: weights may have their zeros in common.

    Returns:
        A `Match`; `None` for a weight that is not a pruned one (a vector, or one
        without zeros, or with nothing else).
    """
    if zeros.ndim < 2 or not zeros.any() or zeros.all():
        return None
    match = _match_parts(weights, [zeros], taken)
    if not match.tensors and zeros.shape[-1] % 4 == 0:
        match = _match_parts(weights, np.split(zeros, 4, axis=-1), taken)
    return match


def _match_parts(weights, parts, taken):
    """Find a tensor for every part of a kernel; all of them, or none."""
    tensors, found = [], []
    for zeros in parts:
        holders = {i: _held(weight, zeros) for i, weight in enumerate(weights)}
        holders = {i: held for i, held in holders.items() if held is not None}
        if not holders:
            return Match((), None)
        used = {*taken, *tensors}
        # Quantization adds a few zeros by rounding; another weight has many more.
        best = min(holders, key=lambda i: (i in used, holders[i].mean()))
        tensors.append(best)
        found.append(holders[best])
    return Match(tuple(tensors), np.concatenate(found, axis=-1))


def _held(weight, zeros):
    """The tensor's zeros in the layout of `zeros`, if it has at least those."""
    if weight.zeros.size != zeros.size:
        return None
    flat = weight.zeros.reshape(-1)
    for order in _layouts(np.arange(zeros.size).reshape(zeros.shape)):
        held = np.empty(zeros.size, bool)
        held[order.reshape(-1)] = flat
        if held[zeros.reshape(-1)].all():
            return held.reshape(zeros.shape)
    return None


def _layouts(kernel):
    """A Keras kernel in each of the layouts that files use."""
    yield kernel
    # TFLite: (..., in, out) is (out, ..., in); attention also folds its head axes into
    # rows or columns; transposed convolutions move axis -2.
    yield np.moveaxis(kernel, -2, 0)
    for axis in range(1, kernel.ndim):
        yield kernel.reshape(np.prod(kernel.shape[:axis], dtype=int), -1).T
    # ONNX and OpenVINO: (out, in, ...), and for depthwise kernels (in, 1, ...).
    yield np.moveaxis(kernel, (-1, -2), (0, 1))
    yield np.moveaxis(kernel, (-2, -1), (0, 1))
