"""How far apart an encoder holds the general corpus and the domain: two distances between features.

Fréchet distance between Gaussians fitted to both: GANs Trained by a Two Time-Scale Update Rule
Converge to a Local Nash Equilibrium, Heusel et al. 2017, section 3, https://arxiv.org/abs/1706.08500.
Proxy A-distance, 2 (1 - 2 error) of a linear classifier that tells the corpora apart: Analysis of
Representations for Domain Adaptation, Ben-David et al. 2007,
https://proceedings.neurips.cc/paper/2006/hash/b1b0432ceafb0ce714426e9114852ac7-Abstract.html.

Differs from the papers: before the Fréchet distance both sets are divided by their common deviation,
since an encoder that only shrinks all features would seem to bring the corpora together.

Legend: N samples of either corpus, D width.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.objectives import Objective
from tasks import layout, modalities
from tasks.downstream.jobs import one_thread
from tasks.downstream.probe import regressions
from tasks.engine.precision import autocast
from tasks.stage import Context

log = logging.getLogger(__name__)
BATCH = 64
FOLDS = 5
FEWEST = 10  # samples of a corpus from which its Gaussian and a classifier say anything
PENALTY = 0.1

Features = NDArray[np.float64]


def measure(context: Context, objective: Objective) -> dict[str, float]:
    """`frechet` and `a_distance` between held-out samples of both corpora; empty where there is one."""
    recipe = context.recipe
    if "none" in (recipe.general, recipe.domain):
        return {}
    general_ND, domain_ND = (_features(context, objective, slot) for slot in ("general", "domain"))
    count = min(len(general_ND), len(domain_ND))
    if count < FEWEST:
        log.warning(
            "adapt@%s: the distance between the corpora's features is left out, since one has %d held-out "
            "samples; raise its heldout_fraction for at least %d", context.name, count, FEWEST,
        )  # fmt: skip
        return {}
    with one_thread():
        return distances(general_ND[:count], domain_ND[:count])


def _features(context: Context, objective: Objective, slot: str) -> Features:
    """[N, D]: the first held-out samples of a corpus, in an order that the seed decides."""
    recipe, prepared = context.recipe, layout.prepared(context.name)
    weights = str(layout.run(context.name, "pretrain") / "model")
    tensors = modalities.tensors(recipe.modality)
    batches = tensors.batches(prepared, slot, "heldout", recipe, tensors.READS, context.config.seed)
    count = min(recipe.adapt.evaluate_samples, batches.num_samples)
    encoder = objective.eval().encoder
    device = next(encoder.parameters()).device
    parts = []
    with torch.no_grad(), autocast(recipe.adapt.precision, device):
        for start in range(0, count, BATCH):
            batch = batches.batch(range(start, min(start + BATCH, count)))
            vectors_BD = tensors.vectors(
                encoder, {k: v.to(device) for k, v in batch.items()}, prepared, weights
            )
            parts.append(vectors_BD.double().cpu())
    found: Features = torch.cat(parts).numpy()
    return found


def distances(general_ND: Features, domain_ND: Features) -> dict[str, float]:
    """Both distances between as many samples of each corpus."""
    deviation = np.sqrt(np.concatenate([general_ND, domain_ND]).var(0).sum()) or 1.0
    return {
        "frechet": frechet(general_ND / deviation, domain_ND / deviation),
        "a_distance": a_distance(general_ND, domain_ND),
    }


def frechet(a_ND: Features, b_ND: Features) -> float:
    """|mean - mean|² + tr(A + B - 2 (A B)^½) of the covariances A and B; 0 for equal Gaussians."""
    a_DD, b_DD = (np.atleast_2d(np.cov(part_ND, rowvar=False)) for part_ND in (a_ND, b_ND))
    values_D, vectors_DD = np.linalg.eigh(a_DD)
    root_DD = (vectors_DD * np.sqrt(values_D.clip(min=0))) @ vectors_DD.T
    # A^½ B A^½ has the eigenvalues of A B and is symmetric, so that its roots are exact and real
    roots_D = np.sqrt(np.linalg.eigvalsh(root_DD @ b_DD @ root_DD).clip(min=0))
    between = np.square(a_ND.mean(0) - b_ND.mean(0)).sum()
    return max(0.0, float(between + np.trace(a_DD) + np.trace(b_DD) - 2 * roots_D.sum()))


def a_distance(a_ND: Features, b_ND: Features) -> float:
    """0 where a linear classifier guesses of which set a sample is, 2 where it knows; by cross-validation."""
    from sklearn.model_selection import StratifiedKFold

    features_ND = np.concatenate([a_ND, b_ND])
    answers = np.repeat(["a", "b"], [len(a_ND), len(b_ND)])
    wrong = 0
    for fitted, asked in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features_ND, answers):
        (model,) = regressions(features_ND[fitted], answers[fitted].tolist(), (PENALTY,))
        wrong += int((np.asarray(model.predict(features_ND[asked])) != answers[asked]).sum())
    return max(0.0, 2 * (1 - 2 * wrong / len(answers)))


def before_and_after(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """Each distance with what adaptation made of it."""
    return {name: {"before": before[name], "after": after[name]} for name in before}
