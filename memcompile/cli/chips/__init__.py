"""Emulated chips in commands: calibrate them, follow their life, tune and count them."""
