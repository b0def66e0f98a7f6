"""What an experiment trains: encoders of plots, encoders of posters, and what fuses them.

Each encoder has a module of its own with two functions: `fit(experiment, stage)` trains it and
returns its probabilities of all movies, `load(config, workdir, stage, num_genres)` brings it back
for new movies.
"""

from mmgc_jax.stages import bag_of_words, plot, poster, transformer

ENCODERS = {
    "plot": plot,
    "plot_bag_of_words": bag_of_words,
    "plot_transformer": transformer,
    "poster": poster,
    "poster_grey": poster,
}
