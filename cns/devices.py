"""What a device can take, asked before anything is loaded: the type of its numbers, its free memory, and whether a base fits it."""

import ctypes
import json
import os
import re
import struct
import sys
from pathlib import Path

import torch

WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors")  # no variants: those are not loaded
CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))  # version 2, version 1


def best() -> str:
    """The fastest device that is here."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def dtype(device: str) -> torch.dtype:
    """What weights are held in: bfloat16 on CUDA, which needs no loss scaling; float32 on MPS and CPU, where that is as fast or surer."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def free(device: str) -> int:
    """Memory that new weights could take [bytes]."""
    if device.startswith("cuda"):
        on_loan = os.environ.get("SPACES_ZERO_GPU")  # a GPU comes with each call, and must not be touched before
        return torch.cuda.get_device_properties(0).total_memory if on_loan else torch.cuda.mem_get_info(device)[0]
    import psutil

    return min([psutil.virtual_memory().available, *_container_room(Path("/sys/fs/cgroup"))])


def _container_room(root: Path):
    """What a container's limits leave [bytes], if there are any."""
    for limit, used in CGROUPS:
        if (root / limit).exists() and (text := (root / limit).read_text().strip()).isdigit():
            yield int(text) - int((root / used).read_text())


def weight_bytes(folder: Path, parts, dtype: torch.dtype) -> int:
    """What the weights of a pipeline's `parts` in `folder` take when loaded as `dtype`, by their files' headers alone."""
    return sum(_count(f) for part in parts for f in (folder / part).glob("*.safetensors") if WEIGHTS.fullmatch(f.name)) * dtype.itemsize


def _count(file: Path) -> int:
    """Number of weights in a safetensors file: its header is a length [8 bytes, little endian] and JSON."""
    with file.open("rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
    return sum(torch.Size(t["shape"]).numel() for name, t in header.items() if name != "__metadata__")


def check_room(base: str, need: int, device: str, dtype: torch.dtype) -> None:
    """Raises ValueError when `need` [bytes] is more than the device has free."""
    if need > (room := free(device)):
        raise ValueError(
            f"base `{base}` takes {need / 2**30:.1f} GiB as {str(dtype).removeprefix('torch.')}, and {device} has {room / 2**30:.1f} GiB free: "
            "choose a smaller base, end other programs, or use a device with more memory"
        )


def give_back() -> None:
    """Let the C library return the memory that was freed to the system. glibc keeps it in pieces between what is in use, so that a
    process of many threads seems to grow with each teaching, though nothing in it does."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None:
        trim(0)
