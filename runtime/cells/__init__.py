"""The cells of all arrays: what they shall hold, how they are written, and what their lines see of them.

Who lives here: `devices` (the way in: cells of tiles behind wires, drivers and converters), `array_contents` (levels of
an array, from its tiles), `programmed_arrays` (an array as it is written and ages), `programming` (the same in one
compiled pass), `slice_goals` and `written_again` (cells that make up for the errors of others), `memory` and `cache`
(how many arrays are kept).

Imports effects, kernels and random numbers of the runtime, and knows no executor.
"""
