"""Scenes in, checkpoints out: the stages of the starter's training, each resumable and bounded by `--minutes`.

    ae       autoencoder on the wide world
    clip     contrastive training, picture to caption and picture to picture, on the wide and the small world in turn
    judge    the same for a second CLIP, of other size and seed, that only measures
    unet     latent diffusion on the small world, text encoder from the CLIP and trained along
    decoder  the autoencoder's decoder alone, on both worlds: once a U-Net draws latents, the encoder has to stay

A stage keeps `WORK/<stage>.pt`: weights, their moving average (EMA), optimizer state, step and random states. Without one
it goes on from the weights in `assets/starter`, if they are there, with a fresh optimizer; `--anew` starts from nothing.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from ..base import STARTER
from . import art, nets
from .world import World, vocabulary

EMA_DECAY = {"ae": 0.995, "clip": 0.998, "judge": 0.998, "unet": 0.999}
RATE = {"ae": 1e-3, "clip": 1e-3, "judge": 1e-3, "unet": 7e-4}
BATCH = {"ae": 8, "clip": 128, "judge": 128, "unet": 32}
EXPORTED = {"ae": "vae/diffusion_pytorch_model", "clip": "clip/model", "judge": "judge/model", "unet": "unet/diffusion_pytorch_model",
            "text": "text_encoder/model"}  # fmt: skip


class Stage:
    """What the three stages share: optimizer, EMA, checkpoint, clock. Subclasses give `models` and `loss`."""

    name: str
    build: Callable[[], dict[str, torch.nn.Module]]
    loss: Callable[[np.random.Generator], torch.Tensor]

    def __init__(self, work: Path, device: str, seed: int, anew: bool):
        self.work, self.device, self.seed = work, device, seed
        self.drawings = art.load(work)
        self.tok = tokenizer(work, self.drawings, anew)
        self.models = {k: m.to(device) for k, m in self.build().items()}
        if not anew:
            for k, m in self.models.items():
                if (weights := trained(work, self.name, k)) is not None:
                    m.load_state_dict(weights)
        self.ema = {k: copy.deepcopy(m).eval().requires_grad_(False) for k, m in self.models.items()}
        self.opt = torch.optim.AdamW(self.groups(), lr=RATE[self.name], betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.base_lrs = [g["lr"] for g in self.opt.param_groups]
        self.step, self.seconds = 0, 0.0
        if (path := work / f"{self.name}.pt").exists() and not anew:
            state = torch.load(path, map_location=device, weights_only=True)
            for k in self.models:
                self.models[k].load_state_dict(state["models"][k])
                self.ema[k].load_state_dict(state["ema"][k])
            self.opt.load_state_dict(state["opt"])
            self.step, self.seconds = state["step"], state["seconds"]

    def groups(self):
        return [{"params": list(m.parameters()), "lr": RATE[self.name]} for m in self.models.values()]

    def save(self):
        state = {
            "models": {k: m.state_dict() for k, m in self.models.items()}, "ema": {k: m.state_dict() for k, m in self.ema.items()},
            "opt": self.opt.state_dict(), "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        part = self.work / f"{self.name}.part"
        torch.save(state, part)
        part.replace(self.work / f"{self.name}.pt")

    def tokens(self, captions):
        """input ids [batch, 32], padded."""
        return self.tok(captions, padding="max_length", max_length=nets.MAX_TOKENS, truncation=True, return_tensors="pt").input_ids

    def pixels(self, scenes):
        """uint8 [b, 64, 64, 3] to float [b, 3, 64, 64] in [-1, 1]."""
        return (torch.from_numpy(scenes).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()

    def train(self, minutes: float, decay: bool):
        """Steps until the budget is spent; with `decay` the rate falls to nothing over the last third of it."""
        start = saved = time.monotonic()
        mean, limit = None, minutes * 60
        while (spent := time.monotonic() - start) < limit:
            loss = self.advance(min(1.0, 3 * (1 - spent / limit)) if decay else 1.0)
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            if self.step % 100 == 0:
                print(f"{self.name} step {self.step} samples {self.step * BATCH[self.name]} loss {mean:.4f} {spent:.0f} s", flush=True)
            if time.monotonic() - saved > 120:
                self.seconds += time.monotonic() - saved
                self.save()
                saved = time.monotonic()
        self.seconds += time.monotonic() - saved
        self.save()

    def advance(self, scale: float = 1.0) -> float:
        """One step at `scale` times the learning rate, the moving average with it; returns the loss. The same after a resume."""
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        scale *= min(1.0, (self.step + 1) / 200)
        for group, lr in zip(self.opt.param_groups, self.base_lrs):
            group["lr"] = lr * scale
        for m in self.models.values():
            m.train()
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            loss = self.loss(self.rng(self.step))
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in self.opt.param_groups for p in g["params"]], 1.0)
        self.opt.step()
        self.step += 1
        keep = min(EMA_DECAY[self.name], self.step / (self.step + 10))
        with torch.no_grad():
            for k, m in self.models.items():
                torch._foreach_lerp_(list(self.ema[k].parameters()), list(m.parameters()), 1 - keep)
        return loss.item()

    def rng(self, step: int) -> np.random.Generator:
        """What scenes of that step are drawn from."""
        return np.random.default_rng((self.seed, step % 2**32))


class Autoencoder(Stage):
    name = "ae"

    def build(self):
        self.worlds = [World(self.drawings, wide=True)]
        return {"ae": nets.autoencoder().to(memory_format=torch.channels_last)}

    def loss(self, rng):
        scenes, _ = self.worlds[self.step % len(self.worlds)].batch(BATCH["ae"], rng)
        x = self.pixels(scenes)  # whole scenes: the group norms must see in training what they see in use
        posterior = self.models["ae"].encode(x.contiguous(memory_format=torch.channels_last)).latent_dist
        z = posterior.sample()
        blur = 0.15 * torch.rand(len(z), 1, 1, 1, device=z.device) * z.std().detach()  # diffusion leaves noise: decode through it
        out = self.models["ae"].decode(z + blur * torch.randn_like(z)).sample
        return F.mse_loss(out.float(), x) + 0.2 * F.l1_loss(out.float(), x) + 2e-7 * posterior.kl().mean()


class Decoder(Autoencoder):
    """Goes on from the autoencoder's checkpoint and writes it; its encoder stays as it is."""

    def build(self):
        built = super().build()
        self.worlds.append(World(self.drawings))
        for part in (built["ae"].encoder, built["ae"].quant_conv):
            part.requires_grad_(False)
        return built


class Clip(Stage):
    name = "clip"

    def build(self):
        self.worlds = World(self.drawings, wide=True), World(self.drawings)
        return {self.name: getattr(nets, self.name)(self.tok)}

    def loss(self, rng):
        """CLIP's, and that two pictures of one thing, whatever is behind it, are nearer to each other than to other things'."""
        world = self.worlds[self.step % 2]
        once = [world.sample(rng) for _ in range(BATCH[self.name] // 2)]
        twice = once + [world.sample(rng, s) for s in once]
        scenes, captions = world.drawn(twice)
        ids = self.tokens(captions).to(self.device)
        pixels = varied(self.pixels(scenes), torch.Generator().manual_seed(int(rng.integers(2**31))))
        out = self.models[self.name](input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
        logits, target = out.logits_per_text.float(), torch.arange(len(captions), device=self.device)
        same = torch.tensor([[a.shown == b.shown for b in twice] for a in twice], device=self.device)
        words = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return words + identity(out.image_embeds.float(), same)


def identity(x, same):
    """Supervised contrastive loss (Khosla et al., 2020) of unit embeddings x [b, d]; same [b, b]: which show the same; temperature 0.1."""
    alone = torch.eye(len(x), dtype=torch.bool, device=x.device)
    log_p = (x @ x.T / 0.1).masked_fill(alone, float("-inf")).log_softmax(1).masked_fill(alone, 0)
    others = same & ~alone
    return -((log_p * others).sum(1) / others.sum(1)).mean()


def varied(pixels, generator):
    """Pictures [b, 3, 64, 64] as other hands would draw them: mirrored, turned, bent, in lighter, darker or shifted colours, blurred."""
    b = len(pixels)
    mirror, gain, shift, soft, turn, size, bend = torch.rand((7, b, 1, 1, 1), generator=generator).to(pixels.device)
    cast = 1 + 0.2 * (torch.rand((b, 3, 1, 1), generator=generator).to(pixels.device) - 0.5)
    angle, scale = 0.5 * (turn - 0.5).flatten(), 0.85 + 0.3 * size.flatten()
    flip = torch.where(mirror.flatten() < 0.5, -1.0, 1.0)
    rows = [flip * scale * angle.cos(), scale * (angle.sin() + 0.3 * (bend.flatten() - 0.5)), 0 * angle, -flip * scale * angle.sin(), scale * angle.cos(), 0 * angle]
    grid = F.affine_grid(torch.stack(rows, 1).view(b, 2, 3), list(pixels.shape), align_corners=False)
    x = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    x = torch.where(soft < 0.3, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), x)
    return (x * cast * (0.8 + 0.4 * gain) + 0.3 * (shift - 0.5)).clamp(-1, 1)


class Judge(Clip):
    name = "judge"


class Unet(Stage):
    name = "unet"

    def build(self):
        self.world = World(self.drawings)
        self.ae = nets.autoencoder()
        self.ae.load_state_dict(trained(self.work, "ae"))
        self.ae = self.ae.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.scale = latent_scale(self.ae, self.world)
        self.schedule = nets.scheduler()
        text = nets.clip(self.tok)
        text.load_state_dict(trained(self.work, "clip"))
        unet = nets.unet().to(memory_format=torch.channels_last)
        if self.device == "cpu":
            unet.set_attn_processor(AttnProcessor())  # there the fused attention's backward pass is slower than plain products
        return {"unet": unet, "text": text.text_model}

    def groups(self):
        return [
            {"params": list(self.models["unet"].parameters()), "lr": RATE["unet"]},
            {"params": list(self.models["text"].parameters()), "lr": RATE["unet"] / 5},
        ]

    def loss(self, rng):
        # encoding is a seventh of a step: each scene serves in two steps, with new noise
        (old_z, old_captions), new = getattr(self, "fresh", None) or self.encoded(self.rng(self.step - 1)), self.encoded(rng)
        self.fresh = new
        z, captions = torch.cat([old_z, new[0]]), ["" if rng.random() < 0.1 else c for c in (*old_captions, *new[1])]
        noise = torch.randn_like(z)
        t = (1000 * torch.rand(len(z), device=self.device) ** 0.7).long()  # more of the high noise, where the words decide
        noisy, v = self.schedule.add_noise(z, noise, t), self.schedule.get_velocity(z, noise, t)
        text = self.models["text"](input_ids=self.tokens(captions).to(self.device)).last_hidden_state
        error = (self.models["unet"](noisy, t, text).sample.float() - v).square().mean((1, 2, 3))
        clean = 1 - self.schedule.alphas_cumprod.to(self.device)[t]  # turns an error of v into one of the clean latents
        return (clean.clamp(min=0.1) * error).mean()

    @torch.no_grad()
    def encoded(self, rng):
        """Half a batch of scenes: (scaled latents, captions)."""
        scenes, captions = self.world.batch(BATCH["unet"] // 2, rng)
        x = self.pixels(scenes).contiguous(memory_format=torch.channels_last)
        return self.ae.encode(x).latent_dist.mean.float() * self.scale, captions


def tokenizer(work: Path, drawings, anew=False) -> CLIPTokenizer:
    """The one that the weights to be trained on were made with: of `work`, else the committed one; where none is, a new one."""
    own, committed = work / "tokenizer", STARTER / "tokenizer"
    if not own.exists() and (anew or not committed.exists()):
        nets.tokenizer(vocabulary(drawings)).save_pretrained(own)
    return CLIPTokenizer.from_pretrained(own if own.exists() else committed)


def trained(work: Path, stage: str, model: str | None = None) -> dict | None:
    """The moving average of a stage's `model`: from its checkpoint, else from the committed starter, else None."""
    model, checkpoint = model or stage, work / f"{stage}.pt"
    if checkpoint.exists():
        return torch.load(checkpoint, map_location="cpu", weights_only=True)["ema"][model]
    committed = STARTER / f"{EXPORTED[model]}.safetensors"
    return load_file(committed) if committed.exists() else None


@torch.no_grad()
def latent_scale(ae, world) -> float:
    """One over the standard deviation of the small world's latents."""
    scenes, _ = world.batch(256, np.random.default_rng(12345))
    x = torch.from_numpy(scenes).permute(0, 3, 1, 2).float() / 127.5 - 1
    device = next(ae.parameters()).device
    return 1 / ae.encode(x.to(device)).latent_dist.mean.std().item()


STAGES = {s.name: s for s in (Autoencoder, Clip, Judge, Unet)} | {"decoder": Decoder}
