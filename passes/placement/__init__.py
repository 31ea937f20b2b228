"""Assignment of arrays to chips, and of tiles to steps."""
