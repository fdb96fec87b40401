"""What one verdict and one training step cost, against plain implementations of the same."""
