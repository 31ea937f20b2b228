"""Checks of graphs, mappings and programs: the rules, the interpreter that the checks run, and the self-check."""
