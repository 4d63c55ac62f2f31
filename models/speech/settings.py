"""What recipes say of labelled recordings; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Hiding(Settings):
    """What is hidden of a labelled recording in training."""

    time_probability: float = setting(0.05, "Share of the frames at which a hidden span begins.", ge=0, lt=1)
    time_length: int = setting(10, "Frames of such a span, of 20 ms in released architectures.", ge=1)
    channel_probability: float = setting(
        0.004, "Share of the encoder's channels at which a span begins that is silent throughout.", ge=0, lt=1
    )
    channel_length: int = setting(16, "Channels of such a span; the paper's 64 are of 768.", ge=1)
