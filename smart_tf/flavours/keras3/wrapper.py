"""`PrunableLayer` for Keras 3."""

import inspect

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from smart_tf import methods, structures
from smart_tf.masking import MaskedLayer


class _Updates(keras.StatelessScope):
    """Knows which variables were updated: statistics, seeds, states of an RNN.

    A layer does not list all of them among its variables.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.updated = {}

    def add_update(self, update):
        super().add_update(update)
        self.updated[id(update[0])] = update[0]


@keras.saving.register_keras_serializable(package="smart_tf")
class PrunableLayer(MaskedLayer, keras.layers.Wrapper):
    """Runs a layer on masked kernels, and learns the masks.

    The wrapped layer is any layer with something prunable in it, however deeply
    nested: built-in layers with a kernel, layers with `get_prunable_weights()`,
    composite layers, `MultiHeadAttention`. It is called untouched, on masked
    values of its own variables.

    The wrapper takes the wrapped layer's name, so that `model.get_layer` and the
    names of outputs stay as they were.

    Example:

    ```python
    model = keras.Sequential([
        keras.Input((784,)),
        smart_tf.PrunableLayer(keras.layers.Dense(64), "8x4", sparsity=0.8),
        keras.layers.Dense(10),
    ])
    ```

    Args:
        layer: The `keras.layers.Layer` to wrap; may be unbuilt.
        structure: Structure name or object, see `smart_tf.structures.get`.
        sparsity: Float in [0, 1), fraction of the weights that goes. May be left
            out for N:M structures.
        method: Method name or object, see `smart_tf.methods.get`.
        schedule: `TemperatureSchedule`; `SmartPruningCallback` sets it.
        max_layer_sparsity: Float, fraction of the blocks of one kernel that may go
            at most; by default 0.98, or halfway from `sparsity` to 1. The last
            block of a kernel always stays.
        prices: List with what a weight of each kernel costs in the budget: a number, or
            nested lists with one for each block; None for a kernel that is not masked,
            since another layer masks it, or it was not trainable. Default: 1.
        channels: List of dicts that `smart_tf.prune` makes: which channels of the model
            run along which weights of the layer. By hand, leave it out.
        coupling: `smart_tf.coupling.Coupling` that `smart_tf.prune` makes, for the one
            wrapper that holds the logits of all channels.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, or, when it is built, if the
            layer has nothing that the structure fits.
        TypeError: If an argument has a wrong type.
    """

    def __init__(
        self,
        layer,
        structure="16x8",
        sparsity=None,
        method="smart",
        schedule=None,
        max_layer_sparsity=None,
        prices=None,
        channels=None,
        coupling=None,
        **kwargs,
    ):
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "smart_tf needs Keras on TensorFlow. "
                f"Received: keras.backend.backend()='{keras.backend.backend()}'"
            )
        if getattr(layer, "is_pruning_wrapper", False):
            raise ValueError(
                f"Argument `layer` is wrapped for pruning already. Received: {layer}"
            )
        if isinstance(layer, keras.layers.Layer):
            kwargs.setdefault("name", layer.name)
            kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self._configure(
            structure,
            sparsity,
            method,
            schedule,
            max_layer_sparsity,
            prices,
            channels,
            coupling,
        )
        self._call_like(layer)

    def _call_like(self, layer):
        """Takes arguments as the wrapped layer does: names, masks, no casting."""
        parameters = dict(inspect.signature(layer.call).parameters)
        self._passes_training = "training" in parameters or any(
            p.kind is p.VAR_KEYWORD for p in parameters.values()
        )
        if "training" not in parameters:
            training = inspect.Parameter(
                "training", inspect.Parameter.KEYWORD_ONLY, default=None
            )
            last = [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
            rest = [p for p in parameters.values() if p.kind is not p.VAR_KEYWORD]
            parameters = {p.name: p for p in [*rest, training, *last]}
        self._call_signature = inspect.Signature(list(parameters.values()))
        self.call_signature_parameters = list(parameters)
        self._call_has_training_arg = True
        self._call_has_mask_arg = "mask" in parameters
        self._convert_input_args = layer._convert_input_args
        self._allow_non_tensor_positional_args = layer._allow_non_tensor_positional_args
        self.supports_masking = layer.supports_masking
        self.supports_jit = layer.supports_jit

    def _maybe_build(self, call_spec):
        with tf.init_scope():  # the masks need the values of the kernels
            # Only the wrapped layer knows which of its arguments its `build` wants.
            if not self.layer.built:
                self.layer._maybe_build(call_spec)
                self.layer.built = True
            super()._maybe_build(call_spec)

    def build(self, input_shape=None):
        super().build(input_shape)
        if not self.weight_masks:
            self._create_masks()

    def build_around_built(self):
        """Makes the masks now, around a layer that is built already."""
        if self.layer.built and not self.built:
            self.build()

    def get_build_config(self):
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config):
        if not self.layer.built and config["layer"]:
            self.layer.build_from_config(config["layer"])
        self.build_around_built()

    def call(self, *args, training=None, **kwargs):
        self._refuse_lora()
        masked = [(w.variable, v) for w, v in self._masked_kernels(training)]
        if self._passes_training:
            kwargs["training"] = training
        scope = _Updates(state_mapping=masked, collect_losses=True)
        with scope:
            if scope.original_scope is not None:
                # An enclosing scope has values of its own for the other variables.
                scope.state_mapping = {
                    **scope.original_scope.state_mapping,
                    **scope.state_mapping,
                }
            outputs = self.layer(*args, **kwargs)
        kernels = {id(variable) for variable, _ in masked}
        for variable in scope.updated.values():
            if id(variable) in kernels:
                self._refuse_rewriting(variable)
            variable.assign(scope.get_current_value(variable))
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def _refuse_rewriting(self, kernel):
        # What a call makes of a masked kernel cannot be a value of the whole one.
        raise ValueError(
            f"Layer '{self.layer.name}' must not assign to a kernel that is pruned in "
            "its call. Leave it out by `filters` of `smart_tf.prune`, or assign "
            "between the training steps, in a callback. "
            f"Received: an assignment to '{kernel.path}'"
        )

    def _refuse_lora(self):
        for mask in self.weight_masks:
            if getattr(mask.weight.owner, "lora_enabled", False):
                raise ValueError(
                    "LoRA was enabled in a pruned layer, and would fill the zeros of "
                    "its kernel: call `smart_tf.strip_pruning` first; or `enable_lora` "
                    "before `smart_tf.prune`, which then leaves the layer alone. "
                    f"Received: layer '{mask.weight.owner.name}' with lora_enabled=True"
                )

    def compute_output_spec(self, *args, **kwargs):
        if not self._passes_training:
            kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args, **kwargs):
        return self.layer.compute_mask(*args, **kwargs)

    def __getattr__(self, name):
        # A model that reads `self.conv.filters` goes on working when wrapped.
        if name.startswith("_") or name == "layer":
            raise AttributeError(name)
        return getattr(self.layer, name)

    def get_config(self):
        return {**super().get_config(), **self.pruning_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["structure"] = structures.get(config["structure"])
        config["method"] = methods.get(config["method"])
        return super().from_config(config, custom_objects)

    @property
    def loss_dtype(self):
        """The dtype in which losses are summed up."""
        return keras.backend.floatx()

    def forward_pass(self):
        return global_state.get_global_attribute("current_call_ctx")

    def _add_variable(self, name, value, trainable=False):
        variable = self.add_weight(
            shape=value.shape,
            initializer=lambda shape, dtype: tf.constant(value, dtype),
            dtype=value.dtype.name,
            trainable=trainable,
            autocast=False,
            aggregation="mean" if trainable else "only_first_replica",
            name=name,
        )
        self._track_trackable(variable, name, overwrite=True)  # for SavedModels
        return variable

    def _set_constraint(self, variable, constraint):
        variable.constraint = constraint
