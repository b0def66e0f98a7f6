"""Metrics, calibration, tables and figures of experiments."""
