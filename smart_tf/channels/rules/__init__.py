"""How channels pass through each kind of layer.

The layers of Keras 3 and of tf_keras, and the operators in a graph, are looked up by
the name of their class. A rule is a function of a `Flow` and a `Call` that returns the
signal that comes out. `registry` finds the rule of a layer; the others hold the rules.
"""

from smart_tf.channels.rules import attention, entries, moves, products, scales
from smart_tf.channels.rules.entries import ELEMENTWISE
from smart_tf.channels.rules.registry import register_rule, rule_of
from smart_tf.channels.rules.scales import NORMALISATIONS

__all__ = [
    "ELEMENTWISE",
    "NORMALISATIONS",
    "attention",
    "entries",
    "moves",
    "products",
    "register_rule",
    "rule_of",
    "scales",
]
