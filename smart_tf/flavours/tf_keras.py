"""`PrunableLayer` for `tf_keras`: a tfmot `PruneLowMagnitude`, so that tfmot's tools fit.

Importing this module imports tfmot, which switches `tf.keras` to `tf_keras` for the
whole process. `smart_tf` does so only when a `tf_keras` object is handed in.
"""

import inspect

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tf_keras import mixed_precision
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_wrapper

from smart_tf import methods, structures
from smart_tf.masking import MaskedLayer
from smart_tf.optimizer import MaskRouting
from smart_tf.ranking import FROZEN, NOT_STARTED
from smart_tf.schedules import TemperatureSchedule

tfmot.sparsity.keras.PruningSchedule.register(TemperatureSchedule)


@keras.saving.register_keras_serializable(package="smart_tf")
class PrunableLayer(MaskedLayer, pruning_wrapper.PruneLowMagnitude):
    """Runs a `tf_keras` layer on masked kernels, and learns the masks.

    As `smart_tf.PrunableLayer`, for `tf_keras`. It is a tfmot `PruneLowMagnitude`:
    `tfmot.sparsity.keras.strip_pruning`, `UpdatePruningStep`, `PruningSummaries` and
    `prune_scope` work on it. Driven by `UpdatePruningStep` alone, it needs a `schedule`
    and freezes at the end of the epoch in which the schedule is over.

    Args:
        layer: The `tf_keras.layers.Layer` to wrap; may be unbuilt.
        structure: Structure name or object.
        sparsity: Float in [0, 1). May be left out for N:M structures.
        method: Method name or object.
        schedule: `TemperatureSchedule`, or None.
        max_layer_sparsity: Float, or None.
        **kwargs: Keyword arguments of `tf_keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, or, when it is built, if the layer
            has nothing that the structure fits.
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
        **kwargs,
    ):
        kwargs.pop("name", None)
        # The parent would refuse layers that tfmot does not know.
        keras.layers.Wrapper.__init__(
            self, layer, name=f"prunable_{layer.name}", **kwargs
        )
        self._track_trackable(layer, name="layer")
        if hasattr(layer, "_batch_input_shape"):
            self._batch_input_shape = layer._batch_input_shape
        self._configure(structure, sparsity, method, schedule, max_layer_sparsity)
        self.pruning_vars = []
        self.pruning_obj = _PruningFacade(self)

    @property
    def pruning_schedule(self):
        return self.schedule

    def build(self, input_shape=None):
        keras.layers.Wrapper.build(self, input_shape)
        if self.weight_masks:
            return
        self._create_masks()
        threshold = self._add_variable("threshold", tf.zeros(()).numpy())
        self.prunable_weights = [m.weight.variable for m in self.weight_masks]
        self.pruning_vars = [
            (m.weight.variable, m.mask, threshold) for m in self.weight_masks
        ]

    def build_around_built(self):
        """Makes the masks now, around a layer that is built already."""
        if self.layer.built and not self.built:
            with tf.name_scope(self.name):
                self.build()

    def call(self, inputs, *args, training=None, **kwargs):
        if training is None:
            training = keras.backend.learning_phase()
        if not isinstance(training, bool):
            training = bool(tf.get_static_value(training))
        parameters = inspect.signature(self.layer.call).parameters
        if "training" in parameters:
            kwargs["training"] = training
        originals = []
        for weight, tensor in self._masked_kernels(training):
            originals.append((weight, weight.variable))
            object.__setattr__(weight.owner, weight.attribute, tensor)
        try:
            return self.layer.call(inputs, *args, **kwargs)
        finally:
            for weight, variable in originals:
                object.__setattr__(weight.owner, weight.attribute, variable)

    def compute_mask(self, inputs, mask=None):
        return self.layer.compute_mask(inputs, mask)

    @property
    def trainable_weights(self):
        logits = [m.logits for m in self.weight_masks if m.logits is not None]
        return self.layer.trainable_weights + (logits if self.layer.trainable else [])

    @property
    def non_trainable_weights(self):
        logits = [m.logits for m in self.weight_masks if m.logits is not None]
        frozen = [] if self.layer.trainable else logits
        return self.layer.non_trainable_weights + self._non_trainable_weights + frozen

    def get_weights(self):
        return keras.backend.batch_get_value(self.weights)

    def set_weights(self, weights):
        return keras.layers.Layer.set_weights(self, weights)

    def _is_driven(self):
        # By `UpdatePruningStep`, or by us.
        with tf.init_scope():
            started = self.ranking.step != NOT_STARTED
        return self.driven or (started and self.schedule is not None)

    def get_config(self):
        base = keras.layers.Wrapper.get_config(self)
        return {**base, **self.pruning_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["structure"] = structures.get(config["structure"])
        config["method"] = methods.get(config["method"])
        config["layer"] = keras.layers.deserialize(config["layer"], custom_objects)
        return cls(**config)

    def _add_variable(self, name, value, trainable=False):
        aggregation = tf.VariableAggregation
        return self.add_weight(
            name,
            shape=value.shape,
            initializer=lambda shape, dtype, **_: tf.constant(value, dtype),
            dtype=value.dtype.name,
            trainable=trainable,
            experimental_autocast=False,
            aggregation=aggregation.MEAN
            if trainable
            else aggregation.ONLY_FIRST_REPLICA,
        )

    def _set_constraint(self, variable, constraint):
        getattr(variable, "_variable", variable)._constraint = constraint


class _PruningFacade:
    """What tfmot's callbacks call on a wrapper's `pruning_obj`."""

    def __init__(self, layer):
        self._layer = layer

    def conditional_mask_update(self):
        return tf.no_op("update")

    def weight_mask_op(self):
        """At the end of every epoch: freezes once the schedule is over."""
        layer = self._layer
        schedule = layer.schedule
        if schedule is None or layer.driven or layer.ranking.phase == FROZEN:
            return
        if layer.ranking.step >= schedule.end_step:
            layer.ranking.freeze()


@keras.saving.register_keras_serializable(package="smart_tf")
class PruningOptimizer(MaskRouting, keras.optimizers.Optimizer):
    """As `smart_tf.flavours.keras3.PruningOptimizer`, for `tf_keras`."""

    def __init__(
        self,
        weights_optimizer,
        mask_optimizer,
        peak_rate=None,
        mask_rate=None,
        name="PruningOptimizer",
    ):
        super().__init__(name=name)
        self._configure(weights_optimizer, mask_optimizer, peak_rate, mask_rate)

    def update_step(self, gradient, variable):
        raise NotImplementedError("The parts update their own variables.")

    @staticmethod
    def _serialize(optimizer):
        return keras.saving.serialize_keras_object(optimizer)

    @staticmethod
    def _deserialize(config, custom_objects):
        return keras.saving.deserialize_keras_object(config, custom_objects)


LossScaleOptimizer = mixed_precision.LossScaleOptimizer

TRACKING_ATTRIBUTES = ("_self_tracked_trackables", "_metrics", "_obj_reference_counts")
"""Where a layer keeps its own book of its parts."""


def is_model(layer):
    return isinstance(layer, keras.Model)


def is_graph_model(model):
    """Whether a model is made of a graph of layers, and can be cloned."""
    return isinstance(model, keras.Sequential) or model._is_graph_network


def clone_graph_model(model, replace):
    """Clones a Functional or Sequential model around `replace(layer)`."""
    return keras.models.clone_model(model, clone_function=replace)


def set_attribute(model, name, value):
    """Sets an attribute of a built model."""
    setattr(model, name, value)


def set_tracked_layers(model, replaced):
    """Nothing to do: setting an attribute untracks what it held."""
