"""Draft heads on disk, in every published layout."""
