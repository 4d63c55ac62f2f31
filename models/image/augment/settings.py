"""What may happen to a picture before an encoder sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Chances and strengths, in the order in which they are applied.

    In `params.yaml` a preset's name stands for its settings (`augment: cifar32`), and `preset` for
    those that are not given (`augment: {preset: cifar32, flip: 0}`).
    """

    crop_scale: tuple[float, float] = setting((0.2, 1.0), "Smallest and largest share of the area in a crop.")
    crop_ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3), "Smallest and largest width of a crop over its height."
    )
    interpolation: Literal["bilinear", "bicubic"] = setting(
        "bilinear", "Filter of the resize, widened where it shrinks."
    )
    flip: float = setting(0.5, "Chance of a mirror image, left for right.", ge=0, le=1)
    rotate: float = setting(0.0, "Largest angle of a rotation about the centre, degrees.", ge=0, le=180)
    shear: float = setting(0.0, "Largest angle of a horizontal shear, degrees.", ge=0, lt=90)
    thicken: float = setting(
        0.0, "Chance that bright strokes grow by a pixel on each side, or dark ones do.", ge=0, le=1
    )
    mix_channels: float = setting(
        0.0, "Chance that each channel becomes a random average of all channels.", ge=0, le=1
    )
    jitter: float = setting(0.8, "Chance of the four colour changes below, in random order.", ge=0, le=1)
    brightness: float = setting(0.4, "Largest relative change of brightness.", ge=0)
    contrast: float = setting(0.4, "Largest relative change of contrast.", ge=0)
    saturation: float = setting(0.4, "Largest relative change of saturation.", ge=0)
    hue: float = setting(0.1, "Largest shift of hue, in turns of the colour circle.", ge=0, le=0.5)
    greyscale: float = setting(0.2, "Chance that colour is taken away.", ge=0, le=1)
    blur: float = setting(0.5, "Chance of a Gaussian blur.", ge=0, le=1)
    blur_sigma: tuple[float, float] = setting(
        (0.1, 2.0), "Smallest and largest standard deviation of the blur, pixels of the view."
    )
    solarise: float = setting(0.0, "Chance that values above one half are inverted.", ge=0, le=1)
    invert: float = setting(0.0, "Chance that all values are inverted.", ge=0, le=1)

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two numbers, 0 < first <= second; got {low} and {high}")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale ends at 1, the whole picture; got {self.crop_scale[1]}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        """What pydantic asks a type that reads more than its fields."""
        fields = handler(source)
        name = {"ref": fields.pop("ref")} if "ref" in fields else {}  # later uses must find the presets too
        function = {"type": "no-info", "function": _with_preset}
        return {"type": "function-before", "function": function, "schema": fields, **name}


def _with_preset(given: Any) -> Any:
    """The settings that a preset's name stands for; lists as the tuples that the fields ask for."""
    from models.image.augment.presets import PRESETS

    if isinstance(given, str):
        given = {"preset": given}
    if not isinstance(given, dict):
        return given
    preset = given.get("preset")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    known = {} if preset is None else asdict(PRESETS[preset])
    own = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name != "preset"
    }
    return {**known, **own}
