"""Decodes and augments posters.

Pixels are RGB <uint8>[height, width, 3]. Preprocessing that belongs to a network (grey, BGR, means)
is part of that network: see `mmgc_jax.models`.

This file imports nothing of this package: `mmgc export` copies it into the folders that it writes,
so that posters become the same pixels there.
"""

import io
import logging
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image

logger = logging.getLogger(__name__)

# Larger files are mistakes or attacks. Decoding 64 megapixels takes 256 MB of memory. A progressive
# JPEG usually has about ten scans, and decoding each of them passes over all pixels.
MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
_MAX_SCANS = 100
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Modes of PIL images that PNG files can hold without loss, and that `decode` knows.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# EXIF orientation (CIPA DC-008, section 4.6.4) -> transposition. `ImageOps.exif_transpose` is not
# used: it also rewrites the other EXIF tags, and raises an exception if one of them is damaged.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PosterError(ValueError):
    """Raised for images that cannot be decoded; the message says why."""


def read_image(file) -> bytes:
    """Reads an image file, up to one byte more than `decode` accepts.

    Args:
      file: path of the file.

    Raises:
      OSError: if the file cannot be read.
    """
    with open(file, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def decode(image: bytes, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Decodes an image and resizes it without keeping its aspect ratio.

    The format is detected from the content. The image is rotated or mirrored according to its EXIF
    orientation, if it has one. Transparency is dropped. Only the first frame of an animation is
    used.

    Args:
      image: bytes of a JPEG, PNG, WebP, GIF or BMP file.
      height: height of the result in pixels; None, with a width of None, for the image's own size.
      width: width of the result in pixels.

    Returns:
      RGB <uint8>[height, width, 3].

    Raises:
      PosterError: if the format is unknown, the image is damaged or truncated, or it exceeds
        `MAX_BYTES` or `MAX_PIXELS`.
    """
    if len(image) > MAX_BYTES:
        raise PosterError(f"more than {MAX_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as picture:
            _check_cost(picture, image)
            transpose = _transpose(picture)
            if height is not None:
                # JPEGs that are much larger than needed are scaled down during decoding.
                picture.draft("RGB", (width, height))
            picture = _to_rgb(picture)
            if transpose is not None:
                picture = picture.transpose(transpose)
            if height is None:
                return np.asarray(picture)
            return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    except PosterError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error) if not isinstance(error, Image.UnidentifiedImageError) else (
            "not an image of a known format"
        )  # fmt: skip
        raise PosterError(reason) from error


def decode_as_stored(image: bytes, height: int, width: int) -> np.ndarray:
    """As `decode`; then compresses the pixels as JPEG and decodes them again.

    The posters that encoders are trained on are stored like this.
    """
    return decode(encode_jpeg(decode(image, height, width)), height, width)


def resized(height: int, width: int, size: Sequence[int] | int) -> tuple[int, int]:
    """Returns height and width of an image after resizing.

    Args:
      height: height of the image.
      width: width of the image.
      size: the new height and width; or the length of the shorter side, with the aspect ratio kept.
    """
    if not isinstance(size, int):
        return size[0], size[1]
    other = int(size * max(height, width) / min(height, width))
    return (size, other) if height <= width else (other, size)


def resize_and_crop(
    pixels: np.ndarray, size: Sequence[int] | int, crop: Sequence[int] | None, resample: int
) -> np.ndarray:
    """Resizes an image and keeps the part in its middle.

    Args:
      pixels: RGB <uint8>[height, width, 3].
      size: see `resized`.
      crop: height and width of the part that is kept; None for the whole image.
      resample: Pillow's number of the filter, such as 2 for bilinear and 3 for bicubic.

    Returns:
      RGB <uint8>[*crop, 3].
    """
    height, width = resized(*pixels.shape[:2], size)
    picture = Image.fromarray(pixels).resize((width, height), resample)
    if crop is not None:
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        picture = picture.crop((left, top, left + crop[1], top + crop[0]))
    return np.asarray(picture)


def open_posters(folder, settings: Mapping) -> Callable:
    """Makes the function that reads posters for an exported encoder; see `encoders.base.Portable`.

    A poster is the bytes or the path of an image file. The settings are `height` and `width` of the
    experiment's posters and, if a network takes another size, `processing`, the arguments of
    `resize_and_crop`.
    """
    del folder
    height, width = settings["height"], settings["width"]
    processing = settings.get("processing")
    shape = (height, width, 3)
    if processing is not None:
        shape = resize_and_crop(np.zeros(shape, np.uint8), **processing).shape

    def read(posters: Sequence) -> tuple[dict[str, np.ndarray], np.ndarray]:
        images = np.zeros((len(posters), *shape), np.uint8)
        present = np.zeros(len(posters), bool)
        for number, poster in enumerate(posters):
            if poster is None:
                continue
            try:
                image = poster if isinstance(poster, bytes) else read_image(poster)
                pixels = decode_as_stored(image, height, width)
                if processing is not None:
                    pixels = resize_and_crop(pixels, **processing)
                images[number] = pixels
                present[number] = True
            except PosterError as error:
                logger.warning("Unreadable poster, treated as missing: %s: %s", number, error)
        return {"images": images}, present

    return read


def _check_cost(picture: Image.Image, image: bytes) -> None:
    """Raises a `PosterError` if an opened image would be too expensive to decode."""
    if picture.width * picture.height > MAX_PIXELS:
        raise PosterError(f"{picture.width} x {picture.height} pixels are more than {MAX_PIXELS:,}")
    if picture.format in ("JPEG", "MPO") and image.count(b"\xff\xda") > _MAX_SCANS:
        raise PosterError(f"a JPEG with more than {_MAX_SCANS} scans")


def _transpose(picture: Image.Image) -> Image.Transpose | None:
    """Returns the transposition that EXIF requests; None without one or if EXIF is damaged."""
    try:
        return _TRANSPOSES.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow raises many kinds for damaged EXIF; the image itself may be good
        return None


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # Pillow would clip 16-bit values at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def encode_jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    """Encodes an image as JPEG.

    Args:
      pixels: RGB <uint8>[height, width, 3].
      quality: Pillow's JPEG quality, 1 to 95.

    Returns:
      The bytes of the file.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_png(picture: Image.Image) -> bytes:
    """Encodes a PIL image without loss, rotated by its EXIF orientation; returns the file's bytes.

    Raises:
      OSError: if the image was opened from a file that is damaged or truncated.
    """
    if (transpose := _transpose(picture)) is not None:
        picture = picture.transpose(transpose)
    if picture.mode not in _PNG_MODES:
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def augment(
    key: jax.Array, images: jax.Array, *, flip: bool, crop: float, colour: float
) -> jax.Array:
    """Augments images: random flips, shifts and colour changes, independently for each image.

    Flips and shifts also work on feature maps; colour changes are for pixels only.

    Args:
      key: random key.
      images: <float32 or uint8>[batch, height, width, channels]; from 0 to 255 if colour > 0.
      flip: whether to mirror each image horizontally with probability 0.5.
      crop: maximum shift as a fraction of height and width. Edge pixels are repeated to fill in.
      colour: maximum relative change of brightness, of contrast and of each channel's gain.

    Returns:
      <float32>[batch, height, width, channels].
    """
    flip_key, crop_key, colour_key = jax.random.split(key, 3)
    images = images.astype(jnp.float32)
    if flip:
        images = _flip(flip_key, images)
    if crop:
        images = _shift(crop_key, images, crop)
    if colour:
        images = _recolour(colour_key, images, colour)
    return images


def _flip(key: jax.Array, images: jax.Array) -> jax.Array:
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def _shift(key: jax.Array, images: jax.Array, crop: float) -> jax.Array:
    batch, height, width, channels = images.shape
    dy, dx = round(crop * height), round(crop * width)
    padded = jnp.pad(images, ((0, 0), (dy, dy), (dx, dx), (0, 0)), mode="edge")
    starts = jax.random.randint(key, (batch, 2), 0, jnp.array([2 * dy + 1, 2 * dx + 1]))
    return jax.vmap(
        lambda image, start: jax.lax.dynamic_slice(
            image, (start[0], start[1], 0), (height, width, channels)
        )
    )(padded, starts)


def _recolour(key: jax.Array, images: jax.Array, colour: float) -> jax.Array:
    batch, channels = len(images), images.shape[-1]
    brightness, contrast, gains = jax.random.split(key, 3)

    def factors(key, channels=1):
        shape = (batch, 1, 1, channels)
        return jax.random.uniform(key, shape, minval=1 - colour, maxval=1 + colour)

    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    images = mean + (images - mean) * factors(contrast)
    images = images * factors(brightness)
    images = images * factors(gains, channels)
    return jnp.clip(images, 0, 255)
