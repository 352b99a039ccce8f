"""The one real end-to-end model: the embedded starter, its ready concepts and its CLIP."""

import json

import pytest
import torch

import cns
from cns.bench import ROOT, ready_concepts
from cns.selection import select_base


@pytest.fixture(scope="module")
def concepts():
    return {c.name: c for c in ready_concepts(99)}


def draws(base, prompt, session=None, count=4):
    return cns.generate(base, prompt, session, cns.GenerateSettings(count=count, seed=100))


def test_the_starter_is_a_plain_diffusers_folder():
    index = json.loads((cns.STARTER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert {index[k][1] for k in ("tokenizer", "text_encoder", "unet")} == {"CLIPTokenizer", "CLIPTextModel", "UNet2DConditionModel"}


def test_the_ready_concepts_are_complete(concepts, starter):
    assert len(concepts) >= 6 and all(4 <= len(c.images) <= 5 for c in concepts.values())
    words = [c.class_word for c in concepts.values()]
    assert len(set(words)) < len(words), "two of one class"
    assert "style" in words
    for c in concepts.values():
        cns.check(starter, None, c)
        assert "CC BY" in json.loads((ROOT / "assets/concepts" / c.name / "concept.json").read_text())["origin"]


def test_the_clip_suggests_the_class_word(concepts, starter):
    hits = [c.class_word in dict(starter.scorer.suggest(c.images, starter.class_words)) for c in concepts.values() if c.class_word != "style"]
    assert sum(hits) >= len(hits) / 2


def test_the_background_is_the_one_asked_for(starter):
    wanted = {"red": (214, 64, 69), "blue": (74, 124, 214), "green": (104, 179, 106), "black": (34, 34, 38)}
    for colour, rgb in wanted.items():
        image = draws(starter, f"a dog face on a {colour} background", count=1)[0]
        corner = torch.tensor([image.getpixel((x, y)) for x in (1, 62) for y in (1, 62)]).float().mean(0)
        nearest = min(wanted, key=lambda c: (corner - torch.tensor(wanted[c])).square().sum())
        assert nearest == colour


def test_teaching_raises_clip_i_above_the_base_and_above_a_random_mask(concepts, starter, monkeypatch):
    def score(session, concept, prompt):
        references = starter.scorer.image_features([cns.square(i, starter.size) for i in concept.images])
        return starter.scorer.clip_i(draws(starter, prompt, session), references)

    def teach(concept):
        return [*cns.teach(starter, None, concept, cns.TeachSettings.of(starter, preview_every=0))][-1].session

    def random_masks(*args, **kwargs):
        g = torch.Generator().manual_seed(7)
        return {n: torch.rand(m.shape, generator=g) < m.float().mean() for n, m in chosen(*args, **kwargs).items()}

    def chosen(*args, **kwargs):
        return {n: m & ~general[n] for n, m in select_base(*args, **kwargs).items()}

    concept = concepts["tom"]
    session = teach(concept)
    from cns.session import unpack

    general = {n: unpack(b, starter.weights[n].numel()).view(starter.weights[n].shape) for n, b in session.general.items()}
    base = score(None, concept, f"a {concept.class_word}")
    ours = score(session, concept, f"a {concept.words}")
    monkeypatch.setattr("cns.teaching.select_base", random_masks)
    monkeypatch.setattr("cns.teaching.select_general", lambda b, *_: {n: torch.zeros(w.shape, dtype=torch.bool) for n, w in b.weights.items()})
    random_session = teach(concept)
    assert random_session.concepts[0].stats["neurons"] == pytest.approx(session.concepts[0].stats["neurons"], rel=0.05)
    random = score(random_session, concept, f"a {concept.words}")
    print(f"CLIP-I base {base:.3f}, random mask {random:.3f}, concept neurons {ours:.3f}")
    assert ours > base + 0.05
    assert ours > random
