"""Running `.tflite` files on batches of arrays."""

import os

import numpy as np

from smart_tf.export.samples import random_array


class Interpreter:
    """A `.tflite` file as a function of arrays, with a batch of any size.

    Where the file wants integers, arrays of another type are quantized on the way in,
    and its integers are dequantized on the way out.

    Example:

    ```python
    probabilities = smart_tf.export.Interpreter("int8.tflite").run(x_test)
    ```

    Args:
        path: A `.tflite` file.
        threads: How many threads the interpreter may use.
    """

    def __init__(self, path, threads=1):
        if not os.path.isfile(path):
            raise ValueError(f"Argument `path` must be a file. Received: path={path}")
        try:
            self._interpreter = _interpreter_class()(
                model_path=os.fspath(path), num_threads=threads
            )
        except ValueError as error:
            raise ValueError(
                "Argument `path` must be a whole .tflite file. "
                f"Received: path={os.fspath(path)!r} ({error})"
            ) from error
        self._interpreter.allocate_tensors()
        self._inputs = self._details("inputs", self._interpreter.get_input_details())
        self._outputs = self._details("outputs", self._interpreter.get_output_details())

    @property
    def input_names(self):
        """The names of the inputs, as in the file's signature where it has one."""
        return list(self._inputs)

    @property
    def output_names(self):
        """The names of the outputs, likewise."""
        return list(self._outputs)

    @property
    def input_details(self):
        """Per input name: LiteRT's description (shape, dtype, quantization)."""
        return dict(self._inputs)

    @property
    def output_details(self):
        """The same for the outputs."""
        return dict(self._outputs)

    def run(self, inputs):
        """Run a batch.

        Args:
            inputs: An array; or, for several inputs, a dict by input name, or a list
                in the order of `input_names`.  All have the same number of rows.

        Returns:
            The output array, or a dict of them by name if there are several.
        """
        outputs = self.run_named(inputs)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def run_named(self, inputs):
        """As `run`, but always a dict by name, in the order of `output_names`."""
        inputs = self._by_name(inputs)
        rows = {len(array) for array in inputs.values()}
        if len(rows) != 1 or 0 in rows:
            raise ValueError(
                "Argument `inputs` must hold arrays with the same, positive number of "
                f"rows. Received: {[array.shape for array in inputs.values()]}"
            )
        (rows,) = rows
        size = self._fit_batch(rows)
        parts = [
            self._invoke(
                {
                    name: np.take(array, range(start, start + size), 0, mode="wrap")
                    for name, array in inputs.items()
                }
            )
            for start in range(0, rows, size)
        ]
        return {
            name: np.concatenate([part[name] for part in parts])[:rows]
            for name in self._outputs
        }

    def invoke(self):
        """Run once on whatever the input tensors hold (for timing)."""
        self._interpreter.invoke()

    def fill_random(self, seed=0):
        """Put made-up values into the input tensors (for timing)."""
        rng = np.random.default_rng(seed)
        for detail in self._inputs.values():
            shape = self._interpreter.get_tensor(detail["index"]).shape
            values = random_array(shape, detail["dtype"], rng)
            self._interpreter.set_tensor(detail["index"], values)

    def _details(self, kind, details):
        """Tensor descriptions by name; signatures have the readable names."""
        signatures = self._interpreter.get_signature_list()
        if len(signatures) != 1:
            return {detail["name"]: detail for detail in details}
        runner = self._interpreter.get_signature_runner()
        by_index = {detail["index"]: detail for detail in details}
        named = getattr(runner, f"get_{kind[:-1]}_details")()
        # The runner describes a tensor as it was before delegates; the index links.
        return {
            name: by_index[named[name]["index"]] for name in sorted(named, key=_natural)
        }

    def _by_name(self, inputs):
        if not isinstance(inputs, dict):
            flat = inputs if isinstance(inputs, list | tuple) else [inputs]
            if len(flat) != len(self._inputs):
                raise ValueError(
                    "Argument `inputs` must hold one array per input, "
                    f"{self.input_names}. Received: {len(flat)} arrays"
                )
            inputs = dict(zip(self._inputs, flat, strict=True))
        if set(inputs) != set(self._inputs):
            raise ValueError(
                f"Argument `inputs` must have the keys {self.input_names}. "
                f"Received: {list(inputs)}"
            )
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        for name, array in arrays.items():
            wanted = tuple(map(int, self._inputs[name]["shape"][1:]))
            if array.shape[1:] != wanted or not array.ndim:
                raise ValueError(
                    f"Argument `inputs` must hold arrays of shape {(None, *wanted)} "
                    f"for input {name!r}. Received: shape {array.shape}"
                )
        return arrays

    def _fit_batch(self, rows):
        """Open batches grow to `rows`; returns how many rows go into one run."""
        details = self._inputs.values()
        if any(detail["shape_signature"][0] != -1 for detail in details):
            return int(next(iter(details))["shape"][0])
        for detail in details:
            shape = [rows, *detail["shape"][1:]]
            self._interpreter.resize_tensor_input(detail["index"], shape)
        self._interpreter.allocate_tensors()
        return rows

    def _invoke(self, inputs):
        # A fused LSTM would carry its state over from the last batch.
        self._interpreter.reset_all_variables()
        for name, array in inputs.items():
            detail = self._inputs[name]
            self._interpreter.set_tensor(detail["index"], quantized(array, detail))
        self._interpreter.invoke()
        return {
            name: dequantized(self._interpreter.get_tensor(detail["index"]), detail)
            for name, detail in self._outputs.items()
        }


def quantized(array, detail):
    """Numbers to a tensor's integers, where it has a scale; those of its own type are
    taken for such integers."""
    scale, zero_point = detail["quantization"]
    dtype = detail["dtype"]
    if scale and array.dtype != dtype:
        limits = np.iinfo(dtype)
        array = np.round(array / scale + zero_point).clip(limits.min, limits.max)
    return array.astype(dtype)


def dequantized(array, detail):
    """A tensor's integers to floats, where they have a scale."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return array
    return ((array.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _natural(name):
    """Sort key that puts `output_10` after `output_2`."""
    digits = name[len(name.rstrip("0123456789")) :]
    return name[: len(name) - len(digits)], int(digits or 0)


def _interpreter_class():
    try:
        from ai_edge_litert.interpreter import Interpreter as LiteRTInterpreter
    except ImportError:  # TensorFlow still carries the older name of the same.
        import tensorflow as tf

        return tf.lite.Interpreter
    return LiteRTInterpreter
