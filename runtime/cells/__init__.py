"""The cells of all arrays: what they shall hold, how they are written, what their lines see of them.

Who lives here: `devices` (the cells of all arrays as programmed, and their tiles as converters see them), `programming`
(one array in one compiled pass), `slice_goals` and `written_again` (cells that make up for errors of others), `memory`
and `cache` (how many arrays are kept).

Imports effects, kernels and random numbers of the runtime, and knows no executor.
"""
