"""Hierarchies of real models: from words on a command line to a drafter, and to the profile that is planned from.

    specs        what a level is, as text
    loaded       models, heads and copies, loaded and checked against the target (memory, tokenizers)
    opening      all of it by name, and again for a plan that was made earlier
    building     a drafter from names and buffers
    profiling    acceptance and cost of every pair, measured (rounds, pair_counts)
    planned      a plan while it runs, watched, with a simpler one to fall back to
    chosen       what a command drafts with

The planner itself is `eagle.hierarchy`, which loads no torch.
"""
