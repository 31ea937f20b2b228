"""Measurements of quantising passes on calibration data, and rounding that compensates for earlier errors."""
