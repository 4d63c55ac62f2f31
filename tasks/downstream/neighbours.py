"""Nearest neighbours on frozen features: cosine, weighted, as in DINO's protocol.

Emerging properties in self-supervised vision transformers (Caron et al. 2021), section 4.1 and the
released `eval_knn.py`, https://arxiv.org/abs/2104.14294, after Wu et al. 2018, section 3.4,
https://arxiv.org/abs/1805.01978: each of the k nearest training rows votes for its label with
weight exp(cosine / temperature).

Differs from the papers: k is chosen on validation rows.

Legend: N training rows, B rows asked about, K neighbours, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

COUNTS = (1, 5, 10, 20, 200)
TEMPERATURE = 0.07
ROWS_AT_ONCE = 512


def voters(
    train: Rows,
    answers: Sequence[str],
    vectors: Callable[[Rows], Tensor],
    counts: Sequence[int] = COUNTS,
) -> Iterator[Predict]:
    """A candidate for every number of neighbours that the training rows can give.

    Args:
        train: labelled rows.
        answers: their labels.
        vectors: features of rows, [B, D].
        counts: numbers of neighbours; of more than there are rows, all rows are taken.
    """
    classes = sorted(set(answers))
    label_N = torch.tensor([classes.index(answer) for answer in answers])
    train_ND = normalize(vectors(train).float())
    most = min(max(counts), len(train))
    last: list[tuple[Rows, Tensor, Tensor]] = []

    def found(rows: Rows) -> tuple[Tensor, Tensor]:
        """Cosines and labels of the nearest, [B, most]; all candidates ask about the same rows."""
        if not last or last[0][0] is not rows:
            last[:] = [(rows, *nearest(train_ND, label_N, normalize(vectors(rows).float()), most))]
        return last[0][1:]

    for count in sorted({min(count, most) for count in counts}):
        yield lambda rows, count=count: [  # type: ignore[misc]
            classes[number] for number in votes(*found(rows), count, len(classes)).argmax(1).tolist()
        ]


def nearest(train_ND: Tensor, label_N: Tensor, asked_BD: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Cosines and labels of the nearest training rows, the nearest first, both [B, most]."""
    with torch.autocast(train_ND.device.type, enabled=False):  # in bfloat16 near neighbours tie
        parts = [(part_BD @ train_ND.T).topk(most, dim=1) for part_BD in asked_BD.split(ROWS_AT_ONCE)]
    cosine_BK = torch.cat([part.values for part in parts])
    return cosine_BK, label_N[torch.cat([part.indices for part in parts])]


def votes(cosine_BK: Tensor, label_BK: Tensor, count: int, num_classes: int) -> Tensor:
    """Summed votes of the nearest `count` rows, [B, num_classes]."""
    weight_BK = (cosine_BK[:, :count] / TEMPERATURE).exp()
    empty = torch.zeros(len(weight_BK), num_classes)
    return empty.scatter_add_(1, label_BK[:, :count], weight_BK)
