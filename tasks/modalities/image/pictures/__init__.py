"""What there is to see of a recipe over pictures: the functions that every modality has.

The work is done beside this file, in modules that are loaded when they are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tasks import layout

if TYPE_CHECKING:
    from torch import Tensor

    from models.image.images import Images
    from models.objectives import Objective
    from tasks.config import Config
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
    from tasks.modalities.image.pictures import contact, maps, views

    recipe = config.recipe(name)
    found = contact.section(name, config, folder)
    arms = _models(name, config)
    prepared = layout.prepared(name)
    if not found or not arms or not (prepared / "manifest.json").is_file():
        return found
    encoders = {arm: heads.encoder(model, pretrained=True, seed=0) for arm, model in arms.items()}
    last = list(arms.values())[-1]
    encoders[maps.RANDOM] = heads.encoder(last, pretrained=False, seed=config.seed)
    images = modalities.tensors(recipe.modality).constants(prepared, str(last))["images"]
    looked, pixels_BCSS = _looked_at(name, config, images)
    shown_BCSS = pixels_BCSS[:PREVIEWED]
    key_B = _keys(len(shown_BCSS), config.seed)
    objective = training.build_objective(name, config, last.parent)
    found.append(views.section(objective, recipe.pretrain.objective, images, shown_BCSS, key_B, folder))
    found += views.rebuilt(objective, images, shown_BCSS, key_B, folder)
    return found + maps.sections(looked, encoders, folder)


def preview(name: str, config: Config, folder: Path) -> list[Section]:
    """Views, masks and turns of the first pictures, by the settings alone."""
    from tasks.corpora import glance
    from tasks.modalities.image.pictures import tiles, views

    recipe = config.recipe(name)
    images = _as_they_are(cast("PrepareSettings", recipe.prepare))
    objective = _outlined(name, config, images)
    corpus, records = glance.of_recipe(name, config, PREVIEWED)
    pixels_BCSS = tiles.decoded(records, "picture", tiles.form(cast("PrepareSettings", recipe.prepare)))
    key_B = _keys(len(pixels_BCSS), config.seed)
    found = views.section(objective, recipe.pretrain.objective, images, pixels_BCSS, key_B, folder)
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
    from tasks.modalities.image.records import CorpusSettings
    from tasks.modalities.image.records.decoding import decoded

    content = file.read_bytes()
    return opened(decoded(content, CorpusSettings()).stored(content))


def _models(name: str, config: Config) -> dict[str, Path]:
    """Model folders of the encoders that a run left and that differ, by arm."""
    recipe = config.recipe(name)
    found = {arm: layout.run(name, stage) / "model" for arm, stage in STAGES.items()}
    if not recipe.adapt.steps:
        del found["adapted"]
    return {arm: folder for arm, folder in found.items() if (folder / "config.json").is_file()}


def _keys(num: int, seed: int) -> Tensor:
    """Keys of the first samples of a training."""
    import torch

    from tasks.engine.order import sample_key

    return sample_key(seed, torch.arange(num))


def _as_they_are(settings: PrepareSettings) -> Images:
    """Size and channels of what the encoder sees, where no mean was measured yet."""
    from models.image.images import Images

    channels = settings.channels
    return Images(settings.image_size, channels, mean=(0.0,) * channels, std=(1.0,) * channels)


def _outlined(name: str, config: Config, images: Images) -> Objective:
    """The recipe's objective without a single weight: enough to say what its encoder would see.

    Raises:
        InputError: encoder and objective do not fit together.
    """
    import torch

    from models import encoders, objectives
    from tasks.errors import InputError

    recipe = config.recipe(name)
    encoder, settings = config.encoders[recipe.encoder], recipe.pretrain.objective
    kind = objectives.load(settings.name)  # type: ignore[attr-defined]  # the union's tag
    try:
        with torch.device("meta"):
            model = encoders.outline(
                kind.auto,
                architecture=encoder.architecture,
                source=encoder.source,
                config=encoder.config,
                data={"image_size": images.size, "num_channels": images.channels},
            )
            return kind(model, settings, images=images)
    except ValueError as error:
        raise InputError(f"recipes.{name}: {error}") from None


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
