"""Operators for CPUs in C++, compiled on the machine that runs them: attention and products of a few rows."""
