"""The state of a step of the search: solved once, shared by all wrappers."""

import threading
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from smart_tf import topk

DENSE, SEARCHING, FROZEN = 0.0, 1.0, 2.0
"""Phases of algorithm 1: pre-training, structure search, fine-tuning."""

PHASES = {DENSE: "dense", SEARCHING: "searching", FROZEN: "frozen"}

NOT_STARTED = -1
"""`pruning_step` before anything drives the wrapper (tfmot's sentinel)."""


class SearchState(NamedTuple):
    """What a wrapper needs to know at a step, all float32 scalars.

    `a` and `s` are the threshold `theta = a + temperature * s` as a pair: one
    float32 is too coarse for it at low temperatures. `updates` counts the method's
    milestones that are done. `spend` is how much of the budget is aimed at: all of it,
    until the widths of groups of channels are settled (`Ranking.settle_widths`).
    """

    phase: tf.Tensor
    temperature: tf.Tensor
    a: tf.Tensor
    s: tf.Tensor
    updates: tf.Tensor
    spend: tf.Tensor

    @classmethod
    def initial(cls):
        """Float32 array `[6]`: before the search."""
        return np.array(cls(DENSE, 1.0, 0.0, 0.0, 0.0, 1.0), np.float32)

    @classmethod
    def unpack(cls, vector):
        return cls(*tf.unstack(tf.convert_to_tensor(vector), num=len(cls._fields)))

    @property
    def searching(self):
        return tf.equal(self.phase, SEARCHING)


class Search:
    """What happens in the training graph: the temperature falls, `theta` follows.

    Args:
        ranking: The `smart_tf.ranking.Ranking` whose wrappers share it.
    """

    def __init__(self, ranking):
        self._ranking = ranking
        self._shared = {}

    def state_for(self, layer):
        """The `SearchState` of this training step, packed `[6]`, for one wrapper.

        The first wrapper that asks in a forward pass has it computed, the others
        share it, so that the threshold is solved once and the gradient tape sums
        over all layers what flows back through it. A new forward pass gets a new
        one, since sharing beyond a tape would lose that sum.
        """
        thread, graph = threading.get_ident(), tf.compat.v1.get_default_graph()
        forward_pass = layer.forward_pass()
        shared = self._shared.get(thread)
        if shared is None or not shared.serves(layer, forward_pass, graph):
            shared = _Shared(graph, forward_pass, self._next_state())
            self._shared[thread] = shared
        shared.users.add(layer)
        return shared.state

    def step_done(self):
        """Called with every optimizer update: what was shared is out of date."""
        self._shared = {}

    def add_penalty(self, layer):
        """Adds the method's term of the loss, once in a forward pass.

        Called after the wrapper has kept its state: there replicas wait for each
        other, and each of them begins by clearing what was added before.
        """
        shared = self._shared[threading.get_ident()]
        if shared.has_penalty:
            return
        shared.has_penalty = True
        penalty = layer.method.penalty(self._ranking)
        if penalty is not None:
            searching = SearchState.unpack(shared.state).searching
            layer.add_loss(tf.where(searching, penalty, 0.0))

    def _next_state(self):
        ranking = self._ranking
        first = ranking.layers[0]
        last = SearchState.unpack(first.search_state)
        # A layer without gradient is not stepped, so the furthest one counts.
        step = tf.reduce_max(
            tf.stack([tf.convert_to_tensor(k.pruning_step) for k in ranking.layers])
        )
        searching, temperature = False, 1.0
        if first.schedule:
            _, temperature = first.schedule(step)
            # Past the schedule's end too: the freeze may come some updates late.
            searching = step >= first.schedule.begin_step
        searching = tf.logical_and(searching, last.phase < FROZEN)
        phase = tf.where(
            searching, SEARCHING, tf.where(last.phase < FROZEN, 0.0, FROZEN)
        )
        if not first.method.uses_threshold or not (ranking.ranked or ranking.lead):
            return tf.stack([phase, temperature, *last[2:]])

        def solve():
            logits, budget, costs = self._problem(last)
            start = last.a + last.temperature * last.s
            return topk.threshold(logits, budget, temperature, costs, start)

        a, s = tf.cond(searching, solve, lambda: (last.a, last.s))
        return tf.stack([phase, temperature, a, s, *last[4:]])

    def _problem(self, last):
        """Logits, budget and costs (None: all 1) of the threshold (eq. 2)."""
        ranking = self._ranking
        if ranking.lead is not None:
            logits = ranking.shared_logits()
            shares = topk.soft_mask(logits, last.a, last.s, last.temperature)
            coupling = ranking.lead.coupling
            return logits, *coupling.linear_problem(
                tf.stop_gradient(shares), last.spend
            )
        logits = [
            tf.reshape(tf.convert_to_tensor(m.logits), [-1]) for m in ranking.ranked
        ]
        costs = ranking.costs()
        unit = costs.mean()
        weighted = None if np.all(costs == unit) else (costs / unit).astype(np.float32)
        return tf.concat(logits, 0), ranking.budget() / unit, weighted


class _Shared:
    """A `SearchState` tensor, and who may use it."""

    def __init__(self, graph, forward_pass, state):
        self.graph, self.forward_pass, self.state = graph, forward_pass, state
        self.users, self.has_penalty = set(), False

    def serves(self, layer, forward_pass, graph):
        """Whether a layer that is called in a pass and a graph may use the state."""
        if forward_pass is not self.forward_pass:
            return False
        if forward_pass is None and layer in self.users:
            return False  # Its second call is taken for the next forward pass.
        while graph is not None and graph is not self.graph:
            graph = getattr(graph, "outer_graph", None)
        return graph is self.graph
