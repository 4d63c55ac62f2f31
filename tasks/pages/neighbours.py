"""Which test rows the encoder holds for alike, and their map.

t-SNE: van der Maaten and Hinton 2008, https://www.jmlr.org/papers/v9/vandermaaten08a.html, on 50
principal components. Distances between clusters of such a map mean nothing; neighbourhoods do, and
the share of true neighbours with the same label is given beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.pages.evidence import Row
from tasks.pages.wording import OTHER, excerpt

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

MOST_GROUPS = 14
MOST_QUERIES = 6
MOST_COSINES = 20_000_000  # held at a time
MOST_COMPARED = 2000


@dataclass(frozen=True)
class Neighbour:
    """A test row near another one."""

    id: str
    label: str
    text: str
    cosine: float
    agrees: bool


@dataclass(frozen=True)
class Query:
    """A test row and the rows that the encoder puts nearest to it."""

    id: str
    label: str
    text: str
    neighbours: list[Neighbour]


@dataclass(frozen=True)
class Neighbourhood:
    """Some rows with their neighbours, and how far neighbours share labels over all rows.

    Attributes:
        queries: one row of each of the commonest labels.
        agreement: share of neighbours with the row's own label, None without labels.
        chance: that share if neighbours were drawn at random.
        compared: rows that the share is a mean over.
        rows: rows that neighbours were sought among.
    """

    queries: list[Query]
    agreement: float | None
    chance: float
    compared: int
    rows: int


def neighbourhood(
    rows: Sequence[Row], vectors: NDArray[np.float32], count: int, num_queries: int = MOST_QUERIES
) -> Neighbourhood | None:
    """Nearest neighbours by cosine among the rows themselves; None where there are too few."""
    import numpy as np

    if len(rows) <= count:
        return None
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    labels = [_label(row) for row in rows]
    frequency = Counter(labels)
    first = {label: place for place, label in reversed([*enumerate(labels)])}
    queries = [first[label] for label, _ in sorted(frequency.items(), key=lambda f: (-f[1], f[0]))]
    if len(frequency) == 1:
        queries = list(range(0, len(rows), -(-len(rows) // num_queries)))
    agreement, compared = None, min(len(rows), MOST_COMPARED)
    if len(frequency) > 1:
        sample = np.linspace(0, len(rows) - 1, compared).astype(int)
        near = _nearest(unit, sample, count)[0]
        codes = np.unique(labels, return_inverse=True)[1]
        agreement = float((codes[near] == codes[sample][:, None]).mean())
    chance = sum(n * (n - 1) for n in frequency.values()) / (len(rows) * (len(rows) - 1))
    chosen = np.array(queries[:num_queries])
    near, cosines = _nearest(unit, chosen, count)
    shown = [
        Query(str(rows[q]["id"]), labels[q], excerpt(_text(rows[q])), [
            Neighbour(
                str(rows[n]["id"]), labels[n], excerpt(_text(rows[n]), 130), float(c), labels[n] == labels[q]
            )
            for n, c in zip(near[place], cosines[place], strict=True)
        ])
        for place, q in enumerate(chosen)
    ]  # fmt: skip
    return Neighbourhood(shown, agreement, chance, compared, len(rows))


def _nearest(
    unit: NDArray[np.float32], queries: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    import numpy as np

    near, cosines = [], []
    for some in np.array_split(queries, max(1, len(queries) * len(unit) // MOST_COSINES)):
        similarity = unit[some] @ unit.T
        similarity[np.arange(len(some)), some] = -np.inf
        near.append(np.argsort(-similarity, axis=1, kind="stable")[:, :count])
        cosines.append(np.take_along_axis(similarity, near[-1], axis=1))
    return np.concatenate(near), np.concatenate(cosines)


@dataclass(frozen=True)
class Map:
    """Test rows on a plane: (x, y, group) within 0..1, the groups' names, what each row says, its id."""

    points: list[tuple[float, float, int]]
    groups: list[str]
    titles: list[str]
    ids: list[str]
    rows: int

    @property
    def height(self) -> float:
        """Largest y; the width is at most 1."""
        return max(y for _, y, _ in self.points)

    def apart(self, distance: float) -> list[int]:
        """Places of points of which no two are nearer to each other than that, along either axis."""
        taken: list[int] = []
        for place, (x, y, _) in enumerate(self.points):
            others = (self.points[other] for other in taken)
            if all(max(abs(x - other_x), abs(y - other_y)) >= distance for other_x, other_y, _ in others):
                taken.append(place)
        return taken


def embedding_map(rows: Sequence[Row], vectors: NDArray[np.float32], most: int) -> Map | None:
    """Principal components, then t-SNE with a fixed seed; None where there are too few rows."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(rows) < 10:
        return None
    sample = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
    chosen, shown = [rows[place] for place in sample], vectors[sample]
    components = min(50, *shown.shape)
    if components < 2 or not np.ptp(shown, axis=0).any():
        return None
    reduced = PCA(components, random_state=0, svd_solver="full").fit_transform(shown)
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(reduced)
    placed = (placed - placed.min(0)) / max(float(np.ptp(placed, axis=0).max()), 1e-9)
    labels = [_label(row) for row in chosen]
    groups = [label for label, _ in sorted(Counter(labels).items(), key=lambda f: (-f[1], f[0]))]
    if len(groups) > MOST_GROUPS:
        groups = [*groups[: MOST_GROUPS - 1], OTHER]
    index = {label: place for place, label in enumerate(groups)}
    points = [
        (round(float(x), 4), round(float(y), 4), index.get(label, len(groups) - 1))
        for (x, y), label in zip(placed, labels, strict=True)
    ]
    titles = [excerpt(_text(row), 150) for row in chosen]
    return Map(points, groups, titles, [str(row["id"]) for row in chosen], len(rows))


def rows_and_vectors(table: pa.Table, task: str) -> tuple[list[Row], NDArray[np.float32]]:
    """The embedded test rows of one task, in the order of their ids, without those that are not finite."""
    import numpy as np
    import pyarrow.compute as pc

    table = table.filter(pc.equal(table["task"], task)).sort_by("id")
    rows: list[Row] = table.drop_columns(["vector"]).to_pylist()
    if not rows:
        return [], np.zeros((0, 0), np.float32)
    vectors = np.stack(table["vector"].to_numpy()).astype(np.float32)
    kept = [place for place, vector in enumerate(vectors) if np.isfinite(vector).all()]
    return [rows[place] for place in kept], vectors[kept]


def _label(row: Row) -> str:
    return "" if row.get("label") is None else str(row["label"])


def _text(row: Row) -> Any:
    return row.get("text") or row.get("id", "")
