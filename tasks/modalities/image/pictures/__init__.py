"""What there is to see of a recipe over pictures: the functions that every modality has.

The work is done beside this file, in modules that are loaded when they are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tasks import layout

if TYPE_CHECKING:
    from torch import Tensor

    from models.images import Images
    from tasks.config import Config, Encoder
    from tasks.modalities import Embedded
    from tasks.modalities.image.pictures.maps import Looked
    from tasks.modalities.image.pictures.tiles import Tile
    from tasks.modalities.image.tensors import PrepareSettings
    from tasks.pages.sheets import Section

READS = "pixel_values"
PREVIEWED = 8
LOOKED_AT = 48
STAGES = {"pretrained": "pretrain", "adapted": "adapt"}


def files(name: str, config: Config) -> list[Path]:
    """Weights of the encoders, and of the objective's heads."""
    found = []
    for folder in _models(name, config).values():
        found += [*sorted(folder.glob("*.safetensors")), folder.parent / "heads.safetensors"]
    return [path for path in found if path.is_file()]


def sections(name: str, config: Config, folder: Path) -> list[Section]:
    """Contact sheet, views, reconstructions, attention, colours of patches, foreground."""
    from models import heads
    from tasks import modalities, training
    from tasks.modalities.image.pictures import contact, maps, reconstruction

    recipe = config.recipe(name)
    found = contact.section(name, config, folder)
    arms = _models(name, config)
    prepared = layout.prepared(name)
    if not found or not arms or not (prepared / "manifest.json").is_file():
        return found
    encoders = {arm: heads.encoder(model, pretrained=True, seed=0) for arm, model in arms.items()}
    last = list(arms.values())[-1]
    encoders[maps.RANDOM] = heads.encoder(last, pretrained=False, seed=config.seed)
    images = modalities.tensors(recipe.modality).constants(prepared)["images"]
    looked, pixels_BCSS = _looked_at(name, config, images)
    key_B = _keys(len(pixels_BCSS), config.seed)
    patch = cast("int | None", getattr(next(iter(encoders.values())).config, "patch_size", None))
    found.append(_views(name, config, pixels_BCSS[:PREVIEWED], patch, folder))
    objective = training.build_objective(name, config, last.parent)
    found += reconstruction.section(objective, looked, key_B, folder)
    return found + maps.sections(looked, encoders, folder)


def preview(name: str, config: Config, folder: Path) -> list[Section]:
    """Views, masks and turns of the first pictures, by the settings alone."""
    from tasks.corpora import glance
    from tasks.modalities.image.pictures import tiles

    recipe = config.recipe(name)
    corpus, records = glance.of_recipe(name, config, PREVIEWED)
    pixels_BCSS = tiles.decoded(records, "picture", tiles.form(cast("PrepareSettings", recipe.prepare)))
    patch = _patch(name, config.encoders[recipe.encoder])
    found = _views(name, config, pixels_BCSS, patch, folder)
    return [dataclasses.replace(found, sentences=[f"Pictures of the corpus {corpus}."])]


def thumbnails(records: Path, ids: Set[str]) -> Mapping[str, Tile]:
    """The records' pictures by id."""
    import pyarrow.parquet as pq

    from tasks.modalities.image.pictures.contact import opened

    if not ids:
        return {}
    table = pq.read_table(records, columns=["id", "picture"], filters=[("id", "in", ids)])
    return {row["id"]: opened(row["picture"]) for row in table.to_pylist()}


def embed(model: Path, folder: Path, pooling: str) -> Embedded:
    """Vectors of the pictures of a folder."""
    from tasks.modalities.image.pictures import embedding

    return embedding.embed(model, folder, pooling)


def picture(file: Path) -> Tile:
    """A file as a small picture."""
    from tasks.modalities.image.pictures.contact import opened

    return opened(file.read_bytes())


def _models(name: str, config: Config) -> dict[str, Path]:
    """Model folders of the encoders that a run left and that differ, by arm."""
    recipe = config.recipe(name)
    found = {arm: layout.run(name, stage) / "model" for arm, stage in STAGES.items()}
    if not recipe.adapt.steps:
        del found["adapted"]
    return {arm: folder for arm, folder in found.items() if (folder / "config.json").is_file()}


def _views(name: str, config: Config, pixels_BCSS: Tensor, patch: int | None, folder: Path) -> Section:
    from tasks.modalities.image.pictures import views

    recipe = config.recipe(name)
    size = cast("PrepareSettings", recipe.prepare).image_size
    key_B = _keys(len(pixels_BCSS), config.seed)
    return views.section(recipe.pretrain.objective, pixels_BCSS, key_B, size, patch, folder)


def _keys(num: int, seed: int) -> Tensor:
    """Keys of the first samples of a training."""
    import torch

    from tasks.engine.order import sample_key

    return sample_key(seed, torch.arange(num))


def _patch(name: str, encoder: Encoder) -> int | None:
    """Side of the encoder's patches in pixels, by its config alone.

    Raises:
        InputError: no such architecture, or no config of the released weights.
    """
    from transformers import AutoConfig

    from models import encoders
    from tasks.errors import InputError

    try:
        if encoder.source is None:
            settings: Any = encoders.architecture_config(str(encoder.architecture), encoder.config)
        else:
            settings = AutoConfig.from_pretrained(encoder.source)
    except (OSError, ValueError) as error:
        raise InputError(f"recipes.{name}.encoder: {str(error).splitlines()[0]}") from None
    side: int | None = getattr(settings, "patch_size", None)
    return side


def _looked_at(name: str, config: Config, images: Images) -> tuple[Looked, Tensor]:
    """Pictures that no encoder was trained on, where there are some: test rows, else what was ingested."""
    from tasks.corpora import glance
    from tasks.modalities.image.pictures import maps, tiles

    recipe = config.recipe(name)
    form = tiles.form(cast("PrepareSettings", recipe.prepare))
    tests = sorted(layout.corpus(recipe.tasks).glob("tasks/*/test.parquet"))
    records = glance.spread(tests[:1], ("id", "picture", "mask"), LOOKED_AT)
    records = records or glance.of_recipe(name, config, LOOKED_AT)[1]
    masks = None
    if all(record.get("mask") for record in records):
        masks = tiles.decoded(records, "mask", form.of_masks())
    pixels_BCSS = tiles.decoded(records, "picture", form)
    return maps.look(images, pixels_BCSS, masks), pixels_BCSS
