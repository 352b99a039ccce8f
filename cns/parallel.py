"""Several processes that teach one thing together, as `accelerate launch -m cns teach` or `torchrun -m cns teach` start them.

Each draws its own batches; gradients are averaged before every step, so that all hold the same weights, and the first one
keeps the result. In a process that was started alone nothing here does anything.
"""

import os

import torch
import torch.distributed as dist


def join() -> str | None:
    """Meet the other processes, if there are any; returns this one's device, None when it is free to choose."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    cuda = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    return device


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def average(grads: list[torch.Tensor]) -> None:
    """Each gradient becomes its mean over the processes."""
    if dist.is_initialized():
        for grad in grads:
            shared = grad if dist.get_backend() == "gloo" or grad.is_cuda else grad.to(torch.cuda.current_device())
            dist.all_reduce(shared)
            grad.copy_(shared / dist.get_world_size())


def leave() -> None:
    """Part from the others."""
    if dist.is_initialized():
        dist.destroy_process_group()
