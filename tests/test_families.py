"""Every family end to end on tiny checkpoints of its architecture: loaded from a folder, taught, drawn, kept, exported, left as it was."""

import inspect
import json

import diffusers
import pytest
import torch
from conftest import (
    CALIBRATION,
    TEMPLATES,
    assert_unchanged,
    picture,
    snapshot,
    taught,
    tiny_flux,
    tiny_pipeline,
    tiny_pixart,
    tiny_sana,
    tiny_sd3,
    tiny_xl,
)
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

import cns
from cns.attention import jointly, watched
from cns.base import CARD, Base, Card
from cns.noise import Flow
from cns.reading import listened
from cns.text import read

TINY = {
    "sd1": lambda: tiny_pipeline("epsilon"),
    "sd2": lambda: tiny_pipeline("v_prediction", use_linear_projection=True),
    "sdxl": tiny_xl,
    "pixart-sigma": tiny_pixart,
    "pixart-alpha": lambda: tiny_pixart(diffusers.PixArtAlphaPipeline),
    "sana": tiny_sana,
    "sd3": tiny_sd3,
    "sd3.5": lambda: tiny_sd3(qk_norm="rms_norm", dual_attention_layers=(0,)),
    "flux-dev": tiny_flux,
    "flux-schnell": lambda: tiny_flux(guided=False),
    "sana-1.5": lambda: tiny_sana(qk_norm="rms_norm_across_heads"),
}


@pytest.fixture(scope="module", params=TINY)
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / request.param
    TINY[request.param]().save_pretrained(folder)
    words = {"templates": TEMPLATES, "scenes": ["a {} next to a tree"], "calibration": CALIBRATION, "class_words": ["dog", "cat"]}
    card = {"size": 32, "steps": 2, "guidance": 2.0, **words}
    (folder / CARD).write_text(json.dumps(card))
    return cns.load_base(folder, "cpu")


@pytest.fixture(scope="module")
def session(base):
    """What it knows once it is taught, for tests that only look."""
    return learned(base, cns.Concept("rex", "dog", [picture("red"), picture("orange"), picture("brown")]))


def learned(base, concept, session=None, **changes):
    return taught(base, concept, session, **{"room": 5, "steps": 4, **changes})


def plain(pipe, prompt, seed):
    """What a program without CNS draws."""
    binning = {"use_resolution_binning": False} if type(pipe).__name__.startswith(("PixArt", "Sana")) else {}
    how = {"num_inference_steps": 2, "guidance_scale": 2.0, "height": 32, "width": 32, **binning}
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **how).images[0]


def test_it_is_taught_and_draws_and_the_base_stays_bit_identical(base, session, other_concept, tmp_path):
    before = snapshot(base)
    session = learned(base, other_concept, session, preview_every=3)
    assert session.tokens == ("<rex>", "<tom>") and len(session.delta) > 0
    assert session.concepts[0].vector.shape == (sum(base.widths),)
    drawn = [cns.generate(base, p, s)[0].tobytes() for p, s in (("a <rex> dog", session), ("a dog", None), ("a <rex> dog", session))]
    assert drawn[0] == drawn[2] != drawn[1]
    if base.family.from_picture:
        assert cns.generate(base, "a <rex> dog", session, image=picture())[0].size == (32, 32)
    else:
        with pytest.raises(ValueError, match="which cannot start from a picture"):
            cns.generate(base, "a <rex> dog", session, image=picture())
    assert_unchanged(base, before)
    session.save(tmp_path)
    again = cns.Session.load(tmp_path, base)
    assert cns.generate(base, "a <rex> dog", again)[0].tobytes() == drawn[0]


def test_every_part_of_the_tokens_vector_is_trained(base, session, concept):
    started, vector = cns.text.class_embedding(base, concept), session.concepts[0].vector
    for a, b in zip(started.split(base.widths), vector.split(base.widths)):
        assert (a != b).any()


def test_a_prompt_is_read_as_the_pipeline_reads_it(base):
    prompt = "A photo of a small Dog face"
    how = {"prompt": prompt, "device": base.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    how |= {"complex_human_instruction": (base.family.instruction + " ").split("\n"), "prompt_2": None, "prompt_3": None}
    wanted = inspect.signature(base.pipe.encode_prompt).parameters
    theirs = base.pipe.encode_prompt(**{k: v for k, v in how.items() if k in wanted and v != [" "]})
    ours = read(base, ["", prompt], away=1)
    if base.family.negatives:
        theirs = [theirs[i] for i in (0, 2, 1, 3)] if ours.pooled is not None else theirs  # those of SDXL and SD3 are in another order
    else:
        theirs, ours = theirs[:2], ours[1:]  # the last are places
    rows = [*ours[-1:].arguments().values(), *ours[:-1].arguments().values()]
    rows = rows[: len(theirs)]
    for a, b in zip(rows, theirs, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)


def test_pictures_are_the_pipelines_own(base):
    """A prompt without tokens, drawn by CNS and by the pipeline itself."""
    ours = cns.generate(base, "a small dog", None, cns.GenerateSettings(seed=3))[0]
    theirs = plain(base.pipe, "a small dog", 3)
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes())) <= 1


def test_what_is_trained_is_what_the_bases_own_sampler_takes(base):
    """Given what training asks of the denoiser, the sampler that the base ships goes from noise back to the very picture."""
    z, noise = torch.randn(2, *base.latent_shape), torch.randn(2, *base.latent_shape)
    sampler = base.pipe.scheduler
    sampler.set_timesteps(10, **({"mu": 1.0} if sampler.config.get("use_dynamic_shifting") else {}))
    first = sampler.timesteps[:1].expand(2)
    seen = sampler.scale_noise(z, first, noise) if hasattr(sampler, "scale_noise") else sampler.add_noise(z, noise, first)
    for t in sampler.timesteps:
        seen = sampler.step(base.noise.target(z, noise, t.expand(2)), t, seen).prev_sample
    assert torch.allclose(seen, z, atol=1e-2)


def test_noise_goes_from_the_picture_to_nothing_of_it(base):
    z, noise = torch.ones(3, *base.latent_shape), torch.zeros(3, *base.latent_shape)
    t = base.noise.times(torch.tensor([0.0, 0.5, 1.0]))
    left = base.noise.add(z, noise, t).mean((1, 2, 3))
    assert 0.98 < left[0] <= 1 and 0.1 < left[1] < 0.9 and left[2] < 0.1
    levels = base.noise.add(noise, z, t).mean((1, 2, 3))
    assert torch.allclose(levels + left if base.family.noise is Flow else levels**2 + left**2, torch.ones(3), atol=1e-5)


def test_what_is_held_still_is_read_much_as_before(base, concept):
    z, t, prompt = torch.randn(1, *base.latent_shape), base.noise.times(torch.tensor([0.8])), "a cat on a blue background"

    def moved(mu):
        session = learned(base, concept, response=mu, room=0, score="gradient")
        with torch.no_grad():
            before = base.predict(z, t, read(base, [prompt]))
            with session.on(base):
                return (base.predict(z, t, read(base, [prompt])) - before).square().sum()

    assert moved(1e4) < 0.1 * moved(0.0)


def test_an_exported_pipeline_draws_the_same_in_plain_diffusers(base, session, tmp_path):
    cns.export(base, session, "pipeline", tmp_path / "out")
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipe) is type(base.pipe)
    theirs, ours = plain(pipe, "a <rex> dog", 0), cns.generate(base, "a <rex> dog", session)[0]
    assert max(abs(a - b) for a, b in zip(theirs.tobytes(), ours.tobytes())) <= 1


def test_embeddings_for_other_programs_have_a_part_for_each_encoder(base, session, tmp_path):
    from safetensors.torch import load_file

    if not base.family.keys:
        with pytest.raises(ValueError, match="a `patch` of a .* is in no form that another program is known to read"):
            cns.export(base, session, "patch", tmp_path / "out")
        return
    cns.export(base, session, "patch", tmp_path / "out")
    parts = load_file(tmp_path / "out" / "rex.safetensors")
    keys = ["<rex>"] if len(base.widths) == 1 else ["clip_l", "clip_g"]
    assert torch.equal(torch.cat([parts.pop(k) for k in keys], 1)[0], session.concepts[0].vector) and not parts
    modules = {"lora_unet_" + n.replace(".", "_"): m for n, m in base.denoiser.named_modules()}  # as A1111 and ComfyUI name them
    patch = load_file(tmp_path / "out" / "cns.diff.safetensors")
    assert patch and all(t.shape == modules[k.removesuffix(".diff")].weight.shape for k, t in patch.items())


def test_regions_and_attention_maps_work_or_are_refused_by_name(base, session):
    boxes = (cns.Region((0, 0, 0.5, 1), "a <rex> dog"), cns.Region((0.5, 0, 1, 1), "a cat"))
    if not base.family.regions:
        with pytest.raises(ValueError, match=f"is a {base.family.name}, whose attention cannot be mapped"):
            cns.explain(base, "a red house", session)
        with pytest.raises(ValueError, match=f"is a {base.family.name}, whose attention cannot be bound"):
            cns.generate(base, "a red house", session, cns.GenerateSettings(regions=boxes))
        return
    drawn, heats = cns.explain(base, "a red house", session, cns.GenerateSettings(regions=boxes))
    assert [h.word for h in heats] == ["a", "red", "house", "a", "<rex>", "dog", "a", "cat"]
    assert drawn.tobytes() != cns.generate(base, "a red house", session)[0].tobytes()


def test_its_neurons_can_be_shown(base, session):
    from cns import figures, inspection

    parts = {by: inspection.spread(base, session, by) for by in inspection.WAYS}
    for plot in (inspection.funnel(session, "rex"), inspection.updates(inspection.norms(base), session), *parts.values()):
        figures.draw(plot)
    assert sum(n for _, n in parts["resolution"].table) == session.concepts[0].stats["neurons"]


def test_its_keys_and_its_values_are_probed_apart(base, session):
    from cns import probing

    rex, before = session.concepts[0], snapshot(base)
    taken = {p.title: p.neurons for p in probing.probes(base, session, "rex")}
    assert taken["values only"] > 0 and taken["keys only"] > 0 and taken["values only"] + taken["keys only"] == rex.stats["neurons"]
    left = {title: [n for n, i in rex.mask.items() if changed.delta.at(n, i).any()] for title, _, changed, _, _ in probing.interventions(base, session, rex, None, 0)}
    assert not {*left["keys only"]} & {*left["values only"]} and {*left["keys only"], *left["values only"]} == {*left["untouched"]}
    assert all(base.family.projections[0] in n for n in left["keys only"]) and left["unlearned"] == []
    assert_unchanged(base, before)


@pytest.mark.parametrize("tiny", [tiny_sd3, lambda: tiny_sd3(qk_norm="rms_norm"), tiny_flux])
def test_joint_attention_is_watched_as_the_layers_attend(tiny, monkeypatch):
    base, attend, seen = Base(tiny(), Card("joint", 32)), torch.nn.functional.scaled_dot_product_attention, []

    def watching(query, key, *more, **how):
        seen.append((query, key))
        return attend(query, key, *more, **how)

    text, places = read(base, ["a dog", "a small cat"]), 64
    with torch.no_grad(), watched(base.layers, jointly) as ours, monkeypatch.context() as m:
        m.setattr(torch.nn.functional, "scaled_dot_product_attention", watching)
        base.predict(torch.randn(2, *base.latent_shape), torch.full((2,), 500.0), text)
    whole = [(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) for q, k in seen]
    text_first = "Flux" in type(base.pipe).__name__
    theirs = [w[:, :, -places:, :-places] if text_first else w[:, :, :places, places:] for w in whole]
    assert len(ours) == 2
    for (((_, a),), b) in zip(ours.values(), theirs):
        assert a.shape == text.words.shape and torch.allclose(a, b.mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize("tiny", [tiny_sd3, tiny_flux])
def test_what_joint_layers_read_is_what_they_are_given(tiny):
    base = Base(tiny(), Card("joint", 32))
    text = read(base, ["a dog", "a small cat"])
    with torch.no_grad():
        with listened({n: m.add_v_proj for n, m in base.layers.items()}) as heard:
            base.predict(torch.randn(2, *base.latent_shape), torch.full((2,), 500.0), text)
        first, second = (xs[0] for xs in heard.values())
        parts = [*base.heard(text)]
    assert torch.allclose(first, base.projected(text), atol=1e-5) and not torch.allclose(first, second)
    assert [p.shape for p in parts] == [(2, *first.shape)] * 3 and not torch.equal(parts[0][1], parts[1][1])


def test_a_flow_is_shifted_as_its_sampler_shifts_it():
    assert [Base(pipe, Card("x", 32)).noise.shift for pipe in (tiny_sana(), tiny_sd3())] == [3.0, 3.0]
    base = Base(tiny_sd3(dynamic=True), Card("sd3", 32))
    mu = calculate_shift(base.patches**2, *(base.pipe.scheduler.config[n] for n in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")))
    u = torch.tensor([0.2, 0.5, 0.9])
    theirs = base.pipe.scheduler.time_shift(mu, 1.0, torch.sigmoid(torch.special.ndtri(u)))
    assert base.patches == 8 and torch.allclose(base.noise.times(u) / 1000, theirs, atol=1e-5)


def test_flux_is_refused_a_negative_prompt_by_name_and_says_its_size_and_guidance(tmp_path):
    tiny_flux().save_pretrained(tmp_path / "flux")
    base = cns.load_base(tmp_path / "flux", "cpu")
    assert base.size == 128 * 2 and base.guidance == 3.5
    with pytest.raises(ValueError, match="`flux` is a FLUX.1, which cannot be kept away from a prompt: leave `negative` empty"):
        cns.generate(base, "a dog", None, cns.GenerateSettings(negative="a cat"))


def test_a_large_sana_is_decoded_whole_as_its_autoencoder_would_cut_even_what_it_was_trained_on():
    vae = Base(tiny_sana(), Card("sana", 1024)).pipe.vae
    assert vae.use_slicing and not vae.use_tiling


def test_a_base_that_lacks_a_text_encoder_is_refused_by_that_name():
    pipe = tiny_sd3()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    with pytest.raises(ValueError, match="`sd3` comes without its `tokenizer_3`, which CNS teaches, too: choose a copy with all of its parts"):
        Base(pipe, Card("sd3", 32))


def test_the_large_pixart_alpha_is_told_the_size():
    pipe = tiny_pixart(diffusers.PixArtAlphaPipeline, use_additional_conditions=True)
    z, t = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    small, large = (Base(pipe, Card("alpha", side)) for side in (32, 1024))
    text = read(small, ["a dog", "a cat"])
    assert not torch.equal(small.predict(z, t, text), large.predict(z, t, text))


@pytest.mark.parametrize("kind", ["KandinskyPipeline", "FluxKontextPipeline", "SanaSprintPipeline"])
def test_a_family_that_cannot_be_taught_is_refused_with_those_that_can(kind, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(ValueError, match=f"is a `{kind}`, which CNS cannot teach: choose one of Stable Diffusion 1 and 2.*XL.*PixArt-Sigma.*Sana.*Stable Diffusion 3.*FLUX"):
        cns.load_base(tmp_path)
