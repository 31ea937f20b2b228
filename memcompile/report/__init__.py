"""Reports on a program: facts, cost, accuracy, look-up of weights, and why an operator stays digital."""
