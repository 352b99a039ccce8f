"""The ways to teach one model a stream of concepts that CNS is measured against, each over CNS's own denoising loss and schedule.

A `Method` is taught concept by concept; within `on(names)` the base draws as it learned to, for a prompt about `names`.
All train the same token vectors from the same start on the same captions; they differ in which weights they train and in
what ties these.
"""

import time
from contextlib import contextmanager
from dataclasses import asdict, fields

import torch
from torch import Tensor

from ..choosing import captions
from ..concept import Concept
from ..delta import trainable
from ..generation import GenerateSettings, sample
from ..images import to_pixels
from ..parts import whole
from ..session import Session
from ..teaching import Teaching, TeachSettings, denoising_loss, optimizer, squared_gradients
from ..text import class_embedding, encode


@contextmanager
def dense(weights: dict[str, Tensor], values: dict[str, Tensor]):
    """Within: the `weights` named in `values` hold these; after, also after an error, what they held, bit for bit."""
    saved = {n: weights[n].data.clone() for n in values}
    try:
        for n, v in values.items():
            weights[n].data.copy_(v)
        yield
    finally:
        for n, w in saved.items():
            weights[n].data.copy_(w)


def fit(base, concepts: list[Concept], weights, known: dict[str, Tensor], s: TeachSettings, penalty=None, prior: tuple | None = None) -> dict[str, Tensor]:
    """Train `weights` in place and a new vector for each of `concepts`; returns the vectors by token.

    `penalty()` is added to the loss; `prior` is (latents, captions) of the class, with the same weight as the concept's own.
    """
    generator = torch.Generator().manual_seed(s.seed)
    latents = torch.cat([base.latents(to_pixels(c.images, base.size)) for c in concepts])
    texts = [t for c in concepts for t in captions(base, c)]
    new = {c.token: class_embedding(base, c).clone().requires_grad_() for c in concepts}
    with trainable(weights) as parameters:
        adam, schedule = optimizer(parameters, new.values(), s)
        for _ in range(s.steps):
            loss = denoising_loss(base, latents, texts, {**known, **new}, s, generator)
            if prior:
                loss = loss + denoising_loss(base, *prior, known, s, generator)  # type: ignore[call-arg]
            if penalty:
                loss = loss + penalty()
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            schedule.step()
    return {t: v.detach() for t, v in new.items()}


class Method:
    """Sequential fine-tuning of `weights`; the others override what differs. This one, with none at all, is the untaught base."""

    apart = False  # whether what is drawn of a concept never depends on later ones
    together = True  # whether several concepts can be in one picture
    reads: tuple[str, ...] = ("steps", "batch_size", "rate", "token_rate", "lambda_previous", "seed", "noise_bias")  # the settings that matter to it
    fusion_s = 0.0  # what making one model of the parts took last time

    def __init__(self, base, settings: TeachSettings):
        self.base, self.settings = base, settings
        self.vectors: dict[str, Tensor] = {}
        self.now: dict[str, Tensor] = {}  # W, dense, of what was trained

    def settings_read(self) -> dict:
        """The settings that matter to it: another one, such as CNS's own, is no reason to run it again."""
        return {k: v for k, v in asdict(self.settings).items() if k in self.reads}

    def weights(self) -> dict[str, Tensor]:
        return {}

    def teach(self, concept: Concept) -> None:
        self.train([concept])

    def train(self, concepts: list[Concept], settings=None, penalty=None, prior=None) -> None:
        weights = self.weights()
        with self.base.lock, dense(weights, self.now), dense(weights, {n: w.data.clone() for n, w in weights.items()}):
            self.vectors |= fit(self.base, concepts, weights.values(), self.vectors, settings or self.settings, penalty, prior)
            self.now = {n: w.detach().clone() for n, w in weights.items()}

    @contextmanager
    def on(self, names=()):
        with self.base.lock, dense(dict(self.base.denoiser.named_parameters()), self.now):
            yield

    def changed(self) -> float:
        """Weights that differ from the base's, as a share of the model, for one concept."""
        return sum(w.numel() for w in self.now.values()) / self.base.parameters

    def bytes(self) -> int:
        return sum(t.nbytes for t in (*self.now.values(), *self.vectors.values()))


class Base(Method):
    """The untaught base: a token means its class word."""

    apart = True

    def teach(self, concept):
        self.vectors[concept.token] = class_embedding(self.base, concept)


class TokenOnly(Method):
    """Textual Inversion: the token's vector alone."""

    apart = True


class FinetuneKV(Method):
    """All keys and values of the cross-attention."""

    def weights(self):
        return self.base.weights


class FinetuneUnet(Method):
    """All of the U-Net."""

    def weights(self):
        return dict(self.base.denoiser.named_parameters())


class Ewc(FinetuneKV):
    """Elastic weight consolidation: lambda sum_i F_i (W_i - W_i before)^2, F the earlier concepts' summed Fisher diagonals."""

    def __init__(self, base, settings):
        super().__init__(base, settings)
        self.fisher: dict[str, Tensor] = {}

    def teach(self, concept):
        before, strength = self.now, self.settings.lambda_previous
        held = [(w, before[n], self.fisher[n]) for n, w in self.weights().items() if n in self.fisher]
        self.train([concept], penalty=lambda: strength * sum((f * (w - b).square()).sum() for w, b, f in held))
        self._remember(concept)

    def _remember(self, concept):
        """Add the Fisher diagonal of this concept, scaled so that its mean is 1 over the first."""
        latents, texts = self.base.latents(to_pixels(concept.images, self.base.size)), captions(self.base, concept)
        with self.on():
            total = whole(squared_gradients(self.base, self.weights(), latents, texts, self.vectors, self.settings, 8))
        if not self.fisher:
            self.scale = sum(f.sum() for f in total.values()) / sum(f.numel() for f in total.values())
        self.fisher = {n: self.fisher.get(n, 0) + f / self.scale for n, f in total.items()}

    def bytes(self):
        return super().bytes() + sum(f.nbytes for f in self.fisher.values())


class CustomDiffusion(FinetuneKV):
    """K/V for each concept from the base on, with pictures of the class to preserve it, then the paper's closed-form merge:

    W = argmin ||(W - W_0) C_reg||, W c = W_concept c for the concepts' words c.
    """

    def __init__(self, base, settings):
        super().__init__(base, settings)
        self.parts: dict[str, dict[str, Tensor]] = {}  # W of each concept alone
        self.words: dict[str, str] = {}

    def teach(self, concept, pictures: int = 8):
        prompt = f"a {concept.class_word}"
        with self.base.lock:
            drawn = sample(self.base, prompt, {}, GenerateSettings(count=pictures, seed=self.settings.seed, steps=10))
            prior = self.base.latents(to_pixels(drawn, self.base.size)), [[prompt]] * pictures
        self.now = {}
        self.train([concept], prior=prior)
        self.parts[concept.name], self.words[concept.name] = self.now, concept.words
        began = time.perf_counter()
        self.now = self.merged() if len(self.parts) > 1 else self.now
        self.fusion_s = time.perf_counter() - began

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        ridge = 1e-3
        reg, is_word = encode(self.base, list(self.base.card.calibration))
        c_reg = reg[is_word].double()  # [m, din]
        inverse = torch.linalg.inv(c_reg.T @ c_reg / len(c_reg) + ridge * torch.eye(c_reg.shape[1], dtype=torch.float64))
        features = {n: (x := encode(self.base, [f"a {w}"], self.vectors))[0][x[1]].double() for n, w in self.words.items()}
        c = torch.cat([*features.values()])  # [k, din]
        d = inverse @ c.T  # [din, k]
        solved = d @ torch.linalg.inv(c @ d + ridge * torch.eye(len(c), dtype=torch.float64))  # [din, k]
        out = {}
        for n, w in self.base.weights.items():
            wanted = torch.cat([features[j] @ (self.parts[j][n] - w).double().T for j in features])  # dW c of each concept's own, [k, dout]
            out[n] = w + (solved @ wanted).T.float()
        return out

    def bytes(self):
        return sum(t.nbytes for t in (*self.vectors.values(), *(w for p in self.parts.values() for w in p.values())))


class Joint(FinetuneKV):
    """All concepts at once, as often as in a stream: what no continual method can have."""

    def teach_all(self, concepts):
        s = self.settings
        self.train(concepts, TeachSettings(**{**vars(s), "steps": min(5000, s.steps * len(concepts))}))


class Cns(Method):
    """Concept Neuron Selection as the settings say; `choose` may change the masks, for ablations."""

    reads = tuple(f.name for f in fields(TeachSettings))

    def __init__(self, base, settings, choose=None):
        super().__init__(base, settings)
        self.session, self.choose = Session.new(base), choose

    def teach(self, concept):
        self.session = self.learn(concept, self.session)
        self.vectors = self.session.vectors

    def learn(self, concept, session) -> Session:
        began = time.monotonic()
        run = Teaching(self.base, session, concept, self.settings, self.choose).begun()
        with run.patched():
            while run.step < self.settings.steps:
                run.train_step()
            picture = run.draw()
        return run.finish(time.monotonic() - began, picture)

    @contextmanager
    def on(self, names=()):
        with self.session.on(self.base):
            yield

    def changed(self):
        shares = [c.stats["share_of_model"] for c in self.session.concepts]
        return sum(shares) / len(shares)

    def bytes(self):
        return self.session.summary(self.base)["bytes"]


class Solo(Cns):
    """CNS, a session of its own for every concept: how well each could be known."""

    apart, together = True, False

    def teach(self, concept):
        self.all = {**getattr(self, "all", {}), concept.name: self.learn(concept, Session.new(self.base))}
        self.session = self.all[concept.name]
        self.vectors = {t: v for s in self.all.values() for t, v in s.vectors.items()}

    @contextmanager
    def on(self, names=()):
        with (self.all[names[0]] if names else Session.new(self.base)).on(self.base):
            yield

    def bytes(self):
        return sum(s.summary(self.base)["bytes"] for s in self.all.values())
