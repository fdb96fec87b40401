"""EAGLE-3 drafting, dynamic token trees and lossless decoding for any Hugging Face causal language model."""

__version__ = "0.1.0"
