"""The hardware as data: targets, their converters and their write pulses. Imports nothing of the network."""
