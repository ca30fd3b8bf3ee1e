"""The state of a step of the search: solved once, shared by all wrappers."""

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from smart_tf import topk
from smart_tf.theta import shares

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


class Step(NamedTuple):
    """What all wrappers of a ranking share in one training step.

    `masks` are those of eq. 2, by `WeightMask`: shares of the common soft top-k while
    the search lasts, and else 1 or what the freeze has left. A method without a common
    threshold has none. `outlets` are tensors of the kernels' shapes, also by
    `WeightMask`: whatever flows into them as a gradient, that of a masked kernel,
    goes on to the logits. `logits` are those of the channels of several layers, or
    None.
    """

    state: SearchState
    searching: tf.Tensor
    packed: tf.Tensor | None = None
    masks: Mapping = MappingProxyType({})
    outlets: Mapping = MappingProxyType({})
    logits: tf.Tensor | None = None


class Search:
    """What happens in the training graph: the temperature falls, `theta` follows.

    Args:
        ranking: The `smart_tf.ranking.Ranking` whose wrappers share it.
    """

    def __init__(self, ranking):
        self._ranking = ranking
        self._shared = {}

    def step_for(self, layer):
        """The `Step` of this forward pass, for one wrapper.

        The first wrapper that asks in a forward pass has it computed, the others
        share it, so that the threshold is solved once and the gradient tape joins what
        flows back from all layers. A new forward pass gets a new one, since sharing
        beyond a tape would lose that.
        """
        thread, graph = threading.get_ident(), tf.compat.v1.get_default_graph()
        forward_pass = layer.forward_pass()
        shared = self._shared.get(thread)
        if shared is None or not shared.serves(layer, forward_pass, graph):
            shared = _Shared(graph, forward_pass, self._next_step())
            self._shared[thread] = shared
        shared.users.add(layer)
        return shared.step

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
            layer.add_loss(tf.where(shared.step.searching, penalty, 0.0))

    def _next_step(self):
        ranking = self._ranking
        first = ranking.layers[0]
        last = SearchState.unpack(first.search_state)
        searching, temperature = self._temperature(last.phase)
        idle = tf.where(last.phase < FROZEN, DENSE, FROZEN)
        phase = tf.where(searching, SEARCHING, idle)
        state = last._replace(phase=phase, temperature=temperature)
        masks, outlets = {}, {}
        if first.method.uses_threshold and (ranking.ranked or ranking.lead):
            x, budget, costs = self._problem(last)
            state, f = self._solved(x, budget, costs, state, searching, last)
            masks = self._masks(f, searching)
            outlets = self._outlets(list(masks), x, f, costs, state, searching)
        packed, logits = tf.stack(state), ranking.shared_logits()
        return Step(state, searching, packed, masks, outlets, logits)

    def _temperature(self, last_phase):
        """Whether the search is on, and the temperature."""
        layers = self._ranking.layers
        # A layer without gradient is not stepped, so the furthest one counts.
        step = tf.reduce_max(
            tf.stack([tf.convert_to_tensor(k.pruning_step) for k in layers])
        )
        searching, temperature = False, tf.constant(1.0)
        schedule = layers[0].schedule
        if schedule:
            _, temperature = schedule(step)
            # Past the schedule's end too: the freeze may come some updates late.
            searching = step >= schedule.begin_step
        return tf.logical_and(searching, last_phase < FROZEN), temperature

    def _solved(self, x, budget, costs, state, searching, last):
        """The state with its threshold, and the shares of all logits (eq. 2)."""

        def solve():
            start = last.a + last.temperature * last.s
            a, s = topk.threshold(x, budget, state.temperature, costs, start)
            return a, s, shares(x, a, s, state.temperature)

        def rest():
            return last.a, last.s, self._shares_at_rest(x)

        a, s, f = tf.cond(searching, solve, rest)
        return state._replace(a=a, s=s), tf.stop_gradient(f)

    def _outlets(self, masks, x, f, costs, state, searching):
        """Dict from each of `masks` to where its gradient is handed in.

        One branch for all kernels together decides whether the logits' gradient is
        computed: one in each layer costs more than the gradient of small layers.
        """
        kernels = [tf.convert_to_tensor(m.weight.variable) for m in masks]
        kernels = [tf.stop_gradient(tf.cast(k, tf.float32)) for k in kernels]

        @tf.custom_gradient
        def outlets(x):
            def gradient(*upstreams):
                def pulled():
                    g = self._joined_gradient(masks, kernels, upstreams)
                    return topk.pull_back(g, f, x, state.temperature, costs)

                return tf.cond(searching, pulled, lambda: tf.zeros_like(x))

            return [tf.identity(k) for k in kernels], gradient

        return dict(zip(masks, outlets(x), strict=True))

    def _joined_gradient(self, masks, kernels, upstreams):
        """The gradient with respect to all shares in a row (eq. 6)."""
        gradients = [
            m.mask_gradient(kernel, tf.convert_to_tensor(upstream))
            for m, kernel, upstream in zip(masks, kernels, upstreams, strict=True)
        ]
        if self._ranking.lead is None:
            return _joined(gradients)
        size = self._ranking.lead.coupling.size
        pairs = zip(masks, gradients, strict=True)
        return tf.add_n([m.scattered(g, size) for m, g in pairs])

    def _problem(self, last):
        """Logits, budget and costs (None: all 1) of eq. 2."""
        ranking = self._ranking
        if ranking.lead is not None:
            x = ranking.shared_logits()
            f = tf.stop_gradient(shares(x, last.a, last.s, last.temperature))
            return x, *ranking.lead.coupling.linear_problem(f, last.spend)
        costs = ranking.costs()
        unit = costs.mean()
        x = _joined(m.logits for m in ranking.ranked)
        weighted = None if np.all(costs == unit) else (costs / unit).astype(np.float32)
        return x, ranking.budget() / unit, weighted

    def _shares_at_rest(self, x):
        """Before and after the search: 1 for what stays, so that no logit moves."""
        if self._ranking.lead is not None:
            return tf.ones_like(x)
        return _joined(m.mask for m in self._ranking.ranked)

    def _masks(self, f, searching):
        """Dict from each `WeightMask` to its part of the shares `f`."""
        ranked = self._ranking.ranked
        if self._ranking.lead is None:
            parts = tf.split(f, [m.costs.size for m in ranked])
            return {
                m: tf.reshape(part, m.costs.shape)
                for m, part in zip(ranked, parts, strict=True)
            }
        return {
            m: tf.where(searching, m.gathered(f), tf.convert_to_tensor(m.mask))
            for m in self._ranking.coupled
            if m.in_search
        }


def _joined(variables):
    """The values of variables of any shapes in a row."""
    return tf.concat([tf.reshape(tf.convert_to_tensor(v), [-1]) for v in variables], 0)


class _Shared:
    """A `Step`, and who may use it."""

    def __init__(self, graph, forward_pass, step):
        self.graph, self.forward_pass, self.step = graph, forward_pass, step
        self.users, self.has_penalty = set(), False

    def serves(self, layer, forward_pass, graph):
        """Whether a layer that is called in a pass and a graph may use the step."""
        if forward_pass is not self.forward_pass:
            return False
        if forward_pass is None and layer in self.users:
            return False  # Its second call is taken for the next forward pass.
        while graph is not None and graph is not self.graph:
            graph = getattr(graph, "outer_graph", None)
        return graph is self.graph
