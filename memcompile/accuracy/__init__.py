"""Accuracy of mappings: predicted from the noise of layers, measured on emulated chips, chosen under a budget.

Who lives here: `scoring` (right answers, and those that noise takes); `loss_model` with `noise_injection`,
`network_study` and `curve_fit` (what noise of layers does to a network), `error_budget` (by cause and by layer);
`candidates` and `loss_prediction` (ways to compile a network, and what each is predicted to lose); `accuracy_budget`
with `labelled_samples`, `layer_options`, `knapsack`, `budget_search` and `measured_losses` (the choice under a
budget); `loss_front` (mappings by cost and loss); `chip_calibration` and `held_back` (an emulated chip before it is
used, and the images that judge it).

It runs programs on the emulator and reads samples; it writes no text. `memcompile.report` words what is found here.
"""
