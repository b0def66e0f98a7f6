"""Reads movies, builds datasets and makes batches of arrays."""
