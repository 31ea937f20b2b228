"""What quantising passes measure on calibration data, and rounding that makes up for earlier errors."""
