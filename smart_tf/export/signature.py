"""What a model is called with: one flat signature for both Keras flavours.

A converter needs a function with fixed argument shapes.  Keras 3 and tf_keras,
Functional, Sequential and subclassed models each keep their input shapes
elsewhere; everything that differs is in this file.
"""

import dataclasses
import inspect
import re

import keras
import tensorflow as tf

from smart_tf.export.samples import input_dtype


def is_keras_model(model):
    """Whether `model` is a Keras 3 or a tf_keras model (without importing the
    latter)."""
    if isinstance(model, keras.Model):
        return True
    return any(
        base.__name__ == "Model" and base.__module__.split(".")[0] == "tf_keras"
        for base in type(model).__mro__
    )


@dataclasses.dataclass(frozen=True)
class Signature:
    """A model with its inputs and outputs laid out flat.

    Attributes:
        model: The Keras model.
        structure: The model's input as the model wants it: a spec, or a list or
            dict of specs.
        specs: The same, flat: one named `tf.TensorSpec` per input.
    """

    model: object
    structure: object
    specs: tuple

    @property
    def names(self):
        """The inputs' names in the exported file."""
        return [spec.name for spec in self.specs]

    def call(self, *flat):
        """Run the model for inference: flat inputs in, flat list of outputs out."""
        inputs = tf.nest.pack_sequence_as(self.structure, list(flat))
        kwargs = {"training": False} if _takes_training(self.model) else {}
        return tf.nest.flatten(self.model(inputs, **kwargs))

    def function(self):
        """The inference graph, with outputs named `output_0`, `output_1`, ..."""

        def serve(*flat):
            outputs = self.call(*flat)
            return {f"output_{i}": output for i, output in enumerate(outputs)}

        return tf.function(serve, input_signature=list(self.specs))

    def concrete_function(self):
        """The same, traced for the shapes of the signature."""
        return self.function().get_concrete_function()

    def trackable(self):
        """A module that owns the model's variables and lookup tables.

        The converter freezes only what hangs on the object that it is given, and a
        Keras 3 model is not such an object: its weights would come out as NaN.
        """
        module = tf.Module()
        module.tracked = [
            variable.value if isinstance(variable, keras.Variable) else variable
            for variable in self.model.variables
        ]
        resource = tf.saved_model.experimental.TrackableResource
        descendants = tf.train.TrackableView(self.model).descendants()
        module.resources = [x for x in descendants if isinstance(x, resource)]
        return module


def get_signature(model, batch_size, data=None):
    """Find out what `model` is called with.

    Args:
        model: A Keras 3 or tf_keras model that has its weights.
        batch_size: The batch dimension to fix, or `None` to leave it open.
        data: Representative data, for what a model does not say of its inputs.

    Returns:
        A `Signature`.
    """
    structure = _input_structure(model, data)
    flat = tf.nest.flatten(structure)
    names = _input_names(structure, flat)
    specs = []
    for name, tensor in zip(names, flat, strict=True):
        shape = tuple(tensor.shape)
        if None in shape[1:]:
            raise ValueError(
                "Argument `model` must have inputs of a fixed shape (only the batch "
                "may be open): rebuild it with `Input(shape=...)` filled in. "
                f"Received: input {name!r} of shape {shape}"
            )
        specs.append(tf.TensorSpec((batch_size, *shape[1:]), tensor.dtype, name))
    return Signature(model, structure, tuple(specs))


def _input_structure(model, data):
    """The model's inputs, in its own nesting, as objects with shape and dtype."""
    if getattr(model, "inputs", None):
        try:
            return model.input
        except AttributeError:  # A Keras 3 Sequential has `inputs` only.
            return model.inputs[0]
    # A subclassed model remembers what it was built or called with.
    if hasattr(model, "save_spec"):  # tf_keras
        args, kwargs = model.save_spec() or ((), {})
        if len(args) == 1 and not kwargs:
            return args[0]
    elif hasattr(model, "get_build_config"):  # Keras 3
        shape = (model.get_build_config() or {}).get("input_shape")
        if shape and all(size is None or isinstance(size, int) for size in shape):
            return tf.TensorSpec(shape, input_dtype(data))
    raise ValueError(
        "Argument `model` must have known inputs: call it once on data, or wrap it "
        "in a Functional model (needed when `call` takes several arguments). "
        f"Received: model={model}"
    )


def _input_names(structure, flat):
    """Readable unique names: dict keys, names given to `Input`, or `input_0`..."""
    if isinstance(structure, dict) and len(structure) == len(flat):
        found = sorted(structure)
    else:
        found = [getattr(tensor, "name", None) or "" for tensor in flat]
    found = [re.sub(r"\W", "_", name) for name in found]
    usable = all(re.match("[A-Za-z]", name) for name in found)
    automatic = any(name.startswith("keras_tensor") for name in found)
    if usable and not automatic and len(set(found)) == len(found):
        return found
    return [f"input_{i}" for i in range(len(flat))]


def _takes_training(model):
    parameters = inspect.signature(model.call).parameters.values()
    return any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters)
