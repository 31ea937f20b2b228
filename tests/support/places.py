"""Folders and files of the repository that tests read."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
REPOSITORY = TESTS.parent
GOLDEN = TESTS / "golden"
FIVE_LAYER_CNN = REPOSITORY / "examples" / "five_layer_cnn.onnx"
