"""Encoders, objectives and batches that do not fit pictures: one sentence, an exit code, nothing lost."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from tasks.engine import memory
from tests.bad_pictures.photos import Change, contents, done, write
from tests.downstream.picture_sets import CONFIGS
from tests.tiny import HEADS


def pretraining(**more: Any) -> Change:
    return lambda params: params["recipes"]["mine"]["pretrain"].update(more)


def objective(name: str, **more: Any) -> Change:
    return pretraining(objective={"name": name, **HEADS.get(name, {}), **more})


def encoder(name: str) -> Change:
    return lambda params: params["recipes"]["mine"].update(encoder=name)


def patches(size: Any) -> Change:
    return lambda params: params["encoders"]["tiny"]["config"].update(patch_size=size)


def masked_without_patches(params: dict[str, Any]) -> None:
    objective("mae")(params)
    encoder("net")(params)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (patches(5), "pictures of 16 pixels cannot be cut into patches of 5; set `image_size` to 15"),
        (patches(0), "patch_size must be a whole number of pixels, at least 1; got 0"),
        (patches("4"), "vit takes no such config: Validation error for field 'patch_size'"),
        (objective("dino", local_size=24), "local_size 24 must be a multiple of the patch of 4 pixels and at most the input's 16"),
        (objective("simclr", augment={"crop_scale": [0.5, 1.5]}), "augment: crop_scale ends at 1, the whole picture; got 1.5"),
        (objective("masked_lm"), "unknown image objective 'masked_lm'; known: brightness, byol"),
        (masked_without_patches, "small_resnet has no patches to hide; choose one of vit"),
        (pretraining(batch_size=1), "batch_size 1, micro_batches 1: a contrastive loss compares a sample with the others"),
        (pretraining(micro_batches=8), "batch_size 8, micro_batches 8: a contrastive loss compares a sample with the others"),
        (encoder("text"), "bert reads input_ids, not pictures; choose an encoder such as vit"),
        (encoder("video"), "videomae reads videos, not pictures; choose an encoder such as vit"),
        (encoder("given"), "cannot load weights from 'weights'"),
    ],
)  # fmt: skip
def test_training_that_cannot_work_is_refused_and_the_last_model_stays(
    change: Change, sentence: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    write(change)
    code, said = done("pretrain", capsys)
    assert (code, sentence in said) == (1, True), said
    assert contents() == before


def test_crop_larger_than_the_stored_picture(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents()
    write(lambda params: params["recipes"]["mine"]["prepare"].update(image_size=24))
    code, said = done("prepare", capsys)
    assert code == 1
    assert "image_size: 24 is larger than stored_size (16); give a stored_size of at least 24" in said
    assert contents() == before


def test_more_crops_than_memory_holds(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, limits = contents(), resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(memory, "free_kilobytes", lambda: 32 << 10)
    many = {"name": "dino", **HEADS["dino"], "local_crops": 8, "local_size": 16}
    write(pretraining(objective=many, batch_size=16384))
    code, said = done("pretrain", capsys)
    assert code == 1
    assert "batch_size 16384, micro_batches 1: a step does not fit into memory." in said
    assert "Lower `batch_size`, set `gradient_checkpointing: true`, raise `micro_batches`" in said
    assert "fewer or smaller crops" in said
    assert contents() == before
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


def vision_transformer(**more: Any) -> ViTModel:
    return ViTModel(ViTConfig(**{**CONFIGS["vit"], **more}))


@pytest.mark.parametrize(
    ("stored", "fault"),
    [
        (lambda: ResNetModel(ResNetConfig(**CONFIGS["resnet"])), "they lack 38 tensors (embeddings.cls_token, ...)"),
        (lambda: vision_transformer(num_hidden_layers=1), "they lack 16 tensors (layers.1."),
        (lambda: vision_transformer(hidden_size=32), "they hold 38 of another size (embeddings.cls_token, ...)"),
    ],
    ids=["another network", "fewer layers", "another width"],
)  # fmt: skip
def test_weights_of_another_architecture(
    stored: Callable[[], Any], fault: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    stored().save_pretrained("weights")
    vision_transformer().config.save_pretrained("weights")
    write(encoder("given"))
    code, said = done("pretrain", capsys)
    assert code == 1
    assert f"the weights in 'weights' are not those of its config.json, a vit: {fault}" in said
    assert contents() == before


def test_damaged_weights(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vision_transformer().save_pretrained("weights")
    whole = Path("weights/model.safetensors").read_bytes()
    Path("weights/model.safetensors").write_bytes(whole[: len(whole) // 2])
    write(encoder("given"))
    code, said = done("pretrain", capsys)
    assert code == 1
    assert "cannot load weights from 'weights'" in said
    assert "Name a folder written by save_pretrained" in said
