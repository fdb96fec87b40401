"""Hierarchies of real models: from words on a command line to a drafter, and to the profile that is planned from.

    specs        what a level is, as text
    candidates   models, heads and copies, loaded and checked against the target
    building     a drafter from names and buffers
    profiling    acceptance and cost of every pair, measured
    planned      a plan while it runs, watched, with a simpler one to fall back to

The planner itself is `eagle.hierarchy`, which loads no torch.
"""
