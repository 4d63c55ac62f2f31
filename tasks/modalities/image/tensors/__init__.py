"""Pictures as squares of one stored side: decoding, batches, inputs of labelled pictures.

Settings and the functions that every modality has; the work is done in `decoding`, `shards`,
`rows` and `reading` beside this file, which are loaded when they are needed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from models.settings import Settings, setting
from tasks.errors import InputError, unknown

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from tasks.config import Recipe
    from tasks.engine.loader import Batches
    from tasks.modalities.image.tensors.decoding import Form
    from tasks.modalities.image.tensors.statistics import Statistics

log = logging.getLogger(__name__)

UNIT = "images"
OFFERS = READS = ("images",)
BULKY = ("picture",)
GO_WITH_WEIGHTS = ()
KINDS = ("classification", "segmentation")


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """How pictures are stored, and what an encoder sees of them."""

    stored_size: int = setting(
        256, "Side of the stored square in pixels: the shorter side is scaled to it, the rest cut off.", ge=4
    )
    image_size: int = setting(224, "Side of what the encoder sees, in pixels; at most `stored_size`.", ge=4)
    channels: Literal[1, 3] = setting(3, "Colours: 3 (red, green, blue) or 1 (grey).")
    store: Literal["decoded", "encoded"] = setting(
        "decoded",
        "decoded: bytes of pixels, memory-mapped, fastest; encoded: the files' own bytes, decoded "
        "whenever they are read, for corpora that are too large for the disk.",
    )
    normalise: str = setting(
        "auto",
        "Mean and deviation that pixels are normalised by. auto: those of the released weights that the "
        "encoder starts from, where they come with a preprocessor_config.json, else measured. measured: on "
        "the training pictures. imagenet, half (0.5), or the place of other weights, whose own are taken.",
    )
    augment: Literal[
        "method", "none", "simclr", "moco", "simsiam", "byol_1", "byol_2", "mae", "cifar32", "glyphs"
    ] = setting(
        "method",
        "Random changes of labelled pictures while fine-tuning, in every arm: those of the recipe's "
        "objective (the first, where it has several), none, or a preset by name.",
    )


def prepare(
    recipe: Recipe, corpora: Mapping[str, Path], excluded: Mapping[str, set[str]], out: Path, seed: int
) -> dict[str, Any]:
    """Write the pictures of every slot; answer the statistics for the manifest.

    Raises:
        InputError: a picture that cannot be decoded, sizes that don't fit, no room on the disk.
    """
    from tasks.corpora.parts import parts
    from tasks.modalities.image.tensors import shards, statistics

    settings = cast("PrepareSettings", recipe.prepare)
    if settings.image_size > settings.stored_size:
        raise InputError(
            f"prepare.image_size: {settings.image_size} is larger than stored_size "
            f"({settings.stored_size}); give a stored_size of at least {settings.image_size}."
        )
    given = statistics.given(settings.normalise)
    found = parts(corpora, excluded)
    form = _form(settings)
    shards.tell_sizes(found, form, settings.store, out)
    slots: dict[str, dict[str, dict[str, int]]] = {}
    for (slot, split), part in found.items():
        folder = out / slot / split
        folder.mkdir(parents=True)
        num_rows = shards.write(part, folder, form, settings.store, f"{slot}/{split}")
        slots.setdefault(slot, {})[split] = {"rows": num_rows}
    mean, deviation = (
        statistics.of_channels(given, settings.channels) if given else statistics.measured(out, slots, form)
    )
    return {
        "stored_size": settings.stored_size,
        "image_size": settings.image_size,
        "channels": settings.channels,
        "store": settings.store,
        "normalise": settings.normalise,
        "mean": mean,
        "std": deviation,
        "slots": slots,
    }


def batches(
    prepared: Path, slot: str, split: str, recipe: Recipe, reads: tuple[str, ...], seed: int
) -> Batches:
    """Stored pictures by position.

    Raises:
        InputError: that slot and split hold nothing.
    """
    from tasks.modalities.image.tensors.rows import Pictures, StoredPictures

    if reads != READS:
        raise KeyError(unknown("kind of batch", ", ".join(reads), READS))
    folder = prepared / slot / split
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing: the recipe's corpus `{slot}` is none; name one, and prepare again."
        )
    pictures = Pictures(folder, _form(cast("PrepareSettings", recipe.prepare)))
    if not pictures.num_rows:
        raise InputError(f"{folder} holds no pictures; give the corpus more, or raise its heldout_fraction.")
    return StoredPictures(pictures, seed)


def vectors(
    encoder: PreTrainedModel, batch: Mapping[str, Tensor], prepared: Path, weights: str | None = None
) -> Tensor:
    """What stands for each picture as evaluation sees it, [B, D]."""
    from models.image.pictures import features

    return features(encoder, constants(prepared, weights)["images"].plain(batch["pixels"]))


def inputs(records: pa.Table, kind: str, prepared: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Labelled pictures as uint8 `pixels` [N, C, S, S]; for segmentation also `mask` [N, H, W].

    A mask has the encoder's size and lies over what `Images.plain` reads of its picture.

    Raises:
        KeyError: no such kind for pictures.
    """
    import torch

    from tasks.modalities.image.tensors import decoding

    if kind not in KINDS:
        raise KeyError(unknown("kind of task for pictures", kind, KINDS))
    settings = cast("PrepareSettings", recipe.prepare)
    form = _form(settings)
    columns = ["id", "picture"]
    tensors = {"pixels": torch.from_numpy(decoding.whole(records.select(columns), form))}
    if kind == "segmentation":
        masks = decoding.whole(records.select(["id", "mask"]).rename_columns(columns), form.of_masks())
        seen = _seen(form.side, settings.image_size)
        middle_H = (2 * torch.arange(settings.image_size) + 1) * seen // (2 * settings.image_size)
        place_H = (form.side - seen) // 2 + middle_H
        tensors["mask"] = torch.from_numpy(masks)[:, 0, place_H][:, :, place_H].contiguous()
    return tensors


def encoder_config(prepared: Path) -> dict[str, Any]:
    """Size and number of channels of what the encoder sees."""
    manifest = _manifest(prepared)
    return {"image_size": manifest["image_size"], "num_channels": manifest["channels"]}


def check_encoder(config: PretrainedConfig, recipe: Recipe) -> None:
    """Refuse pictures that the encoder's patches do not fill."""
    from models.image.picture_weights import check_size

    if hasattr(config, "patch_size"):
        check_size(cast("PrepareSettings", recipe.prepare).image_size, config.patch_size)


def constants(prepared: Path, weights: str | None = None) -> dict[str, Any]:
    """What objectives over pictures are constructed with."""
    from models.image.images import Images

    manifest = _manifest(prepared)
    mean, deviation = _statistics(manifest, weights)
    size, channels = manifest["image_size"], manifest["channels"]
    return {"images": Images(size=size, channels=channels, mean=tuple(mean), std=tuple(deviation))}


def reader(prepared: Path, recipe: Recipe, weights: str | None = None) -> nn.Module:
    """Stored pixels to what an encoder reads, augmented in training as the recipe says."""
    from tasks.modalities.image.tensors import reading

    settings = cast("PrepareSettings", recipe.prepare)
    return reading.Reader(
        constants(prepared, weights)["images"],
        reading.augmentation(settings.augment, recipe.pretrain.objective),
    )


def finish(prepared: Path, folder: Path, weights: str | None = None) -> None:
    """Write `preprocessor_config.json`, with which `AutoImageProcessor` does what `Images.plain` does."""
    manifest = _manifest(prepared)
    mean, deviation = _statistics(manifest, weights)
    stored, size = manifest["stored_size"], manifest["image_size"]
    processor = {
        "image_processor_type": "CLIPImageProcessor",  # scales the shorter side and cuts out the centre
        "do_resize": True,
        "size": {"shortest_edge": round(stored * size / _seen(stored, size))},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": deviation,
        "do_convert_rgb": manifest["channels"] == 3,
    }
    text = json.dumps(processor, indent=1, sort_keys=True)
    (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def _statistics(manifest: Mapping[str, Any], weights: str | None) -> Statistics:
    """Mean and deviation per channel: of the weights where the recipe leaves it to them, else as prepared."""
    from tasks.modalities.image.tensors import statistics

    if manifest["normalise"] == "auto" and weights is not None:
        known = statistics.of_weights(weights)
        if known is not None:
            return statistics.of_channels(known, manifest["channels"])
        log.warning(
            "%s does not say how pictures were normalised (no preprocessor_config.json): the mean and "
            "deviation of the corpus are taken; set `prepare.normalise` if you know better.",
            weights,
        )
    return manifest["mean"], manifest["std"]


def _seen(stored: int, size: int) -> int:
    """Side of the stored square's middle that `Images.plain` reads."""
    from models.image.images import CENTRAL_SHARE

    return min(stored, max(size, round(CENTRAL_SHARE * stored)))


def _form(settings: PrepareSettings) -> Form:
    from tasks.modalities.image.tensors.decoding import Form

    return Form(settings.stored_size, settings.channels)


def _manifest(prepared: Path) -> dict[str, Any]:
    return dict(json.loads((prepared / "manifest.json").read_text(encoding="utf-8")))
