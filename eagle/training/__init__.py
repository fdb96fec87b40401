"""From a target and conversations to a trained head."""
