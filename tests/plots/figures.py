"""Scores, a history, and the panels and text of a drawn figure."""

import numpy as np

CLASSES = [f"kind {number}" for number in range(7)]
SCORES = np.array([0.02, 0.4, 0.03, 0.25, 0.1, 0.15, 0.05])
HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "test_loss": 1.5, "train_accuracy": 0.5, "test_accuracy": 0.625},
    {"epoch": 2, "train_loss": 1.0, "test_loss": 1.25, "train_accuracy": 0.75, "test_accuracy": 0.875},
]


def panels(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def words(figure):
    return [text.get_text() for text in figure.texts] + [text.get_text() for axes in figure.axes for text in axes.texts]
