"""The ways with LoRA adapters, made and fused by peft."""

import time
from contextlib import contextmanager

import torch
from torch import Tensor

from .methods import Method, dense, fit


class Lora(Method):
    """A LoRA on every key and value for each concept (peft), `fused` by one of peft's ways or ("") put on alone."""

    rank, fused = 8, ""

    def __init__(self, base, settings):
        super().__init__(base, settings)
        self.apart, self.together = not self.fused, bool(self.fused)
        self.adapters: dict[str, dict[str, Tensor]] = {}  # peft's own tensors
        self.parts: dict[str, dict[str, Tensor]] = {}  # dW of each alone

    def wrapped(self, name: str):
        """The U-Net with a new adapter in it; `unload()` takes it out again."""
        try:
            import peft
        except ImportError:
            raise ModuleNotFoundError("`peft` is needed for the LoRA baselines: pip install -r tests/requirements.txt") from None
        targets = [n.removesuffix(".weight") for n in self.base.weights]
        self.config = peft.LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=targets)
        return peft.get_peft_model(self.base.denoiser, self.config, adapter_name=name)

    def changes(self, model, name: str) -> dict[str, Tensor]:
        """dW = B A of an adapter, by weight name, gradients kept."""
        layers = dict(model.base_model.model.named_modules())
        found = {n: layers[n.removesuffix(".weight")] for n in self.base.weights}
        return {n: m.lora_B[name].weight @ m.lora_A[name].weight * m.scaling[name] for n, m in found.items()}

    def penalty(self, model, name):
        return None

    def teach(self, concept):
        from peft import get_peft_model_state_dict

        torch.manual_seed(self.settings.seed)
        with self.base.lock, dense(self.base.weights, self.start()):
            model = self.wrapped(concept.name)
            try:
                own = [p for n, p in model.named_parameters() if "lora_" in n]
                self.vectors |= fit(self.base, [concept], own, self.vectors, self.settings, self.penalty(model, concept.name))
                self.adapters[concept.name] = {k: v.detach().clone() for k, v in get_peft_model_state_dict(model, adapter_name=concept.name).items()}
                self.parts[concept.name] = {n: d.detach() for n, d in self.changes(model, concept.name).items()}
            finally:
                model.unload()
        if self.fused:
            began = time.perf_counter()
            self.now = self.fuse()
            self.fusion_s = time.perf_counter() - began

    def start(self) -> dict[str, Tensor]:
        """What is frozen under a new adapter."""
        return {}

    @torch.no_grad()
    def fuse(self) -> dict[str, Tensor]:
        from peft import set_peft_model_state_dict

        names = list(self.adapters)
        model = self.wrapped(names[0])
        try:
            for name in names[1:]:
                model.add_adapter(name, self.config)
            for name in names:
                set_peft_model_state_dict(model, self.adapters[name], adapter_name=name)
            more = {"density": 0.5} if self.fused.startswith(("ties", "dare", "magnitude")) else {}
            model.add_weighted_adapter(names, [1.0] * len(names), "fused", combination_type=self.fused, **more)
            change = {n: d.detach() for n, d in self.changes(model, "fused").items()}
        finally:
            model.unload()
        return {n: w.detach() + change[n] for n, w in self.base.weights.items()}

    @contextmanager
    def on(self, names=()):
        if not self.fused:
            (name,) = names or (None,)
            self.now = {n: self.base.weights[n].detach() + d for n, d in self.parts[name].items()} if name else {}
        with super().on(names):
            yield

    def changed(self):
        return sum(w.numel() for w in self.base.weights.values()) / self.base.parameters

    def bytes(self):
        return sum(t.nbytes for t in (*self.vectors.values(), *(v for a in self.adapters.values() for v in a.values())))


class LoraSum(Lora):
    fused = "cat"  # concatenated factors: exactly the sum of the changes


class LoraLinear(Lora):
    fused = "linear"


class LoraTies(Lora):
    fused = "ties"


class LoraDare(Lora):
    fused = "dare_linear"


class CLora(LoraSum):
    """Continual Diffusion: a LoRA on top of the earlier ones, lambda || |sum of earlier dW| * dW ||^2 keeping it off their entries."""

    def start(self):
        return self.now

    def penalty(self, model, name):
        if not self.parts:
            return None
        earlier = {n: sum(p[n] for p in self.parts.values()).abs() for n in self.base.weights}
        scale = sum(e.square().sum() for e in earlier.values()) / sum(e.numel() for e in earlier.values())
        return lambda: self.settings.lambda_previous / scale * sum((earlier[n] * d).square().sum() for n, d in self.changes(model, name).items())
