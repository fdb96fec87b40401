"""Which layers of a target are its features: three, counted by their INPUTS, `hidden_states[i]` of transformers."""

from collections.abc import Sequence
from typing import Any

FEW_LAYERS = 7  # the fewest for which 2, L // 2 and L - 3 are three valid layers in ascending order


def default_feature_layers(num_layers: int) -> tuple[int, int, int]:
    """EAGLE-3's three layers: 2, L // 2, L - 3.

    Raises ValueError for targets too shallow to have three different ones.
    """
    if num_layers < FEW_LAYERS:
        raise ValueError(
            f"the target has {num_layers} layers, EAGLE-3 features need at least {FEW_LAYERS}: "
            "pass feature_layers explicitly for a smaller model"
        )
    return 2, num_layers // 2, num_layers - 3


def check_feature_layers(layers: Any, num_layers: int | None = None) -> tuple[int, int, int]:
    """Three layers as a tuple; `num_layers` is the target's, where it is known.

    Raises ValueError for another number of layers, for what are no whole numbers, and for an order that is not rising:
    features are collected from the lowest layer up, so that another order would swap them without a word.
    """
    if not isinstance(layers, Sequence) or isinstance(layers, str) or any(type(layer) is not int for layer in layers):
        raise ValueError(f"feature_layers is {layers!r}: name three layers by whole numbers, such as [2, 15, 27]")
    if len(layers) != 3 or layers[0] < 0 or not layers[0] < layers[1] < layers[2]:
        raise ValueError(f"feature_layers {tuple(layers)} must be three different layers from 0 up, in rising order")
    if num_layers is not None and layers[2] >= num_layers:
        raise ValueError(f"feature_layers {tuple(layers)} must lie in 0..{num_layers - 1}, the target's layers")
    low, middle, high = layers
    return low, middle, high
