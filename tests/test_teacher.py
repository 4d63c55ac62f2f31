"""The slow copy: its average, its schedule, its statistics."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from models.parts.teacher import Teacher, cosine_momentum


def test_weights_are_the_moving_average_step_by_step() -> None:
    student = nn.Linear(3, 2)
    teacher = Teacher(student)
    expected = student.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            student.weight.add_(0.1 * (step + 1))
        teacher.update(student, momentum=0.9)
        expected = 0.9 * expected + 0.1 * student.weight.detach()
        torch.testing.assert_close(teacher.networks[0].weight, expected)
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert all(weight.requires_grad for weight in student.parameters())


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_momentum_rises_to_one_by_a_cosine(progress: float) -> None:
    expected = 1 - (1 - 0.99) * (math.cos(math.pi * progress) + 1) / 2
    assert cosine_momentum(0.99, progress) == pytest.approx(expected)
    assert cosine_momentum(0.99, 0.0) == 0.99
    assert cosine_momentum(0.99, 1.0) == 1


def test_teacher_with_averages_normalises_by_its_own_earlier_batches() -> None:
    teacher = Teacher(nn.Sequential(nn.BatchNorm1d(2)), batch_statistics=False).train()
    network = teacher.networks[0]
    first, second = torch.randn(8, 2) + 5, 3 * torch.randn(8, 2)
    plain = nn.BatchNorm1d(2, eps=1e-5)
    torch.testing.assert_close(network(first), (first - first.mean(0)) / (first.var(0) + plain.eps).sqrt())
    after_first = copy.deepcopy(network).eval()
    torch.testing.assert_close(network(second), after_first(second))  # says nothing of its own batch
    mean_2 = (first.mean(0) + second.mean(0)) / 2
    torch.testing.assert_close(network[0].running_mean, mean_2)  # type: ignore[index]
    kept = network[0].running_mean.clone()  # type: ignore[index]
    teacher.eval()
    network(first)
    torch.testing.assert_close(network[0].running_mean, kept)  # type: ignore[index]


def test_teacher_with_batch_statistics_keeps_its_own_averages() -> None:
    student = nn.Sequential(nn.BatchNorm1d(2))
    teacher = Teacher(student).train()
    student(torch.randn(8, 2) + 5)
    teacher.update(student, momentum=0.5)
    assert not teacher.networks[0][0].running_mean.any()  # type: ignore[index]


def test_teacher_that_is_the_student_or_never_moves_is_named() -> None:
    student = nn.Linear(3, 2)
    teacher = Teacher(student)
    with torch.no_grad():
        student.weight.add_(1)
    teacher.update(student, momentum=0.9)
    assert teacher.health(student, progress=0.5).signature == ""
    teacher.update(student, momentum=1.0)
    assert "never moves" in teacher.health(student, progress=0.5).signature
    assert teacher.health(student, progress=1.0).signature == ""
    teacher.update(student, momentum=0.0)
    assert "student itself" in teacher.health(student, progress=0.5).signature
