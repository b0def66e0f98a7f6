"""Tests reading word vectors: formats, other spellings, damaged files and memory."""

import gzip
import pickle
import tracemalloc

import gensim
import numpy as np
import pytest

from mmgc_jax.pretrained import vector_file
from mmgc_jax.runtime.errors import InputError

WORDS = ("the", "ship", "sank", "Zürich")
VECTORS = np.random.default_rng(0).normal(2, 3, (4, 5)).astype(np.float32)


def keyed(words=WORDS, vectors=VECTORS):
    result = gensim.models.KeyedVectors(vectors.shape[1])
    result.add_vectors(list(words), vectors)
    return result


def write(file, words, dim=2, binary=True):
    """Writes a file in which every entry of the n-th word's vector is n."""
    vectors = np.repeat(np.arange(len(words), dtype=np.float32)[:, None], dim, axis=1)
    keyed(words, vectors).save_word2vec_format(str(file), binary=binary)
    return file


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("binary", [True, False])
def test_every_format_of_gensim_is_read_whatever_the_file_name(tmp_path, binary, gzipped, header):
    if binary and not header:
        return  # the length of the vectors would be unknown
    file = tmp_path / "vectors"
    keyed().save_word2vec_format(str(file), binary=binary, write_header=header)
    if gzipped:
        file.write_bytes(gzip.compress(file.read_bytes()))
    assert vector_file.dimension(file) == 5
    vectors = vector_file.read(file, ["the", "ship", "sank", "zürich", "iceberg"])
    assert set(vectors) == {"the", "ship", "sank", "zürich"}
    np.testing.assert_allclose(list(vectors.values()), VECTORS, rtol=1e-6)
    assert {vector.dtype for vector in vectors.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "content",
    [
        "a 1 2 3\n. . . 4 5 6\nb 7e-05 8 9\n",  # blanks in a word, as in GloVe's largest file
        "a 1 2 3\n. . . 4 5 6\nb 7e-05 8 9\n\n",
        "3 3\na\t1\t2\t3\n. . .\t4\t5\t6\nb\t7e-05\t8\t9\n",
        "3 3\r\na 1 2 3\r\n. . . 4 5 6\r\nb  7e-05  8 9\r\n",
    ],
    ids=["blanks in a word", "empty last line", "tabs", "line ends of Windows"],
)
def test_text_as_other_programs_write_it(tmp_path, content):
    (tmp_path / "v").write_bytes(content.encode())
    assert vector_file.dimension(tmp_path / "v") == 3
    vectors = vector_file.read(tmp_path / "v", ["a", ". . .", "b"])
    assert [vector.tolist() for vector in vectors.values()] == [
        [1, 2, 3], [4, 5, 6], [pytest.approx(7e-05), 8, 9],
    ]  # fmt: skip


def test_line_breaks_between_binary_vectors_as_word2vec_writes_them(tmp_path):
    entries = b"".join(
        word.encode() + b" " + vector.tobytes() + b"\n" for word, vector in zip(WORDS, VECTORS)
    )
    (tmp_path / "v.bin").write_bytes(b"4 5\n" + entries)
    vectors = vector_file.read(tmp_path / "v.bin", WORDS[:3])
    np.testing.assert_array_equal(list(vectors.values()), VECTORS[:3])


@pytest.mark.parametrize("binary", [True, False])
def test_entries_that_span_chunks(tmp_path, monkeypatch, binary):
    words = [f"w{n}" for n in range(300)]
    file = write(tmp_path / "v", words, dim=3, binary=binary)
    monkeypatch.setattr(vector_file, "_CHUNK", 64)
    vectors = vector_file.read(file, words)
    assert [vectors[word][0] for word in words] == list(range(300))


@pytest.mark.parametrize(
    ("word", "in_file", "found"),
    [
        # Capitals: the spelling with the fewest changed characters, then the first.
        ("john", ["JOHN", "John", "john"], 2),
        ("john", ["JOHN", "John", "jOhn"], 1),
        ("john", ["johnny"], None),
        # Phrases, with hyphens for underscores.
        ("new_york", ["NEW_YORK", "New-York", "newyork"], 1),
        ("new_york", ["New_York", "New-York"], 0),
        # Another form, only if the file does not have the word itself.
        ("fiancée", ["fiancee"], 0),
        ("fiancée", ["fiancee", "FIANCÉE"], 1),
        ("영화", ["영"], None),
    ],
)
def test_other_spellings_of_a_word(tmp_path, word, in_file, found):
    vectors = vector_file.read(write(tmp_path / "v.bin", in_file), [word])
    assert [int(vector[0]) for vector in vectors.values()] == ([] if found is None else [found])


def test_several_words_may_share_an_entry(tmp_path):
    vectors = vector_file.read(write(tmp_path / "v.bin", ["x", "cafe"]), ["café", "cafe", "nobody"])
    assert set(vectors) == {"café", "cafe"}


# Words that gensim writes to a text file and reads again, but that are empty or blank.
BLANK_WORDS = ["", "\t", "\x0b", "\x0c", "\r", "\x1c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("blank", BLANK_WORDS)
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_empty_and_blank_words(tmp_path, binary, header, blank, place):
    if binary and not header:
        return
    words = ["the", "ship"]
    words.insert(place, blank)
    expected = keyed(words, VECTORS[:3])
    file = tmp_path / "v"
    expected.save_word2vec_format(str(file), binary=binary, write_header=header)
    theirs = gensim.models.KeyedVectors.load_word2vec_format(
        str(file), binary=binary, no_header=not header
    )
    assert len(theirs.index_to_key) == 3
    assert vector_file.dimension(file) == 5
    vectors = vector_file.read(file, ["the", "ship"])
    for word in ("the", "ship"):
        np.testing.assert_allclose(vectors[word], expected[word], rtol=1e-5)


@pytest.mark.parametrize("word", ["new york", " york", "new york city", "5 5", "new  york"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_words_with_blanks_are_read_from_text(tmp_path, word, place):
    words = ["the", "ship"]
    words.insert(place, word)
    keyed(words, VECTORS[:3]).save_word2vec_format(str(tmp_path / "v"), binary=False)
    vectors = vector_file.read(tmp_path / "v", ["the", "ship"])
    assert len(vectors) == 2
    np.testing.assert_allclose(vectors["the"], VECTORS[words.index("the")], rtol=1e-5)
    np.testing.assert_allclose(vectors["ship"], VECTORS[words.index("ship")], rtol=1e-5)


def entries(words, vectors, between=b""):
    """Makes the content of a binary file, with bytes after each vector."""
    parts = [f"{word} ".encode() + vector.tobytes() for word, vector in zip(words, vectors)]
    return f"{len(words)} {vectors.shape[1]}\n".encode() + b"".join(p + between for p in parts)


@pytest.mark.parametrize(
    "blank", ["new york", "new york city", "a b", "b ", " b", "san francisco bay"]
)
@pytest.mark.parametrize("place", [0, 1, 5, -1])
@pytest.mark.parametrize("between", [b"", b"\n"])
def test_binary_words_with_blanks_are_refused(tmp_path, between, place, blank):
    """The first part of the word would get the vector's bytes from a wrong place."""
    words = [f"word{n}" for n in range(9)]
    words.insert(place % 10, blank)
    file, wanted = tmp_path / "v.bin", blank.split()[0]
    # The last bytes of these values are not UTF-8.
    vectors = np.random.default_rng(1).choice(np.float32([-0.5, -1, -1.5, -2]), (10, 50))
    file.write_bytes(entries(words, vectors, between))
    for found in ([wanted], ["word1"]):
        with pytest.raises(InputError, match="a blank, which word2vec's binary format cannot hold"):
            vector_file.read(file, found)


@pytest.mark.parametrize("blank", ["new york", "a b", "b ", "a bcd", "a bcd efg", "x 猫"])
def test_a_wanted_vector_from_a_wrong_place_is_refused(tmp_path, blank):
    """Positive values are often ASCII, so that the next word seems to be one."""
    vectors = np.full((4, 50), 0.75, np.float32)  # 00 00 40 3f, which is UTF-8
    vectors[:, ::2] = np.frombuffer(b"bad?", np.float32)  # 62 61 64 3f
    (tmp_path / "v.bin").write_bytes(entries(["the", blank, "ship", "sea"], vectors))
    with pytest.raises(InputError, match=r"values such as .*a blank, which word2vec"):
        vector_file.read(tmp_path / "v.bin", [blank.split()[0]])


@pytest.mark.parametrize("blank", ["new york", "a b", "b "])
def test_line_breaks_show_that_a_word_has_a_blank(tmp_path, blank):
    vectors = np.full((4, 50), np.frombuffer(b"bad?", np.float32))  # ASCII, but the first is not
    vectors[0] = 0.75
    (tmp_path / "v.bin").write_bytes(entries(["the", blank, "ship", "sea"], vectors, b"\n"))
    assert "entry 3 does not begin with a word" in refusal(tmp_path / "v.bin")


def test_an_empty_first_word_with_short_numbers(tmp_path):
    for content in ("2 2\n 1 2\nthe 3 4\n", " 1 .2\nthe 3 4\n", "2 2\n\t1\t2\nthe\t3\t4\n"):
        (tmp_path / "v").write_text(content)
        assert vector_file.dimension(tmp_path / "v") == 2
        assert vector_file.read(tmp_path / "v", ["the"])["the"].tolist() == [3, 4]


def test_a_binary_file_that_goes_on_after_its_words_is_refused(tmp_path):
    content = entries(WORDS, VECTORS)
    for rest, valid in ((b"", True), (b"\n", True), (b"\n\n", True), (b"x", False), (b" ", False)):
        (tmp_path / "v.bin").write_bytes(content + rest)
        if valid:
            assert len(vector_file.read(tmp_path / "v.bin", WORDS[:3])) == 3
        else:
            assert "it goes on after its 4 words" in refusal(tmp_path / "v.bin")


def test_words_that_word2vec_cut_within_a_character_are_read(tmp_path):
    """Its files have line breaks; without them, such bytes cannot be told from a vector's."""
    parts = [b"the", "Zürich".encode()[:2], b"ship", "七".encode()[:1]]
    content = [part + b" " + vector.tobytes() for part, vector in zip(parts, VECTORS)]
    (tmp_path / "v.bin").write_bytes(b"4 5\n" + b"\n".join(content) + b"\n")
    vectors = vector_file.read(tmp_path / "v.bin", ["the", "ship"])
    np.testing.assert_array_equal(vectors["ship"], VECTORS[2])
    (tmp_path / "v.bin").write_bytes(b"4 5\n" + b"".join(content))
    assert "entry 2 does not begin with a word" in refusal(tmp_path / "v.bin")


def refusal(file):
    with pytest.raises(InputError) as caught:
        vector_file.read(file, ["the", "of"])
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path):
    message = refusal(tmp_path / "nowhere.bin")
    assert "no such file" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "does not begin like"),
        ("index,year,title\n1,1999,T\n", "does not begin like"),
        ("the quick brown\n", "not all of these are numbers"),
        ("the 0.1 0.2\nof 0.3\n", "entry 2 is not a word and 2 numbers"),
        ("2 3\nthe 0.1 0.2\nof 0.3 0.4\n", "entry 1 is not a word and 3 numbers"),
        ("3 2\nthe 0.1 0.2\nof 0.3 0.4\n", "truncated: 2 of 3 words"),
        ("2 2\nthe 0.1 nan\nof 0.3 0.4\n", "'the' is not finite"),
        ("2 2\nthe 0.1 x\nof 0.3 0.4\n", "not all of these are numbers"),
        ("999999999999 300\nthe 0.1 0.2\n", "truncated: 0 of 999999999999 words"),
        ("2 0\nthe\nof\n", "does not begin like"),
        ("0 2\n", "does not begin like"),
    ],
)
def test_malformed_text(tmp_path, content, reason):
    (tmp_path / "v.txt").write_text(content)
    assert reason in refusal(tmp_path / "v.txt")


def test_binary_without_words(tmp_path):
    (tmp_path / "v.bin").write_bytes(b"1000000 300\n" + b"\xff" * 100_000)
    assert "has no word" in refusal(tmp_path / "v.bin")


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("binary", [True, False])
def test_truncated_file(tmp_path, binary, gzipped):
    file = write(tmp_path / "v", [f"w{n}" for n in range(100)], dim=50, binary=binary)
    content = file.read_bytes()
    content = gzip.compress(content) if gzipped else content
    file.write_bytes(content[: len(content) * 2 // 3])
    refusal(file)


def test_damaged_archive(tmp_path):
    content = bytearray(gzip.compress(write(tmp_path / "v", [f"w{n}" for n in range(99)])
                                      .read_bytes()))  # fmt: skip
    content[60:68] = b"\xff" * 8
    (tmp_path / "v.gz").write_bytes(content)
    refusal(tmp_path / "v.gz")


def test_pickles_are_refused_with_advice(tmp_path):
    keyed().save(str(tmp_path / "v.kv"))
    assert "save_word2vec_format" in refusal(tmp_path / "v.kv")
    (tmp_path / "p.bin").write_bytes(pickle.dumps({"the": 1}))
    refusal(tmp_path / "p.bin")


@pytest.mark.parametrize("binary", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_memory_is_proportional_to_the_wanted_words(tmp_path, binary):
    """The file has 30 MB; the wanted vectors take 20 kB."""
    words = [f"word{n}" for n in range(25_000)]
    file = write(tmp_path / "v", words, dim=300, binary=binary)
    if binary:
        assert file.stat().st_size > 30_000_000
    tracemalloc.start()
    try:
        vectors = vector_file.read(file, [f"word{n}" for n in range(0, 25_000, 1500)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(vectors) == 17
    assert peak < 5_000_000


def test_the_real_vectors(request):
    file = request.config.rootpath.parent / "shared/weights/word2vec_googlenews_26k.bin.gz"
    if not file.is_file():
        pytest.skip(f"no word vectors: {file} does not exist")
    assert vector_file.dimension(file) == 300
    words = ["ghost", "vampire", "wedding", "serial_killer", "sarah", "to"]
    vectors = vector_file.read(file, words)
    assert set(vectors) == set(words) - {"to"}  # Google's vectors do not have it
    theirs = gensim.models.KeyedVectors.load_word2vec_format(str(file), binary=True)
    for word in words[:-1]:
        key = "Sarah" if word == "sarah" else word
        np.testing.assert_array_equal(vectors[word], theirs[key])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"9" * 5000 + b" 3\nthe 1 2 3\n", "not a valid file"),
        (b"3 " + b"9" * 4000 + b"\nthe 1 2 3\n", "does not begin like"),
        (b"2 10001\n" + b"the " + bytes(40_004), "does not begin like"),
        (b"2 2\nthe 1e999 0\nof 0 0\n", "'the' is not finite"),
        (b"2 2\nthe 1e39 0\nof 0 0\n", "'the' is not finite"),
        (b"1 2\nthe " + np.float32([np.nan, 1]).tobytes(), "'the' is not finite"),
        (b"the" + b" 1" * 2_000_000, "does not begin like"),
        (gzip.compress(bytes(100 << 20)), "not a valid file"),
        (gzip.compress(b"2 300\n" + b"x" * (100 << 20)), "has no word"),
        (b"\xfe\xff\0t\0h\0e", "not a valid file"),
    ],
    ids=range(10),
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_hostile_file(tmp_path, content, reason):
    (tmp_path / "v").write_bytes(content)
    tracemalloc.start()
    try:
        assert reason in refusal(tmp_path / "v")
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_the_first_of_two_entries_for_a_word_is_used(tmp_path):
    (tmp_path / "v").write_text("3 1\nthe 1\nthe 2\nof 3\n")
    assert vector_file.read(tmp_path / "v", ["the"])["the"].tolist() == [1]
