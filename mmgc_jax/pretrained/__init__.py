"""Weights and vectors that others trained."""
