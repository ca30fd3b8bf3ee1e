"""`prune` and `strip_pruning`: into the wrappers, and out of them again."""

import re

from smart_tf import flavours, methods, prunable, structures
from smart_tf.budgets import block_prices, priced_kernels
from smart_tf.channels import couple, couple_kernels, find_groups, heads
from smart_tf.masking import resolve_floor, resolve_sparsity
from smart_tf.optimizer import plain_optimizer, set_optimizer
from smart_tf.ranking import Ranking, check_built, check_ranking
from smart_tf.rewrite import parts, paths, rewrite
from smart_tf.search import FROZEN
from smart_tf.subclassed import mark, unmark


def prune(
    model,
    sparsity=None,
    structure="16x8",
    method="smart",
    filters=None,
    budget="weights",
    max_layer_sparsity=None,
    schedule=None,
):
    """Prepares a trained model for pruning.

    The returned model is compiled and fitted as usual, with
    `SmartPruningCallback`. Like tfmot's, it SHARES its variables with `model`:
    training it trains them. Functional and Sequential models are cloned around the
    same layers; the layers of a subclassed model are wrapped in place, and it is
    itself returned.

    Layers with `trainable=False` and layers without anything that fits the
    structure are left alone; `smart_tf.report` says why. A kernel that several layers
    hold (tied weights) is masked in the first of them: the others see it whole until
    the freeze, and then with its zeros.

    Example:

    ```python
    pruned = smart_tf.prune(model, sparsity=0.7, structure="16x8")
    ```

    Args:
        model: Built keras or tf_keras model (Functional, Sequential, subclassed), or
            a single layer.
        sparsity: Float in [0, 1), fraction of the prunable weights that goes. May be
            left out for N:M structures.
        structure: `"unstructured"`, `"OxI"` or `"OxIxHxW"` blocks of output by input
            channels by kernel positions, `"channel"`, `"N:M"` (N of M are kept), or a
            `smart_tf.structures.Structure`. `"channel"` searches for channels that
            can be removed from all layers that they run through; for the kernels of
            single layers give `smart_tf.Channel(coupled=False)`.
        method: `"smart"`, `"paper"` (SMART with the paper's settings), `"magnitude"`,
            `"pdp"`, `"pas"`, `"awg"`, `"acdc"`, or a `smart_tf.methods.Method`.
        filters: Which layers: a regular expression that is searched in their paths
            (`layer.path`; in tf_keras, which has none, the names of the nested models
            around the layer and its own, as `"encoder/dense"`), a list of layers and
            nested models or their names, a function `layer -> bool`, or a
            `tfmot...PruningPolicy`. Default: all, but where channels of single kernels
            go, the layers that make the model's outputs: without its channel a class
            would never be named.
        budget: What sparsity counts: `"weights"`, `"macs"` (multiply-accumulates), or
            a function from a kernel (`smart_tf.prunable.PrunableWeight`) to what its
            blocks cost, a number or an array of the shape of the grid of blocks.
            For coupled channels, which count all that the model will cost when it is
            cut, also `"params"`; there the function takes a
            `smart_tf.channels.ChannelGroup` and returns what one channel costs.
        max_layer_sparsity: Float, fraction of the blocks of any kernel that may go at
            most. Default: 0.98, or halfway from `sparsity` to 1.
        schedule: `TemperatureSchedule`, where no `SmartPruningCallback` brings one.

    Returns:
        A model of the same class (or a `PrunableLayer` for a layer).

    Raises:
        ValueError: If an argument is out of range, the model is not built, nothing in
            it can be pruned, or the sparsity cannot be reached without emptying a
            layer. `model` is unchanged then.
        TypeError: If an argument has a wrong type.
    """
    flavour = flavours.of(model)
    structure, method = structures.get(structure), methods.get(method)
    sparsity = resolve_sparsity(sparsity, structure)
    settings = {
        "structure": structure,
        "sparsity": sparsity,
        "method": method,
        "schedule": schedule,
        "max_layer_sparsity": resolve_floor(max_layer_sparsity, sparsity),
    }
    if not flavour.is_model(model):
        _check_alone(filters, budget)
        wrapper = flavour.PrunableLayer(model, **settings)
        wrapper.build_around_built()
        return wrapper
    _check_model(model)
    accepts = _resolve_filters(filters, model, structure)
    if getattr(structure, "coupled", False):
        return _prune_channels(model, flavour, settings, accepts, budget)
    layers = [
        layer
        for layer in parts(model)
        if why_left_alone(layer, structure) is None and accepts(layer)
    ]
    if not layers:
        raise ValueError(
            f"Nothing in the model can be pruned with structure '{structure}': "
            + _reasons(model, structure, accepts)
        )
    prices = block_prices(model, layers, structure, budget)
    chosen = _behind_norms(model, flavour, settings, layers, prices) or prices
    return _wrapped(model, chosen, flavour, settings)


def _prune_channels(model, flavour, settings, accepts, budget):
    """Wraps all layers that make channels of groups which can be removed."""
    if not flavour.is_graph_model(model):
        raise ValueError(
            "Argument `structure` must be `smart_tf.Channel(coupled=False)` for a "
            "model that is neither Functional nor Sequential: its channels cannot be "
            f"followed from layer to layer. Received: model={model!r}"
        )
    groups = find_groups(model, settings["structure"].round_to, accepts)
    if not len(groups):
        raise ValueError(
            "No channels of the model can be removed together: "
            + "; ".join(f"'{n}': {reason}" for n, reason in groups.reasons.items())
        )
    sparsity, most = settings["sparsity"], settings["max_layer_sparsity"]
    chosen = _coupled(*couple(groups, sparsity, budget, most))
    return _wrapped(model, chosen, flavour, settings)


def _behind_norms(model, flavour, settings, layers, prices):
    """What wrappers are to know where the masks of kernels' channels act behind the
    normalisations that follow; None if they act on the kernels alone."""
    structure = settings["structure"]
    channels = isinstance(structure, structures.Channel)
    if not (
        channels and settings["method"].behind_norms and flavour.is_graph_model(model)
    ):
        return None
    owners = [layer for layer in layers if id(layer) in prices]
    priced = list(priced_kernels(owners, structure, prices))
    sparsity, most = settings["sparsity"], settings["max_layer_sparsity"]
    found = couple_kernels(model, priced, structure, sparsity, most)
    return None if found is None else _coupled(*found)


def _coupled(coupling, slices):
    """Dict from `id(layer)` to settings; one wrapper has what all compete for."""
    chosen = {key: {"channels": channels} for key, channels in slices.items()}
    next(iter(chosen.values()))["coupling"] = coupling
    return chosen


def _wrapped(model, chosen, flavour, settings):
    """The model with some layers wrapped.

    Args:
        model: The model.
        chosen: Dict from `id(layer)` to further settings of its wrapper.
        flavour: The flavour's module.
        settings: Dict, settings of all wrappers.
    """
    wrappers = {}

    def wrap(layer):
        if id(layer) not in chosen:
            return layer
        if id(layer) not in wrappers:
            wrapper = flavour.PrunableLayer(layer, **settings, **chosen[id(layer)])
            wrapper.build_around_built()
            wrappers[id(layer)] = wrapper
        return wrappers[id(layer)]

    layers = [layer for layer in parts(model) if id(layer) in chosen]
    try:
        ranking = Ranking([wrap(layer) for layer in layers])
        ranking.hard_masks()  # raises if the budget cannot be met
        ranking.initialise_logits()
        return mark(rewrite(model, wrap))
    except Exception:
        for wrapper in wrappers.values():
            wrapper.release(undo=True)
        raise


def why_left_alone(layer, structure):
    """Why a layer of a model cannot be pruned, or None if it can be.

    Args:
        layer: Built layer of either flavour.
        structure: `smart_tf.structures.Structure`.

    Returns:
        String or None; the empty string for layers without weights.
    """
    if flavours.is_wrapper(layer):
        return "wrapped for pruning already"
    weights = prunable.prunable_weights(layer)
    if not weights:
        return prunable.why_not(layer) or ""
    reasons = [structure.supports(tuple(w.variable.shape), w.layout) for w in weights]
    return None if None in reasons else reasons[0]


def why_not_of_models(model):
    """Why weights that models hold themselves are not pruned: only layers are wrapped.

    Args:
        model: Model or layer of either flavour, with pruning wrappers or without.

    Returns:
        List of pairs of the name of a model, this one or one in it, and the reason.
    """
    is_model = flavours.of(model).is_model
    layers = parts(model) if is_model(model) else [model]
    inside = {id(one) for layer in layers for one in layer._flatten_layers()}
    reason = "its weights are held by the model itself: put them in a layer"
    return [
        (one.name, reason)
        for one in filter(is_model, model._flatten_layers())
        if id(one) not in inside and prunable.declares_weights_of_its_own(one)
    ]


def why_not_by_default(model, structure):
    """What is pruned only where `filters` names it.

    Args:
        model: Built model of either flavour, with pruning wrappers or without.
        structure: `smart_tf.structures.Structure`.

    Returns:
        Dict from the `id` of a layer to the reason, a string.
    """
    if not isinstance(structure, structures.Channel) or structure.coupled:
        return {}
    reason = "its channels are outputs of the model, and `filters` does not name it"
    return {id(layer): reason for layer in heads(model)}


def _reasons(model, structure, accepts):
    reasons = []
    by_default = why_not_by_default(model, structure)
    for layer in parts(model):
        reason = why_left_alone(layer, structure)
        if reason is None and not accepts(layer):
            reason = by_default.get(id(layer), "left out by `filters`")
        if reason:
            reasons.append(f"'{layer.name}': {reason}")
    reasons += [f"'{name}': {reason}" for name, reason in why_not_of_models(model)]
    return "; ".join(reasons) or "it has no layers with weights."


def _check_alone(filters, budget):
    if filters is not None or budget != "weights":
        raise ValueError(
            "Arguments `filters` and `budget` choose within a model, and must be left "
            "out where `model` is a single layer. Received: "
            f"filters={filters!r}, budget={budget!r}"
        )


def _check_model(model):
    if flavours.wrappers(model):
        raise ValueError(
            "Argument `model` has pruning wrappers already: call "
            "`smart_tf.strip_pruning` on it first. "
            f"Received: model={model!r}"
        )
    if not model.built or not all(layer.built for layer in parts(model)):
        raise ValueError(
            "Argument `model` must be built: give it a `keras.Input`, or call it on a "
            f"batch first. Received: model={model!r}"
        )


def _resolve_filters(filters, model, structure):
    if filters is None:
        left_out = why_not_by_default(model, structure)
        return lambda layer: id(layer) not in left_out
    if isinstance(filters, str):
        try:
            pattern = re.compile(filters)
        except re.error as error:
            raise ValueError(
                "Argument `filters` must be a regular expression where it is a string "
                f"({error}). Received: filters={filters!r}"
            ) from error
        path = paths(model)  # in tf_keras, where layers do not know theirs
        return lambda layer: bool(
            pattern.search(getattr(layer, "path", path.get(id(layer), layer.name)))
        )
    if hasattr(filters, "allow_pruning"):
        filters.ensure_model_supports_pruning(model)
        return filters.allow_pruning
    is_layer = isinstance(filters, flavours.of(model).keras.layers.Layer)
    if callable(filters) and not is_layer:
        return filters
    if isinstance(filters, (list, tuple, set)):
        listed = _listed(filters, model)
        return lambda layer: id(layer) in listed
    raise TypeError(
        "Argument `filters` must be a regular expression, a list of layers or names, "
        f"or a function. Received: filters={filters!r}"
    )


def _listed(filters, model):
    """Ids of the layers that are in a list, or in a nested model that is."""
    is_model = flavours.of(model).is_model
    inside = model._flatten_layers(include_self=False)
    known = [*parts(model), *filter(is_model, inside)]
    listed = set()
    for entry in filters:
        found = [one for one in known if one is entry or one.name == entry]
        if not found:
            raise ValueError(
                "Argument `filters` names layers that the model does not have: "
                f"{entry!r}. It has: {sorted({one.name for one in known})}"
            )
        for one in found:
            listed.update(map(id, parts(one) if is_model(one) else [one]))
    return listed


def strip_pruning(model):
    """The plain model, with exact zeros in its kernels.

    Masks that are not frozen yet are frozen first, at the hard top-k. The result
    shares its variables with `model`, which is of no more use for training. In layers
    that hold wrappers of their own, as in subclassed models, these are replaced in
    place.

    Args:
        model: A model from `prune`, or with `PrunableLayer`s in it; or one wrapper.

    Returns:
        Model of the original's class, with the original's layers; `model` itself if
        it has no pruning wrappers.

    Raises:
        TypeError: If `model` is no Keras model or layer.
        ValueError: If it is not built; or its masks are not frozen yet, and the rest of
            the model is needed to rank them, or they are of several methods. Nothing
            is frozen then.
    """
    wrappers = flavours.wrappers(model)
    if not wrappers:
        return model
    flavour = flavours.of(model)
    check_built(model, wrappers)
    if any(float(wrapper.search_state[0]) != FROZEN for wrapper in wrappers):
        check_ranking(model, wrappers)
        _check_whole(model, wrappers)
    ranking = Ranking(wrappers)
    if ranking.phase != FROZEN:
        ranking.freeze()
    for mask in ranking.masks:
        mask.fold()
    for wrapper in wrappers:
        wrapper.release()
    if flavours.is_wrapper(model):
        return _unwrapped(model)
    stripped = rewrite(model, _unwrapped)
    unmark(stripped)
    if getattr(stripped, "optimizer", None) is not None:
        set_optimizer(stripped, plain_optimizer(stripped.optimizer, flavour))
    return stripped


def _check_whole(model, wrappers):
    """Raises a `ValueError` if wrappers are ranked with others that are missing."""
    here = set(map(id, wrappers))
    for wrapper in wrappers:
        missing = [k.layer.name for k in wrapper.ranking.layers if id(k) not in here]
        if missing and wrapper.structure.is_global:
            raise ValueError(
                "Argument `model` must be the whole model that was pruned, until its "
                "masks are frozen: the blocks of all its layers are ranked together, "
                f"and those of {missing} are missing. Strip the whole model, and take "
                f"the part out of the result. Received: model={model!r}"
            )


def _unwrapped(layer):
    if not flavours.is_wrapper(layer):
        return layer
    inner = layer.layer
    return rewrite(inner, _unwrapped) if flavours.wrappers(inner) else inner
