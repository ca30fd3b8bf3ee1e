"""Which weights of a layer can be pruned."""

from smart_tf.prunable.declared import register_prunable
from smart_tf.prunable.find import (
    declares_weights_of_its_own,
    is_quantized,
    kernel_names,
    kernels,
    numbered,
    prunable_weights,
    why_not,
)
from smart_tf.prunable.weights import PrunableWeight, holder

__all__ = [
    "PrunableWeight",
    "declares_weights_of_its_own",
    "holder",
    "is_quantized",
    "kernel_names",
    "kernels",
    "numbered",
    "prunable_weights",
    "register_prunable",
    "why_not",
]
