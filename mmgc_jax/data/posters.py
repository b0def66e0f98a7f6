"""Posters: from the bytes of any image file to pixels, and augmentation.

Pixels are <uint8>[height, width, 3], RGB. What a network wants of them (grey, BGR, means) belongs
to the network: see `mmgc_jax.models.poster`.
"""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image

# What goes beyond these is no poster but a mistake or an attack. 64 megapixels take 256 MB once
# decoded, and each scan of a progressive JPEG passes over all of them; ten scans are usual.
MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
_MAX_SCANS = 100
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# What EXIF's orientation, 1 to 8, asks for (CIPA DC-008, section 4.6.4).
_TURN = {
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
    """The bytes of an image file; of one that `decode` would find too large only the beginning.

    Raises:
      OSError: if it cannot be read.
    """
    with open(file, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def decode(image: bytes, height: int, width: int) -> np.ndarray:
    """Decodes an image file and resizes it, whatever its shape was.

    Its content decides what it is, not its name. It is turned as its EXIF data ask for; if these
    are damaged it stays as it is. Transparency is dropped.

    Args:
      image: the bytes of a JPEG, PNG, WebP, GIF or BMP file; of an animation, the first frame.
      height: of the result, in pixels.
      width: of the result, in pixels.

    Returns:
      <uint8>[height, width, 3], RGB.

    Raises:
      PosterError: if the bytes are no such image, are damaged or cut short, or are or hold more
        than `MAX_BYTES` and `MAX_PIXELS`.
    """
    if len(image) > MAX_BYTES:
        raise PosterError(f"more than {MAX_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise PosterError(
                    f"{picture.width} x {picture.height} pixels are more than {MAX_PIXELS:,}"
                )
            if picture.format in ("JPEG", "MPO") and image.count(b"\xff\xda") > _MAX_SCANS:
                raise PosterError(f"a JPEG of more than {_MAX_SCANS} scans")
            turn = _turn(picture)
            # A JPEG several times too large is scaled down while it is decoded.
            picture.draft("RGB", (width, height))
            if picture.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            picture = picture.convert("RGB")
            if turn is not None:
                picture = picture.transpose(turn)
            return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    except PosterError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error) if not isinstance(error, Image.UnidentifiedImageError) else (
            "not an image of a known format"
        )  # fmt: skip
        raise PosterError(reason) from error


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """How an image must be turned to stand upright; None if it need not, or its EXIF is damaged."""
    try:
        return _TURN.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow has no exception of its own for it
        return None


def encode_jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    """The JPEG bytes of <uint8>[height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def augment(
    key: jax.Array, images: jax.Array, *, flip: bool, crop: float, colour: float
) -> jax.Array:
    """Random flips, shifts and changes of colour, each image on its own.

    Flips and shifts work alike on posters and on maps of activations; colour is for posters.

    Args:
      key: a random key.
      images: <float32 or uint8>[batch, height, width, channels]; if colour > 0, pixels 0 to 255.
      flip: whether half of the images are mirrored left to right.
      crop: the largest shift, as a share of height and width; what leaves on one side is filled
        with the edge's values on the other.
      colour: the largest relative change of brightness, contrast and each channel's gain.

    Returns:
      Images of the same shape, <float32>.
    """
    flip_key, crop_key, colour_key = jax.random.split(key, 3)
    images = images.astype(jnp.float32)
    batch, height, width, _ = images.shape
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if crop:
        dy, dx = round(crop * height), round(crop * width)
        padded = jnp.pad(images, ((0, 0), (dy, dy), (dx, dx), (0, 0)), mode="edge")
        starts = jax.random.randint(crop_key, (batch, 2), 0, jnp.array([2 * dy + 1, 2 * dx + 1]))
        images = jax.vmap(
            lambda image, start: jax.lax.dynamic_slice(
                image, (start[0], start[1], 0), (height, width, image.shape[-1])
            )
        )(padded, starts)
    if colour:
        shape = (batch, 1, 1, 1)
        brightness, contrast, gains = jax.random.split(colour_key, 3)
        mean = images.mean(axis=(1, 2, 3), keepdims=True)
        images = mean + (images - mean) * _around_one(contrast, shape, colour)
        images = images * _around_one(brightness, shape, colour)
        images = images * _around_one(gains, (batch, 1, 1, images.shape[-1]), colour)
        images = jnp.clip(images, 0, 255)
    return images


def _around_one(key, shape, spread):
    return jax.random.uniform(key, shape, minval=1 - spread, maxval=1 + spread)
