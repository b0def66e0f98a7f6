"""Processes and devices, files and buckets, signals, errors and progress."""
