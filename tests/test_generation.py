import pytest
from conftest import assert_unchanged, snapshot, taught

import cns
from cns import GenerateSettings, generate
from cns.text import LONGEST


def bytes_of(images):
    return [i.tobytes() for i in images]


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(tiny_base):
    a, b, c = (bytes_of(generate(tiny_base, "a dog", None, GenerateSettings(seed=s))) for s in (5, 5, 6))
    assert a == b != c


def test_picture_i_comes_from_seed_plus_i(tiny_base):
    many = generate(tiny_base, "a dog", None, GenerateSettings(count=6, seed=10))
    assert len(many) == 6
    one = generate(tiny_base, "a dog", None, GenerateSettings(seed=15))[0]
    difference = max(abs(a - b) for a, b in zip(many[5].tobytes(), one.tobytes()))
    assert difference <= 1  # batches may differ in the last rounding


def test_guidance_steps_and_negative_prompt_matter(tiny_base):
    plain = GenerateSettings(seed=1, guidance=3.0)
    others = [GenerateSettings(seed=1, guidance=9.0), GenerateSettings(seed=1, guidance=3.0, steps=5), GenerateSettings(seed=1, guidance=3.0, negative="a cat")]
    drawn = [bytes_of(generate(tiny_base, "a dog", None, s)) for s in (plain, *others)]
    assert all(drawn[0] != d for d in drawn[1:])


def test_a_session_draws_its_token_and_leaves_the_base_as_it_was(tiny_base, concept):
    session, before = taught(tiny_base, concept), snapshot(tiny_base)
    with_it = generate(tiny_base, "a <rex> dog", session)
    assert_unchanged(tiny_base, before)
    assert bytes_of(with_it) != bytes_of(generate(tiny_base, "a dog"))
    with pytest.raises(ValueError, match="`<tom>` was never taught. Taught: `<rex>`"):
        generate(tiny_base, "a <tom> cat", session)


def test_the_base_comes_back_when_drawing_fails(tiny_base, concept, monkeypatch):
    session, before = taught(tiny_base, concept), snapshot(tiny_base)

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(tiny_base.pipe), "__call__", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(tiny_base, "a <rex> dog", session)
    assert_unchanged(tiny_base, before)


@pytest.mark.parametrize(("field", "value"), [("count", 0), ("count", 17), ("seed", -1), ("steps", 0), ("guidance", 31)])
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=f"`{field}` is {value}: choose"):
        GenerateSettings(**{field: value})


def test_a_negative_prompt_much_too_long_is_refused():
    assert GenerateSettings(negative="a" * LONGEST).negative
    with pytest.raises(ValueError, match=f"^`negative` has {LONGEST + 1:,} characters: shorten it to {LONGEST:,} or fewer$"):
        GenerateSettings(negative="a" * (LONGEST + 1))


def test_remembering_draws_every_concept_again_from_its_seed(tiny_base, concept, other_concept):
    session = taught(tiny_base, other_concept, taught(tiny_base, concept))
    memories = cns.remember(tiny_base, session)
    assert [m.name for m in memories] == ["rex", "tom"]
    assert memories[1].then.tobytes() == memories[1].now.tobytes()
