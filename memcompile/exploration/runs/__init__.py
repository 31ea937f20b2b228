"""Runs: pure tasks, who runs them (this process, or Dask), and the journal of what came of them."""
