"""What a sceptic would try first on pictures: their pixels, and their gradients.

Legend: B pictures, C channels, S side in pixels, D numbers of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from tasks.downstream import neighbours, probe
from tasks.downstream.hog import hog
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

SIDE_OF_NEIGHBOURS = 32  # larger pictures are averaged to it
SIDE_OF_REGRESSION = 16
CELLS = 8  # along a side
CELLS_OF_MASKS = 16
PENALTIES = (0.003, 0.03, 0.3)
ITERATIONS = 100
PIXELS_AT_ONCE = 1 << 19


def pixel_knn(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Nearest neighbours by what differs from the mean picture, in colour and in grey."""
    answers = _answers(train)
    for is_grey in (False, True):
        mean_D = _pixels(train, SIDE_OF_NEIGHBOURS, is_grey=is_grey).mean(0)

        def vectors(rows: Rows, mean_D: Tensor = mean_D, is_grey: bool = is_grey) -> Tensor:
            return _pixels(rows, SIDE_OF_NEIGHBOURS, is_grey=is_grey) - mean_D

        yield from neighbours.voters(train, answers, vectors)


def pixel_lr(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Logistic regressions on the pixels of small copies, one per penalty."""
    return _regressions(train, lambda rows: _pixels(rows, SIDE_OF_REGRESSION, is_grey=False))


def histograms(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Nearest neighbours and logistic regressions on histograms of oriented gradients."""
    yield from neighbours.voters(train, _answers(train), _hog)
    yield from _regressions(train, _hog)


def cell_colours(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Segmentation by mean and deviation of the colour of each cell of a grid."""
    from tasks.downstream import segmentation

    def coloured(rows: Rows) -> Rows:
        values = torch.cat([part.float() / 255 for part in _parts(rows)])
        mean_BCRS = adaptive_avg_pool2d(values, CELLS_OF_MASKS)
        squares_BCRS = adaptive_avg_pool2d(values.square(), CELLS_OF_MASKS)
        deviation_BCRS = (squares_BCRS - mean_BCRS.square()).clamp(min=0).sqrt()
        return rows.with_features(list(torch.cat([mean_BCRS, deviation_BCRS], 1).flatten(2).transpose(1, 2)))

    for predict in segmentation.probes(coloured(train), labels):
        yield lambda rows, predict=predict: predict(coloured(rows))  # type: ignore[misc]


def _regressions(train: Rows, vectors: Callable[[Rows], Tensor]) -> Iterator[Predict]:
    last: list[tuple[Rows, probe.Matrix]] = []

    def matrix(rows: Rows) -> probe.Matrix:
        if not last or last[0][0] is not rows:
            last[:] = [(rows, vectors(rows).numpy())]
        return last[0][1]

    for model in probe.regressions(vectors(train).numpy(), _answers(train), PENALTIES, ITERATIONS):
        yield lambda rows, model=model: [str(label) for label in model.predict(matrix(rows))]  # type: ignore[misc]


def _answers(rows: Rows) -> list[str]:
    return [str(label) for label in rows.column("label")]


def _pixels(rows: Rows, side: int, *, is_grey: bool) -> Tensor:
    """Values 0 to 1, [B, D]; a picture that is larger is averaged to that side."""

    def small(pixels_BCSS: Tensor) -> Tensor:
        values_BCSS = pixels_BCSS.float() / 255
        if is_grey:
            values_BCSS = values_BCSS.mean(1, keepdim=True)
        return adaptive_avg_pool2d(values_BCSS, min(side, values_BCSS.shape[-1])).flatten(1)

    return torch.cat([small(part) for part in _parts(rows)])


def _hog(rows: Rows) -> Tensor:
    cell = max(1, rows.inputs["pixels"].shape[-1] // CELLS)
    return torch.cat([hog(part, cell) for part in _parts(rows)])


def _parts(rows: Rows) -> Sequence[Tensor]:
    """The stored pictures in pieces that memory holds."""
    pixels_BCSS = rows.inputs["pixels"]
    return pixels_BCSS.split(max(1, PIXELS_AT_ONCE // pixels_BCSS[0, 0].numel()))
