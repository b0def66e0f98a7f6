"""Metrics, calibration, tables and figures."""
