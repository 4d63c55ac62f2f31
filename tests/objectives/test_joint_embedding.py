"""Contrastive and self-distilling objectives against their papers' equations, written slowly."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models.image.pictures import features
from models.objectives.byol import BYOL
from models.objectives.dino import DINO
from models.objectives.moco import MoCo
from models.objectives.simclr import SimCLR
from models.objectives.simsiam import SimSiam
from models.parts.batch_norm import across_ranks
from models.parts.contrast import information
from tests.tiny import HEADS, IMAGE_SIZE, Pictures, images, tiny_model, tiny_objective

BATCH = Pictures().batch(range(5))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: w.grad.clone() for name, w in module.named_parameters() if w.grad is not None}
    module.zero_grad()
    return found


def cosine(a_E: Tensor, b_E: Tensor) -> Tensor:
    return (a_E * b_E).sum() / (a_E.norm() * b_E.norm())


def test_simclr_equals_equation_1_over_both_views() -> None:
    objective = cast("SimCLR", tiny_objective("simclr", temperature=0.2).train())
    augment = objective.settings.augment
    views = torch.cat([objective.images.view(BATCH, augment, stream=stream) for stream in (1, 2)])
    z = objective.projector(features(objective.encoder, views))
    total = torch.zeros(())
    for i in range(10):
        others = [torch.exp(cosine(z[i], z[k]) / 0.2) for k in range(10) if k != i]
        total = total - torch.log(torch.exp(cosine(z[i], z[(i + 5) % 10]) / 0.2) / sum(others))
    (total / 10).backward()
    expected = gradients(objective)
    step = objective(BATCH)
    step.loss.backward()
    torch.testing.assert_close(step.loss, total / 10, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_simclr_refuses_a_batch_of_one_in_training_only() -> None:
    objective = tiny_objective("simclr").train()
    with pytest.raises(ValueError, match="raise `batch_size`"):
        objective(Pictures().batch(range(1)))
    assert torch.isfinite(objective.eval()(Pictures().batch(range(1))).loss)


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_batch_normalisation_refuses_a_batch_of_one(name: str) -> None:
    with pytest.raises(ValueError, match="raise `batch_size`"):
        tiny_objective(name).train()(Pictures().batch(range(1)))


def test_simsiam_equals_algorithm_1_in_loss_and_gradient() -> None:
    objective = cast("SimSiam", tiny_objective("simsiam").train())
    augment = objective.settings.augment
    views = [objective.images.view(BATCH, augment, stream=stream) for stream in (1, 2)]
    z = [objective.projector(features(objective.encoder, view)) for view in views]
    p = [objective.predictor(projected) for projected in z]
    total = torch.zeros(())
    for i in range(5):
        total = total - cosine(p[0][i], z[1][i].detach()) / 2 - cosine(p[1][i], z[0][i].detach()) / 2
    (total / 5).backward()
    expected = gradients(objective)
    step = objective(BATCH)
    step.loss.backward()
    torch.testing.assert_close(step.loss, total / 5, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_byol_equals_equation_2_and_its_mirror_image() -> None:
    objective = cast("BYOL", tiny_objective("byol").train())
    for weight in objective.teacher.parameters():
        weight.mul_(1.1)
    views = [
        objective.images.view(BATCH, objective.settings.augment_1, stream=1),
        objective.images.view(BATCH, objective.settings.augment_2, stream=2),
    ]
    encoder, projector = objective.teacher.networks
    total = torch.zeros(())
    for own, other in ((0, 1), (1, 0)):
        q = objective.predictor(objective.projector(features(objective.encoder, views[own])))
        z = projector(features(encoder, views[other]))  # type: ignore[arg-type]
        for i in range(5):
            total = total + (q[i] / q[i].norm() - z[i] / z[i].norm()).square().sum()
    torch.testing.assert_close(objective(BATCH).loss, total / 5, rtol=1e-5, atol=1e-5)


def test_moco_equals_info_nce_against_its_queue() -> None:
    objective = cast("MoCo", tiny_objective("moco", temperature=0.3).train())
    q = objective.queries(objective.images.view(BATCH, objective.settings.augment_1, stream=1))
    k = objective.keys(objective.images.view(BATCH, objective.settings.augment_2, stream=2))
    total = torch.zeros(())
    for i in range(5):
        own = torch.exp((q[i] * k[i]).sum() / 0.3)
        others = [torch.exp((q[i] * key).sum() / 0.3) for key in objective.queue_QE]
        total = total - torch.log(own / (own + sum(others)))
    torch.testing.assert_close(objective(BATCH).loss, total / 5, rtol=1e-5, atol=1e-5)
    assert not k.requires_grad


def test_moco_without_a_queue_equals_algorithm_1_of_v3() -> None:
    objective = cast("MoCo", tiny_objective("moco", queue=0, temperature=0.3).train())
    views = [
        objective.images.view(BATCH, objective.settings.augment_1, stream=1),
        objective.images.view(BATCH, objective.settings.augment_2, stream=2),
    ]
    total = torch.zeros(())
    for own, other in ((0, 1), (1, 0)):
        q, k = objective.queries(views[own]), objective.keys(views[other])
        for i in range(5):
            scores = torch.stack([(q[i] * k[j]).sum() / 0.3 for j in range(5)])
            total = total - 2 * 0.3 * torch.log(torch.exp(scores[i]) / torch.exp(scores).sum())
    torch.testing.assert_close(objective(BATCH).loss, total / 5, rtol=1e-5, atol=1e-5)


def test_mocos_queue_holds_the_last_keys_step_by_step() -> None:
    objective = cast("MoCo", tiny_objective("moco", queue=7).train())
    expected = [*objective.queue_QE.clone()]
    place = 0
    for step in range(4):
        batch = Pictures().batch(range(3 * step, 3 * step + 3))
        keys = objective.keys(objective.images.view(batch, objective.settings.augment_2, stream=2))
        objective(batch)
        torch.testing.assert_close(objective.queue_QE, torch.stack(expected))  # unchanged until the step ends
        objective.after_step(step / 4)
        for key in keys:
            expected[place] = key
            place = (place + 1) % 7
        torch.testing.assert_close(objective.queue_QE, torch.stack(expected))
    assert int(objective.num_queued) == 12


def test_mocos_queue_smaller_than_a_batch_holds_its_last_keys() -> None:
    objective = cast("MoCo", tiny_objective("moco", queue=3))
    keys = torch.randn(5, 16)
    objective.enqueue(keys)
    assert sorted(objective.queue_QE[:, 0].tolist()) == sorted(keys[-3:, 0].tolist())


def test_mocos_keys_say_nothing_about_their_batch() -> None:
    objective = cast("MoCo", tiny_objective("moco", architecture="resnet").train())
    objective(BATCH)
    objective.after_step(0.1)
    view = objective.images.view(BATCH, objective.settings.augment_2, stream=2)
    torch.testing.assert_close(objective.keys(view)[:2], objective.keys(view[:2]))
    assert not torch.allclose(objective.queries(view)[:2], objective.queries(view[:2]), atol=1e-4)


def dino(**settings: Any) -> DINO:
    return cast("DINO", tiny_objective("dino", **settings).train())


def test_dino_equals_algorithm_1_over_all_pairs_of_crops() -> None:
    objective = dino(local_crops=3, teacher_temperature_start=0.04)
    objective.centre_K.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    globals_VBCHW, locals_VBCHW = objective.global_crops(BATCH), objective.local_crops(BATCH)
    crops = [*globals_VBCHW, *locals_VBCHW]
    assert [crop.shape[-1] for crop in crops] == [IMAGE_SIZE, IMAGE_SIZE, 8, 8, 8]
    encoder, head = objective.teacher.networks
    total = torch.zeros(())
    for teacher_crop in range(2):
        t = head(features(encoder, crops[teacher_crop], "class"))  # type: ignore[arg-type]
        target = torch.softmax((t - objective.centre_K) / 0.04, dim=1)
        for student_crop in range(5):
            if student_crop == teacher_crop:
                continue
            s = objective.head(features(objective.encoder, crops[student_crop], "class"))
            total = total - (target * torch.log(torch.softmax(s / 0.1, dim=1))).sum(1).mean()
    torch.testing.assert_close(objective(BATCH).loss, total / 8, rtol=1e-4, atol=1e-5)


def test_dinos_centre_follows_the_teachers_mean() -> None:
    objective = dino(centre_momentum=0.8)
    expected = torch.zeros(24)
    for step in range(3):
        outputs_NK = objective.teacher_outputs(objective.global_crops(BATCH))
        objective(BATCH)
        objective.after_step(step / 3)
        expected = 0.8 * expected + 0.2 * outputs_NK.mean(0)
        torch.testing.assert_close(objective.centre_K, expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize(
    ("progress", "temperature"), [(0.0, 0.04), (0.1, 0.05), (0.3, 0.07), (0.9, 0.07), (1.0, 0.07)]
)
def test_dinos_teacher_temperature_warms_up_linearly(progress: float, temperature: float) -> None:
    objective = dino(teacher_temperature_start=0.04, teacher_temperature=0.07, temperature_warmup=0.3)
    objective.after_step(progress)
    assert float(objective.teacher_temperature()) == pytest.approx(temperature, rel=1e-5)


def test_dinos_teacher_temperature_without_warm_up_is_the_last_from_the_start() -> None:
    assert float(dino(temperature_warmup=0.0).teacher_temperature()) == pytest.approx(0.07)


def test_dinos_prototypes_are_frozen_at_first_and_nothing_else_is() -> None:
    objective = dino(frozen_share=0.2)
    for progress, is_frozen in ((0.0, True), (0.19, True), (0.2, False)):
        objective.after_step(progress)
        objective(BATCH).loss.backward()
        found = gradients(objective)
        assert bool(found["head.prototypes_KE"].any()) != is_frozen
        assert found["head.layers.0.weight"].any()


def test_dinos_outputs_are_cosines_whatever_the_length_of_the_prototypes() -> None:
    head = dino().head
    features_BD = torch.randn(4, 16)
    before = head(features_BD)
    assert before.abs().max() <= 1
    head.prototypes_KE.data *= 3
    torch.testing.assert_close(head(features_BD), before)


def test_dino_encodes_crops_of_one_size_together() -> None:
    objective = dino(local_crops=4)
    seen: list[tuple[int, int]] = []
    original = objective.encode

    def encode(encoder: nn.Module, crops_VBCHW: Tensor) -> Tensor:
        seen.append((crops_VBCHW.shape[0], crops_VBCHW.shape[-1]))
        return original(encoder, crops_VBCHW)

    objective.encode = encode  # type: ignore[method-assign]
    objective(BATCH)
    assert seen == [(2, 16), (4, 8), (2, 16)]  # the teacher sees the global ones alone


@pytest.mark.parametrize("size", [6, 20])
def test_dino_refuses_local_crops_that_cannot_be_cut_into_patches(size: int) -> None:
    settings = DINO.Settings(**{**HEADS["dino"], "local_size": size})
    with pytest.raises(ValueError, match=f"local_size {size} must be a multiple of the patch of 4"):
        DINO(tiny_model("AutoModel", architecture="vit"), settings, images())


def test_dino_names_a_teacher_that_says_the_same_of_all() -> None:
    objective = dino()
    objective(BATCH).loss.backward()
    torch.optim.SGD(objective.parameters(), 0.01).step()
    objective.after_step(0.5)
    assert objective.health().signature == ""
    features_BD, _ = objective.seen or pytest.fail("nothing seen")
    objective.seen, objective.target_K = (features_BD, torch.tensor(0.0)), torch.eye(24)[0]
    assert "same prototype for all pictures" in objective.health().signature
    objective.seen, objective.target_K = (features_BD, torch.tensor(1.0)), torch.full((24,), 1 / 24)
    assert "every prototype the same probability" in objective.health().signature
    assert objective.health().measures["prototypes_used"] == pytest.approx(24, rel=1e-4)


def test_dino_begins_at_its_first_temperature_with_each_training() -> None:
    objective = dino(frozen_share=0.5)
    objective.after_step(1.0)
    objective.begin()
    assert float(objective.teacher_temperature()) == pytest.approx(
        objective.settings.teacher_temperature_start
    )
    assert float(objective.progress) < objective.settings.frozen_share


def test_dino_centre_is_the_mean_over_parts_of_unequal_size() -> None:
    objective, pictures = dino(centre_momentum=0.0).train(), Pictures()
    outputs = []
    original = objective.teacher_outputs

    def teacher_outputs(global_VBCHW: Tensor) -> Tensor:
        outputs.append(original(global_VBCHW))
        return outputs[-1]

    objective.teacher_outputs = teacher_outputs  # type: ignore[method-assign]
    objective(pictures.batch(range(5)))
    objective(pictures.batch(range(5, 7)))
    objective.after_step(0.5)
    torch.testing.assert_close(objective.centre_K, torch.cat(outputs).mean(0))


def test_moco_names_a_queue_of_one_batch() -> None:
    objective = cast("MoCo", tiny_objective("moco", queue=5).train())
    objective(BATCH).loss.backward()
    torch.optim.SGD(objective.parameters(), 0.1).step()
    objective.after_step(0.1)
    assert "queue holds the keys of 1 steps" in objective.health().signature


@pytest.mark.parametrize(
    ("name", "temperature", "expected"),
    [
        ("simclr", 10.0, "near and far all but count the same"),
        ("moco", 10.0, "near and far all but count the same"),
        ("simclr", 0.001, "worse than guessing"),
    ],
)
def test_a_temperature_far_off_is_named(name: str, temperature: float, expected: str) -> None:
    objective = tiny_objective(name, temperature=temperature).train()
    objective(BATCH).loss.backward()
    torch.optim.SGD(objective.parameters(), 0.01).step()
    objective.after_step(0.1)
    assert expected in objective.health().signature


def test_information_is_what_the_loss_is_better_than_guessing() -> None:
    for loss in (math.log(8), 0.5):
        nats, sentence = information(torch.tensor(loss), 8, 0.2)
        assert nats == pytest.approx(math.log(8) - loss, abs=1e-6)
        assert sentence == ""


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "simsiam"])
def test_pictures_mapped_to_one_point_are_named(name: str) -> None:
    objective = tiny_objective(name).train()
    objective(BATCH).loss.backward()
    torch.optim.SGD(objective.parameters(), 0.01).step()
    objective.after_step(0.1)
    assert "nearly the same point" not in objective.health().signature
    constant = {
        **BATCH,
        "pixels": torch.full_like(BATCH["pixels"], 128),
        "key": torch.zeros(5, dtype=torch.int64),
    }
    objective(constant)
    assert "nearly the same point" in objective.health().signature


def test_normalising_across_one_rank_is_plain_batch_normalisation() -> None:
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    across_ranks(ours)
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(ours(x), theirs(x))
    assert all(
        math.isclose(float(a.sum()), float(b.sum()))
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "settings", "share"),
    [("byol", {}, 0.05), ("dino", {}, 0.05), ("moco", {"queue": 0}, 0.05), ("moco", {"queue": 24}, 0.1)],
)
def test_teachers_follow_encoder_and_head_by_the_papers_momentum(
    name: str, settings: dict[str, Any], share: float
) -> None:
    objective: Any = tiny_objective(name, momentum=0.9, **settings)
    before = [weight.clone() for weight in objective.teacher.parameters()]
    with torch.no_grad():
        for module in (objective.encoder, objective.head if name == "dino" else objective.projector):
            for weight in module.parameters():
                weight.add_(1.0)
    objective.after_step(0.5)
    for old, new in zip(before, objective.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + share)


@pytest.mark.parametrize(("name", "kept"), [("moco", "queue_QE"), ("dino", "centre_K")])
def test_what_a_lost_step_left_waiting_goes_with_it(name: str, kept: str) -> None:
    objective = tiny_objective(name).train()
    saved = copy.deepcopy(objective.state_dict())
    objective(BATCH)
    objective.load_state_dict(saved)
    objective.after_step(0.1)
    assert torch.equal(objective.state_dict()[kept], saved[kept])
