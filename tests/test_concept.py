import pytest
from conftest import picture

import cns

IMAGES = [picture()]


@pytest.mark.parametrize(("name", "message"), [
    ("", "the name is empty"), ("   ", "the name is empty"), (None, "the name is empty"), ("r" * 25, "has 25 characters"),
    ("my dog", "has characters"), ("<rex>", "has characters"), ("rex!", "has characters"), ("9rex", "has characters"), ("кот", "has characters"),
])  # fmt: skip
def test_bad_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        cns.Concept(name, "dog", IMAGES)


def test_names_and_class_words_are_lowered_and_trimmed():
    concept = cns.Concept(" Rex-2 ", " Dog   Face ", IMAGES)
    assert (concept.token, concept.words) == ("<rex-2>", "<rex-2> dog face")


@pytest.mark.parametrize("word", ["", "  ", None])
def test_an_empty_class_word_is_refused(word):
    with pytest.raises(ValueError, match="class word of `rex` is empty"):
        cns.Concept("rex", word, IMAGES)


def test_a_class_word_much_too_long_is_refused_before_any_encoder_reads_it():
    assert cns.Concept("rex", "dog " + "a" * 60, IMAGES)
    with pytest.raises(ValueError, match="^the class word of `rex` has 65 characters: shorten it to 64 or fewer$"):
        cns.Concept("rex", "dog " + "a" * 61, IMAGES)


@pytest.mark.parametrize("count", [0, 11])
def test_one_to_ten_images(count):
    with pytest.raises(ValueError, match=f"has {count} images: give 1 to 10"):
        cns.Concept("rex", "dog", IMAGES * count)


def test_a_class_word_that_falls_to_pieces_is_refused_with_the_pieces(tiny_base):
    with pytest.raises(ValueError, match=r"class word `zebra` is not one word to this base, it reads `.*` \+ .*use a plain word such as `dog`"):
        cns.check(tiny_base, None, cns.Concept("zed", "zebra", IMAGES))
    cns.check(tiny_base, None, cns.Concept("rex", "dog face", IMAGES))


def test_a_class_word_too_long_for_the_captions_is_refused(tiny_base):
    with pytest.raises(ValueError, match="too long for the base's captions"):
        cns.check(tiny_base, None, cns.Concept("rex", "small red dog face on the large house", IMAGES))
