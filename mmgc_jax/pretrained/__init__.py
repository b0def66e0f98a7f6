"""Pretrained weights and word vectors: downloads, file formats and conversion."""
