"""A slow copy of some modules, whose weights are a moving average of theirs.

Momentum Contrast, He et al. 2020, equation 2, https://arxiv.org/abs/1911.05722; the momentum that
rises to 1 by a cosine: Bootstrap Your Own Latent, Grill et al. 2020, section 3.3,
https://arxiv.org/abs/2006.07733; a teacher that normalises with averages instead of with its batch:
Exponential Moving Average Normalization, Cai et al. 2021, section 3, https://arxiv.org/abs/2101.08482.

Differs from Cai et al.: the averages are those of the teacher's own activations, not of the student's:
a teacher that lags far behind would be normalised by what its weights never made.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.objectives import Health
from models.parts.batch_norm import by_earlier_batches


def cosine_momentum(initial: float, progress: float) -> float:
    """From `initial` at the start of the run to 1 at its end."""
    return 1 - (1 - initial) * (math.cos(math.pi * progress) + 1) / 2


class Teacher(nn.Module):
    """Copies of modules that no gradient reaches.

    Attributes:
        networks: the copies, in the order given.
        momentum: of the last update; 0 before the first.
    """

    momentum: Tensor

    def __init__(self, *students: nn.Module, batch_statistics: bool = True) -> None:
        """Copy the students.

        Args:
            *students: modules to copy.
            batch_statistics: whether batch normalisation reads the batch while training; otherwise
                it uses averages over earlier batches, so that an output says nothing about which
                other pictures were in the batch.
        """
        super().__init__()
        self.networks = copy.deepcopy(nn.ModuleList(students)).requires_grad_(False)
        if not batch_statistics:
            by_earlier_batches(self.networks)
        self.register_buffer("momentum", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, *students: nn.Module, momentum: float) -> None:
        """Become `momentum` × itself + (1 − `momentum`) × the students."""
        copies, originals = [*self._weights(self.networks)], [*self._weights(*students)]
        torch._foreach_lerp_(copies, originals, 1 - momentum)
        self.momentum.fill_(momentum)

    @torch.no_grad()
    def health(self, *students: nn.Module, progress: float) -> Health:
        """How far the teacher is from the students, and whether it follows them at all."""
        copies, originals = [*self._weights(self.networks)], [*self._weights(*students)]
        length = nn.utils.get_total_norm(originals)
        distance = float(nn.utils.get_total_norm(torch._foreach_sub(copies, originals)) / length)
        signature = ""
        if distance == 0:
            signature = (
                "The teacher is the student itself: its targets change with every step, which invites "
                "the solution that is the same for all pictures. Raise `momentum` (papers: 0.99 to 0.999)."
            )
        elif self.momentum >= 1 and progress < 1:
            signature = (
                "The teacher never moves: the student learns to imitate random weights and cannot become "
                "better than them. Set `momentum` below 1 (papers: 0.99 to 0.999)."
            )
        return Health({"teacher_distance": distance, "teacher_momentum": float(self.momentum)}, signature)

    @staticmethod
    def _weights(*modules: nn.Module) -> Iterator[Tensor]:
        return (weight for module in modules for weight in module.parameters())
