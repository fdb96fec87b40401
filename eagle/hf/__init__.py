"""Libraries that users know, with drafting inside: transformers' `generate`, lm-evaluation-harness."""

from eagle.hf.accelerated import accelerate, release

__all__ = ["accelerate", "release"]
