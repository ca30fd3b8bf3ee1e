"""What a pruning wrapper of either flavour does."""

import math
import warnings
import weakref

import numpy as np
import tensorflow as tf

from smart_tf import methods, prunable, structures
from smart_tf.coupling import Coupling
from smart_tf.layouts import Layout
from smart_tf.ranking import Ranking
from smart_tf.schedules import TemperatureSchedule, check_schedule
from smart_tf.search import FROZEN, NOT_STARTED, SearchState
from smart_tf.weight_masks import ChannelMask, WeightMask

LOGITS = "mask_logits"
COPY = "channel_logits"


def is_mask_logit(variable):
    """Whether a variable (of either flavour) holds mask logits."""
    return variable.name.split("/")[-1].startswith(LOGITS)


class MaskedLayer:
    """Mixin: everything about a pruning wrapper that both flavours share.

    The flavour's class provides `layer` (the wrapped layer), `_add_variable` and
    `_set_constraint`, and runs `layer` on the tensors of `_masked_kernels`.
    """

    is_pruning_wrapper = True
    _last_warned = None

    def _configure(
        self,
        structure,
        sparsity,
        method,
        schedule,
        max_layer_sparsity,
        prices=None,
        channels=None,
        coupling=None,
    ):
        self.structure = structures.get(structure)
        self.method = methods.get(method)
        reason = self.method.supports(self.structure, channels is not None)
        if reason is not None:
            raise ValueError(
                f"Argument `method` cannot be combined with structure "
                f"'{self.structure}': {reason}. Received: method={self.method}"
            )
        self.sparsity = resolve_sparsity(sparsity, self.structure)
        self.max_layer_sparsity = resolve_floor(max_layer_sparsity, self.sparsity)
        if isinstance(schedule, dict):
            schedule = TemperatureSchedule.from_config(schedule)
        check_schedule(schedule)
        self.schedule = schedule
        self.prices = prices
        self.channels = channels
        if isinstance(coupling, dict):
            coupling = Coupling.from_config(coupling)
        self.coupling = coupling
        self.shared_logits = None
        self.weight_masks = []
        self.search_state = None
        self.pruning_step = None
        self.ranking = None
        self.driven = False
        self._warned = False

    def pruning_config(self):
        """What the wrapper was made with, ready for JSON."""
        return {
            "structure": structures.serialize(self.structure),
            "sparsity": self.sparsity,
            "method": self.method.get_config(),
            "schedule": self.schedule.get_config() if self.schedule else None,
            "max_layer_sparsity": self.max_layer_sparsity,
            "prices": self._saved_prices(),
            "channels": self.channels,
            "coupling": self.coupling.get_config() if self.coupling else None,
        }

    def _create_masks(self):
        """Makes the masks' variables, once the wrapped layer is built."""
        for weight, settings in self._masked_weights():
            self.weight_masks.append(self._create_mask(weight, settings))
        if not self.weight_masks:
            raise ValueError(
                f"Layer '{self.layer.name}' (of type {type(self.layer).__name__}) has "
                f"no weights that can be pruned with structure '{self.structure}': "
                f"{prunable.why_not(self.layer) or 'no kernel that it fits'}."
            )
        self.search_state = self._add_variable("search_state", SearchState.initial())
        self.pruning_step = self._add_variable(
            "pruning_step", np.array(NOT_STARTED, np.int64)
        )
        if self.coupling is not None and self.method.has_logits:
            self.shared_logits = self._add_variable(
                LOGITS, np.zeros(self.coupling.size, np.float32), trainable=True
            )
        for index, mask in enumerate(self.weight_masks):
            variable = mask.weight.variable
            projection = _Projection(self, mask, variable.constraint, steps=index == 0)
            mask.user_constraint = _of_the_user(variable.constraint)
            self._set_constraint(variable, projection)
        Ranking([self]).initialise_logits()

    def _masked_weights(self):
        """Pairs of a `PrunableWeight` and the settings of its `ChannelMask`, or {}."""
        if self.channels is None:
            for weight, price in self._priced_kernels():
                if price is not None:
                    yield weight, {"price": price}
            return
        for settings in map(dict, self.channels):
            variable = self.layer.weights[settings.pop("weight")]
            weight = self._weight_along(variable, settings.pop("axis"))
            grid = self.structure.grid_shape(tuple(variable.shape), weight.layout)
            settings["channels"] = np.reshape(settings["channels"], grid)
            yield weight, settings

    def _priced_kernels(self):
        """Pairs of a `PrunableWeight` and its price, None where it is not masked."""
        kernels = prunable.kernels(self.layer, self.structure)
        prices = self.prices or self._prices_of(prunable.prunable_weights(self.layer))
        return zip(kernels, prices, strict=True)

    def _prices_of(self, weights):
        """The price of every kernel when some of them are masked, at 1 each."""
        masked = {id(weight.variable) for weight in weights}
        kernels = prunable.kernels(self.layer, self.structure)
        return [1.0 if id(kernel.variable) in masked else None for kernel in kernels]

    def _saved_prices(self):
        """The prices that were given, or those that tell which kernels are masked.

        These are not needed where just the trainable kernels are. A layer that was
        frozen since would be left without masks when it is loaded.
        """
        if self.prices or self.channels or not self.weight_masks:
            return self.prices
        prices = self._prices_of(mask.weight for mask in self.weight_masks)
        by_default = self._prices_of(prunable.prunable_weights(self.layer))
        return None if prices == by_default else prices

    def _weight_along(self, variable, axis):
        """A variable with channels along an axis; None: those a kernel makes."""
        if axis is None:
            kernels = prunable.prunable_weights(self.layer)
            return next(w for w in kernels if w.variable is variable)
        owner, attribute = prunable.holder(self.layer, variable)
        return prunable.PrunableWeight(owner, attribute, Layout((axis,), ()))

    def _create_mask(self, weight, settings):
        grid = self.structure.grid_shape(tuple(weight.variable.shape), weight.layout)
        number = len(self.weight_masks)
        suffix = f"_{number}" if number else ""
        coupled = "channels" in settings
        name, trainable = (COPY, False) if coupled else (LOGITS, True)
        logits = None
        if self.method.has_logits and self.structure.is_global:
            start = np.zeros(grid, np.float32)
            logits = self._add_variable(name + suffix, start, trainable=trainable)
        mask = self._add_variable("mask" + suffix, np.ones(grid, np.float32))
        slots = {
            slot: self._add_variable(slot + suffix, value)
            for slot, value in self.method.slots(weight.variable.numpy(), grid).items()
        }
        return (ChannelMask if coupled else WeightMask)(
            weight,
            self.structure,
            self.method,
            self.sparsity,
            self.max_layer_sparsity,
            logits,
            mask,
            slots,
            **settings,
        )

    @tf.autograph.experimental.do_not_convert
    def _masked_kernels(self, training):
        """`[(PrunableWeight, tensor)]`: what the layer is to run on."""
        now = self._begin_step() if training else SearchState.unpack(self.search_state)

        def masked(m):
            kernel = tf.convert_to_tensor(m.weight.variable)
            return (m.in_training if training else m.in_evaluation)(kernel, now)

        return [
            (m.weight, masked(m))
            for m in self.weight_masks
            if m.weight.variable.trainable or not isinstance(m, ChannelMask)
        ]

    def _begin_step(self):
        """The `smart_tf.search.Step` of this forward pass, whose state is kept."""
        self._warn_if_nobody_drives()
        step = self.ranking.search.step_for(self)
        self.search_state.assign(step.packed)
        self.ranking.search.add_penalty(self)
        return step

    def _warn_if_nobody_drives(self):
        if self._is_driven() or self._warned:
            return
        for layer in self.ranking.layers:
            layer._warned = True
        with tf.init_scope():
            frozen = self.ranking.phase == FROZEN
        if not frozen and not self._warned_in_this_pass():
            warnings.warn(
                "A model with pruning wrappers is being trained, but nothing drives "
                "the pruning: its masks will not be searched nor frozen. Pass "
                "`smart_tf.SmartPruningCallback` to `fit`, or step it in your own "
                "training loop.",
                stacklevel=2,
            )

    def _warned_in_this_pass(self):
        """Whether a wrapper of another ranking has warned just now."""
        here, there = self.forward_pass(), MaskedLayer._last_warned
        MaskedLayer._last_warned = None if here is None else weakref.ref(here)
        return here is not None and there is not None and there() is here

    def _is_driven(self):
        return self.driven

    def forward_pass(self):
        """An object of the forward pass that is under way, or None if unknown."""
        return None

    def trainable_logits(self):
        """List of the wrapper's trainable variables of mask logits."""
        own = [m.logits for m in self.weight_masks if not isinstance(m, ChannelMask)]
        return [v for v in [*own, self.shared_logits] if v is not None]

    def release(self, undo=False):
        """Gives the wrapped layer its own constraints back.

        Those of a wrapper that was put around it later stay.

        Args:
            undo: Whether those of an earlier wrapper come back, too.
        """
        for mask in self.weight_masks:
            constraint = mask.weight.variable.constraint
            if isinstance(constraint, _Projection) and constraint.mask is mask:
                former = constraint.former if undo else mask.user_constraint
                self._set_constraint(mask.weight.variable, former)


class _Projection:
    """A kernel's constraint: keeps pruned weights at zero, and counts the updates."""

    def __init__(self, layer, mask, former, steps):
        self._layer, self.mask, self._steps = layer, mask, steps
        self.former = former

    def __call__(self, weights):
        layer = self._layer
        if self._steps:
            counts = tf.convert_to_tensor(layer.pruning_step) > NOT_STARTED
            layer.pruning_step.assign_add(tf.cast(counts, layer.pruning_step.dtype))
            layer.ranking.search.step_done()
        return self.mask.project(weights)


def _of_the_user(constraint):
    """A kernel's own constraint, where a model was pruned before, and not stripped."""
    if isinstance(constraint, _Projection):
        return constraint.mask.user_constraint
    return constraint


def resolve_sparsity(sparsity, structure):
    """The sparsity as a float, checked; an N:M structure brings its own."""
    own = None
    if isinstance(structure, structures.NM):
        own = 1.0 - structure.keep / structure.of
    if sparsity is None:
        if own is None:
            raise ValueError(
                "Argument `sparsity` must be given: the fraction of the weights that "
                f"goes, in [0, 1). Received: sparsity=None, structure='{structure}'"
            )
        return own
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float, np.number)):
        raise TypeError(
            "Argument `sparsity` must be a float in [0, 1). "
            f"Received: sparsity={sparsity!r} (of type {type(sparsity).__name__})"
        )
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(
            f"Argument `sparsity` must be in [0, 1). Received: sparsity={sparsity}"
        )
    if own is not None and not math.isclose(sparsity, own):
        raise ValueError(
            f"Structure '{structure}' keeps {structure.keep} of {structure.of} "
            f"weights, which is a sparsity of {own:g}: leave argument `sparsity` out. "
            f"Received: sparsity={sparsity}"
        )
    return float(sparsity)


def resolve_floor(max_layer_sparsity, sparsity):
    """The largest sparsity of any kernel: by default 0.98, or halfway to 1."""
    if max_layer_sparsity is None or max_layer_sparsity is ...:
        return max(0.98, (1.0 + sparsity) / 2)
    if isinstance(max_layer_sparsity, bool) or not isinstance(
        max_layer_sparsity, (int, float, np.number)
    ):
        raise TypeError(
            "Argument `max_layer_sparsity` must be a float. "
            f"Received: max_layer_sparsity={max_layer_sparsity!r}"
        )
    if not sparsity <= max_layer_sparsity <= 1.0:
        raise ValueError(
            "Argument `max_layer_sparsity` must be between `sparsity` and 1. "
            f"Received: max_layer_sparsity={max_layer_sparsity}, sparsity={sparsity}"
        )
    return float(max_layer_sparsity)
