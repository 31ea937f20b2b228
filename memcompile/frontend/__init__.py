"""From a model file to the graph IR: everything that reads, checks and runs a model that nobody vouches for yet.

Knows onnx and onnxruntime; imports nothing above the graph IR.
"""
