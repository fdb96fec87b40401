"""Measure speculative decoding so that others can trust the numbers: tasks as data, one runner, intervals, a report."""
