"""Devices from measurements: tables of measured cells become the sections of a target.

`columns` reads tables by the names and units of their columns, `spread_fit` fits the mean and the spread of numbers
against a state, `pairs`, `retention` and `reads` fit what a target says of cells, `device_target` puts it into a
target, and `figure` draws data over fit. Nothing here knows programs or the emulator.
"""
