"""ResNet for pictures of about 32 pixels, under the name `small_resnet`.

Deep Residual Learning for Image Recognition, He et al. 2016, https://arxiv.org/abs/1512.03385; with
the 3×3 stem and no max-pooling that the published CIFAR tables of self-supervised methods use
(SimCLR, Chen et al. 2020, appendix B.9, https://arxiv.org/abs/2002.05709).

`transformers`' own ResNet has the 7×7 stem of ImageNet alone. A folder that holds this one opens
with `AutoModel.from_pretrained` only after `import models.image.small_resnet`: it needs this package.

Legend: B pictures, C channels, H and W sides in pixels or cells, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetConvLayer


class SmallResNetConfig(PretrainedConfig):
    """ResNet-18 for 32 pixels.

    Attributes:
        num_channels: of the pictures.
        hidden_sizes: width of each stage; all but the first halve the map.
        depths: residual layers of each stage.
        stem_stride: of the first 3×3 convolution; 2 makes the network four times cheaper.
        pooled_side: what stands for a picture is the last map averaged to this side and flattened;
            1 is the usual global mean, 4 keeps where things are.
        image_size: side that the network was trained at; it runs at any.
    """

    model_type = "small_resnet"
    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    stem_stride: int = 1
    pooled_side: int = 1
    image_size: int = 32

    @property
    def hidden_size(self) -> int:
        """Entries of what stands for a picture."""
        return self.hidden_sizes[-1] * self.pooled_side**2


class SmallResNetPreTrainedModel(PreTrainedModel):
    """How weights begin: as in the ResNet of `transformers`."""

    config: SmallResNetConfig
    config_class = SmallResNetConfig
    base_model_prefix = "small_resnet"
    main_input_name = "pixel_values"
    input_modalities = "image"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()


class SmallResNetModel(SmallResNetPreTrainedModel):
    """Stem, stages of basic layers, pooled map."""

    def __init__(self, config: SmallResNetConfig) -> None:
        super().__init__(config)
        widths = config.hidden_sizes
        self.embedder = ResNetConvLayer(
            config.num_channels, widths[0], kernel_size=3, stride=config.stem_stride
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResNetBasicLayer(before, after, stride=1 if index == 0 else 2),
                *(ResNetBasicLayer(after, after) for _ in range(depth - 1)),
            )
            for index, (before, after, depth) in enumerate(
                zip((widths[0], *widths[:-1]), widths, config.depths, strict=True)
            )
        )
        self.pooler = nn.AdaptiveAvgPool2d(config.pooled_side)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPoolingAndNoAttention:
        """The last map [B, C, H, W] and what stands for the picture, [B, D, 1, 1]."""
        map_BCHW = self.embedder(pixel_values.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            map_BCHW = stage(map_BCHW)
        is_pooled = map_BCHW.shape[2:] == (self.config.pooled_side,) * 2
        pooled_BD = (map_BCHW if is_pooled else self.pooler(map_BCHW)).flatten(1)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=map_BCHW, pooler_output=pooled_BD[:, :, None, None]
        )


class SmallResNetForImageClassification(SmallResNetPreTrainedModel):
    """A linear layer on what stands for the picture."""

    def __init__(self, config: SmallResNetConfig) -> None:
        super().__init__(config)
        self.small_resnet = SmallResNetModel(config)
        self.classifier = nn.Linear(config.hidden_size, cast("int", config.num_labels))
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Scores of the classes [B, classes], and their cross-entropy where labels are given."""
        logits = self.classifier(self.small_resnet(pixel_values).pooler_output.flatten(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


AutoConfig.register(SmallResNetConfig.model_type, SmallResNetConfig)
AutoModel.register(SmallResNetConfig, SmallResNetModel)
AutoModelForImageClassification.register(SmallResNetConfig, SmallResNetForImageClassification)
