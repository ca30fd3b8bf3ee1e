"""Keras model -> TensorFlow SavedModel, for inference."""

import tensorflow as tf

from smart_tf.export.conversion import Conversion, export
from smart_tf.export.tensors import WeightTensor

SIGNATURE = "serving_default"


def to_saved_model(
    model, path, representative_data=None, *, batch_size=None, require_zeros=True
):
    """Write a Keras model as a SavedModel (float32) with one signature, and check it.

    The folder appears at `path` only after it has been loaded and run, and its outputs
    and zeros are those of the Keras model.  A SavedModel that is there is replaced;
    another folder is not.

    Args:
        model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
        path: The folder to make, in one that exists.
        representative_data: Inputs to compare on, as in `to_tflite`; made up if `None`.
        batch_size: The batch dimension; `None` leaves it open.
        require_zeros: Whether zeros of a pruned weight that are not to be found in the
            variables are an error, and not only listed in the report.

    Returns:
        An `ExportReport`.  The signature `"serving_default"` takes the inputs by name
        and returns `output_0`, `output_1`, ...

    Raises:
        TypeError: If `model` is not a Keras model, or the data is of no known kind.
        ValueError: If another argument is wrong, or nothing can be written at `path`.
        ExportError: If the model does not convert, or the folder fails a check.
    """
    return export(
        SavedModel(), model, path, representative_data, batch_size, require_zeros
    )


class SavedModel(Conversion):
    """TensorFlow's folders of a graph and its variables."""

    target = "SavedModel"
    runtime = "TensorFlow"
    makes_folder = True

    def write(self, signature, path):
        signatures = {SIGNATURE: signature.concrete_function()}
        with self.refusals():
            tf.saved_model.save(signature.trackable(), str(path), signatures)

    def load(self, path):
        loaded = tf.saved_model.load(str(path))

        def run(batch):
            batch = {name: tf.convert_to_tensor(array) for name, array in batch.items()}
            # Asked of `loaded` each time: alone, the signature loses its variables.
            outputs = loaded.signatures[SIGNATURE](**batch)
            return [outputs[f"output_{i}"] for i in range(len(outputs))]

        return run

    def read_weights(self, path):
        variables = tf.saved_model.load(str(path)).tracked
        return [WeightTensor.of_array(v.name, v.numpy()) for v in variables]
