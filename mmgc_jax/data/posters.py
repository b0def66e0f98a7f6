"""Decodes and augments posters.

Pixels are <uint8>[height, width, 3], RGB. A network's own preprocessing (grey, BGR, means) is part
of the network: see `mmgc_jax.models`.
"""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image

# Larger files are mistakes or attacks. 64 megapixels take 256 MB when decoded, and each scan of a
# progressive JPEG passes over all of them; ten scans are usual.
MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
_MAX_SCANS = 100
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# By EXIF's orientation, 1 to 8 (CIPA DC-008, section 4.6.4). `ImageOps.exif_transpose` is not used:
# it also writes the other EXIF tags anew, and raises if one of them is damaged.
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
    """An image that cannot be used; the message says why."""


def read_image(file) -> bytes:
    """Reads an image file; of one that is too large for `decode`, only the beginning.

    Raises:
      OSError: if it cannot be read.
    """
    with open(file, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def decode(image: bytes, height: int, width: int) -> np.ndarray:
    """Decodes an image file and resizes it, without keeping its aspect ratio.

    The format is recognised by the content. The image is rotated or mirrored by its EXIF
    orientation, or left as it is if that is damaged. Transparency is dropped.

    Args:
      image: the bytes of a JPEG, PNG, WebP, GIF or BMP file; of an animation, the first frame.
      height: of the result, in pixels.
      width: of the result, in pixels.

    Returns:
      <uint8>[height, width, 3], RGB.

    Raises:
      PosterError: if the bytes are not such an image, are damaged or cut short, or exceed
        `MAX_BYTES` or `MAX_PIXELS`.
    """
    if len(image) > MAX_BYTES:
        raise PosterError(f"more than {MAX_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as picture:
            _check_cost(picture, image)
            transpose = _transpose(picture)
            # A JPEG several times too large is scaled down while it is decoded.
            picture.draft("RGB", (width, height))
            picture = _to_rgb(picture)
            if transpose is not None:
                picture = picture.transpose(transpose)
            return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    except PosterError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error) if not isinstance(error, Image.UnidentifiedImageError) else (
            "not an image of a known format"
        )  # fmt: skip
        raise PosterError(reason) from error


def _check_cost(picture: Image.Image, image: bytes) -> None:
    """Raises a `PosterError` if an image whose header is read would be too expensive to decode."""
    if picture.width * picture.height > MAX_PIXELS:
        raise PosterError(f"{picture.width} x {picture.height} pixels are more than {MAX_PIXELS:,}")
    if picture.format in ("JPEG", "MPO") and image.count(b"\xff\xda") > _MAX_SCANS:
        raise PosterError(f"a JPEG of more than {_MAX_SCANS} scans")


def _transpose(picture: Image.Image) -> Image.Transpose | None:
    """Returns how EXIF wants an image to be transposed; None if not at all, or EXIF is damaged."""
    try:
        return _TRANSPOSES.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow raises many kinds for damaged EXIF, and the image is good without
        return None


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def encode_jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    """Encodes pixels, <uint8>[height, width, 3], as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def augment(
    key: jax.Array, images: jax.Array, *, flip: bool, crop: float, colour: float
) -> jax.Array:
    """Randomly flips, shifts and recolours images, each independently.

    Flips and shifts can also be used on feature maps; colour is for pixels only.

    Args:
      key: a random key.
      images: <float32 or uint8>[batch, height, width, channels], from 0 to 255 if colour > 0.
      flip: whether to mirror each image left to right with probability 0.5.
      crop: the largest shift, as a share of height and width. Pixels shifted in repeat the edge.
      colour: the largest relative change of brightness, of contrast and of each channel's gain.

    Returns:
      Images of the same shape, <float32>.
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
