"""Tests files of vocabularies."""

import pytest

from mmgc_jax.data import text, vocabulary_file
from mmgc_jax.data.text import Vocabulary
from mmgc_jax.runtime.errors import InputError


def test_save_and_load(tmp_path):
    file = tmp_path / "vocabulary.json"
    vocabulary = Vocabulary(("the", "l'été", "七", "\u2028"))
    vocabulary_file.save(file, vocabulary)
    loaded = vocabulary_file.load(file, "mmimdb")
    assert loaded.words == vocabulary.words
    assert loaded.encode(["七"], 1).tolist() == vocabulary.encode(["七"], 1).tolist() == [4]


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', '["a", 1]', '["a", "a"]', "[" * 100_000])
def test_damaged_vocabulary(tmp_path, content):
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(InputError, match=r"vocabulary\.json"):
        vocabulary_file.load(tmp_path / "vocabulary.json", "words")


def test_vocabularies_of_the_tokenizer_are_loaded(tmp_path):
    plot = "New York’s café, 1984: हिन्दी, ǰ, İstanbul, ΣΑΣ, ½ and don't"
    words = (*text.tokenize(plot), "new_york", "new_york_s")
    vocabulary_file.save(tmp_path / "vocabulary.json", Vocabulary(words))
    assert vocabulary_file.load(tmp_path / "vocabulary.json", "words").words == words


@pytest.mark.parametrize(
    "word", ["don't", "1984", "1990s", "new_york's", "Ship", "N", "e\u0301", ""]
)
def test_vocabularies_of_another_tokenizer_are_refused(tmp_path, word):
    vocabulary_file.save(tmp_path / "vocabulary.json", Vocabulary(("ship", word, "new_york")))
    with pytest.raises(InputError) as caught:
        vocabulary_file.load(tmp_path / "vocabulary.json", "words")
    assert "vocabulary.json has words that plots are no longer split into: " in str(caught.value)
    assert word.split("_")[-1] in str(caught.value) and "Run the experiment again" in str(
        caught.value
    )
    assert len(vocabulary_file.load(tmp_path / "vocabulary.json", "mmimdb").words) == 3
