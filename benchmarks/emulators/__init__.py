"""Crossbar emulators under the same settings, each in a process and an environment of its own.

:mod:`emulators.serve` is what such a process runs; it imports NumPy and the module of its emulator alone, so that an
environment needs nothing of the others. ``benchmarks/peers.py`` gives them work by turns.
"""
