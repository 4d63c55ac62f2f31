"""What the report shows of a run over pictures: every sheet, the right picture in it, nothing fetched."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.image import foreground
from models.objectives.mae import MAE
from tasks import report
from tasks.config import Config
from tasks.modalities import pictures
from tasks.modalities.image.pictures import maps, tiles
from tasks.pages import sheets
from tests.modalities.image import finished_run
from tests.tiny import Pictures, images, tiny_model, tiny_objective

SMALL: dict[str, Any] = {"decoder_width": 16, "decoder_layers": 1, "decoder_heads": 2}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(objective: str, architecture: str = "vit", **settings: object) -> Config:
    config = finished_run.config(objective, architecture, **settings)
    finished_run.leave(config)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of a masked autoencoder's run with its report, made once."""
    root = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(root):
        report.run("shapes", left("mae", **SMALL))
    return root


def test_report_shows_all_that_a_masked_autoencoder_gives(finished: Path) -> None:
    folder = finished / "runs/shapes/report"
    page = (folder / "report.html").read_text()
    for title in (
        "The pictures themselves", "What the objective sees", "What the decoder fills in",
        "Where the encoder looks", "What patches have in common", "Foreground without labels",
    ):  # fmt: skip
        assert title in page
    for name in ("contact-shapes", "contact-shape-names-shape", "views", "reconstructions", "attention",
                 "patch-colours", "foreground"):  # fmt: skip
        assert (folder / f"plots/{name}.png").stat().st_size > 1000
    assert "Mean intersection over union with the true masks of 30 pictures" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert not re.findall(r"<img(?![^>]*\balt=)", page)


def test_report_of_a_network_without_tokens_leaves_attention_and_reconstruction_out(project: Path) -> None:
    config = left("rotation", "resnet")
    titles = [section.title for section in pictures("image").sections("shapes", config, project / "plots")]
    assert titles == [
        "The pictures themselves", "What the objective sees", "What patches have in common",
        "Foreground without labels",
    ]  # fmt: skip


def test_neighbours_and_map_show_pictures(finished: Path) -> None:
    page = (finished / "runs/shapes/report/report.html").read_text()
    assert page.count('class="query looks"') == 3
    assert len(re.findall(r"<image href=\"data:image/webp", page)) >= 5


def test_thumbnails_are_the_records_own_pictures(finished: Path) -> None:
    records = finished / "data/corpora/shape-names/tasks/shape/test.parquet"
    found = pictures("image").thumbnails(records, {"picture-80", "picture-81"})
    assert set(found) == {"picture-80", "picture-81"}
    np.testing.assert_array_equal(found["picture-80"], np.asarray(finished_run.drawn(80)[0]))


def test_texts_have_no_pictures(tmp_path: Path) -> None:
    assert pictures("text").sections("any", Config(), tmp_path) == []
    assert pictures("text").thumbnails(tmp_path / "records.parquet", {"a"}) == {}


# Foreground


def test_attention_mass_takes_the_fewest_patches_that_hold_it() -> None:
    weights = torch.tensor([[[0.1, 0.5, 0.2, 0.2]]])
    assert foreground.by_attention(weights, 2, mass=0.6).flatten().tolist() == [False, True, True, False]
    assert foreground.by_attention(weights, 2, mass=0.5).flatten().tolist() == [False, True, False, False]


@pytest.mark.parametrize("sign", [1, -1])
def test_first_component_finds_what_stands_in_the_middle_whatever_its_sign(sign: int) -> None:
    grid = torch.zeros(3, 4, 4, 5)
    grid[:, 1:3, 1:3, 2] = 4.0 * sign
    grid += 0.1 * torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))
    found = foreground.by_component(grid.flatten(1, 2), 4)
    assert found[:, 1:3, 1:3].all()
    assert found.sum() == 3 * 4


def test_components_equal_sklearn() -> None:
    from sklearn.decomposition import PCA

    rows = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    ours = foreground.components(rows, 3).flatten(0, 1).numpy()
    theirs = PCA(3).fit_transform(rows.flatten(0, 1).double().numpy())
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-5)


@pytest.mark.parametrize("is_bright", [True, False])
def test_brightness_splits_between_two_levels_and_takes_the_inner_side(is_bright: bool) -> None:
    pixels = torch.full((1, 3, 8, 8), 40 if is_bright else 200, dtype=torch.uint8)
    pixels[:, :, 2:5, 3:6] = 180 if is_bright else 60
    found = foreground.by_brightness(pixels)
    assert found[0, 2:5, 3:6].all()
    assert found.sum() == 9


def test_intersection_over_union_by_hand() -> None:
    found = torch.tensor([[[True, True, False]], [[False, False, False]]])
    true = torch.tensor([[[True, False, True]], [[False, False, False]]])
    assert foreground.mean_iou(found, true) == pytest.approx((1 / 3 + 1) / 2)


def test_class_attention_is_the_last_layers_row_of_the_class_token() -> None:
    encoder = tiny_model("AutoModel", architecture="vit").eval()
    encoder.set_attn_implementation("eager")
    weights = foreground.class_attention(encoder, torch.randn(2, 3, 16, 16))
    assert weights is not None
    assert weights.shape == (2, 2, 16)
    assert ((weights.sum(2) > 0) & (weights.sum(2) < 1)).all()
    assert (
        foreground.class_attention(tiny_model("AutoModel", architecture="resnet"), torch.randn(1, 3, 16, 16))
        is None
    )


# Reconstructions and masks


@torch.no_grad()
@pytest.mark.parametrize("normalise_patches", [True, False])
def test_reconstruction_keeps_visible_patches_and_puts_truth_where_the_decoder_is_right(
    monkeypatch: pytest.MonkeyPatch, normalise_patches: bool
) -> None:
    objective = tiny_objective("mae", normalise_patches=normalise_patches, **SMALL).eval()
    assert isinstance(objective, MAE)
    batch = Pictures().batch(range(2))
    picture, visible, done = objective.rebuilt(batch).values()
    torch.testing.assert_close(picture, objective.images.plain(batch["pixels"]))
    is_visible = ~visible.isnan()
    assert is_visible.float().mean() == pytest.approx(0.25)
    assert torch.equal(done[is_visible], picture[is_visible])
    assert not torch.allclose(done, picture)

    answer = objective.reconstruct(picture, batch["key"])
    monkeypatch.setattr(objective.decoder, "forward", lambda *_: answer.target)
    torch.testing.assert_close(objective.rebuilt(batch)["reconstruction"], picture, atol=1e-4, rtol=1e-4)


def test_masks_go_through_the_same_cut_as_pictures() -> None:
    mask = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    mask[:, :, 4:9, 6:15] = 2
    pixels = mask.clamp(max=1).mul(255).expand(-1, 3, -1, -1).contiguous()
    looked = maps.look(images(), pixels, mask)
    assert looked.masks is not None
    torch.testing.assert_close(looked.masks, looked.values[:, 0] > 0.5)
    assert looked.masks.any()


def test_foreground_does_not_count_where_the_truth_is_unknown() -> None:
    mask = torch.full((1, 1, 20, 20), 255, dtype=torch.uint8)
    mask[:, :, :12] = 0
    mask[:, :, 4:9, 6:15] = 1
    looked = maps.look(images(), torch.zeros(1, 3, 20, 20, dtype=torch.uint8), mask)
    assert looked.masks is not None
    assert looked.counted is not None
    assert not (looked.masks & ~looked.counted).any()
    assert 0.5 < looked.counted.float().mean() < 0.7
    everything_unknown = looked.masks | ~looked.counted
    assert foreground.mean_iou(everything_unknown & looked.counted, looked.masks) == 1


# Sheets


def test_sheet_names_its_columns_for_eyes_and_ears(tmp_path: Path) -> None:
    tile = np.full((8, 8, 3), 200, np.uint8)
    made = sheets.sheet("A sheet", "Two <tiles>.", [[tile, None]], ["left & up", "right"], folder=tmp_path)
    assert "Two &lt;tiles&gt;. Columns: left &amp; up, right." in made.html
    assert "<span>left &amp; up</span><span>right</span>" in made.html
    with Image.open(next(tmp_path.glob("*.png"))) as stored:
        assert stored.size[1] > sheets.SIDE
        assert stored.getpixel((sheets.SIDE // 2, stored.height - 20)) == (200, 200, 200)


def test_small_tiles_grow_by_whole_factors_and_large_ones_shrink() -> None:
    assert sheets.scaled(np.zeros((10, 20, 3), np.uint8), 96).size == (80, 40)
    assert sheets.scaled(np.zeros((400, 200), np.uint8), 96).size == (48, 96)


def test_colours_of_equal_features_are_equal() -> None:
    found = tiles.colours(
        torch.tensor([[[[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]], [[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]]])
    )
    assert (found[0][0, 0] == found[0][1, 0]).all()
    assert (found[0][0, 0] != found[0][0, 1]).any()
