"""The one real end-to-end model: the embedded starter, its ready concepts and its CLIP."""

import json

import pytest
import torch

import cns
from cns.bench import ROOT, ready_concepts
from cns.bench.continual import stream
from cns.bench.scoring import SINGLE, Eyes, draw
from cns.scores import Scorer


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


def test_the_clips_know_the_class_word_and_the_thing_before_its_background(starter):
    """The drawings are of a set that they never saw. Chance: the right word among the first three of 64 for 1 in 21, the right thing for 1 in 18."""
    shown = [c for c in stream(20, 0) if c.class_word in starter.class_words]
    for scorer in (starter.scorer, Scorer.load(cns.STARTER / "judge", tokenizer=cns.STARTER / "tokenizer")):
        right = [c.class_word in [w for w, _ in scorer.suggest(c.images, starter.class_words)] for c in shown]
        x = torch.cat([scorer.image_features(c.images) for c in shown])
        owner = torch.arange(len(shown)).repeat_interleave(5)
        nearest = (x @ x.T).fill_diagonal_(-1).argmax(1)
        same = (owner[nearest] == owner).float().mean().item()
        print(f"class word among the first three: {sum(right)} of {len(right)}; nearest other picture is of the same thing: {same:.0%}")
        assert sum(right) / len(right) > 0.4 and same > 0.6


def test_the_background_is_the_one_asked_for(starter):
    wanted = {"red": (214, 64, 69), "blue": (74, 124, 214), "green": (104, 179, 106), "black": (34, 34, 38)}
    for colour in wanted:
        image = draws(starter, f"a dog face on a {colour} background", count=1)[0]
        corner = torch.tensor([image.getpixel((x, y)) for x in (1, 62) for y in (1, 62)]).float().mean(0)
        nearest = min(wanted, key=lambda c: (corner - torch.tensor(wanted[c])).square().sum())
        assert nearest == colour


def clip_i(base, eyes, concept, words, session=None):
    """CLIP-I of two pictures from each of the benchmark's prompts, by the CLIP that guided development and by the other."""
    with (session or cns.Session.new(base)).on(base):
        prompts = [p.format(words) for p in SINGLE for _ in (0, 1)]
        drawn = draw(base, prompts, session.vectors if session else {}, [0, 1] * len(SINGLE), 10)
    return [eyes.image(eye, drawn, concept.name) for eye in ("clip", "judge")]


def teach(base, concept):
    return [*cns.teach(base, None, concept, cns.TeachSettings.of(base, steps=90, preview_every=0))][-1].session


def test_teaching_raises_clip_i_above_the_base_and_above_a_random_mask(concepts, starter, monkeypatch):
    monkeypatch.setattr(starter, "steps", 2)  # of the pictures that a teaching shows; those that are scored have ten
    concept = concepts["tom"]
    session = teach(starter, concept)
    size = sum(len(i) for i in session.concepts[0].mask.values())

    def random_masks(gradients, *_):
        """So many entries anywhere in the keys and values."""
        order = torch.randperm(sum(g.numel() for g in gradients.values()), generator=torch.Generator().manual_seed(7))
        return {n: m.view(gradients[n].shape) for n, m in zip(gradients, (order < size).split([g.numel() for g in gradients.values()]))}

    def no_masks(base, *_):
        yield
        return {n: torch.zeros(w.shape, dtype=torch.bool) for n, w in base.weights.items()}

    monkeypatch.setattr("cns.choosing.select_sensitive", random_masks)
    monkeypatch.setattr("cns.choosing.select_general", no_masks)
    other = teach(starter, concept)
    assert sum(len(i) for i in other.concepts[0].mask.values()) == size
    eyes = Eyes(starter, [concept])
    base, ours = clip_i(starter, eyes, concept, concept.class_word), clip_i(starter, eyes, concept, concept.words, session)
    random = clip_i(starter, eyes, concept, concept.words, other)
    print(f"CLIP-I by both CLIPs: base {base}, random mask {random}, concept neurons {ours}")
    assert all(o > b + 0.1 for o, b in zip(ours, base))
    assert sum(ours) > sum(random)
