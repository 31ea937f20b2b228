"""Two ways to run a program, fast and literal, on the cells of :mod:`memcompile.runtime.cells`.

Pairs are subtracted, and noise of converters and reads is added, in ``conversions`` and ``digit_conversions``.
`machine` holds what both share, and `batches`, `digital` and `edges` what lies around products of layers.
"""
