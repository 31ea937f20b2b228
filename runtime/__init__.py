"""Runs a compiled program on a noisy crossbar emulator.

:mod:`memcompile.runtime.emulator` is the entry; everything else serves it. This package knows
programs, never the passes that make them.
"""
