"""Concept and session in, events out; the last event carries the new session.

Only the concept neurons M_n and the token's embedding are trained, on

    L = E || target - f(z_t, t, text) ||^2
        + lambda_1 || M_<n * M_n * (W - W_{n-1}) ||^2 + lambda_2 || M_n * (W - W_0) ||^2,

with every update W - W_{n-1} kept out of what unrelated and earlier concepts' prompts answer to (see `response`).

The base is patched only within a slice of steps: whenever this generator is suspended, the base is bit for bit itself, so
several visitors can share it, and a generator that is dropped leaves nothing behind. A teaching can also be cut into calls
that may run in different processes: what each comes to travels in its last event.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import parallel
from .concept import Concept, check
from .delta import trainable, written
from .factored import factored
from .generation import GenerateSettings, sample
from .images import square, to_pixels
from .memory import Memory, recall
from .response import Still, called, roomy, second_moment, stacked, unrelated
from .selection import Selection, concept_rms, select_base, select_general, select_sensitive
from .session import Learned, Session, pack, unpack
from .text import class_embedding, read

SLICE = 0.5  # seconds between events, about
LOOKS = 5  # batches that the gradient is taken of to choose neurons by


@dataclass(frozen=True)
class TeachSettings:
    """How to teach; a base's card may override the defaults."""

    steps: int = 200  # training steps, 1 to 5000
    batch_size: int = 4  # noised latents in a step, 1 to 64
    rate: float = 1e-4  # learning rate of the neurons
    token_rate: float = 5e-3  # learning rate of the token's embedding
    score: str = "gradient"  # base neurons: strongest by the loss's "gradient", or by "response" to the concept (the paper's)
    base_share: float = 0.2  # rho: share of the weights that counts as strong, of each matrix by response, of all by gradient, 0 to 1
    general_share: float = 0.5  # gamma: share of calibration prompts that makes a neuron general, 0 to 1
    lambda_previous: float = 0.0  # lambda_1: ties neurons shared with earlier concepts to where they were
    lambda_base: float = 0.0  # lambda_2: ties the neurons to the base
    response: float = 100.0  # mu: how still the response to unrelated and earlier prompts is held; 0: not at all
    room: int = 50  # steps that move a new token to where what is held still leaves room, before it is trained; 0: it starts as its class word
    seed: int = 0
    preview_every: int = 50  # steps between preview pictures; 0: none
    noise_bias: float = 1.0  # t = T u^bias, u uniform: under 1 favours high noise, where a prompt decides what is drawn

    def __post_init__(self):
        ranges = {"steps": (1, 5000), "batch_size": (1, 64), "rate": (0, 1), "token_rate": (0, 1), "base_share": (1e-4, 1),
                  "general_share": (0, 1.01), "lambda_previous": (0, 1e6), "lambda_base": (0, 1e6), "response": (0, 1e6),
                  "room": (0, 1000), "seed": (0, 2**63 - 1), "preview_every": (0, 5000), "noise_bias": (0.01, 10)}  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` is {getattr(self, name)}: choose {low} to {high}")
        if self.score not in ("gradient", "response"):
            raise ValueError(f"`score` is `{self.score}`: choose `gradient` or `response`")

    @classmethod
    def of(cls, base, **changes) -> "TeachSettings":
        """The base's own defaults with `changes`."""
        return cls(**{**base.card.teach, **changes})


@dataclass(frozen=True)
class Progress:
    """A teaching between two calls, on the CPU: with the same session, concept and settings it goes on as if it had never stopped."""

    step: int
    stopped: bool  # by whoever was asked: nothing more is to be trained
    loss: float | None
    seconds: float  # so far
    vector: Tensor  # [din]
    index: dict[str, Tensor]  # by weight name: the concept's neurons, flat int32 [k]
    update: Tensor  # u, what is trained, there, float32 [k in all]
    found: tuple[dict, dict, dict, dict]  # the selection's funnel, general masks, rms and factored gradients
    optimizer: dict  # AdamW's state
    generator: Tensor  # the random numbers' state


@dataclass(frozen=True)
class TeachEvent:
    """Where the teaching stands."""

    stage: str  # "select", "train", "remember", "done"; "pause" in place of the last two
    step: int
    steps: int
    loss: float | None = None  # smoothed
    seconds_left: float | None = None
    preview: Image.Image | None = None
    session: Session | None = None  # only with "done", as all below
    learned: Learned | None = None  # this concept in it
    memories: tuple[Memory, ...] = ()  # of the other concepts
    before: Image.Image | None = None  # what the base drew for the class word from the same seed
    progress: Progress | None = None  # only with "pause"


def teach(
    base,
    session: Session | None,
    concept: Concept,
    settings: TeachSettings | None = None,
    *,
    more: bool = False,
    should_stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    until: int | None = None,
) -> Iterator[TeachEvent]:
    """Teach `concept` on top of `session` (None: a new one). Neither it nor the base is changed.

    `more`: go on with a concept that was taught already, with its own neurons and token. `should_stop` is asked after every
    step; when it says yes, what was learned so far is kept. `until`: pause after that step; the last event then carries the
    progress to go on from, here or in another process, and a call with nothing left to train finishes. Raises ValueError
    for bad input before any work, FloatingPointError when the loss stops being finite.
    """
    check(base, session, concept, more)
    settings, session = settings or TeachSettings.of(base), session or Session.new(base)
    yield TeachEvent("select", progress.step if progress else 0, settings.steps)
    began = time.monotonic() - (progress.seconds if progress else 0)
    run = Teaching(base, session, concept, settings, progress=progress)
    stopped, end = bool(progress and progress.stopped), settings.steps if until is None else min(until, settings.steps)
    while run.step < end and not stopped:
        preview = None
        with run.patched():
            deadline = time.monotonic() + SLICE
            while time.monotonic() < deadline and run.step < end and preview is None and not stopped:
                run.train_step()
                stopped = bool(should_stop and should_stop())
                if settings.preview_every and run.step % settings.preview_every == 0 and run.step < settings.steps:
                    preview = run.draw()
        left = (time.monotonic() - began) / run.step * (settings.steps - run.step)
        yield TeachEvent("train", run.step, settings.steps, run.loss, left, preview)
    if until is not None and run.step > (progress.step if progress else 0):
        now = run.progress(stopped, time.monotonic() - began)
        yield TeachEvent("pause", run.step, settings.steps, run.loss, progress=now)
        return
    yield TeachEvent("remember", run.step, settings.steps, run.loss)
    new, before = run.finish(time.monotonic() - began)
    memories = []
    for learned in (c for c in new.concepts if c.name != concept.name):
        memories.append(recall(base, new, learned))
        yield TeachEvent("remember", run.step, settings.steps, run.loss)
    yield TeachEvent("done", run.step, settings.steps, run.loss, 0.0, None, new, new.concept(concept.name), tuple(memories), before)


class Teaching:
    """One teaching in progress: latents, masks, and the optimizer over selected entries and the token alone."""

    def __init__(
        self, base, session: Session, concept: Concept, settings: TeachSettings, choose: Callable | None = None, progress: Progress | None = None
    ):
        """`choose(base, masks)` may replace the concept's masks, for ablations; `progress`: go on from there."""
        self.base, self.session, self.concept, self.settings = base, session, concept, settings
        self.step = 0
        self.loss: float | None = None
        self.generator = torch.Generator().manual_seed((settings.seed + 1_000_003 * parallel.rank()) % 2**63)  # each process has its own batches
        self.prompts = [t.format(concept.words) for t in base.card.templates]
        self.known = session.concept(concept.name) if concept.token in session.tokens else None
        self.vector = (self.known.vector if self.known else class_embedding(base, concept)).clone()  # [din]
        with base.lock:
            self.latents = base.latents(to_pixels(concept.images, base.size))
            self.captions = captions(base, concept)
            held, new = self._held() if settings.response else None, not (self.known or progress)
            if new and held is not None:
                prompts = called(base, concept.words, 6)
                self.vector = roomy(base, prompts, self.vectors, concept.token, held, settings.response, settings.token_rate, settings.room)
            self.vector.requires_grad_()
            selection: Any = self._select() if new else None
        if progress:
            self.index = {n: i.long() for n, i in progress.index.items()}
            self.funnel, self.general, self.rms, self.factors = progress.found
        elif self.known:
            self.index, self.funnel, self.general = self.known.mask, self.known.stats["funnel"], session.general
            self.rms, self.factors = self.known.rms, self.known.gradients
        else:
            masks = choose(base, selection.concept) if choose else selection.concept
            self.index = {n: m.flatten().nonzero().squeeze(1) for n, m in masks.items()}  # flat int64 [k]
            self.funnel = {n: [int(selection.base[n].sum()), len(i), base.weights[n].numel()] for n, i in self.index.items()}
            self.general = {n: pack(m) for n, m in selection.general.items()}
        self.at = {n: i.to(base.device) for n, i in self.index.items()}
        self.origin = {n: base.weights[n].detach().view(-1)[i].float() for n, i in self.at.items()}  # W_0
        self.start = {n: w + session.delta.at(n, self.index[n]).to(w) for n, w in self.origin.items()}  # W_{n-1}
        self.now = {n: w.clone() for n, w in self.start.items()}  # W, the trained values
        others = [c.mask for c in session.concepts if c is not self.known]
        self.shared = {n: torch.isin(i, torch.cat([i[:0], *(m[n] for m in others if n in m)])).to(base.device) for n, i in self.index.items()}
        self.update = torch.cat([torch.zeros_like(w) for w in self.start.values()])  # u [k in all], of which `still` makes W - W_{n-1}
        self.gradient = torch.zeros_like(self.update)  # by W
        self.still = Still(stacked(self.index, base.weights), held, settings.response) if settings.response else (lambda u: u)
        self.optimizer, self.schedule = optimizer([self.update], [self.vector], settings)
        if progress:
            self._resume(progress)

    def progress(self, stopped: bool, seconds: float) -> Progress:
        """All that `_resume` needs."""
        index = {n: i.int() for n, i in self.index.items()}
        state = self.vector, index, self.update, (self.funnel, self.general, self.rms, self.factors), self.optimizer.state_dict(), self.generator.get_state()
        return Progress(self.step, stopped, self.loss, seconds, *copied(state))

    def _resume(self, progress: Progress):
        self.step, self.loss = progress.step, progress.loss
        with torch.no_grad():
            self.vector.copy_(progress.vector)
            self.update.copy_(progress.update)
        self._follow()
        self.optimizer.load_state_dict(copied(progress.optimizer))  # it keeps and changes what it is given
        self.schedule.last_epoch = progress.step
        self.generator.set_state(progress.generator)

    def _parts(self, values: Tensor) -> dict[str, Tensor]:
        """Views of `values` [k in all] by weight name."""
        return dict(zip(self.index, values.split([len(i) for i in self.index.values()])))

    @torch.no_grad()
    def _follow(self):
        """W from u."""
        for name, change in self._parts(self.still(self.update)).items():
            self.now[name].copy_(self.start[name] + change)

    @property
    def vectors(self):
        return {**self.session.vectors, self.concept.token: self.vector}

    def _select(self) -> Selection:
        s, base, general = self.settings, self.base, self.session.general
        if general:
            masks = {n: unpack(bits, base.weights[n].numel()).view(base.weights[n].shape) for n, bits in general.items()}
        else:
            masks = select_general(base, s.base_share, s.general_share)
        vectors = {k: v.detach() for k, v in self.vectors.items()}
        self.rms = concept_rms(base, self.latents, self.prompts, vectors, torch.Generator().manual_seed(s.seed))
        total = squared_gradients(base, base.weights, self.latents, self.captions, vectors, s, LOOKS) if s.score == "gradient" else {}
        gradients = {n: (t / LOOKS).sqrt() for n, t in total.items()}  # root mean squares [dout, din], before anything is learned
        self.factors = {n: factored(g) for n, g in gradients.items()}
        chosen = select_sensitive(gradients, s.base_share) if gradients else select_base(base, self.rms, s.base_share)
        return Selection(chosen, masks)

    def _held(self) -> Tensor:
        """C [din, din]: of unrelated prompts and, for every earlier concept as much again, of what it may be called."""
        c = unrelated(self.base)
        for other in (o for o in self.session.concepts if o is not self.known):
            c = c + second_moment(self.base, called(self.base, other.words), self.session.vectors)
        return c

    @contextmanager
    def patched(self):
        """Within: W is what this teaching has come to, its gradients gathered."""
        own = {n: self.base.weights[n] for n, i in self.index.items() if len(i)}
        hooks = []
        with self.session.on(self.base), written(self.base.weights, self.index, self.now), trainable(own.values()):
            try:
                places = self._parts(self.gradient)
                for name, weight in own.items():
                    hooks.append(weight.register_post_accumulate_grad_hook(self._gather(name, places[name])))
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def _gather(self, name: str, place: Tensor):
        """Put the gradient of the selected entries, with the regularisers', in its `place`; the dense one is freed at once."""
        s, index, now = self.settings, self.at[name], self.now[name]

        def hook(weight):
            place.copy_(weight.grad.view(-1)[index])
            place.add_(2 * s.lambda_previous * self.shared[name] * (now - self.start[name]) + 2 * s.lambda_base * (now - self.origin[name]))
            weight.grad = None

        return hook

    def train_step(self):
        """One step of AdamW on a batch of noised latents with random captions."""
        loss = denoising_loss(self.base, self.latents, self.captions, self.vectors, self.settings, self.generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is not finite at step {self.step + 1}: nothing was changed; teach again with a lower `rate` than {self.settings.rate}"
            )
        self.vector.grad = None
        self.gradient.zero_()
        loss.backward()
        self.update.grad = self.still(self.gradient)
        parallel.average([p.grad for group in self.optimizer.param_groups for p in group["params"]])
        self.optimizer.step()
        self.schedule.step()
        self._follow()
        for name, index in self.at.items():
            self.base.weights[name].data.view(-1)[index] = self.now[name].to(self.base.weights[name].dtype)
        self.step += 1
        self.loss = loss.item() if self.loss is None else 0.95 * self.loss + 0.05 * loss.item()

    def draw(self) -> Image.Image:
        """The concept as the patched base draws it now, from the teaching's seed."""
        vectors = {k: v.detach() for k, v in self.vectors.items()}
        return sample(self.base, f"a {self.concept.words}", vectors, GenerateSettings(seed=self.settings.seed))[0]

    def finish(self, seconds: float) -> tuple[Session, Image.Image]:
        """The new session, and the untaught base's picture of the class word."""
        base, concept, s = self.base, self.concept, self.settings
        with self.patched():
            picture = self.draw()
        with base.lock:
            before = sample(base, f"a {concept.class_word}", {}, GenerateSettings(seed=s.seed))[0]
        features = base.scorer.image_features([square(i, base.size) for i in concept.images]) if base.scorer else None
        if self.known and features is not None and self.known.features is not None:
            features = torch.cat([self.known.features, features])
        stats = {
            "clip_i": base.scorer.clip_i([picture], features) if base.scorer else None,
            "clip_i_before": base.scorer.clip_i([before], features) if base.scorer else None,
            "neurons": sum(c[1] for c in self.funnel.values()), "base_neurons": sum(c[0] for c in self.funnel.values()),
            "general_removed": sum(c[0] - c[1] for c in self.funnel.values()), "shared_with_earlier": sum(int(m.sum()) for m in self.shared.values()),
            "share_of_model": sum(c[1] for c in self.funnel.values()) / base.parameters, "funnel": self.funnel,  # per weight: base, concept, all
            "seconds": round(seconds, 2), "steps": self.step, "seed": s.seed, "images": len(concept.images), "loss": self.loss,
            "prompt": f"a {concept.words}", "settings": {f.name: getattr(s, f.name) for f in fields(s)},
        }  # fmt: skip
        learned = Learned(
            concept.name, concept.class_word, self.vector.detach().cpu().clone(), self.index, picture, features, stats,
            rms={layer: r.cpu() for layer, r in self.rms.items()}, gradients=self.factors,
        )
        parts = {c.name: self.session.increments(c.name) for c in self.session.concepts}
        parts[concept.name] = self._increments(parts.get(concept.name))
        concepts = [learned if c is self.known else c for c in self.session.concepts] + [learned] * (self.known is None)
        return replace(self.session, general=self.general).of(concepts, [parts[c.name] for c in concepts]), before

    def _increments(self, before: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """What this concept adds to W_0 beside the others: W - W_0 less their increments; `before`: its own from an earlier teaching."""
        out = {}
        for n, index in self.index.items():
            others = self.session.delta.at(n, index).double() - (before[n] if before else 0)
            out[n] = ((self.now[n] - self.origin[n]).detach().cpu().double() - others).float()
        return out


def copied(tree):
    """`tree` of dicts, lists, tuples and tensors, the tensors copied to the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {k: copied(v) for k, v in tree.items()}
    return type(tree)(copied(v) for v in tree) if isinstance(tree, (list, tuple)) else tree


def captions(base, concept: Concept) -> list[list[str]]:
    """What each picture may be called in training: the neutral templates and, as often, the scene that fits it best."""
    neutral = [t.format(concept.words) for t in base.card.templates]
    if not (base.scorer and base.card.scenes):
        return [neutral] * len(concept.images)
    texts = base.scorer.text_features([s.format(concept.class_word) for s in base.card.scenes])
    best = (base.scorer.image_features([square(i, base.size) for i in concept.images]) @ texts.T).argmax(1)
    return [neutral + [base.card.scenes[i].format(concept.words)] * len(neutral) for i in best]


def optimizer(weights, vectors, settings: TeachSettings):
    """(AdamW over `weights` and token `vectors`, its schedule: ten steps up, then straight down to nothing)."""
    groups = [{"params": list(weights), "lr": settings.rate}, {"params": list(vectors), "lr": settings.token_rate}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
    return adam, torch.optim.lr_scheduler.LambdaLR(adam, lambda k: min(1, (k + 1) / 10) * max(0.0, 1 - k / settings.steps))


def denoising_loss(base, latents: Tensor, captions: list[list[str]], vectors, settings: TeachSettings, generator) -> Tensor:
    """|| target - f(z_t, t, text) ||^2 of a batch of `latents` [k, c, h, w], noised, each with one of its captions."""
    schedule, n = base.schedule, settings.batch_size
    which = torch.randint(len(latents), (n,), generator=generator)
    z = latents[which]
    t = (schedule.config.num_train_timesteps * torch.rand(n, generator=generator) ** settings.noise_bias).long().to(base.device)
    noise = torch.randn(z.shape, generator=generator).to(z)
    prompts = [captions[i][torch.randint(len(captions[i]), (), generator=generator)] for i in which]
    predicted = base.predict(schedule.add_noise(z, noise, t), t, read(base, prompts, vectors))
    return F.mse_loss(predicted.float(), target(base, z, noise, t))


def squared_gradients(base, weights, latents: Tensor, captions, vectors, settings: TeachSettings, batches: int) -> dict[str, Tensor]:
    """The loss's squared gradient by each of `weights`, summed over so many batches, by weight name."""
    generator, total = torch.Generator().manual_seed(settings.seed), {}
    with trainable(weights.values()):
        for _ in range(batches):
            denoising_loss(base, latents, captions, vectors, settings, generator).backward()
            for n, w in weights.items():
                total[n] = total.get(n, 0) + w.grad.float().square()
                w.grad = None
    return total


def target(base, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the denoiser should predict: the noise, the velocity or the clean latents."""
    if base.prediction == "v_prediction":
        return base.schedule.get_velocity(latents, noise, t)
    return {"epsilon": noise, "sample": latents}[base.prediction]
