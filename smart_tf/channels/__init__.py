"""Channels that run through several layers: their groups, and how they are removed.

`graph` follows them through a model with the `rules` of each kind of layer, `find`
says which must go together, `groups` what that saves, `search` lets them compete, and
`surgery` removes them; `outputs` finds the layers that make what a model puts out.
"""

from smart_tf.channels.find import find_groups
from smart_tf.channels.flow import Flow
from smart_tf.channels.graph import Call, trace
from smart_tf.channels.groups import ChannelGroup, ChannelGroups
from smart_tf.channels.outputs import heads
from smart_tf.channels.rules import register_rule
from smart_tf.channels.search import couple, couple_kernels
from smart_tf.channels.signal import Signal, fixed, on_axis
from smart_tf.channels.surgery import shrink

__all__ = [
    "Call",
    "ChannelGroup",
    "ChannelGroups",
    "Flow",
    "Signal",
    "couple",
    "couple_kernels",
    "find_groups",
    "fixed",
    "heads",
    "on_axis",
    "register_rule",
    "shrink",
    "trace",
]
