"""What every target has in common: write, load back, run, compare, count, publish."""

import contextlib

import numpy as np

from smart_tf.export.matching import match_weight
from smart_tf.export.patterns import held_patterns
from smart_tf.export.report import ExportError, ExportReport, TensorRow
from smart_tf.export.samples import check_representative_data, verification_batches
from smart_tf.export.signature import get_signature, is_keras_model
from smart_tf.export.staging import sizes, staged
from smart_tf.prunable import kernel_names, kernels

VERIFICATION_BATCHES = 8


class Conversion:
    """One way out of Keras.  A target says how its files are written, run and read.

    Attributes:
        target: What the files are, such as `"ONNX"`.
        runtime: What runs them.
        quantize: How numbers are stored: `None` for float32.
        makes_folder: Whether it is a folder that is made, and not a file.
        tolerance: How far an output may be from the Keras model's, as a share of its
            largest value.
        hint: What may be wrong where the runtime does not load a file.
        wrong_hint: What may be wrong where a file computes something else.
    """

    target = ""
    runtime = ""
    quantize = None
    makes_folder = False
    tolerance = 1e-3
    hint = ""
    wrong_hint = ""

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

    def float_operators(self, path):
        """Name the operators that compute in floats though the file is to be int8."""
        return ()

    def refusals(self):
        """A context in which whatever a converter raises becomes an `ExportError`."""
        return _export_errors(f"The converter ({self}) cannot convert the model: ")

    def failures(self, verb, hint=""):
        """The same for what the runtime raises, asked to load or run a file."""
        return _export_errors(
            f"The converted model ({self}) does not {verb} in "
            f"{self.runtime}{hint}. It said: "
        )

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
        in_floats = conversion.float_operators(staging)
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
        float_operators=in_floats,
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
    whole = isinstance(batch_size, int | np.integer) and batch_size is not True
    if batch_size is not None and not (whole and batch_size >= 1):
        raise ValueError(
            "Argument `batch_size` must be a positive integer or None. "
            f"Received: batch_size={batch_size!r}"
        )


def _compare(conversion, signature, path, batches):
    """Run file and Keras model side by side.

    Returns:
        The largest absolute difference in any output, and the largest one as a share of
        the largest value of the output that it is in.
    """
    with conversion.failures("load", conversion.hint):
        run = conversion.load(path)
    apart, largest = 0.0, 0.0  # by output
    for batch in batches:
        with conversion.failures("run"):
            found = run(dict(zip(signature.names, batch, strict=True)))
        wanted = signature.call(*batch)
        pairs = [tuple(map(_float64, pair)) for pair in zip(found, wanted, strict=True)]
        _check_finite(pairs)
        apart = np.maximum(apart, [np.abs(got - want).max() for got, want in pairs])
        largest = np.maximum(largest, [np.abs(want).max() for _, want in pairs])
    # An output that is 0 throughout has no scale to relate to.
    relative = apart / np.where(largest > 1e-6, largest, 1.0)
    worst = relative.argmax()
    if relative[worst] > conversion.tolerance:
        raise ExportError(
            f"The converted model ({conversion}) does not compute what the Keras model "
            f"computes: output {worst} differs by {apart[worst]:.3g}, which is "
            f"{relative[worst]:.3g} of its largest value (allowed: "
            f"{conversion.tolerance}){conversion.wrong_hint}"
        )
    return apart.max().item(), relative[worst].item()


@contextlib.contextmanager
def _export_errors(what):
    """Whatever is raised in this block, but for missing packages, is told of so."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # Converters and runtimes have exceptions of their own.
        raise ExportError(f"{what}{error}") from error


def _float64(output):
    return np.asarray(output, np.float64)


def _check_finite(pairs):
    for got, want in pairs:
        if not np.isfinite(got).all() or not np.isfinite(want).all():
            raise ExportError(
                "The outputs must be finite. Received: NaN or infinity from the "
                f"{'converted' if np.isfinite(want).all() else 'Keras'} model"
            )


def _tensor_rows(model, weights):
    """The file's weights as rows, and the pruned Keras weights it does not hold."""
    pruned = kernels(model)
    sources, lost = {}, []
    for weight, name in zip(pruned, kernel_names(pruned), strict=True):
        zeros = np.asarray(weight.variable) == 0
        match = match_weight(weights, zeros, taken=sources)
        if match is None:
            continue
        if not match.tensors:
            lost.append(name)
        for index in match.tensors:
            rounded = weights[index].dtype.startswith("int")
            held = held_patterns(match.zeros, weight.layout, rounded)
            sources.setdefault(index, {"source": name, "patterns": held})
    rows = tuple(
        TensorRow(w.name, w.shape, w.dtype, w.zero_fraction, **sources.get(i, {}))
        for i, w in enumerate(weights)
    )
    return rows, tuple(lost)
