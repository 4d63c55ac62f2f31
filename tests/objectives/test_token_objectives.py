"""The text objectives against transformers' own losses, and against their equations written slowly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.objectives.causal_lm import CausalLM, next_tokens
from models.objectives.masked_lm import MaskedLM
from models.parts.contrast import nt_xent
from models.text.token_masks import IGNORED, mask_tokens
from tests.tiny import VOCABULARY_SIZE, Rows, tiny_model, tiny_objective, vocabulary


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: w.grad.clone() for name, w in module.named_parameters() if w.grad is not None}
    module.zero_grad()
    return found


def assert_same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5, msg=name)


def test_masked_lm_equals_bert_for_masked_lm_in_loss_and_gradient() -> None:
    objective = tiny_objective("masked_lm")
    assert isinstance(objective, MaskedLM)
    rows = Rows().batch(range(6))
    batch = {"input_ids": rows["input_ids"], "key": rows["key"]}
    step = objective(batch)
    step.loss.backward()
    ours = gradients(objective.model)
    masked = objective.mask(batch["input_ids"], batch["key"])
    labels = torch.full_like(masked.input_ids, IGNORED).scatter(1, masked.positions, masked.labels)
    theirs = objective.model(input_ids=masked.input_ids, labels=labels)
    theirs.loss.backward()
    torch.testing.assert_close(step.loss, theirs.loss, rtol=1e-5, atol=1e-5)
    assert_same_gradients(ours, gradients(objective.model))


@pytest.mark.parametrize("chunk_tokens", [7, 1000])
def test_causal_lm_equals_gpt2_lm_head_model_in_loss_and_gradient(chunk_tokens: int) -> None:
    objective = tiny_objective("causal_lm", chunk_tokens=chunk_tokens)
    input_ids = Rows().batch(range(6))["input_ids"]
    step = objective({"input_ids": input_ids})
    step.loss.backward()
    ours = gradients(objective.model)
    theirs = objective.model(input_ids=input_ids, labels=input_ids)
    theirs.loss.backward()
    torch.testing.assert_close(step.loss, theirs.loss, rtol=1e-5, atol=1e-5)
    assert_same_gradients(ours, gradients(objective.model))


@pytest.mark.parametrize("name", ["masked_lm", "causal_lm"])
def test_packed_documents_give_the_features_of_documents_alone(name: str) -> None:
    objective = tiny_objective(name)
    rows = Rows().batch(range(3))
    from models.text.tokens import encode_packed

    packed = encode_packed(
        objective.encoder, rows["input_ids"], rows["document_ids"], is_causal=name == "causal_lm"
    )
    alone = objective.encoder(input_ids=rows["input_ids"][:, 12:]).last_hidden_state
    torch.testing.assert_close(packed[:, 12:], alone, rtol=1e-5, atol=1e-5)


def test_causal_targets_stop_at_the_border_of_a_document() -> None:
    ids = torch.tensor([[10, 11, 12, 13, 0, 0]])
    documents = torch.tensor([[0, 0, 1, 1, -1, -1]])
    assert next_tokens(ids, documents).tolist() == [[11, IGNORED, 13, IGNORED, IGNORED, IGNORED]]


def test_masking_follows_berts_shares() -> None:
    ids = torch.randint(5, VOCABULARY_SIZE, (400, 100), generator=torch.Generator().manual_seed(0))
    masked = mask_tokens(
        ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(400),
        probability=0.15, mask_id=4, vocabulary_size=VOCABULARY_SIZE,
    )  # fmt: skip
    seen = masked.input_ids.gather(1, masked.positions)
    assert (masked.labels != IGNORED).sum(1).eq(15).all()
    assert (seen == 4).float().mean() == pytest.approx(0.8, abs=0.02)
    kept = (seen == masked.labels).float().mean()
    assert kept == pytest.approx(0.1 + 0.1 / VOCABULARY_SIZE, abs=0.02)
    untouched = torch.ones_like(ids, dtype=torch.bool).scatter(1, masked.positions, False)
    assert torch.equal(masked.input_ids[untouched], ids[untouched])


def test_special_tokens_and_padding_are_never_hidden() -> None:
    ids = torch.tensor([[1, 9, 10, 2, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]])
    masked = mask_tokens(ids, ids >= 5, torch.arange(2), probability=0.5, mask_id=4, vocabulary_size=60)
    assert (masked.input_ids[ids < 5] == ids[ids < 5]).all()
    assert (masked.labels[0] != IGNORED).sum() == 1
    assert (masked.labels[1] == IGNORED).all()


def test_whole_word_masking_never_cuts_a_word() -> None:
    objective = tiny_objective("masked_lm", whole_words=True)
    assert isinstance(objective, MaskedLM)
    ids = Rows().batch(range(64))["input_ids"]
    masked = objective.mask(ids, torch.arange(64))
    chosen = torch.zeros_like(ids, dtype=torch.bool).scatter(1, masked.positions, masked.labels != IGNORED)
    continues = vocabulary().continues_word[ids]
    maskable = ids >= 5
    same_word = continues & maskable & torch.roll(maskable, 1, 1)
    same_word[:, 0] = False
    previous = torch.roll(chosen, 1, 1)
    first_word_may_be_long = chosen.sum(1) >= 3
    cut = (chosen != previous) & same_word
    assert chosen.any(1).all()
    assert not cut[~first_word_may_be_long].any()


def test_nt_xent_equals_its_equation() -> None:
    embeddings = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    loss, _ = nt_xent(embeddings, temperature=0.2)
    total = 0.0
    for i in range(10):
        j = (i + 5) % 10
        similarity = [
            float(torch.cosine_similarity(embeddings[i], embeddings[k], dim=0)) / 0.2 for k in range(10)
        ]
        others = torch.tensor([similarity[k] for k in range(10) if k != i])
        total += -(similarity[j] - float(torch.logsumexp(others, 0)))
    assert float(loss) == pytest.approx(total / 10, rel=1e-5)


def test_declutr_joins_contrast_and_masked_loss() -> None:
    objective = tiny_objective("declutr", mask_weight=0.5)
    step = objective(Rows(("spans",)).batch(range(8)))
    expected = step.metrics["contrast_loss"] + 0.5 * step.metrics["masked_loss"]
    torch.testing.assert_close(step.loss.detach(), expected)


def test_masked_lm_needs_a_mask_token() -> None:
    facts = vocabulary()
    without = type(facts)(facts.is_special, facts.continues_word, pad_id=0)
    with pytest.raises(ValueError, match="no mask token"):
        MaskedLM(tiny_model("AutoModelForMaskedLM"), MaskedLM.Settings(), without)


def test_causal_lm_counts_every_token_with_a_predecessor() -> None:
    objective = tiny_objective("causal_lm")
    assert isinstance(objective, CausalLM)
    assert float(objective(Rows().batch(range(2))).weight) == 2 * 2 * 11
