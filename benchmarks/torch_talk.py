"""Runs the talk's experiment in plain PyTorch, for comparison with configs/talk.py.

    python -m benchmarks.torch_talk FOLDER VGG16.npz VECTORS

Uses the same data, number of folds, models, epochs and batch sizes as configs/talk.py with the few
changes that `python -m benchmarks` makes, but has no checkpoints, calibration or report. Prints the
macro AUC of out-of-fold predictions.
"""

import collections
import csv
import pathlib
import re
import sys

import gensim
import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks import torch_peer

_FOLDS, _GENRES = 5, 24
_HEIGHT, _WIDTH = 256, 160
_LONGEST_PLOT = 256


class Plot(nn.Module):
    """A bidirectional LSTM and a linear layer over pooled states and pooled word vectors."""

    def __init__(self, vectors: torch.Tensor, hidden: int = 64):
        super().__init__()
        self.words = nn.Embedding.from_pretrained(vectors, freeze=False, padding_idx=0)
        size = vectors.shape[1]
        self.lstm = nn.LSTM(size, hidden, batch_first=True, bidirectional=True)
        self.norm, self.dropout = nn.LayerNorm(3 * size), nn.Dropout(0.5)
        self.genres = nn.Linear(4 * hidden + 3 * size, _GENRES)

    def forward(self, tokens):
        is_word = tokens > 0
        vectors = self.words(tokens)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(vectors), is_word.sum(1).clamp(min=1), batch_first=True,
            enforce_sorted=False,
        )  # fmt: skip
        states, _ = self.lstm(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            states, batch_first=True, total_length=tokens.shape[1]
        )
        words = [_mean(vectors, is_word), _max(vectors, is_word), -_max(-vectors, is_word)]
        pooled = [_mean(states, is_word), _max(states, is_word), self.norm(torch.cat(words, 1))]
        return self.genres(self.dropout(torch.cat(pooled, 1)))


class Head(nn.Module):
    """A linear layer over pooled activations <float32>[batch, 2048]."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(2048), nn.Dropout(0.5)
        self.genres = nn.Linear(2048, _GENRES)

    def forward(self, features):
        return self.genres(self.dropout(self.norm(torch.sqrt(torch.relu(features) + 1e-6))))


class Block5(nn.Module):
    """The last block of VGG16 and a head; takes block 4's activations."""

    def __init__(self, block5: nn.Module, head: Head):
        super().__init__()
        self.block5, self.head = block5, head

    def forward(self, block4):
        return self.head(torch.cat([_pool(block4), _pool(self.block5(block4))], 1))


def _mean(x, is_word):
    return (x * is_word[..., None]).sum(1) / is_word.sum(1, keepdim=True).clamp(min=1)


def _max(x, is_word):
    return x.masked_fill(~is_word[..., None], -1e9).amax(1)


def _pool(x):
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def train(model, inputs, labels, rows, epochs, batch_size, learning_rate, weight_decay=0.01):
    """Trains a model on some rows with AdamW and a cosine schedule; returns the model."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    steps = epochs * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for batch in np.array_split(np.random.permutation(rows), -(-len(rows) // batch_size)):
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(inputs(batch)), labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model


@torch.inference_mode()
def predict(model, inputs, rows) -> torch.Tensor:
    """Predicts probabilities <float32>[rows, genres] for some rows."""
    model.eval()
    batches = np.array_split(rows, -(-len(rows) // 32))
    return torch.cat([torch.sigmoid(model(inputs(batch))) for batch in batches])


def out_of_fold(name, make, inputs, labels, folds, rows, *settings) -> torch.Tensor:
    """Trains a model for each fold and predicts the fold's rows; prints the macro AUC."""
    scores = torch.zeros(len(labels), _GENRES)
    for fold in range(_FOLDS):
        model = train(make(fold), inputs, labels, rows[folds[rows] != fold], *settings)
        unseen = rows[folds[rows] == fold]
        scores[unseen] = predict(model, inputs, unseen)
    # AUC is undefined for genres without positives or without negatives.
    defined = [g for g in range(_GENRES) if 0 < labels[rows, g].sum() < len(rows)]
    print(name, roc_auc_score(labels[rows][:, defined], scores[rows][:, defined]), flush=True)
    return scores


def plots(texts: list[str], vectors_file: str):
    """Returns the plots' tokens, and word vectors of the file concatenated to trained vectors."""
    words = [re.findall(r"\w+", text.lower())[:_LONGEST_PLOT] for text in texts]
    counts = collections.Counter(word for plot in words for word in plot)
    number = {
        word: index + 1
        for index, (word, count) in enumerate(counts.most_common(20_000))
        if count > 1
    }
    given = gensim.models.KeyedVectors.load_word2vec_format(vectors_file, binary=True)
    own = gensim.models.Word2Vec(words, vector_size=100, sg=1, min_count=2, epochs=10, workers=1).wv
    table = np.zeros((len(number) + 1, given.vector_size + 100), np.float32)
    for word, index in number.items():
        if word in given:
            table[index, :-100] = given[word]
        if word in own:
            table[index, -100:] = own[word]
    tokens = [torch.tensor([number[w] for w in plot if w in number] or [1]) for plot in words]
    return tokens, torch.from_numpy(table)


def poster_files(folder: str, movies: list[dict[str, str]]) -> list[pathlib.Path]:
    """Returns where the poster of each row of movies.csv is, if it has one."""
    # In the competition's files, the index column has no name.
    ids = [movie.get("index") or movie[""] for movie in movies]
    return [pathlib.Path(folder, "posters", f"{movie}.jpg") for movie in ids]


def read_posters(files: list[pathlib.Path], grey: bool = False) -> torch.Tensor:
    """Reads posters <uint8>[files, height, width, 3]."""
    images = [Image.open(file).convert("L" if grey else "RGB").convert("RGB")
              .resize((_WIDTH, _HEIGHT)) for file in files]  # fmt: skip
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


@torch.no_grad()
def activations(images: list[pathlib.Path], network: nn.Sequential, grey: bool):
    """Computes block 4's activations and pooled features of blocks 4 and 5 for each poster."""
    split = len(network) - 7
    block4, features = [], []
    for start in range(0, len(images), 32):
        pixels = read_posters(images[start : start + 32], grey)
        x = network[:split](torch_peer.preprocess(pixels))
        block4.append(x)
        features.append(torch.cat([_pool(x), _pool(network[split:](x))], 1))
    return torch.cat(block4), torch.cat(features)


def main(folder: str, weights: str, vectors: str) -> None:
    """Runs the experiment."""
    torch.manual_seed(0)
    np.random.seed(0)
    with open(f"{folder}/movies.csv", newline="", encoding="utf-8") as file:
        movies = list(csv.DictReader(file))
    names = sorted({name for movie in movies for name in re.findall(r"'([^']+)'", movie["genres"])})
    labels = torch.tensor([[float(f"'{n}'" in movie["genres"]) for n in names] for movie in movies])
    labels = nn.functional.pad(labels, (0, _GENRES - len(names)))
    folds = np.random.permutation(len(movies)) % _FOLDS
    everyone = np.arange(len(movies))

    tokens, table = plots([movie["plot"] for movie in movies], vectors)

    def padded(rows):
        return nn.utils.rnn.pad_sequence([tokens[row] for row in rows], batch_first=True)

    scores = [out_of_fold("plot", lambda _: Plot(table.clone()), padded, labels, folds, everyone,
                          7, 64, 4e-3, 1.0)]  # fmt: skip

    files = poster_files(folder, movies)
    with_poster = np.array([row for row in everyone if files[row].exists()])
    place = {row: number for number, row in enumerate(with_poster)}
    for name in ("poster", "poster_grey"):
        network = torch_peer.vgg16(weights)
        arrays = activations([files[row] for row in with_poster], network, "grey" in name)
        block4, features = (lambda rows, x=x: x[[place[row] for row in rows]] for x in arrays)

        def finetuned(fold, network=network, features=features):
            rows = with_poster[folds[with_poster] != fold]
            head = train(Head(), features, labels, rows, 15, 32, 3e-3, 0.1)
            block5 = torch_peer.vgg16(weights)[-7:]  # each fold fine-tunes a copy
            return Block5(block5, head)

        scores.append(out_of_fold(name, finetuned, block4, labels, folds, with_poster, 1, 32, 3e-4))
    both = torch.cat(scores[:2], 1)

    def mlp(_):
        return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, _GENRES))

    out_of_fold("fusion", mlp, lambda rows: both[rows], labels, folds, everyone, 40, 64, 1e-3)


if __name__ == "__main__":
    main(*sys.argv[1:])
