"""Reads preprocessor_config.json: how images become the inputs of a pretrained vision network.

The preprocessing belongs to the weights. Resizing and cropping are done with Pillow, as in
transformers; the normalisation of pixels is left to the network (`mmgc_jax.models.vgg16.preprocess`
has its formula).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from mmgc_jax.data import posters
from mmgc_jax.pretrained import hub
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path

FILE = "preprocessor_config.json"
# Larger images could exhaust memory.
_LARGEST_SIDE = 4096
# Number of Pillow's last filter that published files use.
_LAST_FILTER = Image.Resampling.HAMMING


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """Resizes and crops images, and says how their pixels are normalised.

    Attributes:
      size: height and width to resize to, without keeping the aspect ratio; or the length of the
        shorter side, with the aspect ratio kept.
      crop: height and width of the part in the middle that is kept; None for the whole image.
      resample: Pillow's number of the filter, such as 2 for bilinear and 3 for bicubic.
      mean: means of R, G and B on the scale 0 to 255.
      std: standard deviations of R, G and B on the same scale.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the result in pixels."""
        return self.size if self.crop is None else self.crop

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Resizes and crops an image.

        Args:
          pixels: RGB <uint8>[height, width, 3].

        Returns:
          RGB <uint8>[*image_size, 3].
        """
        return posters.resize_and_crop(pixels, self.size, self.crop, self.resample)


def read(folder: Path, crops: bool, advice: str) -> ImageProcessor:
    """Reads the folder's preprocessor_config.json.

    Args:
      folder: the folder.
      crops: whether a file that says nothing about it means that images are cropped, and that a
        size of one number is the shorter side; this depends on the family of networks.
      advice: how to get such a file; the last sentence of some errors.

    Raises:
      InputError: if the file is missing or malformed, or a field has a value that is not supported.
    """
    file = hub.existing(folder, FILE, advice)
    values = {
        "do_resize": True,
        "do_center_crop": crops,
        "do_rescale": True,
        "do_normalize": True,
        "resample": int(Image.Resampling.BICUBIC),
        "rescale_factor": 1 / 255,
        **hub.read_object(file, advice),
    }
    for name in ("do_center_crop", "do_rescale", "do_normalize"):
        if not isinstance(values[name], bool | None):
            raise InputError(f"{file}: {name} is {values[name]!r}, not true or false.")
    hub.check_supported(file, values, {"do_resize": True})
    hub.check_whole_number(file, values, "resample", 0, _LAST_FILTER)
    size = _read_size(file, values, "size", shorter=crops)
    crop = None
    if values["do_center_crop"]:
        crop = _read_size(file, values, "crop_size", shorter=False)
        least = (size, size) if isinstance(size, int) else size
        if any(side > of_image for side, of_image in zip(crop, least)):
            raise InputError(f"{file}: crop_size {crop} is larger than size {least}.")
    elif isinstance(size, int):
        raise InputError(
            f"{file}: size is the shorter side alone, and do_center_crop is false, so images would "
            "have different sizes, which is not supported."
        )
    mean, std = np.zeros(3), np.ones(3)
    if values["do_normalize"]:
        mean, std = (_read_colours(file, values, name) for name in ("image_mean", "image_std"))
        if (std <= 0).any():
            raise InputError(f"{file}: image_std is {values['image_std']!r}, not positive.")
    factor = values["rescale_factor"] if values["do_rescale"] else 1
    if not _is_number(factor) or factor <= 0:
        raise InputError(f"{file}: rescale_factor is {factor!r}, not a positive number.")
    mean, std = (tuple(map(float, colours / factor)) for colours in (mean, std))
    return ImageProcessor(size, crop, values["resample"], mean, std)


def _read_size(
    file: Path, values: Mapping[str, Any], name: str, shorter: bool
) -> tuple[int, int] | int:
    """Reads a size: {"height": 224, "width": 224}, {"shortest_edge": 224}, or 224 in old files.

    Args:
      file: the file, for errors.
      values: its fields.
      name: the field.
      shorter: whether one number is the shorter side, and not both sides.
    """
    value = values.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"shortest_edge": value} if shorter else {"height": value, "width": value}
    sides = list(value) if isinstance(value, dict) else None
    if sides is None or set(sides) not in ({"height", "width"}, {"shortest_edge"}):
        raise InputError(f"{file}: {name} is {value!r}, not a height and width or shortest_edge.")
    for side in sides:
        hub.check_whole_number(f"{file}: {name}", value, side, 1, _LARGEST_SIDE)
    if "shortest_edge" not in value:
        return value["height"], value["width"]
    if name == "crop_size":
        raise InputError(f"{file}: {name} is {value!r}, not a height and width.")
    return value["shortest_edge"]


def _read_colours(file: Path, values: Mapping[str, Any], name: str) -> np.ndarray:
    """Reads a number for each of R, G and B, <float64>[3]."""
    value = values.get(name)
    if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value)):
        raise InputError(f"{file}: {name} is {value!r}, not a number for each of R, G and B.")
    return np.array(value, np.float64)


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
