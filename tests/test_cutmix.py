import pytest
import torch
from conftest import QUICK, assert_unchanged, snapshot, taught

import cns
from cns.cutmix import beside_others, half, mixed
from cns.images import to_pixels


def test_half_a_canvas_holds_the_picture_at_half_its_size_in_the_middle():
    x = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    y = half(x)
    assert y.shape == (2, 3, 8, 4)
    assert y[1, 2, 2, 0] == x[1, 2, :2, :2].mean() and y[1, 2, 5, 3] == x[1, 2, 6:, 6:].mean()
    assert torch.equal(y[:, :, 0], y[:, :, 2]) and torch.equal(y[:, :, 7], y[:, :, 5])


def test_the_concept_is_left_and_right_of_other_things_and_named_so(tiny_base, concept, monkeypatch):
    before = snapshot(tiny_base)
    latents, captions = beside_others(tiny_base, concept, seed=3, others=2)
    assert latents.shape == (4, *tiny_base.latent_shape)
    words = {c[0] for c in captions}
    assert words == {f"a <rex> dog next to a {w}" for w in ("cat", "house")} | {f"a {w} next to a <rex> dog" for w in ("cat", "house")}
    again, _ = beside_others(tiny_base, concept, seed=3, others=2)
    assert torch.equal(latents, again)
    assert_unchanged(tiny_base, before)
    monkeypatch.setattr(tiny_base, "latents", lambda pixels: pixels)
    canvas, own = beside_others(tiny_base, concept, seed=3, others=2)[0], half(to_pixels(concept.images, tiny_base.size))
    for i, (c,) in enumerate(captions):
        at = slice(0, 16) if c.startswith("a <rex>") else slice(16, 32)
        assert torch.equal(canvas[i, :, :, at], own[i % 3])


@pytest.mark.parametrize(("share", "times"), [(0.5, 2), (0.8, 1), (0.25, 5)])
def test_own_pictures_are_repeated_until_the_share_is_right(share, times):
    latents, captions = mixed(torch.zeros(4, 1), [["own"]] * 4, torch.ones(7, 1), [["both"]] * 7, share)
    assert len(latents) == len(captions) == 4 * times + 7
    assert [c == ["both"] for c in captions] == latents.squeeze(1).bool().tolist()


def test_a_paused_teaching_goes_on_with_the_same_pictures(tiny_base, concept):
    settings = cns.TeachSettings(**{**QUICK, "cutmix": 0.4})
    whole = taught(tiny_base, concept, cutmix=0.4)
    pause = [*cns.teach(tiny_base, None, concept, settings, until=3)][-1].progress
    *_, last = cns.teach(tiny_base, None, concept, settings, progress=pause)
    assert len(pause.beside[0]) == 4
    assert all(torch.equal(last.session.delta.values[n], v) for n, v in whole.delta.values.items())
    assert any(not torch.equal(taught(tiny_base, concept).delta.values[n], v) for n, v in whole.delta.values.items())
