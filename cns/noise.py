"""Clean latents in, noised ones and what a denoiser should make of them out, as its base was trained, whatever sampler it ships.

    Diffusion   z_t = sqrt(a_t) z + sqrt(1 - a_t) eps                                (Ho et al., 2020)
    Flow        z_t = (1 - s) z + s eps,  t = T s,  what is predicted is eps - z     (flow matching: Esser et al., 2024)

A noise level u in [0, 1] says how far into the noise to go; `times` turns it into what the denoiser is told.
"""

import math

import torch
from torch import Tensor


class Diffusion:
    """Steps of adding noise; what is predicted (noise, velocity, clean latents) stands in the pipeline's scheduler."""

    def __init__(self, base):
        self.schedule = base.schedule

    def times(self, u: Tensor) -> Tensor:
        """int64 times t [n] of levels u [n]: uniform, 1 is the last."""
        steps = self.schedule.config.num_train_timesteps
        return (steps * u).long().clamp(max=steps - 1)

    def add(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t [n, c, h, w]."""
        return self.schedule.add_noise(z, noise, t)

    def target(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should predict: the noise, the velocity or the clean latents."""
        prediction = self.schedule.config.prediction_type
        return self.schedule.get_velocity(z, noise, t) if prediction == "v_prediction" else {"epsilon": noise, "sample": z}[prediction]


class Flow:
    """Straight lines from pictures to noise."""

    def __init__(self, base):
        config = base.pipe.scheduler.config
        self.steps = config.num_train_timesteps
        self.shift = _shift(config, base)

    def times(self, u: Tensor) -> Tensor:
        """float32 times t [n] of levels u [n]: s is logit-normal in a uniform u, and shifted towards noise by as much as the base's sampler says."""
        s = torch.sigmoid(torch.special.ndtri(u))
        return self.steps * self.shift * s / (1 + (self.shift - 1) * s)

    def add(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t [n, c, h, w]."""
        s = (t / self.steps).view(-1, 1, 1, 1).to(z)
        return (1 - s) * z + s * noise

    def target(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The way from the picture to the noise."""
        return noise - z

    def clean(self, noised: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """The picture's latents z [n, c, h, w] that a prediction amounts to."""
        return noised - (t / self.steps).view(-1, 1, 1, 1).to(noised) * predicted


def _shift(config, base) -> float:
    """By how much a flow's sampler shifts its levels, s -> shift s / (1 + (shift - 1) s); where it grows with the picture, for the base's size."""
    if not config.get("use_dynamic_shifting"):
        return config.get("flow_shift", config.get("shift", 1.0))
    few, many = config.base_image_seq_len, config.max_image_seq_len
    return math.exp(config.base_shift + (config.max_shift - config.base_shift) * (base.patches**2 - few) / (many - few))
