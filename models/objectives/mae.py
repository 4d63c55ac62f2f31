"""MAE: a picture's hidden patches from its visible ones.

Masked Autoencoders Are Scalable Vision Learners, He et al. 2022, section 3,
https://arxiv.org/abs/2111.06377.

Differs from the paper: the encoder's positions are learned, as those of `transformers`' plain vision
transformer are. The decoder answers at hidden patches only, where alone there is a loss.

Legend: B pictures, C channels, H and W sides in pixels, P patches, K visible and M hidden patches, F
tokens before the patches, D width, Q values of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import MAE as PAPER
from models.image.augment.views import Augment
from models.image.images import Images
from models.image.patch_decoder import PatchDecoder
from models.image.patch_masks import random_masks
from models.image.pictures import encode_visible, grid_side, only, patch_side, patchify, put, take, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.settings import Settings, setting

_FLAT = 0.05  # of the targets' deviation over the places of a picture
_LEAST_VARIANCE = 1e-6  # keeps patches of one colour from being divided by nothing


@dataclass(frozen=True, kw_only=True)
class MAESettings(Settings):
    """The paper's numbers."""

    mask_ratio: float = setting(0.75, "Share of the patches that is hidden.", gt=0, lt=1)
    normalise_patches: bool = setting(True, "Predict each patch at mean 0 and variance 1 of its own.")
    decoder_width: int = setting(512, "Width of the decoder.", ge=4)
    decoder_layers: int = setting(8, "Layers of the decoder.", ge=1)
    decoder_heads: int = setting(16, "Attention heads of the decoder.", ge=1)
    augment: Augment = setting(PAPER, "What may happen to the picture before it is masked.")


@dataclass(frozen=True)
class Reconstruction:
    """What was hidden of a batch, and what was put there.

    Attributes:
        visible: int64 [B, K], indices of the visible patches.
        hidden: int64 [B, M], indices of the hidden ones.
        predicted: [B, M, Q], the decoder's answer there.
        target: [B, M, Q], the truth in the same terms.
        tokens: [B, F+K, D], what the encoder made of the visible patches.
    """

    visible: Tensor
    hidden: Tensor
    predicted: Tensor
    target: Tensor
    tokens: Tensor


class MAE(Objective):
    """Mean squared error of hidden patches."""

    Settings = MAESettings
    reads = ("images",)

    def __init__(self, model: PreTrainedModel, settings: MAESettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        self.side = patch_side(model)
        if grid_side(model, images.size) < 2:
            raise ValueError(
                f"a picture of {images.size} pixels is one patch of {self.side}: there is nothing to see of "
                "what is hidden; raise `image_size`, or give a smaller `patch_size`"
            )
        self.decoder = PatchDecoder(
            width(model),
            self.side**2 * images.channels,
            grid_side(model, images.size),
            width=settings.decoder_width,
            num_layers=settings.decoder_layers,
            num_heads=settings.decoder_heads,
        )
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over hidden patches."""
        done = self.reconstruct(self.images.view(batch, self.settings.augment, stream=1), batch["key"])
        loss = nn.functional.mse_loss(done.predicted.float(), done.target)
        if self.training:
            num_first = done.tokens.shape[1] - done.visible.shape[1]
            features_BD = done.tokens[:, num_first:].mean(1)
            rows = health.MAX_ROWS // done.hidden.shape[1] + 2
            self.seen = (
                health.sample(features_BD), done.predicted[:rows].detach(), done.target[:rows]
            )  # fmt: skip
        return Step(loss, {"reconstruction_loss": loss.detach()}, len(batch["key"]))

    def reconstruct(self, pixel_values: Tensor, key_B: Tensor) -> Reconstruction:
        """Hide patches of normalised pictures [B, C, H, W], as their keys say, and predict them."""
        visible_BK, hidden_BM = self.masks(pixel_values, key_B)
        tokens_BLD = encode_visible(self.encoder, pixel_values, visible_BK)
        predicted_BMQ = self.decoder(tokens_BLD, visible_BK, hidden_BM)
        target_BMQ = take(patchify(pixel_values, self.side), hidden_BM)
        if self.settings.normalise_patches:
            target_BMQ = own_scale(target_BMQ)
        return Reconstruction(visible_BK, hidden_BM, predicted_BMQ, target_BMQ, tokens_BLD)

    def masks(self, pixel_values: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the visible [B, K] and of the hidden patches [B, M]."""
        num_patches = (pixel_values.shape[2] // self.side) * (pixel_values.shape[3] // self.side)
        return random_masks(key_B, num_patches, self.settings.mask_ratio)

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The view, what is visible of it, and the rest."""
        view_BCHW = self.images.view(batch, self.settings.augment, stream=1)
        visible_BK, hidden_BM = self.masks(view_BCHW, batch["key"])
        return {
            "view": view_BCHW,
            "visible to the encoder": only(view_BCHW, visible_BK, self.side),
            "hidden, to be predicted": only(view_BCHW, hidden_BM, self.side),
        }

    def rebuilt(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions between visible patches, those of their own scale on the scale of the true ones."""
        pixel_values = self.images.plain(batch["pixels"])
        done = self.reconstruct(pixel_values, batch["key"])
        predicted_BMQ = done.predicted.float()
        if self.settings.normalise_patches:
            true_BMQ = take(patchify(pixel_values, self.side), done.hidden)
            variance, mean = torch.var_mean(true_BMQ, dim=-1, keepdim=True)
            predicted_BMQ = predicted_BMQ * (variance + _LEAST_VARIANCE).sqrt() + mean
        return {
            "picture": pixel_values,
            "visible to the encoder": only(pixel_values, done.visible, self.side),
            "reconstruction": put(pixel_values, predicted_BMQ, done.hidden, self.side),
        }

    def health(self) -> Health:
        """Spread of features, and how much predictions differ from place to place."""
        if self.seen is None:
            return Health()
        features_ND, predicted_NMQ, target_NMQ = self.seen
        spread = float(predicted_NMQ.float().std(1).mean() / target_NMQ.std(1).mean().clamp(min=1e-6))
        signature = ""
        if spread < _FLAT:
            signature = (
                f"The decoder puts the same patch everywhere (deviation over places {spread:.3f} of the "
                "truth's): the loss then rewards nothing that the encoder could learn. Train longer, raise "
                "`lr` if the loss still stands where it began, or lower `mask_ratio`."
            )
        return Health({**health.measures(features_ND), "prediction_deviation": spread}, signature)


def own_scale(patches_BMQ: Tensor) -> Tensor:
    """Each patch at mean 0 and variance 1."""
    variance_BM1, mean_BM1 = torch.var_mean(patches_BMQ, dim=-1, keepdim=True)
    return (patches_BMQ - mean_BM1) * torch.rsqrt(variance_BM1 + _LEAST_VARIANCE)
