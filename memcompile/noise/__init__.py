"""The noise model: power of every device error in the integer output of a layer, in closed form.

``layer_noise`` is the way in: from statistics of a layer's inputs, a target and a mapping choice to powers by cause and
output line. Nothing is emulated here; the wing reads targets, converters and the IR, and imports neither passes nor the
runtime.
"""
