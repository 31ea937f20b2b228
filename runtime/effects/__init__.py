"""The physics of cells, lines and converters, one file an effect; ``switches`` lists them in the order they act."""
