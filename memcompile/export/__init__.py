"""Programs in other forms: conductances, an emulated chip as an ONNX model, ONNX's backend interface."""
