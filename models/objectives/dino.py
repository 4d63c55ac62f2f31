"""DINO: a student that sees crops says what a slow teacher that sees more says of the same picture.

Emerging Properties in Self-Supervised Vision Transformers, Caron et al. 2021, section 3 and
algorithm 1, https://arxiv.org/abs/2104.14294; crops as in Caron et al. 2020 (SwAV), section 3.4.

Differs from the paper: the loop's schedules for rate and weight decay. Centre and batch statistics
are those of all ranks, so that several processes give one process's loss on the joined batch.

Legend: B pictures, C channels, H rows, W columns, V crops of one size, D width, E bottleneck, K prototypes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import DINO_GLOBAL_1, DINO_GLOBAL_2, DINO_LOCAL, Augment
from models.image.images import Images
from models.image.pictures import Pooling, features, is_patch_based, patch_side, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.parts.batch_norm import across_ranks
from models.parts.gather import total, world_size
from models.parts.teacher import Teacher, cosine_momentum
from models.settings import Settings, setting

GLOBAL_CROPS = 2
LOCAL_SHARE = 3 / 7  # of the input's side: 96 of 224 pixels
UNIFORM_NATS = 0.01  # distance of the teacher's entropy to ln K that counts as none
ONE_PROTOTYPE = 1.5  # perplexity of the mean output that counts as one prototype
BEGINNING = 0.1  # share of the run in which untrained outputs may be nearly uniform


@dataclass(frozen=True, kw_only=True)
class DINOSettings(Settings):
    """The paper's numbers for ViT-S/16; shares of the run in the place of its epochs."""

    local_crops: int = setting(8, "Local crops per picture, beside two global ones.", ge=0)
    local_size: int | None = setting(
        None, "Side of a local crop, pixels; null is 3/7 of the input's, in whole patches.", ge=1
    )
    prototypes: int = setting(65536, "Entries of the outputs that are compared.", ge=2)
    hidden_width: int = setting(2048, "Width of the head's hidden layers.", ge=1)
    bottleneck_width: int = setting(256, "Width before the prototypes.", ge=1)
    head_batch_norm: bool = setting(
        False, "Batch normalisation in the head, as published CIFAR tables use it: the outputs part sooner."
    )
    student_temperature: float = setting(0.1, "Divisor of the student's outputs.", gt=0)
    teacher_temperature: float = setting(0.07, "Divisor of the teacher's outputs after its warm-up.", gt=0)
    teacher_temperature_start: float = setting(0.04, "Divisor of the teacher's outputs at first.", gt=0)
    temperature_warmup: float = setting(
        0.1, "Share of the run in which the teacher's temperature rises.", ge=0, le=1
    )
    frozen_share: float = setting(0.01, "Share of the run in which the prototypes stay.", ge=0, le=1)
    momentum: float = setting(0.996, "The teacher's at first; it rises to 1 by a cosine.", ge=0, le=1)
    centre_momentum: float = setting(0.9, "How much of itself the centre keeps.", ge=0, lt=1)
    pooling: Pooling = setting("class", "Vision transformers: the mean of the patches, or the class token.")
    augment_global_1: Augment = setting(DINO_GLOBAL_1, "What may happen to the first global crop.")
    augment_global_2: Augment = setting(DINO_GLOBAL_2, "What may happen to the second global crop.")
    augment_local: Augment = setting(DINO_LOCAL, "What may happen to local crops.")


class Head(nn.Module):
    """Three layers, a unit vector, and its cosines with prototypes."""

    def __init__(self, width: int, settings: DINOSettings) -> None:
        super().__init__()
        hidden, bottleneck = settings.hidden_width, settings.bottleneck_width
        layers: list[nn.Module] = []
        for before in (width, hidden):
            layers.append(nn.Linear(before, hidden))
            layers += [nn.BatchNorm1d(hidden)] if settings.head_batch_norm else []
            layers.append(nn.GELU())
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes_KE = nn.Parameter(torch.empty(settings.prototypes, bottleneck))
        nn.init.kaiming_uniform_(self.prototypes_KE, a=math.sqrt(5))

    def forward(self, features_BD: Tensor, is_free: Tensor | float = 1.0) -> Tensor:
        """Outputs [B, K]; the gradient of the prototypes is multiplied by `is_free`, 0 or 1."""
        directions_KE = nn.functional.normalize(self.prototypes_KE, dim=1)
        directions_KE = torch.lerp(directions_KE.detach(), directions_KE, is_free)
        return nn.functional.linear(nn.functional.normalize(self.layers(features_BD), dim=1), directions_KE)


class DINO(Objective):
    """Cross-entropy between centred, sharpened outputs of a teacher and those of a student."""

    Settings = DINOSettings
    reads = ("images",)
    centre_K: Tensor
    progress: Tensor

    def __init__(self, model: PreTrainedModel, settings: DINOSettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        self.local_size = _local_size(model, settings.local_size, images.size)
        self.head = Head(width(model), settings)
        self.teacher = Teacher(self.encoder, self.head)
        self.register_buffer("centre_K", torch.zeros(settings.prototypes))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        across_ranks(self)
        self.waiting: list[tuple[Tensor, int]] = []
        # of a step that did not finish nothing may reach the step after it is taken back
        self.register_load_state_dict_post_hook(lambda *_: self.waiting.clear())
        self.seen: tuple[Tensor, Tensor] | None = None
        self.target_K: Tensor | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over all pairs of a global crop for the teacher and another crop for the student."""
        global_VBCHW, local_VBCHW = self.global_crops(batch), self.local_crops(batch)
        num, num_crops = len(batch["key"]), GLOBAL_CROPS + self.settings.local_crops
        features_VBD = [self.encode(self.encoder, global_VBCHW)]
        if self.settings.local_crops:
            features_VBD.append(self.encode(self.encoder, local_VBCHW))
        is_free = (self.progress >= self.settings.frozen_share).float()
        student_VBK = self.head(torch.cat(features_VBD), is_free).float().view(num_crops, num, -1)
        teacher_VBK = self.teacher_outputs(global_VBCHW).float().view(GLOBAL_CROPS, num, -1)
        target_VBK = self.sharpened(self.centred(teacher_VBK))
        entropy = torch.special.entr(target_VBK).sum(2).mean() / math.log(self.settings.prototypes)
        if self.training:
            sums_2K = torch.stack([teacher_VBK.sum((0, 1)), target_VBK.sum((0, 1))])
            self.waiting.append((sums_2K, GLOBAL_CROPS * num))
            self.seen = health.sample(features_VBD[0][:num]), entropy
        return Step(self.cross_entropy(target_VBK, student_VBK), {"teacher_entropy": entropy}, num)

    def cross_entropy(self, target_VBK: Tensor, student_VBK: Tensor) -> Tensor:
        """Mean over pictures and pairs of different crops."""
        log_VBK = (student_VBK / self.settings.student_temperature).log_softmax(2)
        all_crops_BK = log_VBK.sum(0)
        summed = sum(
            (target_BK * (all_crops_BK - own_BK)).sum()
            for target_BK, own_BK in zip(target_VBK, log_VBK, strict=False)
        )
        num_pairs = len(target_VBK) * (len(log_VBK) - 1)
        return -torch.as_tensor(summed) / (num_pairs * log_VBK.shape[1])

    def encode(self, encoder: nn.Module, crops_VBCHW: Tensor) -> Tensor:
        """Features of crops of one size in one pass, [V·B, D]."""
        assert isinstance(encoder, PreTrainedModel)
        return features(encoder, crops_VBCHW.flatten(0, 1), self.settings.pooling)

    def teacher_outputs(self, global_VBCHW: Tensor) -> Tensor:
        """What the teacher says of the global crops, without gradient, [V·B, K]."""
        encoder, head = self.teacher.networks
        outputs: Tensor = head(self.encode(encoder, global_VBCHW))
        return outputs.detach()

    def centred(self, outputs_VBK: Tensor) -> Tensor:
        """Outputs less their running mean, so that no prototype wins for all pictures."""
        return outputs_VBK - self.centre_K

    def sharpened(self, outputs_VBK: Tensor) -> Tensor:
        """Softmax at a low temperature, so that not all prototypes win equally."""
        return (outputs_VBK / self.teacher_temperature()).softmax(2)

    def teacher_temperature(self) -> Tensor:
        """Rises linearly in the warm-up and stays."""
        settings = self.settings
        if not settings.temperature_warmup:
            return torch.full_like(self.centre_K[0], settings.teacher_temperature)
        share = (self.progress / settings.temperature_warmup).clamp(max=1).float()
        start = settings.teacher_temperature_start
        return start + share * (settings.teacher_temperature - start)

    def global_crops(self, batch: Batch) -> Tensor:
        """[2, B, C, H, W]."""
        kinds = (self.settings.augment_global_1, self.settings.augment_global_2)
        return torch.stack(
            [self.images.view(batch, augment, stream=stream) for stream, augment in enumerate(kinds, start=1)]
        )

    def local_crops(self, batch: Batch) -> Tensor:
        """[V, B, C, H, W] of the smaller size; empty where none are wanted."""
        streams = range(1 + GLOBAL_CROPS, 1 + GLOBAL_CROPS + self.settings.local_crops)
        crops = [
            self.images.view(batch, self.settings.augment_local, stream=stream, size=self.local_size)
            for stream in streams
        ]
        return torch.stack(crops) if crops else batch["pixels"].new_empty(0)

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """All crops, those that the teacher sees as well first."""
        crops = {"global": self.global_crops(batch), "local": self.local_crops(batch)}
        return {
            f"{kind} crop {number}": crop_BCHW
            for kind, crops_VBCHW in crops.items()
            for number, crop_BCHW in enumerate(crops_VBCHW, start=1)
        }

    def momentum(self, progress: float) -> float:
        """How much of itself the teacher keeps."""
        return cosine_momentum(self.settings.momentum, progress)

    def begin(self) -> None:
        """Put the clock of temperature and prototypes back."""
        self.progress.zero_()

    def after_step(self, progress: float) -> None:
        """Let the teacher follow, and the centre follow the step's outputs of all ranks."""
        self.progress.fill_(progress)
        self.teacher.update(self.encoder, self.head, momentum=self.momentum(progress))
        if self.waiting:
            num = sum(num for _, num in self.waiting)
            outputs_K, self.target_K = torch.stack([sums_2K for sums_2K, _ in self.waiting]).sum(0) / num
            self.centre_K.lerp_(total(outputs_K) / world_size(), 1 - self.settings.centre_momentum)
            self.waiting = []

    def health(self) -> Health:
        """Spread of features, and whether the teacher says the same of all pictures: nothing, or one word."""
        if self.seen is None or self.target_K is None:
            return Health()
        features_ND, entropy = self.seen
        progress = float(self.progress)
        teacher = self.teacher.health(self.encoder, self.head, progress=progress)
        used = float(torch.special.entr(self.target_K).sum().exp())
        measures = {"teacher_entropy": float(entropy), "prototypes_used": used}
        signature = self.uniform(float(entropy), progress) or one_for_all(used) or teacher.signature
        return Health({**health.measures(features_ND), **measures, **teacher.measures}, signature)

    def uniform(self, entropy: float, progress: float) -> str:
        """The sentence for a teacher that answers the same for every prototype, once it had time to begin."""
        nats = (1 - entropy) * math.log(self.settings.prototypes)
        if nats > UNIFORM_NATS or progress < max(BEGINNING, self.settings.temperature_warmup):
            return ""
        return (
            f"The teacher gives every prototype the same probability (its entropy is {entropy:.4f} of "
            f"ln {self.settings.prototypes}): there is nothing for the student to learn. "
            "Lower `teacher_temperature`, or `lr`."
        )


def one_for_all(prototypes_used: float) -> str:
    """The sentence for a teacher that names one prototype for all pictures."""
    if prototypes_used > ONE_PROTOTYPE:
        return ""
    return (
        f"The teacher names the same prototype for all pictures ({prototypes_used:.2f} in use): a student "
        "that ignores the picture is right. Lower `centre_momentum`, or raise `teacher_temperature`."
    )


def _local_size(model: PreTrainedModel, wanted: int | None, size: int) -> int:
    """Side of local crops in whole patches.

    Raises:
        ValueError: larger than the input, or no multiple of the patch.
    """
    patch = patch_side(model) if is_patch_based(model) else 1
    if wanted is None:
        return max(patch, round(size * LOCAL_SHARE / patch) * patch)
    if wanted > size or wanted % patch:
        raise ValueError(
            f"local_size {wanted} must be a multiple of the patch of {patch} pixels and at most the input's "
            f"{size}; leave it out, or set it to {max(patch, min(wanted, size) // patch * patch)}"
        )
    return wanted
