import copy
import importlib
import json
import os
import re

import pytest
import torch
from conftest import assert_unchanged, picture, snapshot, taught, tiny_pipeline
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import cns
from cns.base import Base, Card
from cns.export import KINDS, export, exporting, load_export, lora, patch, pipeline
from cns.parts import whole

PROMPTS = ("a <rex> dog on a red background", "a small <tom> cat face next to a <rex> dog", "a photo of a house")


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


def drawn(pipe, prompt, size=32):
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt, height=size, width=size, num_inference_steps=3, guidance_scale=2.0, generator=[torch.Generator().manual_seed(5)]).images[0]


def untaught(base):
    """A pipeline of its own with the base's weights."""
    return StableDiffusionPipeline(**copy.deepcopy(base.pipe.components), requires_safety_checker=False)


def apply_by_the_loaders_rules(pipe, folder):
    """As A1111 and ComfyUI do it: keys by the module's path, `diff` or scaled up x down added to W, an embedding file's only tensor
    [n, din] appended to the tokens; the token's name is read from the file's key, as diffusers reads it."""
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        if not any(k.startswith("lora_unet_") for k in tensors):
            pipe.load_textual_inversion(str(file))
            continue
        modules = {"lora_unet_" + n.replace(".", "_"): m for n, m in pipe.unet.named_modules() if getattr(m, "weight", None) is not None}
        used = set()
        for key, module in modules.items():
            if f"{key}.diff" in tensors:
                assert tensors[f"{key}.diff"].shape == module.weight.shape
                module.weight.data += tensors[f"{key}.diff"].to(module.weight.dtype)
                used.add(f"{key}.diff")
            if f"{key}.lora_up.weight" in tensors:
                up, down, alpha = (tensors[f"{key}.{part}"].float() for part in ("lora_up.weight", "lora_down.weight", "alpha"))
                module.weight.data += (alpha / down.shape[0]) * (up @ down)
                used |= {f"{key}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")}
        assert used == set(tensors)
    return pipe


def test_the_exported_pipeline_draws_what_the_session_draws(session, tiny_base, tmp_path):
    before = snapshot(tiny_base)
    about = export(tiny_base, session, "pipeline", tmp_path / "out")
    assert_unchanged(tiny_base, before)
    assert about["tokens"] == ["<rex>", "<tom>"] and "model_index.json" in about["files"]
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    for prompt in PROMPTS:
        ours = cns.generate(tiny_base, prompt, session, cns.GenerateSettings(seed=5))[0]
        assert drawn(pipe, prompt).tobytes() == ours.tobytes()
    assert "<rex>" not in tiny_base.pipe.tokenizer.get_vocab()


def test_the_exported_pipeline_is_a_base_that_can_be_taught(session, tiny_base, tmp_path, concept):
    export(tiny_base, session, "pipeline", tmp_path / "out")
    base = cns.load_base(tmp_path / "out")
    assert taught(base, cns.Concept("max", "dog", concept.images), steps=1).tokens == ("<max>",)


def test_the_patch_and_embeddings_make_the_base_the_session_but_for_rounding(session, tiny_base, tmp_path):
    export(tiny_base, session, "patch", tmp_path / "out")
    pipe = apply_by_the_loaders_rules(untaught(tiny_base), tmp_path / "out")
    with session.on(tiny_base):
        wanted = {n: w.detach().clone() for n, w in tiny_base.weights.items()}
    got = dict(pipe.unet.named_parameters())
    for n, w in wanted.items():
        step = w - tiny_base.weights[n].detach()
        assert (got[n] - w).abs().max() <= 2**-11 * step.abs().max() + 1e-7
    for c in session.concepts:
        row = pipe.tokenizer.convert_tokens_to_ids(c.token)
        assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[row], c.vector)
    ours = cns.generate(tiny_base, PROMPTS[1], session, cns.GenerateSettings(seed=5))[0]
    assert max(abs(a - b) for a, b in zip(drawn(pipe, PROMPTS[1]).tobytes(), ours.tobytes())) <= 2


def test_the_patch_has_the_keys_that_the_loaders_know(session, tiny_base):
    for key, tensor in whole(patch(tiny_base, session)).items():
        assert re.fullmatch(r"lora_unet_(down|mid|up)_block\w*_attentions_\d_transformer_blocks_0_attn2_to_[kv]\.diff", key)
        assert tensor.dtype == torch.float16 and tensor.ndim == 2


def test_a_lora_of_full_rank_is_exact_and_a_lower_one_states_its_error(session, tiny_base, tmp_path):
    assert whole(lora(tiny_base, session, 16))[1] < 2e-3
    about = export(tiny_base, session, "lora", tmp_path / "out", rank=2)
    pipe, plain = apply_by_the_loaders_rules(untaught(tiny_base), tmp_path / "out"), untaught(tiny_base)
    got, start = dict(pipe.unet.named_parameters()), dict(plain.unet.named_parameters())
    missed = total = 0.0
    with session.on(tiny_base):
        for n, w in tiny_base.weights.items():
            missed += (w - got[n]).square().sum().item()
            total += (w - start[n]).square().sum().item()
    assert (missed / total) ** 0.5 == pytest.approx(about["relative_error"], rel=1e-3) and 0.05 < about["relative_error"] < 1
    assert all(t.shape[0] == 2 for k, t in load_file(tmp_path / "out/cns.lora.safetensors").items() if k.endswith("lora_down.weight"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_exported_comes_back_bit_for_bit(session, tiny_base, tmp_path, kind):
    about = export(tiny_base, session, kind, tmp_path / "out")
    assert json.loads((tmp_path / "out/cns-export.json").read_text()) == about
    back = load_export(tmp_path / "out", tiny_base)
    assert back.tokens == session.tokens
    assert all(torch.equal(v, back.delta.values[n]) for n, v in session.delta.values.items())
    assert all(torch.equal(v, back.increments("rex")[n]) for n, v in session.increments("rex").items())


def test_a_pipeline_that_is_saved_in_parts_is_the_one_that_diffusers_saves(session, tiny_base, tmp_path):
    about = export(tiny_base, session, "pipeline", tmp_path / "out")
    pipeline(tiny_base, session).save_pretrained(tmp_path / "wanted")
    wanted = {str(f.relative_to(tmp_path / "wanted")): f for f in (tmp_path / "wanted").rglob("*") if f.is_file()}
    assert {f for f in about["files"] if not f.startswith("cns-session/")} == {*wanted} and len(wanted) > 6
    assert [n for n, f in wanted.items() if f.read_bytes() != (tmp_path / "out" / n).read_bytes()] == []


@pytest.mark.parametrize("kind", ["pipeline", "patch", "lora"])
def test_an_export_can_be_stopped_between_any_two_parts_and_leaves_nothing(session, tiny_base, tmp_path, monkeypatch, kind):
    """A part is a component that is saved, or a matrix."""
    done, shares, before = [], [], snapshot(tiny_base)
    saved = [(type(c), "save_pretrained") for c in tiny_base.pipe.components.values() if hasattr(c, "save_pretrained")]
    for where, name in {"pipeline": saved, "patch": [(importlib.import_module("cns.export"), "_dense")], "lora": [(torch.linalg, "svd")]}[kind]:
        call = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *args, call=call, **options: done.append(1) or call(*args, **options))
    for share in exporting(tiny_base, session, kind, tmp_path / "whole", 2):
        assert len(done) == len(shares) + 1 and not tiny_base.lock._depth
        shares.append(share)
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] == 1.0 and len(shares) > 4
    for at in range(1, len(shares)):
        done.clear()
        parts = exporting(tiny_base, session, kind, tmp_path / "out", 2)
        for _ in range(at):
            next(parts)
        parts.close()
        assert len(done) == at and [p.name for p in tmp_path.iterdir()] == ["whole"]
    assert_unchanged(tiny_base, before)


def test_a_target_that_exists_is_left_alone(session, tiny_base, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out` is there already: choose a new folder"):
        export(tiny_base, session, "patch", tmp_path / "out")
    with pytest.raises(OSError, match="cannot be made"):
        export(tiny_base, session, "patch", tmp_path / "out" / "deeper")
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_may_not_be_written_is_said(session, tiny_base, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(PermissionError, match="out` cannot be written: choose a folder that you may write to"):
        export(tiny_base, session, "patch", tmp_path / "out")


def test_a_full_disk_leaves_nothing_behind(session, tiny_base, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        export(tiny_base, session, "patch", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said(session, tiny_base, tmp_path):
    out = tmp_path / "out"
    for said, arguments in {
        "export `onnx` is unknown": (session, "onnx", out),
        "nothing to export": (cns.Session.new(tiny_base), "patch", out),
        "`rank` is 0: choose 1 to 16": (session, "lora", out, 0),
        "`rank` is 17": (session, "lora", out, 17),
    }.items():
        with pytest.raises(ValueError, match=said):
            export(tiny_base, *arguments)
    with pytest.raises(ValueError, match="not on `other`"):
        export(Base(tiny_pipeline(), Card("other", 32)), session, "patch", out)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_export(tmp_path / "nothing", tiny_base)
    with pytest.raises(FileNotFoundError, match="there is no session"):
        load_export(tmp_path, tiny_base)
    assert not out.exists()
