"""Processes, devices, files and signals: what the rest of the package runs on."""
