import pytest
import torch
from conftest import assert_unchanged, snapshot

import cns
from cns.text import LONGEST, encode, tokenize


def test_a_prompt_without_taught_tokens_is_read_as_the_pipeline_reads_it(tiny_base):
    prompt = "A photo of a small dog face on a red background"
    ours, _ = encode(tiny_base, [prompt])
    theirs, _ = tiny_base.pipe.encode_prompt(prompt, tiny_base.device, 1, False)
    assert torch.equal(ours, theirs)


def test_a_taught_token_given_a_words_embedding_reads_like_that_word(tiny_base):
    cat = tiny_base.pipe.tokenizer("cat", add_special_tokens=False).input_ids[0]
    vectors = {"<rex>": tiny_base.embedding.weight[cat].detach()}
    ours, words = encode(tiny_base, ["a <rex> next to a dog", "a <rex>"], vectors)
    theirs, _ = encode(tiny_base, ["a cat next to a dog", "a cat"])
    assert torch.equal(ours, theirs)
    assert words.sum(1).tolist() == [6, 2]


def test_gradients_flow_to_the_taught_vector_and_the_encoder_is_left_as_it_was(tiny_base):
    before = snapshot(tiny_base)
    vector = torch.zeros(16, requires_grad=True)
    encode(tiny_base, ["a <rex> dog"], {"<rex>": vector})[0].square().sum().backward()
    assert vector.grad.abs().sum() > 0
    assert not tiny_base.embedding._forward_hooks
    assert_unchanged(tiny_base, before)


def test_a_token_never_taught_is_refused_and_the_taught_ones_are_named(tiny_base):
    with pytest.raises(ValueError, match=r"`<max>` was never taught. Taught: `<rex>`, `<tom>`"):
        tokenize(tiny_base.pipe.tokenizer, "a <max> dog", ("<rex>", "<tom>"))
    with pytest.raises(ValueError, match="nothing yet"):
        cns.check_prompt(tiny_base, None, "a <max> dog")


def test_the_words_that_do_not_fit_are_named(tiny_base):
    prompt = "a " * 13 + "dog cat house"
    assert cns.check_prompt(tiny_base, None, prompt) == ["cat", "house"]
    assert cns.check_prompt(tiny_base, None, "a dog") == []


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(tiny_base, prompt):
    with pytest.raises(ValueError, match="the prompt is empty"):
        cns.check_prompt(tiny_base, None, prompt)


def test_a_prompt_much_too_long_is_refused_with_its_length_the_limit_and_what_to_do(tiny_base):
    fits = "a dog " + " " * (LONGEST - 6)
    assert cns.check_prompt(tiny_base, None, fits) == []
    with pytest.raises(ValueError, match=r"^the prompt has 4,001 characters: shorten it to 4,000 or fewer$"):
        cns.check_prompt(tiny_base, None, fits + " ")
