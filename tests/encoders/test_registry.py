"""Tests of finding the module of an encoder by its kind."""

import types

import ml_collections
import numpy as np
import pytest

from mmgc_jax import config_flag
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.runtime.errors import InputError
from tests import tiny

FOREIGN = """
MODALITY = "poster"

def title(settings):
    return f"Mine, {settings.size}"
"""


def test_kinds_are_the_modules_named_after_a_modality():
    kinds = registry.kinds()
    assert {"plot_lstm", "plot_bag_of_words", "plot_transformer", "poster_vgg16"} <= set(kinds)
    assert not {"base", "fusion", "joint", "registry", "frozen", "word_vectors"} & set(kinds)


@pytest.mark.parametrize("kind", registry.kinds())
def test_every_kind_defines_the_contract(kind):
    module = registry.find(kind)
    assert kind.startswith(f"{module.MODALITY}_")
    for name in ("default_settings", "title", "inputs", "problems", "prepare", "load"):
        assert callable(getattr(module, name))
    settings = module.default_settings()
    assert settings.kind == kind
    assert isinstance(module.title(settings), str)


def test_an_unknown_kind_gets_the_nearest_name():
    with pytest.raises(InputError, match=r"'plot_ltsm' is not a kind.*Did you mean 'plot_lstm'\?"):
        registry.find("plot_ltsm")
    with pytest.raises(InputError, match="possible: plot_bag_of_words, plot_lstm") as caught:
        registry.find("xyz")
    assert "Did you mean" not in str(caught.value) and "  " not in str(caught.value)


@pytest.mark.parametrize("kind", ["base", "os", "mmgc_jax.encoders.base", "", None, 3, "."])
def test_modules_that_are_not_kinds_are_refused(kind):
    """Also if they have been imported."""
    with pytest.raises(InputError, match="is not a kind of encoder"):
        registry.find(kind)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """The name of an importable module of an encoder that is not part of this package."""
    (tmp_path / "my_encoders").mkdir()
    (tmp_path / "my_encoders" / "mine.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_encoders.mine"
    for name in ("my_encoders.mine", "my_encoders"):
        monkeypatch.delitem(registry.sys.modules, name, raising=False)


def test_a_foreign_module_must_be_imported_first(foreign):
    """A config.json of a working directory must not decide what code is run."""
    with pytest.raises(InputError, match=rf"'{foreign}' is not a kind.*--encoder_modules=MODULE"):
        registry.find(foreign)
    assert foreign not in registry.sys.modules
    registry.import_modules([foreign])
    assert registry.find(foreign).MODALITY == "poster"
    config = ml_collections.ConfigDict(
        {"mine": {"kind": foreign, "size": 7}, "encoders": ("mine",)}
    )
    assert registry.modality(config, "mine") == "poster"
    assert registry.titles(config) == {"mine": "Mine, 7"}
    config.words = {"kind": "plot_lstm"}
    config.encoders = ("words", "mine")
    assert registry.foreign_modules(config) == [foreign]


def test_a_module_that_cannot_be_imported():
    with pytest.raises(
        InputError, match="--encoder_modules: no_such_module cannot be imported: No"
    ):
        registry.import_modules(["no_such_module"])


def test_modalities_of_encoders_and_which_movies_have_them():
    config = tiny.get_config()
    assert registry.modality(config, "plot") == "plot"
    assert registry.modality(config, "poster_grey") == "poster"
    corpus = types.SimpleNamespace(has_plot=np.array([1, 0]), has_poster=np.array([0, 1]))
    assert registry.present(corpus, config, "plot") is corpus.has_plot
    assert registry.present(corpus, config, "poster_grey") is corpus.has_poster


def test_equal_titles_get_names():
    config = tiny.get_config()
    assert registry.titles(config) == {
        "plot": "Plot (LSTM)",
        "poster": "Poster (small VGG, colour)",
        "poster_grey": "Poster (small VGG, grey)",
    }
    config.poster_grey.grey = False
    assert registry.titles(config) == {
        "plot": "Plot (LSTM)",
        "poster": "Poster (small VGG, colour), poster",
        "poster_grey": "Poster (small VGG, colour), poster_grey",
    }
    config.encoders = ("poster_grey", "plot")
    assert list(registry.titles(config).items()) == [
        ("poster_grey", "Poster (small VGG, colour)"), ("plot", "Plot (LSTM)"),
    ]  # fmt: skip


def fields(section, prefix=""):
    """Yields the dotted names of all fields and sections, but not of learning-rate factors."""
    for name, value in section.items():
        yield prefix + name
        if isinstance(value, ml_collections.ConfigDict) and name != "learning_rate_scale":
            yield from fields(value, f"{prefix}{name}.")


@pytest.mark.parametrize("module", [*map(registry.find, registry.kinds()), fusion])
def test_every_field_has_a_comment_of_its_own(module):
    """`--help_config` shows the comment directly above the assignment of a field."""
    comments = config_flag.comments_of(module.default_settings)
    for field in fields(module.default_settings()):
        # A whole sentence, which can be read without the comments on other fields.
        comment = comments.get(field, "")
        assert comment[:1].isupper() and comment.endswith("."), f"{field}: {comment!r}"
        assert comment.split()[0] not in ("Of", "What", "See"), f"{field}: {comment!r}"
