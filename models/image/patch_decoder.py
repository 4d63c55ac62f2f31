"""A narrow transformer that says from some patches what stands at others.

The decoder of Masked Autoencoders Are Scalable Vision Learners, He et al. 2022, section 3,
https://arxiv.org/abs/2111.06377, and the predictor of Self-Supervised Learning from Images with a
Joint-Embedding Predictive Architecture, Assran et al. 2023, section 3,
https://arxiv.org/abs/2301.08243: both put a mask token with its position where an answer is due.

Legend: B pictures, F tokens before the patches, K given patches, M patches asked for, P patches of
the grid, I width in, D width, O width out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import ViTConfig
from transformers.models.vit.modeling_vit import ViTLayer, ViTPreTrainedModel

from models.image.pictures import take
from models.parts import last_layer


class PatchDecoder(ViTPreTrainedModel):
    """Linear layer, mask tokens, positions, layers of a vision transformer, linear layer.

    A model of `transformers`, so that it is told how to attend as the encoder is.
    """

    positions_1PD: Tensor

    def __init__(
        self, width_in: int, width_out: int, grid_side: int, *, width: int, num_layers: int, num_heads: int
    ) -> None:
        """Build the network.

        Raises:
            ValueError: the width cannot be shared by the heads, or holds no positions.
        """
        if width % num_heads or width % 4:
            raise ValueError(
                f"a decoder of width {width} needs a multiple of 4 and of its {num_heads} heads; "
                f"{width - width % (4 * num_heads) + 4 * num_heads} would do"
            )
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * width,
            image_size=grid_side,
            patch_size=1,
            initializer_range=(0.4 / width) ** 0.5,  # Xavier's of the feed-forward layers
        )
        super().__init__(config)
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(ViTLayer(config) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.predict = nn.Linear(width, width_out)
        self.post_init()
        nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("positions_1PD", sine_positions(grid_side, width)[None], persistent=False)

    def forward(self, tokens_BLI: Tensor, given_BK: Tensor, asked_BM: Tensor) -> Tensor:
        """Predictions at the patches asked for, [B, M, O].

        Args:
            tokens_BLI: F tokens without a place, then the given patches.
            given_BK: int64, where the given patches stand.
            asked_BM: int64, where predictions are due.
        """
        tokens_BLD = self.embed(tokens_BLI)
        num_first = tokens_BLD.shape[1] - given_BK.shape[1]
        positions_BPD = self.positions_1PD.expand(len(given_BK), -1, -1)
        given_BKD = tokens_BLD[:, num_first:] + take(positions_BPD, given_BK)
        asked_BMD = self.mask_token + take(positions_BPD, asked_BM)
        hidden_BLD = torch.cat([tokens_BLD[:, :num_first], given_BKD, asked_BMD], dim=1)
        *layers, last = self.layers
        for layer in layers:
            hidden_BLD = layer(hidden_BLD, None)
        hidden_BMD = last_layer.at(last, hidden_BLD, slice(-asked_BM.shape[1], None))
        predicted_BMO: Tensor = self.predict(self.norm(hidden_BMD))
        return predicted_BMO


def sine_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of the column, then those of the row, [P, D]; the order of MAE's released weights."""
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    index_P = torch.arange(side**2)
    angles = [place[:, None] * frequency for place in (index_P % side, index_P // side)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()
