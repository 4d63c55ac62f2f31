"""The cross-entropy in pieces is the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.text import token_loss as module
from models.text.token_loss import token_loss
from models.text.token_masks import IGNORED


@pytest.mark.parametrize("chunk_tokens", [5, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_value_gradients_and_hits_equal_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, chunk_tokens: int, bias: bool
) -> None:
    monkeypatch.setattr(module, "_PIECE_ELEMENTS", 3 * 11)
    torch.manual_seed(0)
    head = nn.Linear(8, 11, bias=bias)
    targets_N = torch.randint(11, (23,))
    targets_N[::4] = IGNORED
    features_ND = torch.randn(23, 8, requires_grad=True)

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(3 * loss, [features_ND, *head.parameters()]))

    scores_NV = head(features_ND)
    plain = nn.functional.cross_entropy(scores_NV, targets_N, ignore_index=IGNORED, reduction="sum")
    total, right = token_loss(features_ND, head, targets_N, chunk_tokens)
    torch.testing.assert_close(total, plain)
    assert int(right) == int((scores_NV.argmax(1) == targets_N).sum())
    for ours, theirs in zip(gradients(total), gradients(plain), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_equal_scores_are_not_all_right() -> None:
    head = nn.Linear(4, 6)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    _, right = token_loss(torch.randn(12, 4), head, torch.arange(12) % 6, 1024)
    assert int(right) == 2
