"""An optimizer of their own for the mask logits, inside a plain `compile`/`fit`."""

import numpy as np
import tensorflow as tf

from smart_tf.masking import is_mask_logit
from smart_tf.restart import forget_restart


class MaskRouting:
    """Mixin: an optimizer that sends the logits to one optimizer, the rest to another.

    The logits never see weight decay, clipping or moments that were meant for the
    weights. A mask optimizer with a plain number as learning rate follows the decay
    of the weights' one: its rate is `number * min(1, rate(now) / peak_rate)`. One with
    a `LearningRateSchedule` keeps to it.

    The flavour's class gives `_serialize` and `_deserialize`, and its own base.
    """

    _places = ()  # where each variable of `build` is among those of both parts

    def _configure(self, weights_optimizer, mask_optimizer, peak_rate, mask_rate):
        self.weights_optimizer = weights_optimizer
        self.mask_optimizer = mask_optimizer
        self.peak_rate = peak_rate
        self.mask_rate = mask_rate

    def build(self, variables):
        if getattr(self, "_parts_built", False):
            return
        variables = list(variables)
        parts = self._parts([(v, v) for v in variables])
        for optimizer, part in parts:
            self._build_part(optimizer, [v for _, v in part])
        in_parts = [v for _, part in parts for v, _ in part]
        places = {id(v): place for place, v in enumerate(in_parts)}
        self._places = np.array([places[id(v)] for v in variables])
        super().build(in_parts)
        self._parts_built = True

    def _build_part(self, optimizer, variables):
        optimizer.build(variables)

    def apply_gradients(self, grads_and_vars, **kwargs):
        """Updates weights and logits, each with its own optimizer.

        Args:
            grads_and_vars: Iterable of `(gradient, variable)`.
            **kwargs: As the flavour's optimizers take them.

        Returns:
            The iterations of the weights' optimizer.
        """
        pairs = list(grads_and_vars)
        self.build([v for _, v in pairs])
        self._follow_decay()
        for optimizer, part in self._parts(pairs):
            if any(gradient is not None for gradient, _ in part):
                optimizer.apply_gradients(part, **kwargs)
        return self.iterations

    def _parts(self, pairs):
        logits = [pair for pair in pairs if is_mask_logit(pair[1])]
        weights = [pair for pair in pairs if not is_mask_logit(pair[1])]
        return [(self.weights_optimizer, weights), (self.mask_optimizer, logits)]

    def _follow_decay(self):
        if self.mask_rate is None or not self.peak_rate:
            return
        now = self._rate_of_this_update()
        # A callback may raise the rate above what it was compiled with.
        follows = now * (self.mask_rate / self.peak_rate)
        self.mask_optimizer.learning_rate = tf.minimum(follows, self.mask_rate)

    def _rate_of_this_update(self):
        return self.weights_optimizer.learning_rate

    def stop_logits(self):
        """Forgets the momentum of the logits: without gradients they stay in place."""
        for slot in self.mask_optimizer.variables:
            if len(slot.shape) > 0:
                slot.assign(np.zeros(slot.shape))

    @property
    def variables(self):
        return [*self.weights_optimizer.variables, *self.mask_optimizer.variables]

    # Both parts are saved as children; there is nothing else to save.
    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass

    @property
    def learning_rate(self):
        return self.weights_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.weights_optimizer.learning_rate = value

    @property
    def iterations(self):
        return self.weights_optimizer.iterations

    def scale_loss(self, loss):
        return self.weights_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.weights_optimizer.finalize_variable_values(
            [v for v in var_list if not is_mask_logit(v)]
        )

    def get_config(self):
        return {
            "name": self.name,
            "weights_optimizer": self._serialize(self.weights_optimizer),
            "mask_optimizer": self._serialize(self.mask_optimizer),
            "peak_rate": self.peak_rate,
            "mask_rate": self.mask_rate,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for part in ("weights_optimizer", "mask_optimizer"):
            config[part] = cls._deserialize(config[part], custom_objects)
        return cls(**config)


def set_optimizer(model, optimizer):
    """Replaces the optimizer of a compiled model, in what it saves of itself too.

    `compile` would do so as well, but would also reset metrics and graphs that a
    running `fit` holds.
    """
    model.optimizer = optimizer
    if hasattr(model, "_compile_config"):
        model._compile_config.config["optimizer"] = optimizer


def fresh_copy(optimizer):
    """A copy with the same settings, not bound to any variables yet."""
    config = optimizer.get_config()
    if callable(optimizer._learning_rate):
        config["learning_rate"] = optimizer._learning_rate  # need not be registered
    copy = type(optimizer).from_config(config)
    for name, value in vars(optimizer).items():
        # No part of the config, but a setting.
        if name.startswith("_exclude_from_weight_decay") and "cache" not in name:
            setattr(copy, name, value)
    return copy


def around(optimizer, inner):
    """A loss-scaling optimizer with the settings of another, around `inner`."""
    config = optimizer.get_config()
    config.pop("inner_optimizer")
    wrapped = type(optimizer)(inner, **config)
    known = getattr(inner, "_trainable_variables", None)
    if int(optimizer.iterations.numpy()) > 0 and known:
        wrapped.build(known)
        transfer(optimizer, wrapped)
    return wrapped


def plain_optimizer(optimizer, flavour):
    """The optimizer of a model that is not pruned any more.

    Args:
        optimizer: The optimizer of a pruned model.
        flavour: Package of the model's Keras.

    Returns:
        Optimizer without a part for the logits, with a learning rate that does not
        start over.
    """
    if isinstance(optimizer, flavour.LossScaleOptimizer):
        inner = plain_optimizer(optimizer.inner_optimizer, flavour)
        is_plain = inner is optimizer.inner_optimizer
        return optimizer if is_plain else around(optimizer, inner)
    if isinstance(optimizer, flavour.PruningOptimizer):
        optimizer = fresh_copy(optimizer.weights_optimizer)
    forget_restart(optimizer)
    return optimizer


def transfer(source, target):
    """Carries over what a built optimizer has learnt of its variables.

    Args:
        source: Built optimizer.
        target: Optimizer of the same kind, built on a part of the same variables.
    """
    key = "path" if hasattr(next(iter(source.variables), None), "path") else "name"
    known = {}
    for variable in source.variables:
        known.setdefault(getattr(variable, key), []).append(variable)
    for variable in target.variables:
        if known.get(getattr(variable, key)):
            variable.assign(known[getattr(variable, key)].pop(0).numpy())


def peak_learning_rate(optimizer):
    """The largest learning rate of a run: what a mask's rate is relative to.

    A schedule does not tell where its warm-up ends, so it is tried at updates up to
    a million, or until it has fallen to a hundredth: what comes later is not meant.

    Args:
        optimizer: Optimizer of either flavour.

    Returns:
        Float.
    """
    if constant_learning_rate(optimizer) is not None:
        return constant_learning_rate(optimizer)
    rate, peak = optimizer._learning_rate, 0.0
    if not hasattr(rate, "get_config"):
        return float(rate())  # a function without arguments
    for step in np.unique(np.geomspace(1, 1e6, 300, dtype=int)) - 1:
        try:
            now = float(rate(step))
        except tf.errors.InvalidArgumentError:  # A table has an end.
            break
        if now < peak / 100:
            break
        peak = max(peak, now)
    return peak


def constant_learning_rate(optimizer):
    """The learning rate as a float, or None where it is a schedule."""
    if callable(optimizer._learning_rate):
        return None
    return float(optimizer.get_config()["learning_rate"])
