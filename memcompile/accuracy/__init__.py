"""Accuracy of mappings: predicted from the noise of layers, measured on emulated chips, chosen under a budget.

Who lives here: `scoring` (right answers, and those that noise takes), `noise_injection` and `error_budget` (what noise
of layers does to a network), `loss_prediction`, `accuracy_budget` and `loss_front` (mappings by what they are predicted
to lose), `chip_calibration` and `held_back` (an emulated chip before it is used, and the images that judge it).

It runs programs on the emulator and reads samples; it writes no text. `memcompile.report` words what is found here.
"""
