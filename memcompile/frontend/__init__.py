"""From a model file to the graph IR: everything that reads, checks and runs an untrusted model.

Knows onnx and onnxruntime; imports nothing above the graph IR.
"""
