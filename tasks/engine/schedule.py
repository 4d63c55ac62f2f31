"""Learning rates as pure functions of the step, so that resuming needs an integer and nothing else."""

from __future__ import annotations

import math

from tasks.engine.settings import TrainSettings

_TRI_STAGE_END = 0.05  # of the rate, as in fairseq's recipes


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Rate of the step (0-based): linear warm-up, then the chosen shape down to `final_lr_fraction`.

    Cosine: Loshchilov & Hutter 2017 (SGDR, one cycle). Warm-up-stable-decay: Hu et al. 2024
    (MiniCPM, section 4), with the linear cool-down of Hägele et al. 2024. Tri-stage: Park et al. 2019
    (SpecAugment, section 4.2), as wav2vec 2.0 is fine-tuned.
    """
    warmup_steps = round(settings.warmup_fraction * settings.steps)
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    floor = settings.final_lr_fraction
    done = (step - warmup_steps) / max(1, settings.steps - warmup_steps)
    match settings.schedule:
        case "cosine":
            share = 0.5 * (1 + math.cos(math.pi * done))
        case "wsd":
            decay_steps = max(1, round(settings.decay_fraction * settings.steps))
            share = min(1.0, (settings.steps - step) / decay_steps)
        case "tri_stage":
            decay_steps = max(1, round(settings.decay_fraction * settings.steps))
            falling = max(0, step - (settings.steps - decay_steps)) / decay_steps
            return settings.lr * (floor or _TRI_STAGE_END) ** falling
        case "constant":
            share = 1.0
    return settings.lr * (floor + (1 - floor) * share)
