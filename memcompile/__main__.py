"""``python -m memcompile``."""

from memcompile.cli import run

run()
