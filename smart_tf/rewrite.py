"""The same model with some of its layers replaced."""

from smart_tf import flavours


def rewrite(model, replace, input_shapes=None):
    """Replaces layers of a model.

    Functional and Sequential models (and such models nested in them) are cloned
    around the same layer objects: the new model shares all variables with the old
    one. A subclassed model has no graph to clone: its layers are replaced in place,
    and it is itself returned. So are those of a layer that holds pruning wrappers.

    Args:
        model: A built model of either flavour, or a layer with wrappers in it.
        replace: Function from a layer to the layer that shall stand there. Asked
            once for each layer that is not itself rewritten.
        input_shapes: Optional function from a model (or one nested in it) that is
            cloned to the list of the shapes of its inputs, without the batch.

    Returns:
        A model of the same class. If a part cannot be rewritten, all are left as they
        were.
    """
    done = []
    try:
        return _rewritten(model, replace, input_shapes, done)
    except Exception:
        for changed, replaced in reversed(done):
            _substitute_layers(changed, replaced)
        raise


def _rewritten(model, replace, input_shapes, done):
    """As `rewrite`; `done` gets what would undo what was replaced in place."""

    def replaced(layer):
        if _is_rewritten(layer):
            return _rewritten(layer, replace, input_shapes, done)
        return replace(layer)

    flavour = flavours.of(model)
    if flavour.is_model(model) and flavour.is_graph_model(model):
        shapes = input_shapes(model) if input_shapes else None
        return flavour.clone_graph_model(model, replaced, shapes)
    layers = list(model._flatten_layers(include_self=False, recursive=False))
    new = [replaced(layer) for layer in layers]
    pairs = list(zip(layers, new, strict=True))
    done.append((model, {id(after): before for before, after in pairs}))
    _substitute_layers(model, {id(before): after for before, after in pairs})
    return model


def parts(model):
    """The layers that `rewrite` asks about, each once, in order."""
    return list({id(part): part for _, part in _located(model)}.values())


def paths(model):
    """Dict from the `id` of each of the `parts` to the path at which it stands first.

    A path is the names of the models around the layer, but of `model`, and its own.
    """
    found = {}
    for path, part in _located(model):
        found.setdefault(id(part), path)
    return found


def _located(model, above=""):
    """Yields the `parts` with their paths, as often as they stand there."""
    for layer in model._flatten_layers(include_self=False, recursive=False):
        path = above + layer.name
        if _is_rewritten(layer):
            yield from _located(layer, f"{path}/")
        else:
            yield path, layer


def _is_rewritten(layer):
    """Whether it is taken apart: a model, or a layer that holds wrappers."""
    flavour = flavours.of(layer)
    if flavours.is_wrapper(layer) or not isinstance(layer, flavour.keras.layers.Layer):
        return False
    return flavour.is_model(layer) or bool(flavours.wrappers(layer))


def _substitute_layers(model, replaced):
    """Replaces layers of a model in place.

    Args:
        model: Subclassed model, or layer.
        replaced: Dict from the `id` of each of its layers to what shall stand there.
    """
    flavour = flavours.of(model)
    flavour.set_tracked_layers(model, replaced)
    for name, value in list(vars(model).items()):
        if name in flavour.TRACKING_ATTRIBUTES:
            continue
        new = _substitute(value, replaced, flavour)
        if new is not value:
            flavour.set_attribute(model, name, new)
    for name in ("train_function", "test_function", "predict_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)  # The old layers are built into it.


def _substitute(value, replaced, flavour):
    """`value` with the layers in it replaced, at any depth."""
    if id(value) in replaced:
        return replaced[id(value)]
    if not isinstance(value, (list, dict, tuple)):
        return value
    items = dict(value.items() if isinstance(value, dict) else enumerate(value))
    new = {key: _substitute(item, replaced, flavour) for key, item in items.items()}
    changes = {key: new[key] for key in items if new[key] is not items[key]}
    if not changes:
        return value
    if isinstance(value, tuple):
        return getattr(value, "_make", tuple)(new.values())  # may be a namedtuple
    return flavour.replace_items(value, changes)
