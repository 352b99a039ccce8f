"""A session out to other programs: a diffusers pipeline, a dense patch with embeddings, a LoRA; and back in.

    pipeline  the base's kind of folder, whose tokenizers and text encoders know the tokens; any program can load it
    patch     `<name>.diff.safetensors` under LoRA-style keys and one textual-inversion file for each concept, as A1111 and
              ComfyUI read them; applied to the base it is the session but for rounding to fp16
    lora      the same with the patch cut down to a low rank by singular values: smaller, and lossy by the error that is said
    session   the session's own folder

Each carries the session itself in `cns-session`, so that whatever was exported comes back bit for bit. A target is
written beside its place and moved there whole.
"""

import copy
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor

from .parts import Shares, shares, whole
from .session import Session

KINDS = ("pipeline", "patch", "lora", "session")
INSIDE = "cns-session"  # where an export carries the session
ABOUT = "cns-export.json"  # what `export` returns


def export(base, session: Session, kind: str, out: str | Path, rank: int = 16) -> dict:
    """Write `session` to the new folder `out` as one of `KINDS`. Returns what was written, and with which error, JSON-safe.

    Raises ValueError for an unknown kind, an empty session or a bad rank, OSError when `out` is there or cannot be written.
    """
    return whole(exporting(base, session, kind, out, rank))


def exporting(base, session: Session, kind: str, out: str | Path, rank: int = 16) -> Shares[dict]:
    """`export` in parts, a matrix or a component's files each. Nothing is left of one that is dropped between two."""
    _check(base, session, kind, rank)
    about: dict[str, Any] = {"kind": kind, "base": session.base_id, "revision": session.base_revision, "tokens": list(session.tokens)}
    with _whole(Path(out)) as folder:
        session.save(folder if kind == "session" else folder / INSIDE)
        if kind == "pipeline":
            yield from _components(pipeline(base, session), folder)
        if kind == "patch":
            tensors = yield from patch(base, session)
            save_file(tensors, folder / "cns.diff.safetensors", {"base": session.base_id})
        if kind == "lora":
            tensors, about["relative_error"] = yield from lora(base, session, rank)
            about["rank"] = rank
            save_file(tensors, folder / "cns.lora.safetensors", {"base": session.base_id, "relative_error": f"{about['relative_error']:.4f}"})
        if kind in ("patch", "lora"):
            for c in session.concepts:
                parts = zip(base.family.embeddings, c.vector.split(base.widths))
                save_file({key.format(c.token): part[None].clone() for key, part in parts}, folder / f"{c.name}.safetensors")
        about["files"] = {str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
        (folder / ABOUT).write_text(json.dumps(about, indent=1))
    return about


def _check(base, session: Session, kind: str, rank: int) -> None:
    session.check(base)
    if kind not in KINDS:
        raise ValueError(f"export `{kind}` is unknown: choose {', '.join(f'`{k}`' for k in KINDS)}")
    if kind in ("patch", "lora") and not base.family.keys:
        raise ValueError(f"a `{kind}` of a {base.family.name} is in no form that another program is known to read: export a `pipeline` or `session`")
    if not session.concepts:
        raise ValueError("the session knows nothing yet, so there is nothing to export: teach something first")
    most = max(map(_full_rank, base.weights.values()))
    if not 1 <= rank <= most:
        raise ValueError(f"`rank` is {rank}: choose 1 to {most}")


def load_export(folder: str | Path, base) -> Session:
    """The session in a folder that `export` wrote. Raises FileNotFoundError when there is none, ValueError as `Session.load` does."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder `{folder}`: give the one that was exported")
    return Session.load(folder / INSIDE if (folder / INSIDE).is_dir() else folder, base)


def pipeline(base, session: Session):
    """A copy of the base's pipeline that has learned: K and V written, tokens in the tokenizer, their embeddings in the text encoder."""
    new = {}
    for i, names in enumerate(base.family.encoders):
        tokenizer, text = (copy.deepcopy(base.pipe.components[n]) for n in names)
        if taken := [t for t in session.tokens if t in tokenizer.get_vocab()]:
            raise ValueError(f"the base's tokenizer has a `{taken[0]}` of its own: rename the concept, then export it")
        spaced = bool(base.family.space)  # then the space before a token, found in the text as it was typed, is no token of its own
        tokenizer.add_tokens([AddedToken(t, lstrip=spaced, normalized=not spaced) for t in session.tokens])
        text.resize_token_embeddings(max(len(tokenizer), base.embeddings[i].num_embeddings), mean_resizing=False)
        with torch.no_grad():
            for token, vector in session.vectors.items():
                rows = text.get_input_embeddings().weight
                rows[tokenizer.convert_tokens_to_ids(token)] = vector.split(base.widths)[i].to(rows)
        new |= dict(zip(names, (tokenizer, text)))
    with session.on(base):
        new[base.family.denoiser] = copy.deepcopy(base.denoiser)
    return type(base.pipe)(**{**base.pipe.components, **new}, **base.options)


def _components(pipe, folder: Path) -> Shares[None]:
    """What `pipe.save_pretrained` does, a component after the other."""
    parts = {n: c for n, c in pipe.components.items() if hasattr(c, "save_pretrained")}
    sizes = {n: sum(p.nbytes for p in c.parameters()) if isinstance(c, torch.nn.Module) else 2**20 for n, c in parts.items()}
    for name, share in shares(sizes):
        parts[name].save_pretrained(folder / name)
        yield share
    pipe.save_config(folder)


def patch(base, session: Session) -> Shares[dict[str, Tensor]]:
    """W - W0 as dense fp16 matrices [dout, din] under the keys of a LoRA file, in parts."""
    out = {}
    for n, share in shares({n: base.weights[n].numel() for n in session.delta.indices}):
        out[key := f"{_key(base, n)}.diff"] = dense = _dense(base, session, n).half().contiguous()
        if not torch.isfinite(dense).all():
            raise ValueError(f"`{key}` is beyond the range of fp16: the session changed the base too much to be exported as a patch")
        yield share
    return out


def lora(base, session: Session, rank: int) -> Shares[tuple[dict[str, Tensor], float]]:
    """(down and up matrices whose product is W - W0 as nearly as `rank` allows, relative error ||dW - up down|| / ||dW||), in parts."""
    out, missed, total = {}, 0.0, 0.0
    for n, share in shares({n: base.weights[n].numel() * _full_rank(base.weights[n]) for n in session.delta.indices}):
        dense, r = _dense(base, session, n), min(rank, _full_rank(base.weights[n]))
        u, s, v = torch.linalg.svd(dense, full_matrices=False)
        up, down = (u[:, :r] * s[:r].sqrt()).half(), (s[:r].sqrt()[:, None] * v[:r]).half()
        out |= {f"{_key(base, n)}.lora_up.weight": up.contiguous(), f"{_key(base, n)}.lora_down.weight": down.contiguous(), f"{_key(base, n)}.alpha": torch.tensor(float(r))}
        missed += (dense - up.float() @ down.float()).square().sum().item()
        total += dense.square().sum().item()
        yield share
    return out, (missed / total) ** 0.5 if total else 0.0


def _key(base, name: str) -> str:
    """`down_blocks.0...attn2.to_k.weight` -> `lora_unet_down_blocks_0_..._attn2_to_k`."""
    return base.family.keys + name.removesuffix(".weight").replace(".", "_")


def _dense(base, session: Session, name: str) -> Tensor:
    flat = torch.zeros(base.weights[name].numel())
    flat[session.delta.indices[name]] = session.delta.values[name]
    return flat.view(base.weights[name].shape)


def _full_rank(weight: Tensor) -> int:
    return min(weight.shape)


@contextmanager
def _whole(out: Path):
    """Within: a new folder to fill, which becomes `out`; nothing is left behind when that fails."""
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"`{out}` is there already: choose a new folder to export to")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(out)
    except PermissionError:
        raise PermissionError(f"`{out}` cannot be written: choose a folder that you may write to") from None
    except (FileExistsError, NotADirectoryError) as error:
        raise OSError(f"`{out}` cannot be made ({error.strerror}): choose a new folder to export to") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
