"""Experiment loggers: TensorBoard, MLflow, Weights & Biases, Trackio; one module each, imported on first use.

A logger is an object with the methods of ``ExperimentLog``. ``log=`` takes names, such objects, or both.
"""

from __future__ import annotations

from selector.loggers._logger import ExperimentLog, registry

__all__ = ["ExperimentLog", "registry"]
