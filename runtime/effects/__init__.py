"""The physics of cells and wires: programming, relaxation, drift, resistance and non-linear currents."""
