"""What a sceptic would try first on recordings: logistic regression on a small logarithmic mel spectrogram.

Legend: B recordings, T times, M mel bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool1d

from tasks.downstream import probe
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

TIMES = 20  # a recording, however long, is averaged to so many
PENALTIES = (0.003, 0.03, 0.3)
ITERATIONS = 300
MOST_TRANSCRIPTS, FEWEST_TIMES = 200, 2  # that count as words said alone, each said so often in the mean


def said_class(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Logistic regressions on the levels of mel bands, one per penalty."""
    return _regressions(train, [str(label) for label in train.column("label")])


def said_whole(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """The same with whole transcripts for classes; nothing where they are too many to be words said alone."""
    answers = [str(text) for text in train.column("transcript")]
    if len(set(answers)) <= min(MOST_TRANSCRIPTS, len(answers) // FEWEST_TIMES):
        yield from _regressions(train, answers)


def _regressions(train: Rows, answers: Sequence[str]) -> Iterator[Predict]:
    last: list[tuple[Rows, probe.Matrix]] = []

    def matrix(rows: Rows) -> probe.Matrix:
        if not last or last[0][0] is not rows:
            last[:] = [(rows, levels(rows))]
        return last[0][1]

    for model in probe.regressions(levels(train), answers, PENALTIES, ITERATIONS):
        yield lambda rows, model=model: [str(label) for label in model.predict(matrix(rows))]  # type: ignore[misc]


def levels(rows: Rows) -> probe.Matrix:
    """Levels in dB of each recording's mel bands at `TIMES` equal parts of it, [B, M · TIMES]."""
    from tasks.modalities.speech.mel import spectrogram

    inputs = rows.inputs
    found = []
    for sound, length, rate in zip(inputs["sound"], inputs["num_samples"], inputs["rate_hz"], strict=True):
        level_TM = spectrogram(sound[: int(length)].numpy(), int(rate))
        found.append(adaptive_avg_pool1d(torch.from_numpy(level_TM).T, TIMES).flatten().numpy())
    return np.stack(found)
