"""Saving a subclassed Keras 3 model whose layers were wrapped in place.

Its own class knows nothing of the wrappers, so a `.keras` file that names this class
could not be read back. While it is pruned, the model therefore gets a subclass of its
own class, which saves as `PrunedModel`: the original's config, and which of its layers
are wrapped how. Everything else about the model stays as it was.
"""

import keras

from smart_tf import flavours
from smart_tf.rewrite import parts, rewrite


class PrunedModel:
    """What `.keras` files of pruned subclassed models name as their class."""

    def get_config(self):
        wrapped = {
            str(index): layer.pruning_config()
            for index, layer in enumerate(parts(self))
            if flavours.is_wrapper(layer)
        }
        return {"model": _serialize_original(self), "wrapped": wrapped}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        layers = parts(model)
        settings = {
            id(layers[int(index)]): pruning
            for index, pruning in config["wrapped"].items()
        }

        def wrap(layer):
            if id(layer) not in settings or flavours.is_wrapper(layer):
                return layer
            wrapper = flavours.keras3.PrunableLayer(layer, **settings[id(layer)])
            wrapper.build_around_built()
            return wrapper

        return mark(rewrite(model, wrap))


# Keras finds by this name what a file calls the class of the model.
_SAVED_NAME = "SmartTFPrunedModel"
keras.saving.get_custom_objects()[_SAVED_NAME] = PrunedModel


def mark(model):
    """Lets a subclassed Keras 3 model save as pruned; leaves others as they are."""
    flavour = flavours.of(model)
    if (
        flavour is flavours.keras3
        and not flavour.is_graph_model(model)
        and not isinstance(model, PrunedModel)
    ):
        names = {"__module__": __name__}
        model.__class__ = type(_SAVED_NAME, (PrunedModel, type(model)), names)
    return model


def unmark(model):
    """Gives a model its own class back."""
    if isinstance(model, PrunedModel):
        model.__class__ = type(model).__mro__[2]
    return model


def _serialize_original(model):
    pruned = type(model)
    unmark(model)
    try:
        config = keras.saving.serialize_keras_object(model)
    finally:
        model.__class__ = pruned
    config.pop("compile_config", None)
    return config
