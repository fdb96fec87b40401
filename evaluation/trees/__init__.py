"""The tree laboratory: exact expected tau of many trees on recorded contexts."""
