"""Exploration: many designs, or many chips of one, compiled and emulated on one machine or on a cluster.

Who lives here, from the bottom: `knobs` and `space` (what varies), `study` (what all points share), `tasks` (pure
functions that run anywhere), `journal` (results that survive), `executors` and `cluster` (who runs tasks),
`quantities`, `conditions`, `intervals`, `racing` and `iso` (which points are worth more work), `results` and `points`
(rows), `search` and `trials` (the loops), `population` (chips of one program) and the page. Only `cluster` knows Dask,
only `trials` knows Optuna; both are imported when they are needed.
"""
