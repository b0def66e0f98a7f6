"""Fast kernels behind the models, each with the reference it equals."""
