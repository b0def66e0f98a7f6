"""Scores posters for genres without any training, by the names of the genres.

>>> from mmgc_jax import ZeroShot
>>> zero_shot = ZeroShot.load("clip-vit-base-patch32")
>>> scores = zero_shot(["alien.jpg", "amelie.jpg"], ["Horror", "Romance"])
>>> scores.shape
(2, 2)
"""

import logging
import os
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from PIL import Image

from mmgc_jax.data import given_movies, pipeline, posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders.base import batch_size
from mmgc_jax.encoders.frozen import Frozen
from mmgc_jax.pretrained import clip
from mmgc_jax.runtime import remote
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import inference

logger = logging.getLogger(__name__)

# The text that is compared with a poster. CLIP was trained on captions of images, so a sentence
# about the image is better than a name alone (arXiv 2103.00020, section 3.1.4).
PROMPT = "a poster of a {genre} movie."


class ZeroShot:
    """Scores posters for genres with a CLIP (Radford et al., arXiv 2103.00020).

    CLIP was trained on pairs of an image and its caption to map both to one space, in which pairs
    are near. A poster's score for a genre is its similarity with a text about the genre.

    Attributes:
      prompt: the text, with `{genre}` where the genre's name stands.
    """

    def __init__(self, network: clip.CLIP, prompt: str = PROMPT):
        """Takes a network; see `load`."""
        if not isinstance(prompt, str) or "{genre}" not in prompt:
            raise InputError(f"prompt is {prompt!r}; it must have {{genre}} where the name stands.")
        self.prompt = prompt
        self._clip = network

        def embed(params, batch):
            projected = network.image.apply({"params": params}, batch["images"])["projected"]
            return {"vectors": _unit(projected)}

        self._embed_images = Frozen.of(embed, network.image_params)
        self._embed_texts = jax.jit(
            lambda params, tokens, lengths: _unit(
                network.text.apply({"params": params}, tokens, lengths)
            )
        )

    @classmethod
    def load(cls, folder: str | os.PathLike, prompt: str = PROMPT) -> "ZeroShot":
        """Reads the folder of a CLIP.

        Args:
          folder: path or address, such as `hf://openai/clip-vit-base-patch32`, of a folder with
            config.json, preprocessor_config.json, tokenizer.json and model.safetensors.
          prompt: the text about a genre, with `{genre}` where its name stands.

        Raises:
          InputError: if a file is missing, damaged, or of another network than a CLIP with both
            towers; or if the prompt has no `{genre}`.
        """
        return cls(clip.load(remote.local_copy(os.fspath(folder))), prompt)

    def __call__(
        self,
        posters_or_movies: Iterable[Movie | bytes | str | os.PathLike | Image.Image],
        genres: Sequence[str],
    ) -> np.ndarray:
        """Scores posters for genres.

        Args:
          posters_or_movies: posters, each as the bytes of an image file, its path or a PIL image;
            or movies with posters. All of them are read into memory.
          genres: names of any genres.

        Returns:
          Scores <float32>[movies, genres]: the cosine similarity of poster and text times CLIP's
          trained factor, often 100. A higher score means a likelier genre. Scores are not
          probabilities; `jax.nn.softmax(scores, axis=1)` is CLIP's own choice of one of the genres.
          Without a readable poster, a movie's scores are NaN.

        Raises:
          TypeError: if an argument has the wrong type.
          InputError: if there are no genres, or the file of a poster cannot be read.
        """
        movies = given_movies.read(_as_movies(posters_or_movies))
        texts = self._texts(genres)
        scores = np.full((len(movies), len(texts)), np.nan, np.float32)
        images = [self._image(movie, number) for number, movie in enumerate(movies)]
        present = np.array([image is not None for image in images], bool)
        if present.any():
            missing = np.zeros((*self._clip.image.image_size, 3), np.uint8)
            pixels = np.stack([missing if image is None else image for image in images])
            examples = pipeline.ArrayExamples({"images": pixels})
            rows = np.flatnonzero(present)
            found = inference.outputs(self._embed_images, examples, present, batch_size(len(rows)))(
                rows
            )
            scores[rows] = self._clip.scale * found["vectors"] @ texts.T
        return scores

    def _texts(self, genres: Sequence[str]) -> np.ndarray:
        """Returns a vector of length 1 for each genre, <float32>[genres, projection]."""
        if isinstance(genres, str) or not isinstance(genres, Iterable):
            raise TypeError(f"genres is {genres!r}; a list of names is needed, such as ['Drama'].")
        genres = list(genres)
        for number, genre in enumerate(genres):
            if not isinstance(genre, str) or not genre.strip():
                raise TypeError(f"genres[{number}] is {genre!r}; the name of a genre is needed.")
        if not genres:
            raise InputError("genres is empty: name at least one.")
        length = self._clip.text.max_length
        prompts = [self.prompt.replace("{genre}", genre) for genre in genres]
        rows = self._clip.tokenizer.encode(prompts, length)
        tokens = np.stack([np.pad(row, (0, length - len(row))) for row in rows])
        lengths = np.array([len(row) for row in rows], np.int32)
        return np.asarray(self._embed_texts(self._clip.text_params, tokens, lengths))

    def _image(self, movie: Movie, number: int) -> np.ndarray | None:
        """Decodes a poster to the network's size; None if it is missing or unreadable."""
        if movie.poster is None:
            return None
        try:
            return self._clip.processor(posters.decode(movie.poster))
        except posters.PosterError as error:
            name = movie.id or f"number {number}"
            logger.warning("Unreadable poster, treated as missing: %s: %s", name, error)
            return None


def _as_movies(given):
    if isinstance(given, Movie | str | bytes) or not isinstance(given, Iterable):
        return given  # `given_movies` says what is wrong
    return [item if isinstance(item, Movie) else Movie(poster=item) for item in given]


def _unit(vectors: jax.Array) -> jax.Array:
    return vectors / jax.numpy.linalg.norm(vectors, axis=-1, keepdims=True)
