"""Processes, devices, files and signals: what every room stands on."""
