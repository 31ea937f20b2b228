"""Samples to calibrate and to score a network with: files, built-in digits, and their fit to a model's inputs."""

from memcompile.data.digits import DIGITS_TRAINING_SAMPLES, digits28
from memcompile.data.files import read_mnist
from memcompile.data.loader import Dataset, load_dataset

__all__ = ["DIGITS_TRAINING_SAMPLES", "Dataset", "digits28", "load_dataset", "read_mnist"]
