"""Weights in 4 and 8 bits on CPUs: how they are stored, the kernel that multiplies them, and layers that hold them."""
