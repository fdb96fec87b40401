"""Drafters: what proposes a tree for a round."""
