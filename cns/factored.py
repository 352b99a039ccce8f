"""A matrix of root mean square gradients kept as those of its rows and of its columns (Adafactor, Shazeer and Stern 2018).

    G_ij^2 ~ R_i^2 C_j^2 / mean(C^2)

dout + din numbers in place of dout * din: little enough to stay in a session, near enough to choose neurons by again.
"""

import torch
from torch import Tensor


def factored(rms: Tensor) -> Tensor:
    """(R, C) [dout + din] of G [dout, din], on the CPU."""
    square = rms.detach().float().square()
    return torch.cat([square.mean(1), square.mean(0)]).sqrt().cpu()


def restored(factors: Tensor, shape: tuple[int, int]) -> Tensor:
    """G [dout, din] as nearly as `factors` say."""
    rows, columns = factors.split(list(shape))
    return rows[:, None] * columns / columns.square().mean().sqrt().clamp(min=1e-30)
