"""Model files: of which Keras they are, and how their models were compiled."""

import dataclasses
import json
import os
import zipfile

import h5py

from smart_tf import flavours
from smart_tf.export.optional import require

LOSSES = ("logits", "probabilities", "regression")


def load(path):
    """Loads a model, without its optimizer and loss.

    Args:
        path: A `.keras` or `.h5` file of a whole model, of Keras 3 or tf_keras.

    Returns:
        keras or tf_keras model.

    Raises:
        ValueError: If it is no such file, or holds classes that are not known here.
        ImportError: If it is of tf_keras, and that is not installed.
    """
    if _keras_version(path).startswith("2."):
        # The wrapper for tf_keras registers itself, so that pruned models load too.
        keras = require("smart_tf.flavours.tf_keras", "tf-keras").keras
    else:
        keras = flavours.keras3.keras
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # What is raised depends on where the file is broken.
        raise ValueError(
            "Argument `MODEL` must be a whole file, of classes that are known here. "
            f"Received: MODEL={str(path)!r} ({error})"
        ) from error


def save(model, path, compile_config):
    """Saves a model as a `.keras` file.

    Args:
        model: keras or tf_keras model.
        path: `pathlib.Path` of the file.
        compile_config: What `compile_config` returned: the saved model is compiled in
            this way, with a new optimizer; or None.
    """
    if compile_config:
        model.compile_from_config(compile_config)
    model.save(path)


def compile_config(path):
    """How the model in a `.keras` file was compiled.

    Returns:
        Dict, as from `model.get_compile_config()`. None for an uncompiled model, and
        for `.h5` files, which do not tell their metrics reliably.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json")).get("compile_config")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a model is trained and evaluated for.

    Attributes:
        config: Dict from `compile_config`, or None.
        loss: One of `LOSSES`, which goes before the config; or None.
    """

    config: dict | None
    loss: str | None

    def settings(self, model):
        """New keyword arguments for `model.compile`, all but the optimizer.

        Args:
            model: keras or tf_keras model.

        Returns:
            Dict with `loss`, `metrics` and maybe others.

        Raises:
            ValueError: If there is no loss, neither here nor in the config.
        """
        keras = flavours.of(model).keras
        if self.loss:
            loss, metrics = _objective(self.loss, keras, model.output_shape[-1])
            return {"loss": loss, "metrics": metrics}
        if not self.config or not self.config.get("loss"):
            raise ValueError(
                "Argument `--loss` must be given for a model that is saved without its "
                f"loss (not compiled, or .h5): one of {', '.join(LOSSES)}. "
                "Received: none"
            )
        settings = keras.saving.deserialize_keras_object(self.config)
        return {key: value for key, value in settings.items() if key != "optimizer"}


def _objective(name, keras, units):
    """A loss and metrics for a model with `units` outputs."""
    if name == "regression":
        return keras.losses.MeanSquaredError(), ["mae"]
    logits = name == "logits"
    if units == 1:
        accuracy = keras.metrics.BinaryAccuracy(
            "accuracy", threshold=0.5 - 0.5 * logits
        )
        return keras.losses.BinaryCrossentropy(from_logits=logits), [accuracy]
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits), ["accuracy"]


def _keras_version(path):
    """The version of Keras that wrote a file, as a string."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("metadata.json"))["keras_version"]
        if os.path.isfile(path) and h5py.is_hdf5(path):
            with h5py.File(path) as file:
                if "model_config" in file.attrs:
                    version = file.attrs["keras_version"]
                    return version.decode() if isinstance(version, bytes) else version
    except (KeyError, ValueError, OSError, zipfile.BadZipFile):
        pass
    found = "which is another" if os.path.exists(path) else "which is not there"
    raise ValueError(
        "Argument `MODEL` must be a .keras or .h5 file with a whole model (not only "
        f"weights), written by Keras 3 or tf_keras. Received: MODEL={str(path)!r}, "
        f"{found}"
    )
