"""MoCo: a view finds the other view of its picture among many keys made by a slow encoder.

With a queue: Improved Baselines with Momentum Contrastive Learning, Chen et al. 2020 (v2),
https://arxiv.org/abs/2003.04297, after Momentum Contrast, He et al. 2020, algorithm 1. Without one:
An Empirical Study of Training Self-Supervised Vision Transformers, Chen et al. 2021 (v3),
algorithm 1, https://arxiv.org/abs/2104.02057.

Differs from the papers: v2's keys are not shuffled between devices. Batch normalisation would let a
query know its key by the company that it was normalised in; here the key encoder normalises with
averages over earlier batches (see `models.parts.teacher`), which leaves nothing to know. v3's patch
projection is trained. Keys and batch statistics are those of all ranks, so that several processes
give one process's loss on the joined batch.

Legend: B pictures, C channels, H rows, W columns, D width, E projected width, Q keys in the queue.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import MOCO, Augment
from models.image.images import Images
from models.image.pictures import Pooling, features, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.parts.batch_norm import across_ranks
from models.parts.contrast import information, require_negatives
from models.parts.gather import gather, rank, world_size
from models.parts.projection import mlp
from models.parts.teacher import Teacher, cosine_momentum
from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class MoCoSettings(Settings):
    """The numbers of v2."""

    queue: int = setting(
        65536, "Keys of earlier batches to tell apart from (v2); 0 takes those of the batch (v3).", ge=0
    )
    temperature: float = setting(0.2, "Divisor of the cosines before the softmax.", gt=0)
    momentum: float = setting(
        0.999, "The key encoder's; stays with a queue, rises to 1 by a cosine without (v3: 0.99).", ge=0, le=1
    )
    hidden_width: int = setting(2048, "Width of the heads' hidden layers (v3: 4096).", ge=1)
    projection_width: int = setting(128, "Width of what is compared (v3: 256).", ge=1)
    pooling: Pooling = setting("mean", "Vision transformers: the mean of the patches, or the class token.")
    augment_1: Augment = setting(MOCO, "What may happen to the first view.")
    augment_2: Augment = setting(MOCO, "What may happen to the second view.")


class MoCo(Objective):
    """InfoNCE between queries and the keys of a momentum encoder."""

    Settings = MoCoSettings
    reads = ("images",)
    queue_QE: Tensor
    num_queued: Tensor

    def __init__(self, model: PreTrainedModel, settings: MoCoSettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        hidden, projected, num_queue = settings.hidden_width, settings.projection_width, settings.queue
        if num_queue:
            self.projector = mlp(width(model), hidden, projected, normalise=False)
        else:
            self.projector = mlp(width(model), hidden, hidden, projected, normalise_last=True)
        self.predictor = None if num_queue else mlp(projected, hidden, projected, normalise_last=True)
        self.teacher = Teacher(self.encoder, self.projector, batch_statistics=not num_queue)
        self.register_buffer("queue_QE", nn.functional.normalize(torch.randn(num_queue, projected), dim=1))
        self.register_buffer("num_queued", torch.zeros((), dtype=torch.int64))
        across_ranks(self)
        self.waiting: list[Tensor] = []
        # of a step that did not finish nothing may reach the step after it is taken back
        self.register_load_state_dict_post_hook(lambda *_: self.waiting.clear())
        self.keys_per_step = 0
        self.progress = 0.0
        self.seen: tuple[Tensor, Tensor] | None = None
        self.contrasted: tuple[Tensor, int] | None = None

    def forward(self, batch: Batch) -> Step:
        """InfoNCE; `contrast_accuracy` is the share of queries whose nearest key is their own."""
        view_1BCHW, view_2BCHW = self.views(batch).values()
        if self.settings.queue:
            query_BE, key_BE = self.queries(view_1BCHW), self.keys(view_2BCHW)
            loss, found = self.against_queue(query_BE, key_BE)
            if self.training:
                self.waiting.append(key_BE)
            return Step(loss, {"contrast_accuracy": found}, len(query_BE))
        if self.training:
            require_negatives(len(batch["key"]) * world_size())
        first, found_1 = self.against_batch(self.queries(view_2BCHW), self.keys(view_1BCHW))
        second, found_2 = self.against_batch(self.queries(view_1BCHW), self.keys(view_2BCHW))
        return Step(first + second, {"contrast_accuracy": (found_1 + found_2) / 2}, len(batch["key"]))

    def queries(self, view_BCHW: Tensor) -> Tensor:
        """Unit vectors [B, E] with gradient."""
        features_BD = features(self.encoder, view_BCHW, self.settings.pooling)
        projected_BE = self.projector(features_BD)
        if self.training:
            self.seen = health.sample(features_BD), health.sample(projected_BE)
        if self.predictor is not None:
            projected_BE = self.predictor(projected_BE)
        return nn.functional.normalize(projected_BE.float(), dim=1)

    @torch.no_grad()
    def keys(self, view_BCHW: Tensor) -> Tensor:
        """Unit vectors [B, E] of the momentum encoder."""
        encoder, projector = self.teacher.networks
        assert isinstance(encoder, PreTrainedModel)
        return nn.functional.normalize(
            projector(features(encoder, view_BCHW, self.settings.pooling)).float(), dim=1
        )

    def against_queue(self, query_BE: Tensor, key_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of telling each query's key from the queue."""
        own_B1 = (query_BE * key_BE).sum(1, keepdim=True)
        cosines = torch.cat([own_B1, query_BE @ self.queue_QE.T], dim=1)
        return self.info_nce(cosines, torch.zeros(len(query_BE), dtype=torch.int64, device=query_BE.device))

    def against_batch(self, query_BE: Tensor, key_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, times 2 × temperature as in v3, and accuracy of telling each query's key from all ranks'."""
        own_B = torch.arange(len(query_BE), device=query_BE.device)
        if self.training:  # evaluation is asked of one rank alone
            own_B, key_BE = own_B + rank() * len(query_BE), gather(key_BE)
        loss, found = self.info_nce(query_BE @ key_BE.T, own_B)
        return loss * 2 * self.settings.temperature, found

    def info_nce(self, cosines: Tensor, own_B: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the own key, and the share of queries that have it as their nearest."""
        loss = nn.functional.cross_entropy(cosines.float() / self.settings.temperature, own_B)
        if self.training:
            self.contrasted = loss.detach(), cosines.shape[1]
        return loss, (cosines.detach().argmax(1) == own_B).float().mean()

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """One by each set of rules."""
        return self.images.two_views(batch, self.settings.augment_1, self.settings.augment_2)

    def momentum(self, progress: float) -> float:
        """How much of itself the key encoder keeps."""
        initial = self.settings.momentum
        return initial if self.settings.queue else cosine_momentum(initial, progress)

    def after_step(self, progress: float) -> None:
        """Let the key encoder follow, and put the step's keys of all ranks in the place of the oldest."""
        self.progress = progress
        self.teacher.update(self.encoder, self.projector, momentum=self.momentum(progress))
        if self.waiting:
            self.enqueue(gather(torch.cat(self.waiting)))
            self.waiting = []

    @torch.no_grad()
    def enqueue(self, keys_NE: Tensor) -> None:
        """Replace the oldest keys; of more than the queue holds, the last stay."""
        num_queue = len(self.queue_QE)
        place_N = (self.num_queued + torch.arange(len(keys_NE), device=keys_NE.device)) % num_queue
        self.queue_QE[place_N[-num_queue:]] = keys_NE[-num_queue:]
        self.num_queued += len(keys_NE)
        self.keys_per_step = len(keys_NE)

    def health(self) -> Health:
        """Spread of features and queries, whether keys follow, what the contrast tells, age of the queue."""
        if self.seen is None or self.contrasted is None:
            return Health()
        spread = health.joint_embedding(*self.seen, "Lower `lr`, or raise `momentum`.")
        teacher = self.teacher.health(self.encoder, self.projector, progress=self.progress)
        nats, sentence = information(*self.contrasted, self.settings.temperature)
        measures = {**spread.measures, **teacher.measures, "information": nats}
        signature = spread.signature or teacher.signature or sentence
        if self.keys_per_step:
            steps = self.settings.queue / self.keys_per_step
            measures |= {"queue_steps": steps, "queue_drift": self.queue_drift()}
            if steps <= 1:
                signature = signature or (
                    f"The queue holds the keys of {steps:g} steps: a query is told from so few pictures "
                    "that the task is soon too easy. Raise `queue` to many times `batch_size`."
                )
        return Health(measures, signature)

    def queue_drift(self) -> float:
        """Distance between the mean oldest and the mean newest key; 0 where the encoder stood still."""
        newest = int(self.num_queued) % len(self.queue_QE)
        ordered_QE = self.queue_QE.roll(-newest, 0)[-int(self.num_queued) :]
        num = min(self.keys_per_step, len(ordered_QE) // 2)
        if not num:
            return 0.0
        return float((ordered_QE[:num].mean(0) - ordered_QE[-num:].mean(0)).norm())
