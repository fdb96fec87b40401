"""The target's passes over a few nodes as one compiled graph: transformers' own modules, traced once and lowered."""
