"""The target and its caches: prefill, one forward over a tree, keep the accepted path."""
