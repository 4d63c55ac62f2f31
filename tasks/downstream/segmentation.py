"""One class per pixel, by a linear model on the features of patches: mean intersection over union.

Each patch is learnt with the class that most of its pixels have; a picture's class scores are
enlarged from patches to pixels (bilinear) before the best one is taken. Intersections and unions
are counted over all pixels of all pictures, as in PASCAL VOC; 255 marks pixels that do not count.

Everingham et al. 2015, https://doi.org/10.1007/s11263-014-0733-5; linear probe as in DINOv2, Oquab
et al. 2023, section 7.4, https://arxiv.org/abs/2304.07193

Differs from the papers: what is learnt is a patch's class and not each pixel's, and of many patches
a sample.

Legend: B pictures, H, W sides of a mask in pixels, R, S rows and columns of patches, P patches, D
width, K classes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from tasks.downstream import probe
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

HEADS: Mapping[str, str] = {}
METRICS = ("mean_iou", "pixel_accuracy")
FROZEN: tuple[str, ...] = ("probe",)
READABLE = False
IGNORED = 255  # in masks
MOST_PATCHES = 20_000  # that a linear model learns from
PENALTIES = (0.003, 0.1, 1.0)


def labels(records: pa.Table) -> list[str]:
    """The numbers of the classes that masks name, as strings of three digits."""
    found = {int(value) for mask in records.column("mask").to_pylist() for value in np.unique(_opened(mask))}
    return [_name(value) for value in sorted(found - {IGNORED})]


def strata(records: pa.Table) -> list[str]:
    """All pictures alike."""
    return [""] * records.num_rows


def truth(records: pa.Table) -> list[str]:
    """Each record's mask, in the form of predictions but of the picture's own size."""
    return [base64.b64encode(mask).decode() for mask in records.column("mask").to_pylist()]


def targets(rows: Rows, labels: Sequence[str]) -> dict[str, Tensor]:
    """`labels` [B, H, W]: the index of each pixel's class."""
    return {"labels": _indices(rows.inputs["mask"], labels)}


def learnable(targets: Mapping[str, Tensor]) -> Tensor:
    """Pictures with at least one pixel that counts."""
    return (targets["labels"] != IGNORED).flatten(1).any(1)


def decode(outputs: Sequence[Mapping[str, Tensor]], rows: Rows, labels: Sequence[str]) -> list[str]:
    """The class with the largest logit at each pixel, from `logits` [K, R, S] of each row."""
    size = rows.inputs["mask"].shape[1:]
    return [_drawn(output["logits"], (size[0], size[1]), labels) for output in outputs]


def score(rows: Rows, predictions: Sequence[str]) -> dict[str, float]:
    """Mean over classes of intersection over union, and the share of pixels that are right."""
    right = rows.inputs["mask"].numpy()
    given = np.stack([_opened(base64.b64decode(prediction)) for prediction in predictions])
    counts = right != IGNORED
    pairs = np.bincount(right[counts].astype(np.int64) * 256 + given[counts], minlength=256 * 256)
    confusion = pairs.reshape(256, 256)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    occurs = union > 0
    iou = hits[occurs] / union[occurs]
    return {
        "mean_iou": float(iou.mean()) if len(iou) else 0.0,
        "pixel_accuracy": float(hits.sum() / max(confusion.sum(), 1)),
    }


def gather(hidden_BLD: Tensor, batch: Mapping[str, Tensor], pooling: str) -> list[Tensor]:
    """Each picture's patches, [P, D]."""
    return list(hidden_BLD.float().cpu())


def probes(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Logistic regressions on patches."""
    features = torch.cat(list(train.features))
    index_BHW = _indices(train.inputs["mask"], labels)
    most = torch.cat([_majority_of_patches(index_BHW, _side(train), len(labels))]).flatten()
    known = (most != IGNORED).nonzero().flatten()
    chosen = known[torch.linspace(0, len(known) - 1, min(MOST_PATCHES, len(known))).long()]
    answers = [labels[number] for number in most[chosen].tolist()]
    for model in probe.regressions(features[chosen].numpy(), answers, PENALTIES):
        yield lambda rows, model=model: _predicted(rows, model, labels)  # type: ignore[misc]


def majority(train: Rows, labels: Sequence[str]) -> Predict:
    """The most frequent class of the training pixels, for every pixel."""
    index_BHW = _indices(train.inputs["mask"], labels)
    counts_K = torch.bincount(index_BHW[index_BHW != IGNORED], minlength=len(labels))
    most = labels[int(counts_K.argmax())]
    return lambda rows: [_png(np.full(mask.shape, int(most), np.uint8)) for mask in rows.inputs["mask"]]


def _predicted(rows: Rows, model: probe.Classifier, labels: Sequence[str]) -> list[str]:
    scores = torch.from_numpy(model.predict_log_proba(torch.cat(list(rows.features)).numpy())).float()
    side, size = _side(rows), rows.inputs["mask"].shape[1:]
    known = [str(name) for name in model.classes_]
    scores_BKRS = scores.clamp(min=-30).view(len(rows), side, side, len(known)).permute(0, 3, 1, 2)
    return [_drawn(scores_KRS, (size[0], size[1]), known) for scores_KRS in scores_BKRS]


def _drawn(scores_KRS: Tensor, size: tuple[int, int], labels: Sequence[str]) -> str:
    """The best class at each pixel as a PNG in base64."""
    scores_KHW = interpolate(scores_KRS[None], size, mode="bilinear", align_corners=False)[0]
    numbers = np.array([int(label) for label in labels], np.uint8)
    return _png(numbers[scores_KHW.argmax(0).numpy()])


def _majority_of_patches(index_BHW: Tensor, side: int, num_classes: int) -> Tensor:
    """The class that most pixels of each patch have, [B, side · side]; `IGNORED` where none counts."""
    found = []
    for part_BHW in index_BHW.split(64):
        counts = part_BHW != IGNORED
        hot_BKHW = one_hot(part_BHW.where(counts, 0), num_classes).permute(0, 3, 1, 2)
        shares_BKRS = torch.nn.functional.adaptive_avg_pool2d((hot_BKHW * counts.unsqueeze(1)).float(), side)
        best_BRS = shares_BKRS.argmax(1)
        found.append(best_BRS.where(shares_BKRS.sum(1) > 0, IGNORED).flatten(1))
    return torch.cat(found)


def _indices(mask_BHW: Tensor, labels: Sequence[str]) -> Tensor:
    """int64 place of each pixel's class among the labels; of classes that these lack, `IGNORED`."""
    places = torch.full((256,), IGNORED)
    places[[int(label) for label in labels]] = torch.arange(len(labels))
    return places[mask_BHW.long()]


def _side(rows: Rows) -> int:
    return round(len(rows.features[0]) ** 0.5)


def _name(value: int) -> str:
    return f"{value:03d}"  # sorts as the numbers do


def _opened(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image, np.uint8)


def _png(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
