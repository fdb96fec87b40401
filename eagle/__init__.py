"""EAGLE-3 drafting, dynamic token trees and lossless decoding for Hugging Face causal language models.

target = load_target()
chat = Chat(target, load_head(target=target))
for piece in chat.stream("Why is the sky blue?"):
    print(piece.text, end="", flush=True)

Names are imported when they are first used: `eagle-hsd --help` and `eagle.__version__` need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eagle.version import __version__

if TYPE_CHECKING:
    from eagle.chat import Chat
    from eagle.decode import DecodeOptions, Session, autoregressive
    from eagle.drafters.eagle3 import EagleDrafter
    from eagle.engine.target import Target
    from eagle.loading import load_head, load_target
    from eagle.sampling import Sampling
    from eagle.trees import EagleTree, SampledChain

_HOMES = {
    "Chat": "eagle.chat",
    "DecodeOptions": "eagle.decode",
    "EagleDrafter": "eagle.drafters.eagle3",
    "EagleTree": "eagle.trees",
    "SampledChain": "eagle.trees",
    "Sampling": "eagle.sampling",
    "Session": "eagle.decode",
    "Target": "eagle.engine.target",
    "autoregressive": "eagle.decode",
    "load_head": "eagle.loading",
    "load_target": "eagle.loading",
}

__all__ = [
    "Chat",
    "DecodeOptions",
    "EagleDrafter",
    "EagleTree",
    "SampledChain",
    "Sampling",
    "Session",
    "Target",
    "__version__",
    "autoregressive",
    "load_head",
    "load_target",
]


def __getattr__(name: str) -> Any:
    """A public name, from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'eagle' has no attribute '{name}'")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
