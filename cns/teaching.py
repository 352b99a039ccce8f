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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import parallel
from .choosing import LOOKS, Choosing
from .concept import Concept, check
from .delta import trainable, written
from .generation import GenerateSettings, sample
from .images import square
from .memory import Memory, recall
from .parts import Dropped, Parts, Stop, Stopped, passing
from .progress import Progress, TeachEvent, copied
from .response import Still, held_by, stacked
from .session import Learned, Session, pack
from .text import read

SLICE = 0.5  # seconds between events, about


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
    noise_bias: float = 1.0  # noise level u^bias, u uniform: under 1 favours high noise, where a prompt decides what is drawn

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
    pass of choosing, every step and before every pass of a picture. When it says yes, nothing more is trained and drawn but
    the concept itself, once, and what was learned so far is kept; before the first step that is nothing, and the last event
    is "stopped". So it is when `should_stop` raises `Dropped`: then nothing is kept at all. `until`: pause after that step;
    the last event then carries the progress to go on from, here or in another process, and a call with nothing left to train
    finishes. Raises ValueError for bad input before any work, FloatingPointError when the loss stops being finite.
    """
    check(base, session, concept, more)
    settings, session = settings or TeachSettings.of(base), session or Session.new(base)
    yield TeachEvent("select", progress.step if progress else 0, settings.steps)
    stop, began = Stop(should_stop, bool(progress and progress.stopped)), time.monotonic() - (progress.seconds if progress else 0)
    run = Teaching(base, session, concept, settings, progress=progress)
    try:
        yield from _chosen(run, stop)
        yield from _trained(run, stop, settings.steps if until is None else min(until, settings.steps))
        if until is not None and run.step > (progress.step if progress else 0):
            now = run.progress(stop.said, time.monotonic() - began)
            yield TeachEvent("pause", run.step, settings.steps, run.loss, progress=now)
        else:
            yield from _remembered(run, stop, time.monotonic() - began)
    except (Stopped, Dropped):
        yield TeachEvent("stopped", run.step, settings.steps, run.loss)


def _chosen(run: "Teaching", stop: Stop) -> Iterator[TeachEvent]:
    """All that goes before the first step. Raises Stopped when it is asked for before anything was learned."""
    began = told = time.monotonic()
    for done, count in run.begin():
        stop() if run.step else stop.end()
        if (now := time.monotonic()) > told + SLICE or done == count:
            told, left = now, (now - began) / done * (count - done)
            yield TeachEvent("select", run.step, run.settings.steps, run.loss, left, parts=(done, count))


def _trained(run: "Teaching", stop: Stop, end: int) -> Iterator[TeachEvent]:
    """Steps up to `end` or a stop."""
    began, first, steps, every = time.monotonic(), run.step, run.settings.steps, run.settings.preview_every
    while run.step < end and not stop.said:
        preview = None
        with run.patched():
            deadline, on = time.monotonic() + SLICE, True
            while on:
                run.train_step()
                if not stop() and every and run.step % every == 0 and run.step < steps:
                    preview = run.preview(stop)
                on = time.monotonic() < deadline and run.step < end and preview is None and not stop.said
        run.pace = (time.monotonic() - began) / (run.step - first)
        yield TeachEvent("train", run.step, steps, run.loss, run.pace * (steps - run.step), preview)


def _remembered(run: "Teaching", stop: Stop, seconds: float) -> Iterator[TeachEvent]:
    """The pictures: of the concept itself in any case, of all that was there before as far as no stop is asked for; then the new session."""
    base, session, concept = run.base, run.session, run.concept
    others = [c for c in session.concepts if c.name != concept.name]

    def event(done: int) -> TeachEvent:
        left = (2 + len(others) - done) * (run.drawing or run.guessed_drawing())
        return TeachEvent("remember", run.step, run.settings.steps, run.loss, left, parts=(done, 2 + len(others)))

    yield event(0)
    picture = run.portrait(stop)
    yield event(1)
    before = run.unlearned(stop)
    new, memories = run.finish(seconds, picture, before), list[Memory]()
    with suppress(Stopped):
        for learned in (new.concept(c.name) for c in others):
            yield event(2 + len(memories))
            stop.end()
            with passing(base, stop.end):
                memories.append(recall(base, new, learned))
    yield TeachEvent("done", run.step, run.settings.steps, run.loss, 0.0, None, new, new.concept(concept.name), tuple(memories), before)


class Teaching:
    """One teaching in progress: latents, masks, and the optimizer over selected entries and the token alone."""

    def __init__(self, base, session: Session, concept: Concept, settings: TeachSettings, progress: Progress | None = None, choose=None):
        """`progress`: go on from there; `choose(masks)` may replace the chosen neurons, for ablations. Call `begin` before all else."""
        self.base, self.session, self.concept, self.settings, self.resumed, self.choose = base, session, concept, settings, progress, choose
        self.step = progress.step if progress else 0
        self.loss: float | None = progress.loss if progress else None
        self.pace, self.drawing = 0.0, 0.0  # seconds of a step and of a picture, once there was one
        self.generator = torch.Generator().manual_seed((settings.seed + 1_000_003 * parallel.rank()) % 2**63)  # each process has its own batches
        self.known = session.concept(concept.name) if concept.token in session.tokens else None

    def begin(self) -> Iterator[tuple[int, int]]:
        """What goes before the first step, in parts: yields how many are done and how many there are."""
        base, s = self.base, self.settings
        start = Choosing(base, self.session, self.concept, s, self.known, self.resumed is not None, partial(squared_gradients, base, base.weights, settings=s, batches=LOOKS))
        for done in start.parts():
            yield done, start.count + 1
        with base.lock:
            self._settle(start)
        yield start.count + 1, start.count + 1

    def begun(self) -> "Teaching":
        """`self`, with all that goes before the first step done at once."""
        for _ in self.begin():
            pass
        return self

    def _settle(self, start: Choosing):
        base, session, progress = self.base, self.session, self.resumed
        self.latents, self.captions, self.vector = start.latents, start.captions, start.vector.requires_grad_()
        if progress:
            self.index = {n: i.long() for n, i in progress.index.items()}
            self.funnel, self.general, self.rms, self.factors = progress.found
        elif self.known:
            self.index, self.funnel, self.general = self.known.mask, self.known.stats["funnel"], session.general
            self.rms, self.factors = self.known.rms, self.known.gradients
        else:
            selection, self.rms, self.factors = start.selection, start.rms, start.factors
            masks = self.choose(selection.concept) if self.choose else selection.concept
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
        mu = self.settings.response
        self.still = Still(stacked(self.index, base.weights), start.held, mu, held_by(base, self.index, start.held)) if mu else (lambda u: u)
        self.optimizer, self.schedule = optimizer([self.update], [self.vector], self.settings)
        if progress:
            self._resume(progress)

    def progress(self, stopped: bool, seconds: float) -> Progress:
        """All that `_resume` needs."""
        index = {n: i.int() for n, i in self.index.items()}
        state = self.vector, index, self.update, (self.funnel, self.general, self.rms, self.factors), self.optimizer.state_dict(), self.generator.get_state()
        return Progress(self.step, stopped, self.loss, seconds, *copied(state))

    def _resume(self, progress: Progress):
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

    @property
    def prompt(self) -> str:
        """What the session's picture of the concept is drawn from."""
        return self.base.card.portrait.format(self.concept.words)

    def draw(self) -> Image.Image:
        """The concept as the patched base draws it now, from the teaching's seed."""
        began, vectors = time.monotonic(), {k: v.detach() for k, v in self.vectors.items()}
        picture = sample(self.base, self.prompt, vectors, GenerateSettings(seed=self.settings.seed))[0]
        self.drawing = time.monotonic() - began
        return picture

    def guessed_drawing(self) -> float:
        """Seconds of a picture, by the steps': one learns from a batch, forward and backward; a picture is two forward for each of its own."""
        return self.pace * 2 * self.base.steps / (3 * self.settings.batch_size)

    def preview(self, stop: Stop) -> Image.Image | None:
        """What `draw` gives, none when it is stopped."""
        with suppress(Stopped), passing(self.base, stop.end):
            return self.draw()
        return None  # a picture that is given up

    def portrait(self, stop: Stop) -> Image.Image:
        """The picture that the session keeps: a stop does not end it unless nothing is to be kept."""
        with self.patched(), passing(self.base, stop):
            return self.draw()

    def unlearned(self, stop: Stop) -> Image.Image | None:
        """What the untaught base draws for the class word; none when it is stopped."""
        with suppress(Stopped):
            stop.end()
            with self.base.lock, passing(self.base, stop.end):
                return sample(self.base, self.base.card.portrait.format(self.concept.class_word), {}, GenerateSettings(seed=self.settings.seed))[0]
        return None

    def finish(self, seconds: float, picture: Image.Image, before: Image.Image | None = None) -> Session:
        """The new session; `picture`: the concept's, `before`: the untaught base's of its class word."""
        base, concept, s = self.base, self.concept, self.settings
        features = base.scorer.image_features([square(i, base.size) for i in concept.images]) if base.scorer else None
        if self.known and features is not None and self.known.features is not None:
            features = torch.cat([self.known.features, features])
        stats = {
            "clip_i": base.scorer.clip_i([picture], features) if base.scorer else None,
            "clip_i_before": base.scorer.clip_i([before], features) if base.scorer and before else None,
            "neurons": sum(c[1] for c in self.funnel.values()), "base_neurons": sum(c[0] for c in self.funnel.values()),
            "general_removed": sum(c[0] - c[1] for c in self.funnel.values()), "shared_with_earlier": sum(int(m.sum()) for m in self.shared.values()),
            "share_of_model": sum(c[1] for c in self.funnel.values()) / base.parameters, "funnel": self.funnel,  # per weight: base, concept, all
            "seconds": round(seconds, 2), "steps": self.step, "seed": s.seed, "images": len(concept.images), "loss": self.loss,
            "prompt": self.prompt, "settings": {f.name: getattr(s, f.name) for f in fields(s)},
        }  # fmt: skip
        learned = Learned(
            concept.name, concept.class_word, self.vector.detach().cpu().clone(), self.index, picture, features, stats,
            rms={layer: r.cpu() for layer, r in self.rms.items()}, gradients=self.factors,
        )
        parts = {c.name: self.session.increments(c.name) for c in self.session.concepts}
        parts[concept.name] = self._increments(parts.get(concept.name))
        concepts = [learned if c is self.known else c for c in self.session.concepts] + [learned] * (self.known is None)
        return replace(self.session, general=self.general).of(concepts, [parts[c.name] for c in concepts])

    def _increments(self, before: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """What this concept adds to W_0 beside the others: W - W_0 less their increments; `before`: its own from an earlier teaching."""
        out = {}
        for n, index in self.index.items():
            others = self.session.delta.at(n, index).double() - (before[n] if before else 0)
            out[n] = ((self.now[n] - self.origin[n]).detach().cpu().double() - others).float()
        return out


def optimizer(weights, vectors, settings: TeachSettings):
    """(AdamW over `weights` and token `vectors`, its schedule: ten steps up, then straight down to nothing)."""
    groups = [{"params": list(weights), "lr": settings.rate}, {"params": list(vectors), "lr": settings.token_rate}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
    return adam, torch.optim.lr_scheduler.LambdaLR(adam, lambda k: min(1, (k + 1) / 10) * max(0.0, 1 - k / settings.steps))


def denoising_loss(base, latents: Tensor, captions: list[list[str]], vectors, settings: TeachSettings, generator) -> Tensor:
    """|| target - f(z_t, t, text) ||^2 of a batch of `latents` [k, c, h, w], noised, each with one of its captions."""
    n = settings.batch_size
    which = torch.randint(len(latents), (n,), generator=generator)
    z = latents[which]
    t = base.noise.times(torch.rand(n, generator=generator) ** settings.noise_bias).to(base.device)
    noise = torch.randn(z.shape, generator=generator).to(z)
    prompts = [captions[i][torch.randint(len(captions[i]), (), generator=generator)] for i in which]
    predicted = base.predict(base.noise.add(z, noise, t), t, read(base, prompts, vectors))
    return F.mse_loss(predicted.float(), base.noise.target(z, noise, t))


def squared_gradients(base, weights, latents: Tensor, captions, vectors, settings: TeachSettings, batches: int) -> Parts[dict[str, Tensor]]:
    """The loss's squared gradient by each of `weights`, summed over so many batches, each a part, by weight name."""
    generator, total = torch.Generator().manual_seed(settings.seed), dict[str, Tensor]()
    for _ in range(batches):
        with trainable(weights.values()):
            denoising_loss(base, latents, captions, vectors, settings, generator).backward()
            for n, w in weights.items():
                total[n] = total.get(n, 0) + w.grad.float().square()
                w.grad = None
        yield
    return total
