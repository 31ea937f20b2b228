"""Exploration: many designs, or many chips of one, compiled and emulated on one machine or on a cluster.

Who lives here: `knobs` and `space` (what varies), `points` and `results` (what is known of each point, and its row),
`iso`, `search` and `trials` (the loops), `population` (chips of one program), `exploration` and `explore` (from options
to results), `commands` and the page. `judging` says which points are worth more work, `runs` does the work. Only
`runs.cluster` knows Dask, only `trials` knows Optuna; both are imported when they are needed.
"""
