"""What there is to see of a recipe over recordings: their spectrograms."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.config import Config
    from tasks.modalities import Embedded
    from tasks.modalities.speech.records.decoding import Samples
    from tasks.pages.sheets import Section

READS = "input_values"
SHOWN = 12
BANDS = 64
RANGE = 70.0  # dB that are shown


def files(name: str, config: Config) -> list[Path]:
    """Nothing beside what the page reads."""
    return []


def sections(name: str, config: Config, folder: Path) -> list[Section]:
    """Spectrograms of some recordings."""
    from tasks.corpora import glance
    from tasks.modalities.speech.records import decoding
    from tasks.pages.sheets import Section, sheet

    corpus, records = glance.of_recipe(name, config, SHOWN)
    tiles = [drawn(*decoding.opened(record["recording"])) for record in records]
    rows = [tiles[at : at + 6] for at in range(0, len(tiles), 6)]
    caption = f"Recordings of the corpus {corpus}: time to the right, pitch upwards, loud is light."
    return [Section("Recordings", [], [sheet("recordings", caption, rows, folder=folder)])]


def preview(name: str, config: Config, folder: Path) -> list[Section]:
    """As for the report."""
    return sections(name, config, folder)


def thumbnails(records: Path, ids: Set[str]) -> Mapping[str, NDArray[np.uint8]]:
    """The records' spectrograms by id."""
    import pyarrow.parquet as pq

    from tasks.modalities.speech.records import decoding

    if not ids:
        return {}
    table = pq.read_table(records, columns=["id", "recording"], filters=[("id", "in", ids)])
    return {row["id"]: drawn(*decoding.opened(row["recording"])) for row in table.to_pylist()}


def drawn(samples: Samples, rate_hz: int) -> NDArray[np.uint8]:
    """The spectrogram of a recording, [H, W, 3]."""
    import matplotlib
    import numpy as np

    from tasks.modalities.speech.mel import spectrogram

    level_TM = spectrogram(samples, rate_hz, BANDS, hop_seconds=max(0.01, len(samples) / rate_hz / 200))
    share_MT = np.clip((level_TM - level_TM.max()) / RANGE + 1, 0, 1).T[::-1]
    colours: NDArray[np.uint8] = matplotlib.colormaps["magma"](share_MT, bytes=True)[..., :3]
    return np.ascontiguousarray(colours)


def embed(model: Path, folder: Path, pooling: str) -> Embedded:
    """Vectors of the recordings of a folder."""
    from tasks.modalities.speech.pictures import embedding

    return embedding.embed(model, folder, pooling)


def picture(file: Path) -> NDArray[np.uint8]:
    """A recording's spectrogram."""
    from tasks.modalities.speech.records import CorpusSettings, decoding

    rules = CorpusSettings(modality="speech")
    return drawn(decoding.decoded(file.read_bytes(), rules).samples, rules.sample_rate_hz)
