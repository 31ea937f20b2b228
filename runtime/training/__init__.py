"""Hybrid training: transfer, writing again, recalibration, gradients and in-situ tuning."""
