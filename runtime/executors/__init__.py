"""Two ways to run a program, fast and literal, and the devices that both run it on.

Pairs are subtracted, and noise of converters and reads is added, in ``conversions`` and ``digit_conversions``.
"""
