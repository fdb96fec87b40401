"""A model's decoder layers: finding them, and listening to them for one pass at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, RLock
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedModel

_turns: WeakKeyDictionary[PreTrainedModel, RLock] = WeakKeyDictionary()
_turns_lock = Lock()


def turn_of(model: PreTrainedModel) -> RLock:
    """The one lock of a model, however many targets were made of it."""
    with _turns_lock:
        return _turns.setdefault(model, RLock())


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The part below the output layer."""
    decoder: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    if decoder is not model:
        return decoder
    return getattr(model, "model", model.base_model)  # Llama 4 calls itself its decoder, as most do in transformers 4


def decoder_layers(model: PreTrainedModel, num_layers: int) -> nn.ModuleList:
    """The model's stack of decoder layers, found by its shape and not by the family's name."""
    stacks = [m for m in decoder_of(model).children() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if len(stacks) != 1:
        raise ValueError(
            f"{type(model).__name__}: expected one list of {num_layers} decoder layers, found {len(stacks)}: "
            "this architecture needs an entry of its own in eagle/engine/layers.py"
        )
    return stacks[0]


@contextmanager
def inputs_of(layers: Sequence[nn.Module], turn: RLock) -> Iterator[list[Tensor]]:
    """Collect the inputs of these layers, in the order in which they run, during a pass that no other disturbs."""
    captured: list[Tensor] = []

    def capture(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        captured.append(args[0] if args else kwargs["hidden_states"])

    with turn:
        handles = [layer.register_forward_pre_hook(capture, with_kwargs=True) for layer in layers]
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()
