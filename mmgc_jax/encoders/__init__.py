"""Encoders: the settings, training and loading of a model for one modality, one file for each kind.

The networks themselves are in `mmgc_jax.models`, often in a file of the same name:
`models/plot_lstm.py` defines the LSTM, `encoders/plot_lstm.py` how an experiment configures, trains
and loads it. `base.py` describes what such a file has to define.
"""
