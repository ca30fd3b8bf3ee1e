"""The state of a step of the search: solved once, shared by all wrappers."""

import threading
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
        """The state from a float32 tensor or variable `[6]`."""
        return cls(*tf.unstack(tf.convert_to_tensor(vector), num=len(cls._fields)))

    @property
    def searching(self):
        """Boolean scalar tensor: whether the masks are soft."""
        return tf.equal(self.phase, SEARCHING)


class Step(NamedTuple):
    """What all wrappers of a ranking share in one training step.

    `packed` is the `SearchState`, and `logits` are those of the channels of several
    layers, or None. `masks` has the mask of every `WeightMask`, soft while the search
    lasts. `outlets` has tensors of the kernels' shapes: what flows back into them,
    the gradient of a masked kernel, goes on as the gradient of its mask.
    """

    searching: tf.Tensor
    packed: tf.Tensor
    logits: tf.Tensor | None
    masks: dict
    outlets: dict


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
            penalty = tf.where(shared.step.searching, penalty, 0.0)
            layer.add_loss(tf.cast(penalty, layer.loss_dtype))

    def _next_step(self):
        ranking = self._ranking
        last = SearchState.unpack(ranking.layers[0].search_state)
        searching, temperature = self._temperature(last.phase)
        idle = tf.where(last.phase < FROZEN, DENSE, FROZEN)
        phase = tf.where(searching, SEARCHING, idle)
        state = last._replace(phase=phase, temperature=temperature)
        logits = ranking.shared_logits()
        kernels = [tf.convert_to_tensor(m.weight.variable) for m in ranking.masks]
        kernels = [tf.cast(kernel, tf.float32) for kernel in kernels]
        # Variables are read here, and not in the branch that may be left out. What
        # goes in and comes out layer by layer keeps the code of alike layers alike, and
        # XLA compiles that once.
        parts = self._logits(logits)

        def soft():
            x = _joined(parts) if parts else None
            now, f = self._solved(self._problem(x, last), state, last)
            return now.a, now.s, *self._soft_masks(kernels, now, logits, f)

        def hard():
            masks = [tf.convert_to_tensor(m.mask) for m in ranking.masks]
            return last.a, last.s, *_detached(masks, parts)

        a, s, *masks = tf.cond(searching, soft, hard)
        outlets = self._outlets(kernels, masks, searching)
        return Step(
            searching,
            tf.stack(state._replace(a=a, s=s)),
            logits,
            dict(zip(ranking.masks, masks, strict=True)),
            dict(zip(ranking.masks, outlets, strict=True)),
        )

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

    def _logits(self, shared):
        """List of the logits of each kernel, or of the channels; empty without any."""
        ranking = self._ranking
        if not ranking.layers[0].method.has_logits:
            return []
        if shared is not None:
            return [tf.convert_to_tensor(shared)]
        return [tf.convert_to_tensor(m.logits) for m in ranking.ranked]

    def _problem(self, x, last):
        """Logits, budget and costs (None: all 1) of eq. 2; None if it is not asked."""
        ranking = self._ranking
        if x is None or not ranking.layers[0].method.uses_threshold:
            return None
        if ranking.lead is not None:
            f = tf.stop_gradient(shares(x, last.a, last.s, last.temperature))
            return x, *ranking.lead.coupling.linear_problem(f, last.spend)
        costs = ranking.costs()
        unit = costs.mean()
        weighted = None if np.all(costs == unit) else (costs / unit).astype(np.float32)
        # All of it (a sparsity of 0) has no threshold.
        budget = min(ranking.budget(), (1 - 1e-6) * costs.sum())
        return x, budget / unit, weighted

    def _solved(self, problem, state, last):
        """The state with its threshold, and the shares of all logits (eq. 2)."""
        if problem is None:
            return state, None
        x, budget, costs = problem
        start = last.a + last.temperature * last.s
        a, s = topk.threshold(x, budget, state.temperature, costs, start)
        f = shares(x, a, s, state.temperature)
        f = topk.with_gradient(f, x, state.temperature, costs)
        return state._replace(a=a, s=s), f

    def _soft_masks(self, kernels, state, logits, f):
        """List of the masks of all kernels, while the search lasts."""
        own = dict(zip(self._ranking.masks, kernels, strict=True))
        found = self._masks_of_groups(own, state) | self._masks_of_shares(f)
        return [
            tf.reshape(
                found[m] if m in found else m.soft(kernel, state, logits),
                m.costs.shape,
            )
            for m, kernel in own.items()
        ]

    def _masks_of_groups(self, kernels, state):
        """Dict from each mask of an N:M structure to a tensor."""
        masks = [m for m in kernels if not m.structure.is_global]
        if not masks:
            return {}
        made = masks[0].method.soft_masks([kernels[m] for m in masks], masks, state)
        return dict(zip(masks, made, strict=True))

    def _masks_of_shares(self, f):
        """Dict from each mask that hangs on the common threshold to a tensor."""
        ranking = self._ranking
        if f is None:
            return {}
        if ranking.lead is not None:
            return {m: m.gathered(f) for m in ranking.coupled if m.in_search}
        parts = tf.split(f, [m.costs.size for m in ranking.ranked])
        each = zip(ranking.ranked, parts, strict=True)
        return {m: m.applied(part) for m, part in each}

    def _outlets(self, kernels, masks, searching):
        """For each mask, a tensor into which the gradient of its kernel is let.

        One branch decides for all kernels whether the gradients of masks are computed
        (eq. 6). A branch in every layer costs more than the gradient of a small layer.
        """
        of = self._ranking.masks

        @tf.custom_gradient
        def outlets(*masks):
            def gradient(*upstreams):
                each = list(zip(of, kernels, upstreams, strict=True))
                return tf.cond(
                    searching,
                    lambda: [m.mask_gradient(kernel, u) for m, kernel, u in each],
                    lambda: [tf.zeros_like(mask) for mask in masks],
                )

            return [tf.identity(kernel) for kernel in kernels], gradient

        return outlets(*masks)


def _joined(values):
    """Tensors of any shapes in a row."""
    return tf.concat([tf.reshape(value, [-1]) for value in values], 0)


def _detached(masks, logits):
    """The masks, with a gradient for the logits that is there, and 0.

    Without one, a training loop that runs eagerly would be told that it is missing.
    """
    if not logits:
        return masks
    masks = [tf.stop_gradient(mask) for mask in masks]

    @tf.custom_gradient
    def attach(*logits):
        def gradient(*_):
            return [tf.zeros(x.shape) for x in logits]

        return [tf.identity(mask) for mask in masks], gradient

    return attach(*logits)


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
