"""I-JEPA: features of hidden blocks of a picture from what surrounds them.

Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, Assran et al.
2023, section 3 and appendix A, https://arxiv.org/abs/2301.08243; targets at mean 0 and variance 1 and
the smooth L1 distance as in its code, https://github.com/facebookresearch/ijepa.

Differs from the paper: where the encoder has a class token it takes part in attention, and in nothing
else; positions of the encoder are learned.

Legend: B pictures, C channels, H and W sides in pixels, P patches, K context patches, T target blocks
of N patches each, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import IJEPA as PAPER
from models.image.augment.views import Augment
from models.image.images import Images
from models.image.patch_decoder import PatchDecoder
from models.image.patch_masks import Blocks, multi_block
from models.image.pictures import encode_visible, grid_side, only, patch_side, patches, take, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.parts.teacher import Teacher
from models.settings import Settings, setting

_LEAST_SIDE = 3  # patches
_FLAT_TARGET = 0.05  # of the targets' deviation, over places or over pictures
_FLAT_PREDICTION = 0.01  # of the same; slow runs that recovered stood at 0.013 and above


@dataclass(frozen=True, kw_only=True)
class IJEPASettings(Settings):
    """The paper's numbers; crops as in its code."""

    num_targets: int = setting(4, "Blocks of a picture that are predicted.", ge=1)
    target_scale: tuple[float, float] = setting((0.15, 0.2), "Smallest and largest share in a target.")
    target_ratio: tuple[float, float] = setting((0.75, 1.5), "Smallest and largest height over width.")
    context_scale: tuple[float, float] = setting((0.85, 1.0), "Smallest and largest share in the context.")
    distance: Literal["smooth_l1", "l2"] = setting("smooth_l1", "Of predictions from targets.")
    momentum: float = setting(0.996, "Of the target encoder at the start; 1 at the end.", ge=0, le=1)
    predictor_width: int = setting(384, "Width of the predictor.", ge=4)
    predictor_layers: int = setting(6, "Layers of the predictor.", ge=1)
    predictor_heads: int = setting(12, "Attention heads of the predictor.", ge=1)
    augment: Augment = setting(PAPER, "What may happen to the picture before it is masked.")

    def __post_init__(self) -> None:
        for name, largest in (("target_scale", 1.0), ("target_ratio", float("inf")), ("context_scale", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= largest:
                raise ValueError(
                    f"{name} must be two numbers, 0 < first <= second <= {largest}; got {low} and {high}"
                )


class IJEPA(Objective):
    """Distance of predicted features from those of a slowly following encoder."""

    Settings = IJEPASettings
    reads = ("images",)

    def __init__(self, model: PreTrainedModel, settings: IJEPASettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        self.grid_side = grid_side(model, images.size)
        if self.grid_side < _LEAST_SIDE:
            raise ValueError(
                f"{self.grid_side} x {self.grid_side} patches leave no context beside the targets; "
                f"give `image_size` at least {_LEAST_SIDE} patches a side, or a smaller `patch_size`"
            )
        self.predictor = PatchDecoder(
            width(model),
            width(model),
            self.grid_side,
            width=settings.predictor_width,
            num_layers=settings.predictor_layers,
            num_heads=settings.predictor_heads,
        )
        self.teacher = Teacher(model)
        self.progress = 0.0
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over the patches of all targets."""
        pixel_values = self.images.view(batch, self.settings.augment, stream=1)
        blocks = self.blocks(batch["key"])
        target_BPD = self.target(pixel_values)
        target_BTND = take(target_BPD, blocks.targets.flatten(1)).unflatten(1, blocks.targets.shape[1:])
        predicted_BTND = self.predict(pixel_values, blocks)
        loss = self.distance(predicted_BTND.float(), target_BTND)
        if self.training:
            rows = slice(health.MAX_ROWS // blocks.targets[0].numel() + 2)
            self.seen = (
                health.sample(target_BPD.mean(1)),
                predicted_BTND[rows].detach().flatten(1, 2),
                target_BTND[rows].flatten(1, 2),
            )
        return Step(loss, {"prediction_loss": loss.detach()}, len(batch["key"]))

    def blocks(self, key_B: Tensor) -> Blocks:
        """What each picture shows, and what is asked of it."""
        settings = self.settings
        return multi_block(
            key_B,
            self.grid_side,
            self.grid_side,
            num_targets=settings.num_targets,
            target_scale=settings.target_scale,
            target_ratio=settings.target_ratio,
            context_scale=settings.context_scale,
        )

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The view, which the target encoder reads whole, its context, and what is asked of it."""
        view_BCHW, side = self.images.view(batch, self.settings.augment, stream=1), patch_side(self.encoder)
        blocks = self.blocks(batch["key"])
        targets = {
            f"target {number}": only(view_BCHW, target_BN, side)
            for number, target_BN in enumerate(blocks.targets.unbind(1), start=1)
        }
        return {"view": view_BCHW, "context": only(view_BCHW, blocks.context, side), **targets}

    def target(self, pixel_values: Tensor) -> Tensor:
        """Features of all patches by the target encoder, each at mean 0 and variance 1, [B, P, D]."""
        with torch.no_grad():
            features_BPD = patches(cast("PreTrainedModel", self.teacher.networks[0]), pixel_values).float()
            return nn.functional.layer_norm(features_BPD, features_BPD.shape[-1:])

    def predict(self, pixel_values: Tensor, blocks: Blocks) -> Tensor:
        """Features that each target block should have, from the context alone, [B, T, N, D]."""
        num_targets = blocks.targets.shape[1]
        context_BKD = encode_visible(self.encoder, pixel_values, blocks.context)
        context_BKD = context_BKD[:, -blocks.context.shape[1] :]
        predicted = self.predictor(
            context_BKD.repeat_interleave(num_targets, 0),
            blocks.context.repeat_interleave(num_targets, 0),
            blocks.targets.flatten(0, 1),
        )
        return cast("Tensor", predicted.unflatten(0, (-1, num_targets)))

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean distance over all entries."""
        if self.settings.distance == "l2":
            return nn.functional.mse_loss(predicted, target)
        return nn.functional.smooth_l1_loss(predicted, target)

    def after_step(self, progress: float) -> None:
        """The target encoder follows, less and less."""
        self.progress = progress
        momentum = self.settings.momentum + (1 - self.settings.momentum) * progress
        self.teacher.update(self.model, momentum=momentum)

    def health(self) -> Health:
        """Spread of features, and how much targets differ over places and pictures."""
        if self.seen is None:
            return Health()
        features_ND, predicted_NMD, target_NMD = self.seen
        follows = self.teacher.health(self.model, progress=self.progress)
        measures = {**health.measures(features_ND), **follows.measures}
        if target_NMD.shape[1] == 1:
            return Health(measures, follows.signature)
        scale = target_NMD.std().clamp(min=1e-6)
        measures |= {
            "prediction_deviation": float(predicted_NMD.float().std(1).mean() / scale),
            "target_deviation": float(target_NMD.std(1).mean() / scale),
        }
        return Health(measures, _signature(measures) or follows.signature)


def _signature(measures: dict[str, float]) -> str:
    if measures["target_deviation"] < _FLAT_TARGET:
        return (
            "The target encoder answers the same at every place (deviation "
            f"{measures['target_deviation']:.3f} of its own over pictures and places): predicting that is "
            "trivial and teaches nothing. Raise `momentum`, or lower `lr`."
        )
    if measures["prediction_deviation"] < _FLAT_PREDICTION:
        return (
            "The predictor answers the same at every place (deviation "
            f"{measures['prediction_deviation']:.3f} of the targets'): it does not read where it is asked. "
            "Train longer, or raise `lr`."
        )
    return ""
