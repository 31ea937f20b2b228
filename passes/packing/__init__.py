"""Tiles into arrays: limits of a tile, heuristics, exact packing, array patterns and lower bounds."""
