"""The graph IR, what its layers carry, and the contract of the passes that rewrite it.

Imports the hardware, and knows neither onnx nor a solver.
"""
