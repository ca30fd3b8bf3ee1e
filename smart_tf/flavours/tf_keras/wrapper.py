"""`PrunableLayer` for `tf_keras`."""

import collections
import inspect
import weakref

import tensorflow as tf
import tf_keras as keras
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_wrapper
from tf_keras.src.engine import base_layer_utils

from smart_tf import methods, structures
from smart_tf.masking import MaskedLayer
from smart_tf.ranking import Ranking
from smart_tf.search import FROZEN, NOT_STARTED


@keras.saving.register_keras_serializable(package="smart_tf")
class PrunableLayer(MaskedLayer, pruning_wrapper.PruneLowMagnitude):
    """Runs a `tf_keras` layer on masked kernels, and learns the masks.

    As `smart_tf.PrunableLayer`, for `tf_keras`. It is a tfmot `PruneLowMagnitude`:
    `tfmot.sparsity.keras.strip_pruning`, `UpdatePruningStep`, `PruningSummaries` and
    `prune_scope` work on it. Driven by `UpdatePruningStep` alone, it needs a `schedule`
    and freezes at the end of the epoch in which the schedule is over. Wrappers from
    `smart_tf.prune` then share one budget, as always; one that is put into a model by
    hand reaches its sparsity by itself.

    Args:
        layer: The `tf_keras.layers.Layer` to wrap; may be unbuilt.
        structure: Structure name or object.
        sparsity: Float in [0, 1). May be left out for N:M structures.
        method: Method name or object.
        schedule: `TemperatureSchedule`, or None.
        max_layer_sparsity: Float, or None.
        prices: List with what a weight of each kernel costs in the budget: a number, or
            nested lists with one for each block; None for a kernel that is not masked,
            since another layer masks it, or it was not trainable. Default: 1.
        channels: List of dicts that `smart_tf.prune` makes: which channels of the model
            run along which weights of the layer. By hand, leave it out.
        coupling: `smart_tf.coupling.Coupling` that `smart_tf.prune` makes, for the one
            wrapper that holds the logits of all channels.
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
        prices=None,
        channels=None,
        coupling=None,
        **kwargs,
    ):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                "Argument `layer` must be a `tf_keras.layers.Layer`. "
                f"Received: {layer!r} (of type {type(layer).__name__})"
            )
        if isinstance(layer, pruning_wrapper.PruneLowMagnitude):
            raise ValueError(
                f"Argument `layer` is wrapped for pruning already. Received: {layer}"
            )
        kwargs.pop("name", None)
        kwargs.setdefault("dtype", layer._dtype_policy)
        ranked_with = kwargs.pop("ranked_with", None)
        # The parent would refuse layers that tfmot does not know.
        keras.layers.Wrapper.__init__(
            self, layer, name=f"prunable_{layer.name}", **kwargs
        )
        self._track_trackable(layer, name="layer")
        if hasattr(layer, "_batch_input_shape"):
            self._batch_input_shape = layer._batch_input_shape
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
        self._ranked_with = ranked_with
        self.supports_masking = layer.supports_masking
        self.pruning_vars = []
        self.pruning_obj = _PruningFacade(self)

    @property
    def pruning_schedule(self):
        return self.schedule

    def build(self, input_shape=None):
        if not self.layer.built:
            # Under the names that the layer's weights have without the wrapper.
            outside = tf.get_current_name_scope().rpartition("/")[0]
            with tf.name_scope(f"{outside}/{self.layer.name}/".lstrip("/")):
                self.layer.build(input_shape)
            self.layer.built = True
        keras.layers.Wrapper.build(self, input_shape)
        if self.weight_masks:
            return
        self._create_masks()
        if self._ranked_with:
            _join_loaded(self, self._ranked_with)
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
        accepted = inspect.signature(self.layer.call).parameters
        if "training" in accepted:
            kwargs["training"] = training
        if "mask" not in accepted:
            kwargs.pop("mask", None)
        originals = []
        for weight, tensor in self._masked_kernels(training):
            originals.append((weight, weight.variable))
            object.__setattr__(weight.owner, weight.attribute, tensor)
        try:
            return self.layer(inputs, *args, **kwargs)
        finally:
            for weight, variable in originals:
                object.__setattr__(weight.owner, weight.attribute, variable)

    def compute_mask(self, inputs, mask=None):
        compute = self.layer.compute_mask
        if getattr(compute, "_is_default", False) and not self.layer.supports_masking:
            return None  # Where Keras would not ask the layer itself.
        return compute(inputs, mask)

    @property
    def trainable_weights(self):
        logits = self.trainable_logits() if self.layer.trainable else []
        return self.layer.trainable_weights + logits

    @property
    def non_trainable_weights(self):
        frozen = [] if self.layer.trainable else self.trainable_logits()
        return self.layer.non_trainable_weights + self._non_trainable_weights + frozen

    def get_weights(self):
        return keras.backend.batch_get_value(self.weights)

    def set_weights(self, weights):
        return keras.layers.Layer.set_weights(self, weights)

    @property
    def loss_dtype(self):
        """The dtype in which losses are summed up."""
        return keras.backend.floatx()

    def _is_driven(self):
        if base_layer_utils.call_context().saving:
            return True  # A SavedModel gets the training graph too; nobody trains.
        # By `UpdatePruningStep`, or by us.
        with tf.init_scope():
            started = self.ranking.step != NOT_STARTED
        return self.driven or (started and self.schedule is not None)

    def get_config(self):
        base = keras.layers.Wrapper.get_config(self)
        names = [layer.name for layer in self.ranking.layers] if self.ranking else None
        return {**base, **self.pruning_config(), "ranked_with": names}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["structure"] = structures.get(config["structure"])
        config["method"] = methods.get(config["method"])
        config["layer"] = keras.layers.deserialize(config["layer"], custom_objects)
        config.pop("name", None)
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


_loading = collections.defaultdict(list)


def _join_loaded(layer, names):
    """Joins the wrappers that shared a ranking when they were saved.

    `UpdatePruningStep` hands over one wrapper at a time, so that they have to know
    each other. They come one by one while a model is loaded.

    Args:
        layer: Wrapper that is built.
        names: List of strings, the names of all wrappers of the ranking.
    """
    key = tuple(names)
    waiting = [other for ref in _loading.pop(key, []) if (other := ref()) is not None]
    together = [*waiting, layer]
    if collections.Counter(one.name for one in together) - collections.Counter(names):
        together = [layer]  # The others are left over from a load that failed.
    if len(together) == len(names):
        Ranking(together)
    else:
        _loading[key] = [weakref.ref(one) for one in together]


class _PruningFacade:
    """What tfmot's callbacks call on a wrapper's `pruning_obj`."""

    def __init__(self, layer):
        self._layer = layer

    def conditional_mask_update(self):
        return tf.no_op("update")

    def weight_mask_op(self):
        """At the end of every epoch: the milestones, and the freeze after the last."""
        layer = self._layer
        schedule = layer.schedule
        if schedule is None or layer.driven or layer.ranking.phase == FROZEN:
            return
        layer.ranking.update(schedule)
        if layer.ranking.step >= schedule.end_step:
            layer.ranking.freeze()
