"""Packing of tiles into arrays: limits of a tile, heuristics, exact packing, array patterns and lower bounds."""
