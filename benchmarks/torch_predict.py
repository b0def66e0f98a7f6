"""Predicts a table of movies in plain PyTorch, for comparison with `mmgc predict`.

    python -m benchmarks.torch_predict FOLDER VGG16.npz DTYPE

Runs the network of configs/talk.py on FOLDER's movies.csv and posters/: an LSTM for plots, VGG16
whose last block and head differ between five folds, and fusion. Only VGG16 is trained; the other
weights are random, which takes the same time. DTYPE is that of autocast, float32 or bfloat16.
Prints the number of movies.
"""

import csv
import pathlib
import re
import sys

import numpy as np
import torch
from torch import nn

from benchmarks import torch_peer, torch_talk

_FOLDS, _GENRES, _BATCH = 5, 24, 32
_LONGEST_PLOT, _WORDS, _WORD_DIM, _HIDDEN = 256, 20_000, 400, 128


def posters(files: list[pathlib.Path], networks: list[nn.Module], frozen: nn.Module) -> np.ndarray:
    """Predicts posters <float32>[movies, genres]; zeros where there is no file."""
    found, scores = [row for row, file in enumerate(files) if file.exists()], []
    for start in range(0, len(found), _BATCH):
        pixels = torch_talk.read_posters([files[row] for row in found[start : start + _BATCH]])
        block4 = frozen(torch_peer.preprocess(pixels))
        scores.append(sum(torch.sigmoid(network(block4)) for network in networks) / _FOLDS)
    result = np.zeros((len(files), _GENRES), np.float32)
    result[found] = torch.cat(scores).float().numpy()
    return result


def plots(texts: list[str], networks: list[nn.Module]) -> np.ndarray:
    """Predicts plots <float32>[movies, genres]; plots of similar length share a batch."""
    words = [re.findall(r"\w+", text.lower())[:_LONGEST_PLOT] for text in texts]
    numbers = {}
    tokens = [
        torch.tensor([1 + numbers.setdefault(w, len(numbers)) % (_WORDS - 1) for w in plot] or [1])
        for plot in words
    ]
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    result = np.zeros((len(tokens), _GENRES), np.float32)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch = nn.utils.rnn.pad_sequence([tokens[row] for row in rows], batch_first=True)
        mean = sum(torch.sigmoid(network(batch)) for network in networks) / _FOLDS
        result[rows] = mean.float().numpy()
    return result


@torch.inference_mode()
def main(folder: str, weights: str, dtype: str) -> None:
    """Predicts the movies, with and without posters."""
    torch.manual_seed(0)
    with open(f"{folder}/movies.csv", newline="", encoding="utf-8") as file:
        movies = list(csv.DictReader(file))
    vgg16 = torch_peer.vgg16(weights)
    split = len(vgg16) - 7
    of_posters = [
        torch_talk.Block5(torch_peer.vgg16(weights)[split:], torch_talk.Head()).eval()
        for _ in range(_FOLDS)
    ]
    of_plots = [
        torch_talk.Plot(torch.randn(_WORDS, _WORD_DIM), _HIDDEN).eval() for _ in range(_FOLDS)
    ]
    fusions = [
        nn.Sequential(nn.Linear(2 * _GENRES, 64), nn.ReLU(), nn.Linear(64, _GENRES))
        for _ in range(_FOLDS)
    ]
    files = torch_talk.poster_files(folder, movies)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        from_plots = plots([movie["plot"] for movie in movies], of_plots)
        from_posters = posters(files, of_posters, vgg16[:split])
        both = torch.from_numpy(np.concatenate([from_plots, from_posters], axis=1))
        fused = sum(torch.sigmoid(fusion(both)) for fusion in fusions) / _FOLDS
    print(len(fused))


if __name__ == "__main__":
    main(*sys.argv[1:])
