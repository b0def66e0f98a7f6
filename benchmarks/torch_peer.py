"""The workloads of the comparison as a user would write them in PyTorch.

On a GPU they use channels_last, autocast and torch.compile; on a CPU, autocast for bfloat16.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks import work

Workload = tuple[Callable[[], None], int]  # (run, count); see `pairs.Worker`

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class _VGG16(nn.Sequential):
    """Blocks of VGG16 from `first_block` on."""

    def __init__(self, first_block: int = 1):
        layers = []
        for block in range(first_block, 6):
            channels = work.CHANNELS[block - 1]
            for _ in range(work.DEPTHS[block - 1]):
                layers += [nn.Conv2d(channels, work.CHANNELS[block], 3, padding=1), nn.ReLU(True)]
                channels = work.CHANNELS[block]
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers)


class _Poster(nn.Module):
    """Blocks of VGG16 and a linear head over the mean and maximum of their output."""

    def __init__(self, first_block: int):
        super().__init__()
        self.blocks = _VGG16(first_block)
        self.norm = nn.LayerNorm(2 * work.CHANNELS[5])
        self.dropout = nn.Dropout(0.5)
        self.genres = nn.Linear(2 * work.CHANNELS[5], work.GENRES)

    def forward(self, x):
        x = self.blocks(x)
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return self.genres(self.dropout(self.norm(torch.sqrt(torch.relu(x) + 1e-6))))


def vgg16(weights: str) -> nn.Sequential:
    """Makes VGG16 with weights from an .npz file by `mmgc_jax.pretrained.vgg16`."""
    network = _VGG16()
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    names = [
        f"block{b}_conv{n}" for b, depth in enumerate(work.DEPTHS, 1) for n in range(1, depth + 1)
    ]
    with np.load(weights) as arrays, torch.no_grad():
        for name, layer in zip(names, convolutions, strict=True):
            kernel = torch.from_numpy(arrays[f"{name}/kernel"])
            layer.weight.copy_(kernel.permute(3, 2, 0, 1))
            layer.bias.copy_(torch.from_numpy(arrays[f"{name}/bias"]))
    return nn.Sequential(*network).to(memory_format=torch.channels_last)


def vgg16_features(dtype: str) -> Workload:
    """Computes pooled features of a batch of posters; see `ours.vgg16_features`."""
    network = _ready(_VGG16().eval())
    posters = torch.from_numpy(work.posters(work.FROZEN_BATCH))

    @torch.inference_mode()
    def run():
        with _autocast(dtype):
            x = network(preprocess(posters))
        features = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1).float()
        _wait(features)

    return run, len(posters)


def finetune(first_block: int, batch_size: int, dtype: str) -> Workload:
    """Takes one step of fine-tuning; see `ours.finetune`."""
    model = _ready(_Poster(first_block))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    labels = torch.from_numpy(work.labels(batch_size))
    if first_block == 1:
        images = torch.from_numpy(work.posters(batch_size))
    else:
        images = torch.from_numpy(work.activations(first_block, batch_size)).permute(0, 3, 1, 2)

    def run():
        with _autocast(dtype):
            logits = model(preprocess(images) if first_block == 1 else images.to(_DEVICE))
        _wait(_step(model, optimizer, logits.float(), labels))

    return run, batch_size


class _PlotLSTM(nn.Module):
    """Word vectors, an LSTM, mean and maximum over its states, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(work.VOCABULARY, work.WORD_DIM)
        self.lstm = nn.LSTM(work.WORD_DIM, work.HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.genres = nn.Linear(2 * work.HIDDEN, work.GENRES)

    def forward(self, tokens, lengths):
        states, _ = self.lstm(self.dropout(self.words(tokens)))
        is_word = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])[
            ..., None
        ]
        mean = (states * is_word).sum(1) / lengths[:, None]
        highest = states.masked_fill(~is_word, -torch.inf).amax(1)
        return self.genres(self.dropout(torch.cat([mean, highest], dim=1)))


def plot_lstm(lengths: str, pad_to_multiple_of: int, dtype: str) -> Workload:
    """Trains an LSTM for one epoch; see `ours.plot_lstm`."""
    model = _PlotLSTM().to(_DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [
        tuple(torch.from_numpy(x) for x in (tokens, sizes, work.labels(len(sizes))))
        for tokens, sizes in work.plots(lengths, pad_to_multiple_of)
    ]

    def run():
        for tokens, sizes, labels in batches:
            with _autocast(dtype):
                logits = model(tokens.to(_DEVICE), sizes.to(_DEVICE))
            loss = _step(model, optimizer, logits.float(), labels)
        _wait(loss)

    return run, sum(len(sizes) for _, sizes, _ in batches)


def _ready(model: nn.Module) -> nn.Module:
    model = model.to(_DEVICE, memory_format=torch.channels_last)
    return torch.compile(model) if _DEVICE == "cuda" else model


def preprocess(posters: torch.Tensor) -> torch.Tensor:
    """Normalises posters <uint8>[batch, height, width, 3] to <float32>[batch, 3, height, width].

    The result is channels_last in memory.
    """
    mean = torch.tensor((123.68, 116.779, 103.939), device=_DEVICE).view(1, 3, 1, 1)
    return posters.to(_DEVICE).permute(0, 3, 1, 2).float() - mean


def _autocast(dtype: str):
    return torch.autocast(_DEVICE, torch.bfloat16, enabled=dtype == "bfloat16")


def _step(model, optimizer, logits, labels) -> torch.Tensor:
    """Takes a training step; returns the loss."""
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(_DEVICE))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def _wait(result: torch.Tensor) -> None:
    result.sum().item()
