"""Small real models for the tests: a tiny Stable Diffusion built from config, and the starter. And the app in a browser, for a visitor."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers, the apps and the browsers share the cores: threads that wait for each other take ten times as long
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

import cns
from cns.base import CARD, Base, Card
from cns.bench import ROOT
from cns.families import SANA_ASKS
from cns.starter.nets import tokenizer


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker takes a whole file; the browser's files are one, so that one worker starts one app for all of them."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "browser" if Path(super()._split_scope(nodeid)).name.startswith("test_browser") else super()._split_scope(nodeid)

    return Files(config, log)


def pytest_collection_modifyitems(items):
    """The browser first: it takes longest, and the other worker fills up the time beside it."""
    items.sort(key=lambda item: not item.path.name.startswith("test_browser"))


WORDS = ["a", "an", "photo", "of", "dog", "cat", "face", "small", "large", "on", "red", "blue", "teal", "background", "next", "to", "the", "picture", "drawing", "house", "tree"]
TEMPLATES = ("a {}", "a photo of a {}", "a small {} on a red background", "a picture of the {}")
CALIBRATION = ("a dog", "a cat on a blue background", "a photo of a house", "a large tree next to a house", "a red house", "a small cat")


def tiny_tokenizer():
    tok = tokenizer(WORDS)
    tok.model_max_length = 16
    return tok


def tiny_text(tok, kind=CLIPTextModel, width=16, **more):
    """A text encoder of two layers."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tok), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, eos_token_id=tok.eos_token_id, bos_token_id=tok.bos_token_id, **more,
        )
    )  # fmt: skip


def tiny_unet(**more):
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        attention_head_dim=2, norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **more,
    )  # fmt: skip


def tiny_vae(**more):
    return AutoencoderKL(
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **more,
    )  # fmt: skip


def tiny_pipeline(prediction="epsilon", **unet) -> StableDiffusionPipeline:
    """A Stable Diffusion of 0.2 million random weights that draws 32 pixels."""
    torch.manual_seed(0)
    tok = tiny_tokenizer()
    return StableDiffusionPipeline(
        text_encoder=tiny_text(tok), tokenizer=tok, unet=tiny_unet(cross_attention_dim=16, **unet), vae=tiny_vae(),
        scheduler=DDIMScheduler(prediction_type=prediction, clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def tiny_xl() -> StableDiffusionXLPipeline:
    """The same size with SDXL's two text encoders, second pooled, size conditions and sampler."""
    torch.manual_seed(0)
    tok, other = tiny_tokenizer(), tiny_tokenizer()
    other.pad_token = "a"  # SDXL's second tokenizer pads otherwise than its first
    unet = tiny_unet(
        cross_attention_dim=16 + 24, addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(2, 2),
        projection_class_embeddings_input_dim=20 + 6 * 8, use_linear_projection=True,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        text_encoder=tiny_text(tok), text_encoder_2=tiny_text(tok, CLIPTextModelWithProjection, 24, projection_dim=20),
        tokenizer=tok, tokenizer_2=other, unet=unet, vae=tiny_vae(), scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip


def stirred(denoiser):
    """As made, a transformer's last layers are zero, and nothing would be drawn."""
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return denoiser


def tiny_t5(width=20):
    """T5 as the transformers read it: (tokenizer, text encoder of two layers)."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *(("▁" + w, -1.0) for w in (*WORDS, "A"))]  # it tells capitals
    text = T5EncoderModel(T5Config(vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2))
    return T5Tokenizer(vocab=pieces, extra_ids=0), text


def tiny_pixart(kind=PixArtSigmaPipeline, **more):
    """The same size with PixArt's transformer, T5 and sampler."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, cross_attention_dim=24, sample_size=16, caption_channels=20,
        norm_num_groups=1, **{"use_additional_conditions": False, **more},
    )  # fmt: skip
    tok, text = tiny_t5()
    return kind(tokenizer=tok, text_encoder=text, transformer=stirred(transformer), vae=tiny_vae(), scheduler=DPMSolverMultistepScheduler())


def tiny_gemma():
    """(tokenizer whose words carry the space before them, text encoder of two layers, 24 wide)."""
    known = dict.fromkeys(WORDS + SANA_ASKS.lower().split())  # of what it is always asked, or that would be read letter by letter
    words, letters = [*(f"▁{w}" for w in known), *known], sorted({*"".join(known), "▁"})
    merges = [(w[:i], w[i]) for w in words for i in range(1, len(w))]
    vocab = {p: i for i, p in enumerate(dict.fromkeys(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters, *(a + b for a, b in merges)]))}
    tok = GemmaTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), add_bos_token=True)
    text = Gemma2Model(
        Gemma2Config(
            vocab_size=len(vocab), hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=8, query_pre_attn_scalar=8, pad_token_id=0, eos_token_id=1, bos_token_id=2, initializer_range=0.3,
        )
    )  # fmt: skip
    return tok, text


def tiny_sana(**more) -> SanaPipeline:
    """The same size with Sana's transformer, Gemma, autoencoder and sampler of flows."""
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=24, sample_size=16, **more,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), scaling_factor=0.4,
        encoder_block_types=("ResBlock", "ResBlock"), decoder_block_types=("ResBlock", "ResBlock"),
    )  # fmt: skip
    noise = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    tok, text = tiny_gemma()
    return SanaPipeline(tokenizer=tok, text_encoder=text, vae=vae, transformer=stirred(transformer), scheduler=noise)


def tiny_sd3(dynamic=False, **more) -> StableDiffusion3Pipeline:
    """The same size with SD3's joint blocks, three text encoders and sampler of flows."""
    torch.manual_seed(0)
    tok, other = tiny_tokenizer(), tiny_tokenizer()
    other.pad_token = "a"  # as SDXL's
    third, t5 = tiny_t5(48)
    transformer = SD3Transformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12, joint_attention_dim=48,
        caption_projection_dim=24, pooled_projection_dim=12 + 20, pos_embed_max_size=16, **more,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=stirred(transformer), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic),
        vae=tiny_vae(shift_factor=0.1, scaling_factor=1.5), tokenizer=tok, tokenizer_2=other, tokenizer_3=third,
        text_encoder=tiny_text(tok, CLIPTextModelWithProjection, projection_dim=12),
        text_encoder_2=tiny_text(tok, CLIPTextModelWithProjection, 24, projection_dim=20), text_encoder_3=t5,
    )  # fmt: skip


def tiny_flux(guided=True) -> FluxPipeline:
    """The same size with FLUX's double and single blocks, two text encoders and sampler of flows; `guided`: as its dev, else as its schnell."""
    torch.manual_seed(0)
    tok, (second, t5) = tiny_tokenizer(), tiny_t5()
    transformer = FluxTransformer2DModel(
        in_channels=4 * 4, num_layers=2, num_single_layers=1, num_attention_heads=2, attention_head_dim=12, joint_attention_dim=20,
        pooled_projection_dim=16, guidance_embeds=guided, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    return FluxPipeline(
        transformer=stirred(transformer), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if guided else 1.0, use_dynamic_shifting=guided),
        vae=tiny_vae(shift_factor=0.1, scaling_factor=1.5), tokenizer=tok, tokenizer_2=second, text_encoder=tiny_text(tok), text_encoder_2=t5,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_base() -> Base:
    card = Card("tiny", 32, steps=3, guidance=2.0, templates=TEMPLATES, calibration=CALIBRATION, class_words=("dog", "cat", "house"))
    return Base(tiny_pipeline(), card)


@pytest.fixture(scope="session")
def rex(tiny_base) -> cns.Session:
    """One thing taught to the tiny base; a session never changes."""
    return taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))


@pytest.fixture(scope="session")
def tom(tiny_base, rex) -> cns.Session:
    """`rex`, and another thing after it."""
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), rex)


@pytest.fixture(scope="session")
def served(tiny_base, tmp_path_factory):
    """The app on the tiny base, served from this process; every test is a visitor of its own."""
    from cns.store import LocalStore
    from cns.ui import build

    demo = build(tiny_base, LocalStore(tmp_path_factory.mktemp("served")))
    demo.queue(max_size=128, default_concurrency_limit=8)
    demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield demo
    demo.close()


@pytest.fixture(scope="session")
def starter() -> Base:
    return cns.load_base()


def seeing(base, other) -> Base:
    """`base` with the CLIP of `other`."""
    return Base(base.pipe, base.card, other.scorer)


def picture(colour="red", side=48) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).ellipse((8, 8, side - 8, side - 8), fill=colour)
    return image


@pytest.fixture
def concept() -> cns.Concept:
    return cns.Concept("rex", "dog", [picture("red"), picture("orange"), picture("brown")])


@pytest.fixture
def other_concept() -> cns.Concept:
    return cns.Concept("tom", "cat face", [picture("gray"), picture("black")])


QUICK = {"score": "response", "steps": 6, "batch_size": 2, "preview_every": 0, "rate": 1e-2}


def taught(base, concept, session=None, **changes) -> cns.Session:
    """The session after a few steps."""
    return [*cns.teach(base, session, concept, cns.TeachSettings(**{**QUICK, **changes}))][-1].session


def snapshot(base) -> dict[str, torch.Tensor]:
    """A copy of every weight of the pipeline."""
    parts = {n: m for n, m in base.pipe.components.items() if isinstance(m, torch.nn.Module)}
    return {f"{p}.{n}": t.detach().clone() for p, m in parts.items() for n, t in m.state_dict().items()}


def assert_unchanged(base, before) -> None:
    now = snapshot(base)
    assert now.keys() == before.keys()
    assert [n for n, t in before.items() if not torch.equal(t, now[n])] == []
    assert not any(p.requires_grad or p.grad is not None for p in base.denoiser.parameters())


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
NO_BROWSER = pytest.mark.skipif(not CHROMIUM, reason="no browser: install Debian's `chromium`")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
MINUTES = 60_000  # ms


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    """Address of `python app.py`, started as a user would, on the starter with a card that asks for few steps: no test in a browser judges a picture."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    argv = [sys.executable, "app.py", "--port", str(port), "--store", str(folder / "store"), "--base", str(hurried(folder / "starter"))]
    with open(folder / "log", "w") as log, subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT) as process:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield url
        process.terminate()
        process.wait()
    log = (folder / "log").read_text()
    assert log.count("Traceback") == log.count("gradio.exceptions.Error: 'Value "), log  # Gradio prints what it says of a number out of range


def hurried(folder: Path) -> Path:
    """The starter in a new `folder`, which draws and looks for room in few steps."""
    folder.mkdir()
    for part in cns.STARTER.iterdir():
        (folder / part.name).symlink_to(part)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).unlink()
    (folder / CARD).write_text(json.dumps({**card, "steps": 6, "teach": {**card["teach"], "room": 5}}))
    return folder


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser: pip install -r tests/requirements.txt")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, app):
    """A fresh visitor; the test fails when the console shows an error."""
    with visitor(browser, app) as page:
        yield page


@contextmanager
def visitor(browser, app, width=1280, height=900, **context):
    """A page of its own at the app; AssertionError at the end when its console showed an error."""
    context = browser.new_context(viewport={"width": width, "height": height}, **context)
    page = context.new_page()
    page.set_default_timeout(5 * MINUTES)  # on a busy machine a teaching of ten steps takes long
    errors = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(app)
    page.locator("#ready button.thumbnail-item").first.wait_for()
    yield page
    context.close()
    assert errors == [], "\n".join(errors)


def pick(page, number):
    """Click a ready concept and wait until its pictures are in."""
    page.locator("#ready button.thumbnail-item").nth(number).click()
    page.locator("#seen img").first.wait_for()


def few_steps(page, steps=10):
    page.get_by_role("button", name="Advanced").click()
    field = page.locator("#steps input[type=number]")
    field.fill(str(steps))
    field.press("Tab")


def toast(page, text):
    page.get_by_text(re.compile(text)).first.wait_for()


def teach_ready(page, number, steps=10):
    pick(page, number)
    few_steps(page, steps)
    page.locator("#teach").click()
    page.locator("#result h3").first.wait_for()
