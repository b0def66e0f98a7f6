"""Encoders: one file is one kind of encoder."""
