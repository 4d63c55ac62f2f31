"""The papers' augmentations, and small ones for pictures of 32 pixels.

- SIMCLR: Chen et al. 2020, appendix A, strength 1, https://arxiv.org/abs/2002.05709
- MOCO: Chen et al. 2020 (MoCo v2), section 2, https://arxiv.org/abs/2003.04297
- BYOL_1, BYOL_2: Grill et al. 2020, appendix B, table 6, https://arxiv.org/abs/2006.07733
- SIMSIAM: Chen & He 2021, section 3, https://arxiv.org/abs/2011.10566
- DINO_*: Caron et al. 2021, section 3.2 and released code, https://arxiv.org/abs/2104.14294
- MAE: He et al. 2022, table 8, https://arxiv.org/abs/2111.06377
- IJEPA: released code of Assran et al. 2023 (https://arxiv.org/abs/2301.08243), which crops and no more
- CIFAR32: Chen et al. 2020 (SimCLR), appendix B.9: strength 0.5, no blur

Differs from the papers: a blur reaches four standard deviations instead of a fixed number of pixels.
"""

from __future__ import annotations

from dataclasses import replace

from models.image.augment.settings import Augment

SIMCLR = Augment(
    crop_scale=(0.08, 1.0), interpolation="bicubic", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2
)
MOCO = Augment()
SIMSIAM = MOCO
BYOL_1 = Augment(crop_scale=(0.08, 1.0), interpolation="bicubic", saturation=0.2, blur=1.0)
BYOL_2 = replace(BYOL_1, blur=0.1, solarise=0.2)
DINO_GLOBAL_1 = replace(BYOL_1, crop_scale=(0.4, 1.0))
DINO_GLOBAL_2 = replace(BYOL_2, crop_scale=(0.4, 1.0))
DINO_LOCAL = replace(BYOL_1, crop_scale=(0.05, 0.4), blur=0.5)
MAE = Augment(interpolation="bicubic", jitter=0.0, greyscale=0.0, blur=0.0)
IJEPA = replace(MAE, crop_scale=(0.3, 1.0), flip=0.0)

CIFAR32 = Augment(crop_scale=(0.08, 1.0), blur=0.0)
CIFAR32_LOCAL = replace(CIFAR32, crop_scale=(0.05, 0.4))

GLYPHS = Augment(  # mirrored letters are other letters
    crop_scale=(0.5, 1.0), flip=0.0, rotate=15.0, shear=15.0, thicken=0.5, mix_channels=0.8, greyscale=0.0,
    blur=0.0, invert=0.5,
)  # fmt: skip

GLYPHS_MILD = replace(GLYPHS, invert=0.1)  # without negatives, agreement begins from what two views share

PRESETS = {
    "simclr": SIMCLR, "moco": MOCO, "simsiam": SIMSIAM, "byol_1": BYOL_1, "byol_2": BYOL_2,
    "dino_global_1": DINO_GLOBAL_1, "dino_global_2": DINO_GLOBAL_2, "dino_local": DINO_LOCAL, "mae": MAE,
    "ijepa": IJEPA, "cifar32": CIFAR32, "cifar32_local": CIFAR32_LOCAL, "glyphs": GLYPHS,
    "glyphs_mild": GLYPHS_MILD,
}  # fmt: skip
