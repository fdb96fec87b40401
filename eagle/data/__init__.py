"""From prompts to training conversations."""
