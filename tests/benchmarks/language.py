"""What the language-model comparisons share: the rows, our loop, and Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from models import encoders
from models.objectives import Objective
from models.text.attention import choose
from models.text.vocabulary import Vocabulary
from tasks.engine.events import Event
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
from tests.benchmarks import huggingface
from tests.benchmarks.baton import ENDLESS, Loop, Turn

VOCABULARY_SIZE, LENGTH, BATCH, NUM_ROWS = 8192, 128, 32, 4096
LAYERS, HEADS, WIDTH = 4, 4, 256
NUM_SPECIAL = 5
MASK_ID = 4
ROWS = torch.randint(
    NUM_SPECIAL, VOCABULARY_SIZE, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(0)
)


def build(auto: str, architecture: str, config: dict[str, Any]) -> Any:
    """The encoder with its head and random weights, the same for every contestant."""
    return encoders.build(auto, architecture=architecture, source=None, config=config, seed=0)


class Packed:
    """The rows for our loop."""

    num_samples, unit, units_per_sample = NUM_ROWS, "tokens", float(LENGTH)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key = torch.tensor(list(positions))
        return {"input_ids": ROWS[key % NUM_ROWS], "key": key}


class Examples(Dataset[dict[str, Any]]):
    """The rows as the Trainer's scripts keep them after `group_texts`."""

    def __init__(self, *, has_labels: bool) -> None:
        self.has_labels = has_labels

    def __len__(self) -> int:
        return NUM_ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = ROWS[index].tolist()
        return {"input_ids": ids, "labels": ids} if self.has_labels else {"input_ids": ids}


def ours(kind: type[Objective], model: Callable[[], Any], *, compile: bool) -> Loop:
    """Our loop on that objective."""

    def loop(turn: Turn) -> None:
        encoder = model()
        choose(encoder, LENGTH, torch.device("cpu"))
        is_special = torch.arange(VOCABULARY_SIZE) < NUM_SPECIAL
        facts = Vocabulary(is_special, torch.zeros(VOCABULARY_SIZE, dtype=torch.bool), 0, MASK_ID)
        settings = TrainSettings(
            steps=ENDLESS, batch_size=BATCH, log_every=1, compile=compile, schedule="constant"
        )

        def count(event: Event) -> None:
            turn.step()

        objective = kind(encoder, kind.Settings(), facts)
        train(objective, Packed(), settings, seed=0, callbacks=[count])

    return loop


def trainer(
    model: Callable[[], Any], collator: Callable[[], Any], *, has_labels: bool, bf16: bool, compile: bool
) -> Loop:
    """The Trainer with its defaults but for the two switches."""
    examples = Examples(has_labels=has_labels)
    return huggingface.trainer(model, examples, collator, batch_size=BATCH, bf16=bf16, compile=compile)
