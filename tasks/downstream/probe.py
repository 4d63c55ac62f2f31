"""Linear models on frozen features, as the kinds of task share them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tasks.errors import InputError

# Inverse strengths of the L2 penalty; the strongest first, so that of equal scores the simplest wins.
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
MAX_ITERATIONS = 500

Matrix = np.ndarray[Any, Any]


class Classifier(Protocol):
    """What `regressions` gives.

    Attributes:
        classes_: the labels, in the order of the columns of `predict_log_proba`.
    """

    classes_: Sequence[str]

    def predict(self, features: Matrix) -> Sequence[str]:
        """One label per row."""

    def predict_log_proba(self, features: Matrix) -> Matrix:
        """Logarithm of each class's probability, a row for each row."""


def pooled(hidden_BLD: Tensor, mask_BL: Tensor | None, pooling: str) -> Tensor:
    """One vector per row: the mean over real positions, the first position, or the last real one.

    Args:
        hidden_BLD: batch, length, width.
        mask_BL: 1 where a position is real; None where all are.
        pooling: `mean`, `first`, `last`, or `cells`, which a modality has pooled already.

    Raises:
        InputError: the rows are sequences, which have no cells.
    """
    if pooling == "cells" and hidden_BLD.shape[1] > 1:
        raise InputError("finetune.pooling: cells are parts of a picture; choose mean or first.")
    hidden_BLD = hidden_BLD.float()
    if mask_BL is None:
        mask_BL = torch.ones(hidden_BLD.shape[:2], device=hidden_BLD.device)
    if pooling in ("mean", "cells"):
        weights_BL1 = mask_BL.unsqueeze(-1).to(hidden_BLD.dtype)
        return (hidden_BLD * weights_BL1).sum(1) / weights_BL1.sum(1).clamp(min=1)
    if pooling == "first":
        return hidden_BLD[:, 0]
    last = (mask_BL.long().sum(1) - 1).clamp(min=0)
    return hidden_BLD[torch.arange(len(hidden_BLD), device=hidden_BLD.device), last]


def regressions(
    features: Matrix,
    answers: Sequence[str],
    penalties: Sequence[float] = PENALTIES,
    max_iterations: int = MAX_ITERATIONS,
) -> Iterator[Classifier]:
    """Multinomial logistic regressions on standardised features, one per penalty; each has `predict`.

    A draw with a single class has nothing to learn: it gives the constant answer.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(set(answers)) < 2:
        yield DummyClassifier().fit(features, answers)
        return
    for penalty in penalties:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=max_iterations))
        with unconverged_is_fine():
            model.fit(features, answers)
        yield model


@contextlib.contextmanager
def unconverged_is_fine() -> Iterator[None]:
    """A penalty at which the solver hits its iteration limit is still a candidate: validation judges it."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
