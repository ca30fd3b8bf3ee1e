"""What every target has in common: write, load back, run, compare, count, publish."""

import contextlib

import numpy as np

from smart_tf.export.matching import match_weight
from smart_tf.export.patterns import held_patterns
from smart_tf.export.report import ExportError, ExportReport, TensorRow
from smart_tf.export.samples import check_representative_data, verification_batches
from smart_tf.export.signature import get_signature, is_keras_model
from smart_tf.export.staging import sizes, staged
from smart_tf.prunable import prunable_weights

VERIFICATION_BATCHES = 8


class Conversion:
    """One way out of Keras.  A target says how its files are written, run and read.

    Attributes:
        target: What the files are, such as `"ONNX"`.
        runtime: What runs them.
        quantize: How numbers are stored: `None` for float32.
        makes_folder: Whether it is a folder that is made, and not a file.
        tolerance: How far the outputs may be from the Keras model's, as a share of the
            largest output.
        hint: What may be wrong where the runtime does not load a file.
    """

    target = ""
    runtime = ""
    quantize = None
    makes_folder = False
    tolerance = 1e-3
    hint = ""

    def write(self, signature, path):
        """Write a model, given as a `Signature`, at `path`."""
        raise NotImplementedError

    def load(self, path):
        """Load what `write` wrote.

        Returns:
            A callable from a dict of arrays by input name to the list of outputs.
        """
        raise NotImplementedError

    def read_weights(self, path):
        """List the weights in the file: a `WeightTensor` each."""
        raise NotImplementedError

    @contextlib.contextmanager
    def refusals(self):
        """Whatever a converter raises in this block becomes an `ExportError`."""
        try:
            yield
        except Exception as error:  # Each converter has exceptions of its own.
            raise ExportError(
                f"The converter ({self}) cannot convert the model: {error}"
            ) from error

    def __str__(self):
        return f"{self.target}, {self.quantize or 'float32'}"


def export(
    conversion,
    model,
    path,
    representative_data=None,
    batch_size=1,
    require_zeros=True,
):
    """Write a model by a `Conversion`, and check what was written.

    The file appears at `path` only after it has been loaded, run, compared with the
    Keras model, and searched for the zeros of the pruned weights.

    Args:
        conversion: A `Conversion`.
        model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
        path: The file (or folder) to write, in a folder that exists.
        representative_data: As in `to_tflite`; made up if it is `None`.
        batch_size: The batch dimension of the file; `None` leaves it open.
        require_zeros: Whether zeros that are not to be found in the file are an error.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: If `model` is not a Keras model, or the data is of no known kind.
        ValueError: If the model cannot be exported as it is, or `path` not be written.
        ExportError: If the file fails one of the checks.
    """
    check_model(model)
    _check_data(representative_data, batch_size)
    with staged(path, conversion.makes_folder) as staging:
        signature = get_signature(model, batch_size, representative_data)
        batches = verification_batches(
            representative_data, signature, VERIFICATION_BATCHES
        )
        conversion.write(signature, staging)
        difference, relative = _compare(conversion, signature, staging, batches)
        tensors, lost = _tensor_rows(model, conversion.read_weights(staging))
        if lost and require_zeros:
            raise ExportError(
                f"The converted model ({conversion}) does not hold the zeros of "
                f"{', '.join(lost)}. `require_zeros=False` exports it all the same "
                "(a layer that takes its kernel apart may hide them from this check)"
            )
        size, gzip_size = sizes(staging)
    return ExportReport(
        path=str(path),
        quantize=conversion.quantize,
        bytes=size,
        gzip_bytes=gzip_size,
        tensors=tensors,
        lost=lost,
        max_difference=difference,
        relative_difference=relative,
        samples=sum(len(batch[0]) for batch in batches),
        target=conversion.target,
    )


def check_model(model):
    """Raise unless `model` is a plain float32 Keras model."""
    if not is_keras_model(model):
        raise TypeError(
            "Argument `model` must be a Keras model. "
            f"Received: model={model} (of type {type(model)})"
        )
    layers = list(model._flatten_layers())
    wrapped = [x.name for x in layers if getattr(x, "is_pruning_wrapper", False)]
    if wrapped:
        raise ValueError(
            "Argument `model` must not wear pruning wrappers: call "
            "`smart_tf.strip_pruning(model)` first. "
            f"Received: a model with wrapped layers {wrapped}"
        )
    halves = [x.name for x in layers if x.compute_dtype in ("float16", "bfloat16")]
    if halves:
        raise ValueError(
            "Argument `model` must compute in float32, which is all that the converter "
            "knows: build it again without mixed precision and copy the weights "
            "(`set_weights`). Received: a model that computes in half precision in "
            f"layers {halves}"
        )


def _check_data(representative_data, batch_size):
    if representative_data is not None:
        check_representative_data(representative_data)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(
            "Argument `batch_size` must be a positive integer or None. "
            f"Received: batch_size={batch_size!r}"
        )


def _compare(conversion, signature, path, batches):
    """Run file and Keras model side by side: absolute and relative difference."""
    try:
        run = conversion.load(path)
    except Exception as error:  # Each runtime has exceptions of its own.
        if isinstance(error, ImportError):
            raise
        raise ExportError(
            f"The converted model ({conversion}) does not load in "
            f"{conversion.runtime}{conversion.hint}. It said: {error}"
        ) from error
    difference, largest = 0.0, 0.0
    for batch in batches:
        found = run(dict(zip(signature.names, batch, strict=True)))
        for got, wanted in zip(found, signature.call(*batch), strict=True):
            wanted = np.asarray(wanted, np.float64)
            got = np.asarray(got, np.float64)
            if not np.isfinite(got).all() or not np.isfinite(wanted).all():
                raise ExportError(
                    "The outputs must be finite. Received: NaN or infinity from the "
                    f"{'converted' if np.isfinite(wanted).all() else 'Keras'} model"
                )
            difference = max(difference, np.abs(got - wanted).max().item())
            largest = max(largest, np.abs(wanted).max().item())
    # A model that answers 0 to everything has no scale to relate to.
    relative = difference / largest if largest > 1e-6 else difference
    if relative > conversion.tolerance:
        raise ExportError(
            f"The converted model ({conversion}) does not compute what the Keras model "
            f"computes: their outputs differ by {difference:.3g}, which is "
            f"{relative:.3g} of the largest output (allowed: {conversion.tolerance})"
        )
    return difference, relative


def _tensor_rows(model, weights):
    """The file's weights as rows, and the pruned Keras weights it does not hold."""
    layouts = {id(w.variable): w.layout for w in prunable_weights(model)}
    matches = {}
    for variable in model.weights:
        name = getattr(variable, "path", variable.name)
        if "bias" not in name:  # A GRU's has two axes, and is taken apart.
            zeros = variable.numpy() == 0
            match = match_weight(weights, zeros)
            if match is not None:
                matches[name] = match, layouts.get(id(variable))
    sources = {}
    for name, (match, layout) in matches.items():
        for index in match.tensors:
            rounded = weights[index].dtype.startswith("int")
            held = held_patterns(match.zeros, layout, rounded) if layout else ()
            sources[index] = {"source": name, "patterns": held}
    rows = tuple(
        TensorRow(w.name, w.shape, w.dtype, w.zero_fraction, **sources.get(i, {}))
        for i, w in enumerate(weights)
    )
    return rows, tuple(
        name for name, (match, _) in matches.items() if not match.tensors
    )
