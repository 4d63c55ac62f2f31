"""Supervised training of a `transformers` model with a head, behind the contract of objectives.

The heads are `transformers`' own (`AutoModelForSequenceClassification`, `...TokenClassification`,
`...QuestionAnswering`), so that what is saved opens with `Auto*.from_pretrained`, no code of ours
needed. They therefore pool as their authors chose: BERT reads the first token through its pooler,
GPT-2 the last token that is no padding. `models.parts.pooling` makes the first token worth reading.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from models.encoders import quiet
from models.image import picture_weights
from models.objectives import Batch, Objective, Step
from models.parts import pooling
from models.speech.sounds import num_frames, real
from models.text.token_masks import IGNORED

# What architectures call the part that makes vectors of raw input.
STEMS = ("feature_extractor", "embeddings", "embedder", "embed_tokens", "wte", "wpe")


class Reader(Protocol):
    """What stands between stored batches and the model."""

    def __call__(self, batch: Batch, *, training: bool, key: Tensor | None) -> Batch:
        """The batch as the model reads it; what is random is drawn from the key."""

    def within(self, model: PreTrainedModel, key: Tensor | None) -> AbstractContextManager[None]:
        """A context in which the model's forward pass changes by the key; None changes nothing."""


class Supervised(Objective):
    """A model with a head and the loss that the model itself defines over `labels` or positions.

    Args:
        model: with its head.
        reader: makes of a stored batch what the model reads; None where it reads batches as they are.
    """

    def __init__(self, model: PreTrainedModel, reader: Reader | None = None) -> None:
        super().__init__()
        self.model = model
        self.reader = reader

    def forward(self, batch: Batch) -> Step:
        """Mean loss; `weight` counts the rows, or the labelled tokens where each token has a label."""
        if self.reader is None:
            outputs = self.model(**accepted(self.model, batch))
        else:
            batch = self.reader(batch, training=self.training, key=batch["key"])
            with self.reader.within(self.model, batch["key"] if self.training else None):
                outputs = self.model(**accepted(self.model, batch))
        labels = batch.get("labels")
        if labels is None:
            return Step(outputs.loss, weight=float(len(batch["start_positions"])))
        if transcribes(self.model):
            return Step(outputs.loss, weight=float(len(labels)))
        return Step(outputs.loss, weight=(labels != IGNORED).sum())


def accepted(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a batch that the model's forward pass takes."""
    known = inspect.signature(model.forward).parameters
    return {key: value for key, value in batch.items() if key in known}


def transcribes(model: PreTrainedModel) -> bool:
    """Whether the head says a character for every frame of sound (connectionist temporal classification)."""
    return type(model).__name__.endswith("ForCTC")


def answered(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Any:
    """The model's outputs for a batch; of frames behind a recording's end a transcriber says the blank."""
    outputs = model(**accepted(model, batch))
    if transcribes(model) and "attention_mask" in batch:
        behind_BT = ~real(num_frames(model, batch["attention_mask"].sum(1)), outputs.logits.shape[1])
        outputs.logits = outputs.logits.masked_fill(behind_BT[..., None], -torch.inf)
        outputs.logits[..., model.config.pad_token_id].masked_fill_(behind_BT, 0.0)
    return outputs


def has_room(model: PreTrainedModel, inputs: Batch, targets: Batch) -> Tensor:
    """Boolean per row: whether a transcriber makes frames enough for its characters; all of other models.

    Between two equal characters a blank must stand as well.
    """
    labels_BL = targets.get("labels")
    if labels_BL is None or not transcribes(model):
        return torch.ones(len(next(iter(targets.values()))), dtype=torch.bool)
    is_real_BL = labels_BL != IGNORED
    doubled_B = ((labels_BL[:, 1:] == labels_BL[:, :-1]) & is_real_BL[:, 1:]).sum(1)
    room_B: Tensor = num_frames(model, inputs["num_samples"]) >= is_real_BL.sum(1) + doubled_B
    return room_B


def is_causal(config: PretrainedConfig) -> bool:
    """Whether each position sees only those before it, so that the first one says nothing of the rest."""
    name = config.model_type
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in masked


def build(
    head: str,
    source: Path,
    labels: Sequence[str],
    *,
    pretrained: bool,
    padding: int | None,
    seed: int,
    pools_by: str = "first",
) -> PreTrainedModel:
    """A model with a new head on an encoder from a folder.

    Args:
        head: name of a `transformers` Auto class.
        source: folder with the encoder's config and weights.
        labels: names of the classes, in the order of the logits; empty where the head has none.
        pretrained: load the weights; otherwise the same architecture is initialised anew.
        padding: id of padding in the inputs, for models that pool at the last real token.
        seed: seed of whatever is initialised.
        pools_by: all but `first` let a head that classifies whole rows begin with the mean of all tokens,
            where the architecture allows it; see `models.parts.pooling`.
    """
    config = picture_weights.as_encoder(AutoConfig.from_pretrained(source))
    if hasattr(config, "apply_spec_augment"):
        config.apply_spec_augment = False  # it would draw from numpy's global state: no run could be resumed
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        config.problem_type = "single_label_classification"
    if head == "AutoModelForCTC":
        config.vocab_size, config.pad_token_id = len(labels), 0
        config.ctc_loss_reduction, config.ctc_zero_infinity = "mean", True
    if padding is not None and config.pad_token_id is None:
        config.pad_token_id = padding
    reads_first = pooling.reads_first_token(head, config)
    if pools_by != "first":
        if reads_first:
            config.num_hidden_layers += 1
        if hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "mean"
    factory = getattr(transformers, head)
    torch.manual_seed(seed)
    with quiet():
        model: PreTrainedModel = (
            factory.from_pretrained(source, config=config, dtype=torch.float32)
            if pretrained
            else factory.from_config(config, dtype=torch.float32)
        )
    if reads_first:
        if pools_by != "first":
            pooling.begin_as_mean(model)
        pooling.compute_first_token_only(model)
    return model


def freeze_stem(model: PreTrainedModel) -> None:
    """What makes vectors of raw input keeps its weights: convolutions over samples, or embeddings.

    Raises:
        ValueError: the architecture has no such part.
    """
    found = [getattr(model.base_model, name) for name in STEMS if hasattr(model.base_model, name)]
    if not found:
        raise ValueError(f"finetune.freeze: {model.config.model_type} has no stem that is known; say nothing")
    for stem in found:
        if hasattr(stem, "_freeze_parameters"):
            stem._freeze_parameters()  # no gradient of the samples either, which costs most
        stem.requires_grad_(False)


def encoder(source: Path, *, pretrained: bool, seed: int) -> PreTrainedModel:
    """The network without any head, in eval mode; `pretrained` and `seed` as in `build`."""
    config = picture_weights.as_encoder(AutoConfig.from_pretrained(source))
    torch.manual_seed(seed)
    with quiet():
        if pretrained:
            model = AutoModel.from_pretrained(source, config=config, dtype=torch.float32)
        else:
            model = AutoModel.from_config(config, dtype=torch.float32)
    return model.eval()


def save(model: PreTrainedModel, folder: Path) -> None:
    """`save_pretrained`, from the processor and without its progress bar."""
    with quiet():
        nn.Module.to(model, "cpu").save_pretrained(folder)
