"""Timing of values and tiles: dependences, timetables and line buffers.

The passes plan with it, the verifier checks with it and the reports count with it.
"""
