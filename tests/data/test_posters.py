"""Tests decoding posters, including damaged and malicious files, and augmentation."""

import io
import pathlib
import re
import struct
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin

from mmgc_jax.data import posters
from tests.conftest import image_bytes


def png_that_claims(width: int, height: int) -> bytes:
    """Returns a PNG file of less than 100 bytes whose header has the given size in pixels."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


class TestDecode:
    @pytest.mark.parametrize("size", [(1, 1), (160, 256), (700, 20), (20, 700)])
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_shape_and_colour(self, file_format, size):
        image = Image.new("RGB", size, (200, 100, 40))
        pixels = posters.decode(image_bytes(image, file_format), 256, 160)
        assert (pixels.shape, pixels.dtype) == ((256, 160, 3), np.uint8)
        assert np.abs(pixels.astype(int) - (200, 100, 40)).max() <= 4

    def test_width_and_height_are_not_swapped(self):
        left_half = np.zeros((40, 20, 3), np.uint8)
        left_half[:, :10] = 255
        pixels = posters.decode(image_bytes(Image.fromarray(left_half), "PNG"), 64, 32)
        assert (pixels[:, :12] == 255).all() and (pixels[:, -12:] == 0).all()

    def test_a_poster_of_the_right_size_is_not_resampled(self, noise):
        pixels = posters.decode(image_bytes(Image.fromarray(noise), "PNG"), *noise.shape[:2])
        np.testing.assert_array_equal(pixels, noise)

    @pytest.mark.parametrize(
        ("image", "file_format", "colour"),
        [
            (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
            (Image.new("L", (8, 8), 90), "PNG", (90, 90, 90)),
            (Image.new("L", (8, 8), 90), "JPEG", (90, 90, 90)),
            (Image.new("LA", (8, 8), (90, 255)), "PNG", (90, 90, 90)),
            (Image.fromarray(np.full((8, 8), 90 << 8, np.uint16)), "PNG", (90, 90, 90)),
            (Image.new("RGB", (8, 8), (9, 200, 30)).quantize(4), "PNG", (9, 200, 30)),
            (Image.new("RGB", (8, 8), (9, 200, 30)).quantize(4), "GIF", (9, 200, 30)),
            (Image.new("RGBA", (8, 8), (9, 200, 30, 255)), "PNG", (9, 200, 30)),
            (Image.new("RGBA", (8, 8), (9, 200, 30, 255)), "WEBP", (9, 200, 30)),
            (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
        ],
        ids=lambda value: getattr(value, "mode", None),
    )
    def test_other_kinds_of_pixels_become_rgb(self, image, file_format, colour):
        options = {"lossless": True} if file_format == "WEBP" else {}
        pixels = posters.decode(image_bytes(image, file_format, **options), 32, 32)
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
        assert np.abs(pixels.astype(int) - colour).max() <= 4

    def test_first_frame_of_an_animation(self):
        red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
        animation = image_bytes(red, "GIF", save_all=True, append_images=[blue])
        assert posters.decode(animation, 4, 4)[0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_truncated_file(self, noise, file_format, share):
        content = image_bytes(Image.fromarray(noise), file_format)
        with pytest.raises(posters.PosterError):
            posters.decode(content[: int(share * len(content))], 64, 32)

    @pytest.mark.parametrize(
        "content",
        [b"", b"<html>404 Not Found</html>", b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.7", b"PK"],
    )
    def test_not_an_image(self, content):
        with pytest.raises(posters.PosterError, match="not an image of a known format"):
            posters.decode(content, 64, 32)

    def test_unsupported_format(self, noise):
        with pytest.raises(posters.PosterError, match="not an image of a known format"):
            posters.decode(image_bytes(Image.fromarray(noise), "TIFF"), 64, 32)

    @pytest.mark.parametrize("size", [(60_000, 60_000), (9_000, 8_000)])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_decompression_bomb(self, size, monkeypatch):
        def no_pixels(self):
            raise AssertionError("the pixels must not be decoded")

        monkeypatch.setattr(ImageFile.ImageFile, "load", no_pixels)
        bomb = png_that_claims(*size)
        assert len(bomb) < 100
        with pytest.raises(posters.PosterError, match="pixels"):
            posters.decode(bomb, 64, 32)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_exif_orientation_is_applied(self, orientation, file_format):
        corners = [["red", "green"], ["blue", "white"]]
        upright = Image.new("RGB", (32, 32))
        for y, row in enumerate(corners):
            for x, colour in enumerate(row):
                upright.paste(colour, (16 * x, 16 * y, 16 * x + 16, 16 * y + 16))
        # The stored picture for each orientation (EXIF 3.0, section 4.6.4).
        stored = {
            1: lambda p: p, 2: ImageOps.mirror, 3: lambda p: p.rotate(180), 4: ImageOps.flip,
            5: lambda p: ImageOps.mirror(p.rotate(-90)), 6: lambda p: p.rotate(90),
            7: lambda p: ImageOps.mirror(p.rotate(90)), 8: lambda p: p.rotate(-90),
        }[orientation](upright)  # fmt: skip
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {"lossless": True} if file_format == "WEBP" else {}
        pixels = posters.decode(image_bytes(stored, file_format, exif=exif, **options), 32, 32)
        assert np.abs(pixels.astype(int) - np.asarray(upright))[4::8, 4::8].max() <= 8

    def test_damaged_exif_is_ignored(self, noise):
        good = image_bytes(Image.fromarray(noise), "PNG")
        bad = image_bytes(Image.fromarray(noise), "PNG", exif=b"Exif\0\0MM\0*" + b"\xff" * 20)
        np.testing.assert_array_equal(posters.decode(bad, 8, 8), posters.decode(good, 8, 8))

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_exif_orientation_is_applied_despite_a_damaged_tag(self, noise, file_format):
        """Pillow can read the damaged tag but not write it; `ImageOps.exif_transpose` raises."""
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation], exif[ExifTags.Base.XResolution] = 3, 72
        damaged = exif.tobytes().replace(
            b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02"
        )  # the type is now text
        assert damaged != exif.tobytes()
        options = {"lossless": True} if file_format == "WEBP" else {}
        turned, upright = (
            image_bytes(Image.fromarray(noise), file_format, **options, **exif)
            for exif in ({"exif": damaged}, {})
        )
        with pytest.raises(TypeError), Image.open(io.BytesIO(turned)) as picture:
            ImageOps.exif_transpose(picture)
        turned, upright = (posters.decode(image, *noise.shape[:2]) for image in (turned, upright))
        np.testing.assert_allclose(turned[::-1, ::-1].astype(int), upright, atol=3)

    @pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
    def test_an_image_one_pixel_wide(self, size):
        content = image_bytes(Image.new("RGB", size, (9, 200, 30)), "PNG")
        assert posters.decode(content, 64, 32)[32, 16].tolist() == [9, 200, 30]

    def test_too_many_bytes(self, tmp_path):
        with (tmp_path / "1.jpg").open("wb") as file:
            file.truncate(1 << 40)
        content = posters.read_image(tmp_path / "1.jpg")
        assert len(content) == posters.MAX_BYTES + 1
        with pytest.raises(posters.PosterError, match="more than 67,108,864 bytes"):
            posters.decode(content, 64, 32)

    def test_jpeg_with_too_many_scans(self, noise):
        """A scan can have ten bytes but decodes all pixels: a small file could take days."""
        content = image_bytes(Image.fromarray(noise), "JPEG", progressive=True)
        scan = content[content.rindex(b"\xff\xda") : -2]
        few, many = (content[:-2] + scan * n + content[-2:] for n in (20, 1000))
        assert posters.decode(few, 64, 32).shape == (64, 32, 3)
        with pytest.raises(posters.PosterError, match="more than 100 scans"):
            posters.decode(many, 64, 32)

    def test_png_with_a_large_compressed_text(self, noise):
        info = PngImagePlugin.PngInfo()
        info.add_text("bomb", "x" * (2 << 20), zip=True)
        with pytest.raises(posters.PosterError):
            posters.decode(image_bytes(Image.fromarray(noise), "PNG", pnginfo=info), 64, 32)

    def test_damaged_bytes_give_a_poster_or_a_poster_error(self, noise):
        rng = np.random.default_rng(0)
        unreadable = 0
        for file_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
            content = image_bytes(Image.fromarray(noise[:24, :16]), file_format)
            for _ in range(60):
                damaged = bytearray(content)
                for position in rng.integers(0, len(content), 4):
                    damaged[position] = rng.integers(0, 256)
                try:
                    assert posters.decode(bytes(damaged), 8, 8).shape == (8, 8, 3)
                except posters.PosterError as error:
                    assert str(error)
                    unreadable += 1
        assert unreadable > 60


def test_jpeg_round_trip_is_close():
    across = np.linspace(0, 255, 160)
    down = np.linspace(0, 255, 256)[:, None]
    pixels = np.stack(np.broadcast_arrays(across, down, 128.0), axis=-1).astype(np.uint8)
    content = posters.encode_jpeg(pixels)
    assert content[:3] == b"\xff\xd8\xff"
    error = np.abs(posters.decode(content, 256, 160).astype(int) - pixels)
    assert error.mean() < 1.5 and error.max() <= 10


class TestAugment:
    OFF = {"flip": False, "crop": 0.0, "colour": 0.0}  # noqa: RUF012 (not changed)

    @pytest.fixture
    def images(self, noise):
        """<uint8>[32, 24, 16, 3]: 32 copies of one noise image."""
        return np.repeat(noise[None, :24, :16], 32, axis=0)

    def augment(self, images, seed=0, **settings):
        return np.asarray(
            posters.augment(jax.random.key(seed), jnp.asarray(images), **(self.OFF | settings))
        )

    @pytest.mark.parametrize(
        "settings", [{"flip": True}, {"crop": 0.2}, {"colour": 0.3}], ids=lambda s: next(iter(s))
    )
    def test_results_depend_on_the_key(self, images, settings):
        one = self.augment(images, seed=1, **settings)
        np.testing.assert_array_equal(one, self.augment(images, seed=1, **settings))
        assert (one != self.augment(images, seed=2, **settings)).any()
        assert (one.shape, one.dtype) == (images.shape, np.float32)
        assert len(np.unique(one, axis=0)) > 1, "each image is changed independently"

    def test_without_augmentation_images_are_unchanged(self, images):
        augmented = self.augment(images)
        assert augmented.dtype == np.float32
        np.testing.assert_array_equal(augmented, images)

    def test_flip_mirrors_half_of_the_images_left_to_right(self, images):
        augmented = self.augment(images, flip=True)
        kept = (augmented == images).all(axis=(1, 2, 3))
        mirrored = (augmented == images[:, :, ::-1]).all(axis=(1, 2, 3))
        assert (kept ^ mirrored).all()
        assert 6 < mirrored.sum() < 26

    def test_crop_shifts_and_repeats_the_edge(self, images):
        """Images are shifted by at most 0.125 * 24 = 3 rows and 0.125 * 16 = 2 columns."""
        augmented = self.augment(images, crop=0.125)
        height, width = images.shape[1:3]
        shifts = []
        for image, original in zip(augmented, images):
            for dy in range(-3, 4):
                for dx in range(-2, 3):
                    rows = np.clip(np.arange(height) + dy, 0, height - 1)
                    columns = np.clip(np.arange(width) + dx, 0, width - 1)
                    if (image == original[rows][:, columns]).all():
                        shifts.append((dy, dx))
        assert len(shifts) == len(images)
        down, right = zip(*shifts)
        assert (min(down), max(down), min(right), max(right)) == (-3, 3, -2, 2)

    def test_crop_of_less_than_a_pixel_changes_nothing(self, images):
        np.testing.assert_array_equal(self.augment(images, crop=0.01), images)

    def test_flip_and_crop_work_on_activations(self):
        maps = np.random.default_rng(0).normal(size=(4, 8, 5, 64)).astype(np.float32)
        augmented = self.augment(maps, flip=True, crop=0.2)
        assert augmented.shape == maps.shape
        assert set(augmented.ravel()) <= set(maps.ravel()), "there are no new values"
        assert (augmented != maps).any()

    def test_colour_stays_within_0_and_255(self):
        halves = np.zeros((32, 8, 8, 3), np.uint8)
        halves[:, :, 4:] = 255
        augmented = self.augment(halves, colour=0.5)
        assert augmented.min() == 0 and augmented.max() == 255
        assert 0 < np.mean((augmented > 0) & (augmented < 255)) < 1

    def test_colour_changes_are_limited(self):
        """Contrast has no effect on a uniform image, so only brightness and gain change."""
        grey = np.full((32, 4, 4, 3), 100, np.uint8)
        augmented = self.augment(grey, colour=0.1)
        assert 100 * 0.9**2 - 0.01 <= augmented.min() < 93
        assert 107 < augmented.max() <= 100 * 1.1**2 + 0.01
        assert (np.ptp(augmented, axis=(1, 2)) == 0).all(), "a channel changes uniformly"
        assert (np.ptp(augmented, axis=3) > 0).any(), "channels change differently"


def test_the_module_needs_nothing_of_this_package():
    # It is copied into exported folders.
    source = pathlib.Path(posters.__file__).read_text(encoding="utf-8")
    imported = re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
    assert set(imported) - sys.stdlib_module_names == {"jax", "numpy", "PIL"}


def test_exported_posters_are_decoded_as_stored_ones(noise, tmp_path, caplog):
    image = image_bytes(Image.fromarray(noise), "PNG")
    (tmp_path / "poster.png").write_bytes(image)
    read = posters.open_posters(tmp_path, {"height": 40, "width": 20})
    arrays, present = read([image, None, tmp_path / "poster.png", b"broken"])
    stored = posters.encode_jpeg(posters.decode(image, 40, 20))
    wanted = posters.decode(stored, 40, 20)
    np.testing.assert_array_equal(arrays["images"], [wanted, 0 * wanted, wanted, 0 * wanted])
    assert present.tolist() == [True, False, True, False]
    assert "Unreadable poster, treated as missing: 3: not an image" in caplog.text
