"""What a training run is told: length, batch, optimizer, schedule, precision, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """Settings of one call of `tasks.engine.loop.train`; the same for every objective and modality."""

    steps: int = setting(1000, "Optimizer steps; 0 keeps the initial weights.", ge=0)
    batch_size: int = setting(64, "Samples per optimizer step over all ranks and micro-batches.", ge=1)
    micro_batches: int = setting(
        1,
        "Gradient accumulation: parts a rank's batch is cut into. What compares samples (a contrast, batch "
        "normalisation) then sees those of one part.",
        ge=1,
    )
    lr: float = setting(
        1e-3,
        "Peak learning rate; the default suits small networks from scratch, released ones want 1e-5 to 5e-5.",
        gt=0,
        le=10,
    )
    schedule: Literal["cosine", "wsd", "tri_stage", "constant"] = setting(
        "cosine",
        "Shape after warm-up: cosine to `final_lr_fraction`; warm-up-stable-decay; tri_stage, the same with "
        "a fall by equal factors to that fraction (0.05 where it is 0), for speech; or constant.",
    )
    warmup_fraction: float = setting(0.1, "Share of steps with a linearly rising rate.", ge=0, le=1)
    decay_fraction: float = setting(
        0.2, "WSD and tri_stage: share of steps, at the end, with a falling rate.", ge=0, le=1
    )
    final_lr_fraction: float = setting(0.0, "Last learning rate as a share of `lr`.", ge=0, le=1)
    weight_decay: float = setting(0.01, "Decoupled weight decay of AdamW, on matrices only.", ge=0)
    betas: tuple[float, float] = setting((0.9, 0.98), "AdamW's momentum coefficients.")
    eps: float = setting(1e-6, "AdamW's epsilon.", gt=0)
    clip_norm: float = setting(1.0, "Largest global gradient norm; 0 does not clip.", ge=0)
    layer_decay: float = setting(
        1.0, "Factor of the learning rate per encoder layer, from the top down; 1 is off.", gt=0, le=1
    )
    pull_to_initial: float = setting(
        0.0, "L2-SP: weight of the squared distance to the initial weights.", ge=0
    )
    ema_decay: float = setting(
        0.0, "Decay of a running average of the weights, which is saved in their place; 0 is off.", ge=0, lt=1
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Autocast type; auto is bfloat16 where the processor computes in it."
    )
    compile: bool = setting(False, "Compile the objective with torch.compile (seconds to minutes, cold).")
    gradient_checkpointing: bool = setting(False, "Recompute activations in the backward pass, for memory.")
    checkpoint_every: int = setting(200, "Steps between checkpoints for resume.", ge=1)
    keep_checkpoints: int = setting(2, "How many of the newest checkpoints are kept.", ge=1)
    health_every: int = setting(50, "Steps between readings of the objective's health; 0 is off.", ge=0)
    on_collapse: Literal["warn", "lower_lr", "roll_back", "stop"] = setting(
        "stop",
        "What follows a collapse: a warning, 0.3 times the rate, the last healthy checkpoint with other "
        "samples and 0.3 times the rate, or the end.",
    )
    max_roll_backs: int = setting(
        2, "Times that the rate is lowered or the run goes back; then it stops.", ge=0
    )
    log_every: int = setting(10, "Steps between logged metrics.", ge=1)
    evaluate_every: int = setting(
        0,
        "Steps between held-out losses; 0 measures at the end only (fine-tuning: five looks at validation).",
        ge=0,
    )
    evaluate_samples: int = setting(512, "Held-out samples per measurement, at most.", ge=1)
