"""Arrays onto chips, and tiles into steps."""
