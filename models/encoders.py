"""Any transformers architecture as the encoder: built from a config or loaded from released weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.utils import logging as transformers_logging

import models.image.small_resnet  # noqa: F401  # registers its name
from models.image import picture_weights

OPTIONAL = ("pooler", "mask_token", "masked_spec_embed")  # new where released encoders come without


class UnknownEncoder(ValueError):
    """No such architecture, no such field of its config, or no such weights."""


def build(
    auto: str,
    *,
    architecture: str | None,
    source: str | None,
    config: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    seed: int,
) -> PreTrainedModel:
    """A model with random weights, or with released ones.

    Args:
        auto: class that adds the heads, in transformers' words (`AutoModelForMaskedLM`).
        architecture: model type (`bert`, `gpt2`, `vit`) to build from scratch.
        source: name on the hub or folder of weights to start from; instead of `architecture`.
        config: fields that differ from the architecture's defaults, or from those of the released
            weights: rates of dropout, which change no weights, and the `patch_size` of a vision
            transformer, whose weights are made to fit.
        data: fields that the data decide, above `config`. Released weights are made to fit
            `image_size` and `num_channels`; those of text (`vocab_size`) can only be checked.
        seed: of the random weights.

    Raises:
        UnknownEncoder: the message lists what is known and what to do.
    """
    factory = getattr(transformers, auto)
    wanted = {**config, **(data or {})}
    torch.manual_seed(seed)
    if source is None:
        _check_has_heads(factory, architecture_config(str(architecture), {}))
        model: PreTrainedModel = factory.from_config(architecture_config(str(architecture), wanted))
    else:
        model = _released(factory, source, _released_config(source, config))
    if "image_size" in wanted:
        _check_reads_pictures(model)
        model = picture_weights.fit(model, wanted)
        picture_weights.leave_out_unused(model)
    return _with_fused_gelu(model)


def outline(
    auto: str,
    *,
    architecture: str | None,
    source: str | None,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
) -> PreTrainedModel:
    """What `build` would answer, without values for its weights: of released ones it reads the config alone.

    Raises:
        UnknownEncoder: as for `build`.
    """
    wanted = {**config, **data}
    if source is None:
        settings = architecture_config(str(architecture), wanted)
    else:
        settings = picture_weights.fitted_config(_released_config(source, config), wanted)
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, auto).from_config(settings)
    if "image_size" in wanted:
        _check_reads_pictures(model)
    return model


def _released(factory: Any, source: str, config: Any) -> PreTrainedModel:
    _check_has_heads(factory, config)
    with _told_of(source), quiet():
        loaded, report = factory.from_pretrained(
            source, config=config, use_safetensors=True, dtype=torch.float32,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    _check_is_whole(loaded, report, source)
    return cast("PreTrainedModel", loaded)


def _released_config(source: str, changes: Mapping[str, Any]) -> Any:
    """The config of released weights with other rates of dropout; refuses what contradicts the weights."""
    with _told_of(source), quiet():
        config = picture_weights.as_encoder(AutoConfig.from_pretrained(source))
    for field, value in _known_fields(config, changes).items():
        given = getattr(config, field)
        given = list(given) if isinstance(given, tuple) else given
        if "drop" in field:
            with _checked_values(config.model_type):
                setattr(config, field, value)
        elif field not in picture_weights.FITTED and value != given:
            raise UnknownEncoder(
                f"the weights of {source!r} have {field} {given!r}, and {value!r} contradicts them; leave it "
                "out. Beside `from` there is room for other rates of dropout, and for another `patch_size` "
                "of vision transformers."
            )
    return config


@contextlib.contextmanager
def _checked_values(name: str) -> Iterator[None]:
    """Values that a config refuses, which transformers tells of in several lines, in one sentence."""
    try:
        yield
    except Exception as error:  # of whatever library checks them
        said = "; ".join(line.strip() for line in str(error).splitlines())
        raise UnknownEncoder(f"{name} takes no such config: {said}") from None


@contextlib.contextmanager
def _told_of(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # safetensors' own are no OSErrors
        raise UnknownEncoder(
            f"cannot load weights from {source!r}: {str(error).splitlines()[0].rstrip('.')}. Name a folder "
            "written by save_pretrained (config.json and model.safetensors), or a model that this machine "
            "can download"
        ) from error


def _check_has_heads(factory: Any, config: Any) -> None:
    """Refuse architectures that cannot do what the objective asks of them."""
    if type(config) not in factory._model_mapping:
        raise UnknownEncoder(
            f"{config.model_type} cannot be built as {factory.__name__}, which the objective needs; choose "
            "another encoder, or an objective for this one"
        )


def _check_is_whole(model: PreTrainedModel, report: Mapping[str, Any], source: str) -> None:
    """Refuse weights of another network, whose place transformers fills with random ones."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    missing = sorted(
        name
        for name in report["missing_keys"]
        if name.startswith(prefix) and not any(part in name for part in OPTIONAL)
    )
    mismatched = sorted(name for name, *_ in report["mismatched_keys"])
    if missing or mismatched:
        faults = [f"lack {len(missing)} tensors ({missing[0]}, ...)"] if missing else []
        faults += [f"hold {len(mismatched)} of another size ({mismatched[0]}, ...)"] if mismatched else []
        raise UnknownEncoder(
            f"the weights in {source!r} are not those of its config.json, a {model.config.model_type}: they "
            f"{' and '.join(faults)}; bring config.json and model.safetensors of one model together"
        )


def _check_reads_pictures(model: PreTrainedModel) -> None:
    if model.main_input_name != "pixel_values" or "image" not in model.input_modalities:
        reads = "videos" if "video" in model.input_modalities else model.main_input_name
        raise UnknownEncoder(
            f"{model.config.model_type} reads {reads}, not pictures; choose an encoder "
            f"such as {', '.join(picture_weights.PATCH_TRANSFORMERS)}, resnet or small_resnet"
        )


def _with_fused_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """GPT-2's GELU as one operation; transformers writes it out as eight, a tenth of a step on a CPU."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU("tanh"))
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence bars, and the report that some heads are new and others unused: both are meant here."""
    verbosity: Any = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def architecture_config(architecture: str, settings: Mapping[str, Any]) -> Any:
    """The transformers config, with unknown fields refused rather than kept as dead attributes."""
    try:
        config = AutoConfig.for_model(architecture)
    except ValueError:
        known = (
            "bert, roberta, modernbert, gpt2, llama, vit, dinov2, resnet, wav2vec2, hubert, clip, videomae"
        )
        raise UnknownEncoder(
            f"unknown architecture {architecture!r}; transformers knows {known} and more"
        ) from None
    fields = _known_fields(config, settings)
    with _checked_values(architecture):
        made = AutoConfig.for_model(architecture, **fields)
    if "image_size" in settings and hasattr(made, "patch_size"):
        picture_weights.check_size(made.image_size, made.patch_size)
    return made


def _known_fields(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the architecture has a field for; refuses others, unless the data decide them."""
    known_fields = set(config.to_dict()) | set(config.attribute_map)
    unknown = sorted(set(settings) - known_fields - set(picture_weights.FACTS))
    if unknown:
        raise UnknownEncoder(
            f"{config.model_type} has no config field {', '.join(map(repr, unknown))}; known: "
            f"{', '.join(sorted(key for key in config.to_dict() if not key.startswith('_')))}"
        )
    return {field: value for field, value in settings.items() if field in known_fields}
