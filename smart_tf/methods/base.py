"""What every pruning method answers."""

import dataclasses

_METHODS = {}


@dataclasses.dataclass(frozen=True)
class Method:
    """Base class of the pruning methods.

    A method decides what a kernel looks like while the structure is searched
    for, and which blocks stay when the search is over. Phases, exact freeze,
    floor, strip and report are the same for all methods. Subclasses are frozen
    dataclasses: their fields are their configuration.
    """

    has_logits = False
    """Whether every block has a trainable logit of its own."""

    initial_temperature = 1.0
    final_temperature = 0.01

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _METHODS[cls.__name__.lower()] = cls

    def initial_logits(self, scores):
        """Where the logits of all layers start.

        Args:
            scores: List of float64 arrays, the block scores (root mean square of
                the weights) of each kernel.

        Returns:
            List of arrays of the same shapes.
        """
        raise NotImplementedError

    def soft_mask(self, weights, weight_mask, state):
        """The mask of a kernel's blocks during the search.

        Args:
            weights: Kernel tensor.
            weight_mask: The `smart_tf.masking.WeightMask` of this kernel.
            state: `smart_tf.ranking.SearchState` of this step.

        Returns:
            Float32 tensor of the shape of the structure's grid, differentiable in
            the logits, or in `weights`.
        """
        raise NotImplementedError

    def final_scores(self, weight_mask):
        """Float64 array of block scores by which the blocks are ranked at the end."""
        raise NotImplementedError

    def mask_optimizer_config(self):
        """Optimizer `{"class_name", "config"}` that the logits get by default."""
        return None

    def get_config(self):
        return {
            "class_name": type(self).__name__,
            "config": dataclasses.asdict(self),
        }


def get(identifier):
    """A `Method` from its name, config or itself.

    Args:
        identifier: `"smart"`, a config dict, or a `Method` object.

    Returns:
        A `Method`.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If `identifier` is none of these.
    """
    if isinstance(identifier, Method):
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if isinstance(identifier, str):
        if identifier.lower() in _METHODS:
            return _METHODS[identifier.lower()]()
        raise ValueError(
            f"Argument `method` must be one of {sorted(_METHODS)} or a `Method` "
            f"object. Received: method={identifier!r}"
        )
    raise TypeError(
        "Argument `method` must be a string or a `Method` object. "
        f"Received: {identifier!r} (of type {type(identifier).__name__})"
    )


def deserialize(config):
    """The `Method` that `get_config` described."""
    return _METHODS[config["class_name"].lower()](**config["config"])
