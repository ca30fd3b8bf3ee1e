"""What pruning did to a model, layer by layer."""

import dataclasses

import numpy as np
from rich.table import Table

from smart_tf import flavours, plots, prunable
from smart_tf.printing import render
from smart_tf.pruning import (
    why_left_alone,
    why_not_by_default,
    why_not_of_models,
)
from smart_tf.ranking import check_built, joined
from smart_tf.rewrite import parts
from smart_tf.search import PHASES

_NUMBERS = ["weights", "zeros", "sparsity", "blocks kept"]


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """One prunable kernel.

    Attributes:
        name: Path of the layer and name of the kernel.
        shape: Tuple of integers.
        weights: Number of weights.
        zeros: Number of weights that are zero, or are masked.
        blocks: Number of blocks, or None where no mask is known.
        blocks_kept: Number of blocks that stay, or None.
    """

    name: str
    shape: tuple
    weights: int
    zeros: int
    blocks: int | None = None
    blocks_kept: int | None = None

    @property
    def sparsity(self):
        """Float: the fraction of the kernel's weights that are gone."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """The sparsity of a model: prints as a table.

    Attributes:
        model: Name of the model.
        phase: `"dense"`, `"searching"`, `"frozen"`, or `"plain"` for a model without
            pruning wrappers.
        structure: String form of the structure, or of the structures; or None.
        kernels: List of `KernelReport`; of a plain model those of frozen layers, too.
        skipped: Dict from layer name to the reason why it is not pruned. Layers of the
            same name are numbered.
        parameters: Number of parameters of the model, masks not counted.
        cut: Pair of what the budget of coupled channels counts and the fraction of it
            that will be gone when they are cut, or None.
    """

    model: str
    phase: str
    structure: str | None
    kernels: list
    skipped: dict
    parameters: int
    cut: tuple | None = None

    @property
    def sparsity(self):
        """Fraction of the prunable weights that is zero."""
        weights = sum(k.weights for k in self.kernels)
        return sum(k.zeros for k in self.kernels) / weights if weights else 0.0

    @property
    def blocks_kept(self):
        """String such as `"9 of 36"`; empty where no mask is known."""
        return _blocks_kept(self.kernels)

    def to_dict(self):
        """Plain dict, ready for JSON."""
        kernels = [
            {**dataclasses.asdict(k), "shape": list(k.shape), "sparsity": k.sparsity}
            for k in self.kernels
        ]
        return {
            **dataclasses.asdict(self),
            "kernels": kernels,
            "sparsity": self.sparsity,
        }

    def plot(self, path=None):
        """Bar chart of sparsity by layer.

        Args:
            path: Where to write the picture, or None.

        Returns:
            `matplotlib.figure.Figure`.
        """
        return plots.sparsity_by_layer(self, path)

    def to_markdown(self):
        """The table in GitHub's Markdown, as a string."""
        head, foot, rows = self._cells()
        marks = ["---:" if column in _NUMBERS else "---" for column in head]
        lines = [head, marks, *rows, [f"**{cell}**" if cell else "" for cell in foot]]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"**{self._title()}**", table, *self._captions()]) + "\n"

    def __rich__(self):
        head, foot, rows = self._cells()
        table = Table(title=self._title(), show_footer=True)
        for name, footer in zip(head, foot, strict=True):
            justify = "right" if name in _NUMBERS else "left"
            table.add_column(name, footer, justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*row)
        table.caption = "\n".join(self._captions())
        return table

    def _title(self):
        structure = f", {self.structure}" if self.structure else ""
        return f"{self.model} ({self.phase}{structure})"

    def _cells(self):
        """Strings: the head, the foot, and a row for each kernel."""
        head = ["kernel", "shape", *_NUMBERS]
        rows = [
            [k.name, "x".join(map(str, k.shape)), *self._numbers([k])]
            for k in self.kernels
        ]
        return head, ["all prunable kernels", "", *self._numbers(self.kernels)], rows

    def _numbers(self, kernels):
        weights, zeros = sum(k.weights for k in kernels), sum(k.zeros for k in kernels)
        sparsity = zeros / weights if weights else 0.0
        counts = [f"{weights:,}", f"{zeros:,}", f"{sparsity:.2%}"]
        return [*counts, _blocks_kept(kernels)]

    def _captions(self):
        if self.cut:
            yield f"{self.cut[1]:.2%} of the {self.cut[0]} gone when it is cut"
        if self.skipped:
            yield "left alone: " + self._left_alone()

    def _left_alone(self):
        """The skipped layers by reason; BatchNorm and its like are only counted."""
        reasons = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        return "; ".join(
            f"{len(names)} layers without a kernel"
            if reason == "no kernel" and len(names) > 3
            else f"{', '.join(names)} ({reason})"
            for reason, names in reasons.items()
        )

    def __str__(self):
        return render(self.__rich__(), width=110)


def _blocks_kept(kernels):
    known = [k for k in kernels if k.blocks is not None]
    kept, blocks = sum(k.blocks_kept for k in known), sum(k.blocks for k in known)
    return f"{kept:,} of {blocks:,}" if known else ""


def report(model):
    """Reports what is pruned in a model, and what is not and why.

    Args:
        model: A model from `smart_tf.prune`, one that is stripped, or any other
            built keras or tf_keras model.

    Returns:
        `PruningReport`. Before the freeze it counts the weights that the hard top-k
        of the current masks would drop.

    Raises:
        TypeError: If `model` is no Keras model or layer.
        ValueError: If it has pruning wrappers that are not built.
    """
    wrappers = flavours.wrappers(model)
    check_built(model, wrappers)
    structure = wrappers[0].structure if wrappers else None
    masked = {id(m.weight.variable) for w in wrappers for m in w.weight_masks}
    by_default = why_not_by_default(model, structure)
    kernels, skipped = {}, []
    for layer in _layers(model):
        if flavours.is_wrapper(layer):
            continue
        reason = _skipped(layer, structure, masked, by_default)
        if reason:
            skipped.append((layer.name, reason))
        if structure is None:
            for weight in _plain_weights(layer):
                kernels.setdefault(id(weight.variable), weight)
    skipped = _by_name(skipped + why_not_of_models(model))
    weights = list(kernels.values())
    kernels = list(map(_plain_kernel, weights, prunable.kernel_names(weights)))
    phase, cut = "plain", None
    if wrappers:
        ranking = joined(wrappers)
        phase = PHASES[ranking.phase]
        kernels = _masked_kernels(ranking)
        if ranking.lead is not None and structure.coupled:
            coupling = ranking.lead.coupling
            cut, skipped = (coupling.kind, ranking.sparsity()), coupling.reasons
    return PruningReport(
        model=model.name,
        phase=phase,
        structure=", ".join({str(w.structure): None for w in wrappers}) or None,
        kernels=kernels,
        skipped=skipped,
        parameters=_parameters(model, wrappers),
        cut=cut,
    )


def _layers(model):
    flavour = flavours.of(model)
    return parts(model) if flavour.is_model(model) else [model]


def _by_name(pairs):
    names = prunable.numbered([name for name, _ in pairs])
    return {name: reason for name, (_, reason) in zip(names, pairs, strict=True)}


def _plain_weights(layer):
    """What a layer without a wrapper may have been pruned in, before it was frozen."""
    return [w for w in prunable.kernels(layer) if not prunable.is_quantized(w.owner)]


def _skipped(layer, structure, masked, by_default):
    if structure is None:
        return "" if _plain_weights(layer) else prunable.why_not(layer)
    weights = prunable.prunable_weights(layer)
    if any(id(weight.variable) in masked for weight in weights):
        return "its kernel is masked in another layer that holds it"
    left_out = by_default.get(id(layer), "left out when the model was pruned")
    return why_left_alone(layer, structure) or (left_out if weights else "")


def _plain_kernel(weight, name):
    values = weight.variable.numpy()
    return KernelReport(
        name=name,
        shape=tuple(values.shape),
        weights=values.size,
        zeros=int(values.size - np.count_nonzero(values)),
    )


def _masked_kernels(ranking):
    rows = []
    pairs = zip(ranking.masks, ranking.current_masks(), strict=True)
    pairs = [(mask, keep) for mask, keep in pairs if mask.is_kernel]
    names = prunable.kernel_names([mask.weight for mask, _ in pairs])
    for name, (mask, keep) in zip(names, pairs, strict=True):
        weights = int(mask.counts.sum())
        rows.append(
            KernelReport(
                name=name,
                shape=tuple(mask.weight.variable.shape),
                weights=weights,
                zeros=weights - int((mask.counts * keep).sum()),
                blocks=keep.size,
                blocks_kept=int(keep.sum()),
            )
        )
    return rows


def _parameters(model, wrappers):
    pruned = {id(v) for wrapper in wrappers for v in wrapper.layer.weights}
    added = {id(v) for wrapper in wrappers for v in wrapper.weights} - pruned
    return int(sum(np.prod(v.shape) for v in model.weights if id(v) not in added))
