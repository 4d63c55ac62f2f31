"""What training costs, in floating-point operations: counted, so that it is the same on every machine."""

from __future__ import annotations

import copy

from torch.utils.flop_counter import FlopCounterMode

from models.objectives import Objective
from tasks.engine.loader import Batches

COUNTED = 4  # samples that are trained on once, to count


def per_sample(objective: Objective, batches: Batches) -> float:
    """Operations of one sample's forward and backward pass: matrix products, convolutions, attention.

    The objective stays as it is; what it does between samples (pairs of a batch) is counted as for a
    batch of `COUNTED`.
    """
    twin = copy.deepcopy(objective).cpu().train()
    batch = batches.batch(range(COUNTED))
    with FlopCounterMode(display=False) as counter:
        twin(batch).loss.backward()
    return counter.get_total_flops() / COUNTED
