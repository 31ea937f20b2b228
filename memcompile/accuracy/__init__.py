"""Accuracy of mappings: predicted from the noise of layers, measured on emulated chips, chosen under a budget.

Who lives here: `scoring` (right answers, and those that noise takes), `noise_injection` and `error_budget` (what noise
of layers does to a network), `candidates` and `loss_prediction` (ways to compile it, and what each is predicted to
lose), `accuracy_budget` with its parts `layer_options`, `knapsack`, `budget_search`, `labelled_samples` and
`measured_losses` (the choice within a budget), `loss_front` (mappings by cost and loss), `chip_calibration` and
`held_back` (an emulated chip before it is used, and the images that judge it).

It runs programs on the emulator and reads samples; it writes no text. `memcompile.report` words what is found here.
"""
