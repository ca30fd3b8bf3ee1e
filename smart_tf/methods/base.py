"""What every pruning method answers, and how methods are named and configured."""

import dataclasses

import numpy as np
import tensorflow as tf

from smart_tf.methods.settings import sgd
from smart_tf.registry import build, check_settings, register

_METHODS = {}


@dataclasses.dataclass(frozen=True)
class Method:
    """Base class of the pruning methods.

    A method decides what a kernel looks like while the structure is searched
    for, and which blocks stay when the search is over. Phases, exact freeze,
    floor, strip and report are the same for all methods.

    Subclasses are frozen dataclasses: their fields are their configuration, and
    the class's name in lower case is the name of the method, which must not be that
    of one in this package. They override what they do differently. In the training
    graph, at every step:

    - `soft_mask`: the mask of a kernel's blocks;
    - `soft_masks`: those of all N:M kernels at once;
    - `mask_gradient`: what of the weights' gradient a mask gets;
    - `penalty`: a term of the loss;
    - `constrain`: what becomes of a kernel after an optimizer update.

    On the host, rarely:

    - `milestones` and `update`: when the method intervenes in the search, and how;
    - `final_scores`: the ranking of the blocks;
    - `final_channel_scores`: that of channels that run through several layers.

    Left as it is, a method trains the dense network until the search is over, and
    then keeps the largest blocks.

    Raises:
        ValueError: When a subclass is defined, if its name is taken.
    """

    has_logits = False
    """Whether every block has a trainable logit of its own."""

    uses_threshold = False
    """Whether the masks of blocks are shares of one soft top-k of the logits of all
    layers (eq. 2). Then `soft_mask` is asked for the masks of N:M structures only."""

    keeps_mask_optimizer = False
    """Whether the logits' optimizer is part of the method: then nobody may replace
    it, and its learning rate does not follow the decay of the weights' one."""

    ranks_channels = False
    """Whether it ranks channels that run through several layers, by
    `final_channel_scores`."""

    behind_norms = False
    """Whether the masks of a kernel's channels act behind the `BatchNormalization`
    that follows it. It would cancel a factor in front of it, and with that the gradient
    from which a mask is to learn."""

    initial_temperature = 1.0
    final_temperature = 0.01

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register(_METHODS, cls.__name__.lower(), cls)

    def supports(self, structure, coupled=False):
        """Why the method cannot prune with a structure, or None if it can.

        Args:
            structure: `smart_tf.structures.Structure`.
            coupled: Whether the channels of several layers go together.
        """
        if coupled and not self.ranks_channels:
            return (
                "it ranks the blocks of kernels; smart_tf.structures.Channel("
                "coupled=False) prunes the channels of single kernels"
            )
        if self.has_logits and not structure.is_global:
            return "it ranks blocks across layers, and N:M groups are not ranked"
        return None

    def slots(self, weights, grid):
        """State of the method's own beside a kernel, saved with the model.

        Args:
            weights: Array, the kernel.
            grid: Tuple of integers, the shape of its grid of blocks.

        Returns:
            Dict from names to arrays, the values at the start. The variables are
            found in `WeightMask.slots`.
        """
        return {}

    def initial_logits(self, scores):
        """Where the logits of all layers start.

        Args:
            scores: List of float64 arrays, the block scores (root mean square of
                the weights) of each kernel.

        Returns:
            List of arrays of the same shapes.
        """
        return [np.zeros_like(s) for s in scores]

    def soft_mask(self, weights, weight_mask, state):
        """The mask of a kernel's blocks during the search.

        Args:
            weights: Kernel tensor.
            weight_mask: The `smart_tf.weight_masks.WeightMask` of this kernel.
            state: `smart_tf.search.SearchState` of this step.

        Returns:
            Float32 tensor of the shape of the structure's grid, differentiable in
            the logits, or in `weights`, or in neither. By default the 0/1 mask that
            the last `update` has set.
        """
        return tf.convert_to_tensor(weight_mask.mask)

    def soft_masks(self, kernels, weight_masks, state):
        """The masks of all kernels with an N:M structure during the search.

        Args:
            kernels: List of kernel tensors.
            weight_masks: List of their `WeightMask`s.
            state: `smart_tf.search.SearchState` of this step.

        Returns:
            List of float32 tensors: by default the `soft_mask` of each. A method may do
            them all at once.
        """
        pairs = zip(kernels, weight_masks, strict=True)
        return [self.soft_mask(kernel, mask, state) for kernel, mask in pairs]

    def mask_gradient(self, products):
        """What a mask's gradient is summed up from (eq. 6).

        Args:
            products: Tensor of the kernel's shape, `w * dL/d(w f)`.

        Returns:
            Tensor of the same shape, which is summed over each block.
        """
        return products

    def applied(self, shares):
        """What a kernel is multiplied by in place of its shares of the soft top-k.

        Called where `uses_threshold` is set, for structures with `keeps_scale`: blocks
        and single weights.

        Args:
            shares: Float32 tensor of any shape, the shares of one kernel's blocks.

        Returns:
            Tensor of the same shape.
        """
        return shares

    def penalty(self, ranking):
        """A term that is added to the loss while the search lasts.

        Args:
            ranking: The `smart_tf.ranking.Ranking` of the model.

        Returns:
            Float32 scalar tensor, or None.
        """
        return None

    def constrain(self, weights, weight_mask):
        """A kernel after an optimizer update, before the mask's zeros are put back.

        Args:
            weights: Kernel tensor.
            weight_mask: Its `WeightMask`.

        Returns:
            Tensor of the same shape and dtype.
        """
        return weights

    def milestones(self):
        """When `update` is called.

        Returns:
            Sequence of rising floats in [0, 1), shares of the search.
        """
        return ()

    def update(self, ranking, index):
        """Intervenes in the search, on the host, between two training steps.

        Args:
            ranking: The `smart_tf.ranking.Ranking` of the model. `ranking.prune`
                sets the masks; `ranking.masks` lists the `WeightMask`s.
            index: Integer, which of the milestones it is.
        """

    def final_scores(self, weight_mask):
        """Float64 array of block scores by which the blocks are ranked."""
        return weight_mask.scores()

    def final_channel_scores(self, ranking):
        """Scores of channels that run through several layers.

        Args:
            ranking: The `smart_tf.ranking.Ranking` of the model.

        Returns:
            Float64 array `(channels,)`: by default the shared logits, or the channels'
            magnitudes for a method without logits.
        """
        logits = ranking.shared_logits()
        if logits is None:
            return ranking.channel_magnitudes()
        return logits.numpy().astype(np.float64)

    def mask_optimizer_config(self):
        """The optimizer that the logits get by default.

        Returns:
            `{"class_name", "config"}`, or `"same"` for a copy of the weights' one
            without weight decay.
        """
        return sgd(learning_rate=1.0, momentum=0.9)

    def get_config(self):
        """Returns `{"class_name", "config"}`; the config holds the fields."""
        return {
            "class_name": type(self).__name__,
            "config": dataclasses.asdict(self),
        }


def get(identifier):
    """A `Method` from its name, config or itself.

    Args:
        identifier: `"smart"` or another name, a config dict, or a `Method` object.

    Returns:
        A `Method`.

    Raises:
        ValueError: If the name is unknown, or the config has settings that the method
            does not know.
        TypeError: If `identifier` is none of these, or a method whose settings are not
            all fields of a dataclass.
    """
    if isinstance(identifier, Method):
        check_settings(identifier, "method")
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if isinstance(identifier, str):
        return _named(identifier)()
    raise TypeError(
        "Argument `method` must be a string or a `Method` object. "
        f"Received: {identifier!r} (of type {type(identifier).__name__})"
    )


def deserialize(config):
    """The `Method` that `get_config` described.

    Raises:
        ValueError: If its class is unknown, or has no such settings: a method of one's
            own must be defined before a model that was pruned with it is loaded.
    """
    name = config.get("class_name")
    if not isinstance(name, str):
        raise ValueError(
            "Argument `method` must be a string, a `Method` object, or a config dict "
            f"{{'class_name': ..., 'config': ...}}. Received: method={config!r}"
        )
    make = _named(name)
    return build(config, lambda settings: make(**settings), "method")


def register_preset(name, make):
    """Gives a name to a method with settings other than the default ones.

    Args:
        name: String in lower case.
        make: Function without arguments that returns a `Method`.

    Raises:
        ValueError: If the name is taken by a method of this package.
    """
    register(_METHODS, name, make)


def _named(name):
    if name.lower() not in _METHODS:
        raise ValueError(
            f"Argument `method` must be one of {sorted(_METHODS)} or a `Method` "
            f"object. Received: method={name!r}"
        )
    return _METHODS[name.lower()]
