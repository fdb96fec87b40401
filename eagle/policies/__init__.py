"""Tree policies, one family a file; `eagle.tree` is their public face."""
