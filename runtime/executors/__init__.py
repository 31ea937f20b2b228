"""Two ways to run a program, fast and literal, and what they share.

Pairs are subtracted, and noise of converters and reads is added, in ``conversions`` and ``digit_conversions``.
"""
