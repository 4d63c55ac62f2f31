"""The small networks above an encoder in which embeddings are compared.

Each is a stack of linear layers with batch normalisation and ReLU between them; what differs
between papers is the number of layers, and whether the last one is normalised:

- SimCLR (Chen et al. 2020, section 2.1): 2 layers, last normalised; the authors' code scales there as well.
- MoCo v2 (Chen et al. 2020, section 2): 2 layers without any normalisation.
- MoCo v3 (Chen et al. 2021, section 5), SimSiam (Chen & He 2021, section 3): 3 layers, last normalised.
- BYOL (Grill et al. 2020, section 3.3): 2 layers, last not normalised.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(*widths: int, normalise: bool = True, normalise_last: bool = False) -> nn.Sequential:
    """Linear layers from each width to the next, ReLU between them.

    Args:
        *widths: of the input, the hidden layers and the output.
        normalise: put batch normalisation before each ReLU.
        normalise_last: put batch normalisation without scale and shift behind the last layer.
    """
    *hidden, (width, last) = pairwise(widths)
    layers: list[nn.Module] = []
    for before, after in hidden:
        layers.append(nn.Linear(before, after, bias=not normalise))
        layers += [nn.BatchNorm1d(after)] if normalise else []
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(width, last, bias=not normalise_last))
    layers += [nn.BatchNorm1d(last, affine=False)] if normalise_last else []
    return nn.Sequential(*layers)
