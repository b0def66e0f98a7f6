"""Predicts genres of movies with the files of this folder.

Needs JAX, NumPy and flatbuffers, with which JAX reads StableHLO; for posters that are files Pillow,
too, and for transformers tokenizers.

    model = Model("FOLDER")
    probabilities = model([{"plot": "A heist.", "poster": "poster.jpg"}, {"plot": "A robot."}])
    dict(zip(model.genres, probabilities[0]))
    model.decide(probabilities)  # which probabilities reach the threshold of their genre

As a command:  python FOLDER/model.py --plot="A heist." --poster=poster.jpg
"""

import argparse
import functools
import importlib.util
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

_BATCH_SIZE = 32
_DTYPES = {"F32": np.float32, "BF16": jnp.bfloat16, "F16": np.float16, "F64": np.float64,
           "I32": np.int32, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip


class Model:
    """Predicts genre probabilities.

    Attributes:
      genres: names of the columns of probabilities, in alphabetical order.
      models: names of the models: the encoders, and `fusion`.
    """

    def __init__(self, folder=pathlib.Path(__file__).parent):
        self._folder = pathlib.Path(folder)
        about = self._json("model.json")
        self._encoders, self._fusion = about["encoders"], about["fusion"]
        self._calibrations = self._json("calibration.json")
        frequencies = self._json("genre_frequencies.json")
        self.genres = tuple(frequencies)
        self.models = (*self._encoders, "fusion")
        self._frequencies = np.float32(list(frequencies.values()))
        self._params = _read_tree(self._folder / "model.safetensors")
        self._graphs, self._readers = {}, {}

    def __call__(self, movies: Iterable[Mapping], model: str = "fusion") -> np.ndarray:
        """Predicts the genres of movies.

        Args:
          movies: each with `plot`, a text; `poster`, the path or the bytes of an image file, or
            pixels <uint8>[height, width, 3] of the size that the model needs; both or neither.
          model: one of `models`.

        Returns:
          Calibrated probabilities <float32>[movies, genres]. A movie without all that the model
          looks at gets the genres' frequencies among the training movies.
        """
        if model not in self.models:
            raise ValueError(f"model is {model!r}, not one of {', '.join(self.models)}")
        movies = list(movies)
        size = 1 if len(movies) == 1 else _BATCH_SIZE  # each size is compiled once
        found = [np.zeros((0, len(self.genres)), np.float32)]
        for start in range(0, len(movies), size):
            batch = movies[start : start + size]
            padding = [{}] * (size - len(batch))
            found.append(self._predict(batch + padding, model)[: len(batch)])
        return np.concatenate(found)

    def decide(self, probabilities: np.ndarray, model: str = "fusion") -> np.ndarray:
        """Returns which probabilities reach the threshold of their genre, <bool>[..., genres]."""
        return np.asarray(probabilities) >= self._numbers(model, "threshold")

    def read(self, name: str, movies: list[Mapping]) -> tuple[dict, np.ndarray]:
        """Reads movies for an encoder.

        Returns:
          The arrays of a batch by name, which the graph takes and ONNX, too; and which movies have
          what the encoder looks at, <bool>[movies].
        """
        encoder = self._encoders[name]
        values = [movie.get(encoder["modality"]) for movie in movies]
        if any(isinstance(value, np.ndarray) for value in values):
            present = np.array([value is not None for value in values])
            (array,) = encoder["arrays"]
            missing = np.zeros_like(next(v for v in values if v is not None))
            return {array: np.stack([missing if v is None else v for v in values])}, present
        if name not in self._readers:
            module = _import(self._folder / encoder["module"])
            open_reader = getattr(module, encoder["open"])
            folder = self._folder / "encoders" / name
            self._readers[name] = open_reader(folder, encoder["settings"])
        return self._readers[name](values)

    def _predict(self, movies: list[Mapping], model: str) -> np.ndarray:
        names = self._fusion["encoders"] if model == "fusion" else [model]
        read = {name: self.read(name, movies) for name in names}
        present = np.stack([of_movies for _, of_movies in read.values()], axis=1)
        if model != "fusion":
            probabilities = self._run(model, read[model][0])
        elif self._fusion["joint"]:
            batch = {name: arrays for name, (arrays, _) in read.items()}
            probabilities = self._run("fusion", batch | {"present": np.float32(present)})
        else:
            parts = [
                np.where(
                    has[:, None], self._run(name, arrays) if has.any() else 0, self._frequencies
                )
                for name, (arrays, has) in read.items()
            ]
            batch = {"probabilities": np.stack(parts, axis=1), "present": np.float32(present)}
            probabilities = self._run("fusion", batch)
        calibrated = self._calibrate(probabilities, model)
        return np.where(present.any(axis=1)[:, None], calibrated, self._frequencies)

    def _run(self, name: str, batch: dict) -> np.ndarray:
        """Runs the graph of an encoder or fusion: the mean probabilities of the folds' models."""
        if name not in self._graphs:
            content = (self._folder / "graphs" / f"{name}.jax_export").read_bytes()
            graph = export.deserialize(bytearray(content))
            params = dict(self._params[name])
            if name == "fusion" and self._fusion["joint"]:
                fused = {encoder: self._params[encoder] for encoder in self._fusion["encoders"]}
                params["frozen"] = {e: of["frozen"] for e, of in fused.items() if "frozen" in of}
            params = jax.device_put(params)
            self._graphs[name] = functools.partial(jax.jit(graph.call), params)
        return np.asarray(self._graphs[name](batch))

    def _calibrate(self, probabilities: np.ndarray, model: str) -> np.ndarray:
        """Applies Platt scaling: sigmoid(scale * logit(p) + shift)."""
        lowest, highest = np.finfo(np.float32).tiny, 1 - np.finfo(np.float32).epsneg
        p = np.clip(np.float64(probabilities), lowest, highest)
        logits = self._numbers(model, "scale") * np.log(p / (1 - p))
        return np.float32(1 / (1 + np.exp(-logits - self._numbers(model, "shift"))))

    def _numbers(self, model: str, name: str) -> np.ndarray:
        return np.array([self._calibrations[model][genre][name] for genre in self.genres])

    def _json(self, name: str):
        return json.loads((self._folder / name).read_text(encoding="utf-8"))


def _read_tree(file: pathlib.Path) -> dict:
    """Maps a safetensors file into memory, as nested dictionaries."""
    content = np.memmap(file, mode="r")
    start = 8 + int(content[:8].view("<u8")[0])
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__", None)
    tree = {}
    for path, about in header.items():
        first, end = about["data_offsets"]
        array = content[start + first : start + end].view(_DTYPES[about["dtype"]])
        *branches, name = path.split("/")
        functools.reduce(lambda at, key: at.setdefault(key, {}), branches, tree)[name] = (
            array.reshape(about["shape"])
        )
    return tree


def _import(file: pathlib.Path):
    spec = importlib.util.spec_from_file_location(f"_of_folder_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", help="the plot of a movie")
    parser.add_argument("--poster", help="image file with its poster")
    parser.add_argument("--model", default="fusion")
    flags = parser.parse_args()
    model = Model()
    if flags.model not in model.models:
        sys.exit(f"--model={flags.model}: possible are {', '.join(model.models)}")
    (probabilities,) = model([{"plot": flags.plot, "poster": flags.poster}], flags.model)
    decided = model.decide(probabilities, flags.model)
    for genre in np.argsort(-probabilities):
        mark = "predicted" if decided[genre] else ""
        print(f"{model.genres[genre]:<16}{probabilities[genre]:.3f}  {mark}".rstrip())


if __name__ == "__main__":
    _main()
