"""EAGLE-3 drafting, dynamic token trees and lossless decoding for any Hugging Face causal language model.

target = load_target()
chat = Chat(target, load_head(target=target))
for piece in chat.stream("Why is the sky blue?"):
    print(piece.text, end="", flush=True)
"""

from eagle.chat import Chat
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.target import Target
from eagle.loading import load_head, load_target
from eagle.sampling import Sampling
from eagle.trees import EagleTree, SampledChain

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "DecodeOptions",
    "EagleDrafter",
    "EagleTree",
    "SampledChain",
    "Sampling",
    "Session",
    "Target",
    "autoregressive",
    "load_head",
    "load_target",
]
