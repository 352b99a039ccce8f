"""What a device can take is said before a base is loaded."""

import ctypes
import sys

import psutil
import pytest
import torch
from conftest import tiny_pipeline, tiny_xl

import cns
from cns import devices
from cns.base import Base, Card


@pytest.mark.parametrize(("device", "wanted"), [("cuda", torch.bfloat16), ("cuda:1", torch.bfloat16), ("mps", torch.float32), ("cpu", torch.float32)])
def test_the_type_of_the_numbers_follows_the_device(device, wanted):
    assert devices.dtype(device) == wanted


def test_weights_are_counted_from_the_headers_alone(tmp_path):
    pipe = tiny_xl()
    pipe.save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path, variant="fp16")  # beside it, and not to be counted
    parts = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
    count = sum(p.numel() for m in parts for p in m.parameters())
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        assert devices.weight_bytes(tmp_path, pipe.config, dtype) == pytest.approx(size * count, rel=1e-3)


def test_a_base_that_does_not_fit_says_so_before_it_loads(tmp_path, monkeypatch):
    tiny_pipeline().save_pretrained(tmp_path)
    monkeypatch.setattr(devices, "free", lambda device: 100_000)
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.from_pretrained", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=r"takes 0.0 GiB as float32, and cpu has 0.0 GiB free: choose a smaller base"):
        cns.load_base(tmp_path, "cpu")


@pytest.mark.parametrize("names", devices.CGROUPS)
def test_a_containers_limit_counts(tmp_path, names):
    for name, value in zip(names, (5000, 2000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    assert [*devices._container_room(tmp_path)] == [3000]
    (tmp_path / names[0]).write_text("max\n")
    assert [*devices._container_room(tmp_path)] == []


def test_large_bases_decode_one_by_one_and_in_tiles():
    small, large = Base(tiny_pipeline(), Card("small", 32)), Base(tiny_pipeline(), Card("large", 512))
    assert not small.pipe.vae.use_slicing and large.pipe.vae.use_slicing and large.pipe.vae.use_tiling


def test_what_the_bases_safety_checker_holds_back_is_not_shown():
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config={**tower, "image_size": 32, "patch_size": 16}, projection_dim=8))
    size = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
    parts = {**tiny_pipeline().components, "safety_checker": checker, "feature_extractor": CLIPImageProcessorPil(**size)}
    base = Base(StableDiffusionPipeline(**parts), Card("checked", 32, steps=2))
    drawn = {}
    for threshold in (2.0, -2.0):  # of a cosine: nothing is held back, everything is
        checker.concept_embeds_weights.data.fill_(threshold)
        checker.special_care_embeds_weights.data.fill_(threshold)
        drawn[threshold] = cns.generate(base, "a dog")[0]
    assert len(drawn[2.0].getcolors(2000)) > 100
    assert drawn[-2.0].tobytes() == cns.images.withheld((32, 32)).tobytes() != drawn[2.0].tobytes()
    assert cns.generate(base, "a dog", image=drawn[2.0])[0].tobytes() == drawn[-2.0].tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps so much")
def test_freed_memory_goes_back_to_the_system():
    libc, process = ctypes.CDLL(None), psutil.Process()
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(4096) for _ in range(20_000)]
    for block in blocks:
        ctypes.memset(block, 1, 4096)
    for block in blocks[:-1]:  # the last one keeps all below it from going by itself
        libc.free(block)
    before = process.memory_info().rss
    devices.give_back()
    assert before - process.memory_info().rss > 60 * 2**20
    libc.free(blocks[-1])
