"""Judging: which points surely are on the front, from intervals of their accuracy, and conditions on results."""
