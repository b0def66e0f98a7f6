"""Files of vocabularies: JSON lists of words."""

import json
from collections.abc import Iterable

from mmgc_jax.data.text import Vocabulary, tokenize
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json, write_text


def load(file: Path, tokens: str) -> Vocabulary:
    """Reads a vocabulary that `save` wrote.

    Args:
      file: path of the file.
      tokens: name of the tokenizer in `text.TOKENIZERS` that plots are split by.

    Raises:
      InputError: if the file is missing, is not a JSON list of distinct words, or has words that
        the tokenizer does not make.
    """
    words = read_json(file, "Run the experiment again to write it again.")
    is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
    if not is_list or len(set(words)) < len(words):
        raise InputError(f"{file} is not a list of distinct words.")
    check_words((part for word in words for part in word.split("_")), tokens, file)
    return Vocabulary(words)


def save(file: Path, vocabulary: Vocabulary) -> None:
    """Writes the words of a vocabulary, atomically."""
    write_text(file, json.dumps(vocabulary.words, ensure_ascii=False))


def check_words(words: Iterable[str], tokens: str, file) -> None:
    """Checks that the words of a stored vocabulary are tokens of `tokenize`.

    Earlier versions of `tokenize` had others, such as `don't` and `1984`, which no plot has now.

    Args:
      words: the words, without phrases.
      tokens: name of the tokenizer that the vocabulary belongs to; only `words` is checked.
      file: the vocabulary's file, for the message.

    Raises:
      InputError: if there are other words.
    """
    words = list(words)
    if tokens != "words" or tokenize("\n".join(words)) == words:
        return
    foreign = [word for word in words if tokenize(word) != [word]]
    raise InputError(
        f"{file} has words that plots are no longer split into: {', '.join(foreign[:5])}"
        f"{', ...' if len(foreign) > 5 else ''}. It was written by an earlier version of mmgc_jax. "
        "Run the experiment again in a new --workdir."
    )
