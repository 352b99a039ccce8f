"""A session in, the bytes of one safetensors file out, and back, whoever sent them (also as a zip of an export); the same for a draft.

The JSON lies in the file's metadata. A digest of everything that counts lies in the JSON, so that a file that was damaged
on its way is refused even where its numbers are still numbers.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from ..session import Damaged, Session

MAX_BYTES = 200 * 2**20  # of an archive
MAX_HEADER = 16 * 2**20  # of its JSON


@dataclass(frozen=True)
class Draft:
    """What was about to be taught: the files of the pictures, and plain settings."""

    images: list[bytes]
    settings: dict


def digest(session: Session) -> str:
    """SHA-256 of all that a session is, in hex; of its pictures the pixels, as PNG encoders differ."""
    about, tensors = session.parts()
    out = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(n for n in tensors if not n.endswith("/picture")):
        tensor = tensors[name]
        out.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    for c in session.concepts:
        out.update(f"{c.name} {c.picture.size}".encode() + c.picture.tobytes())
    return out.hexdigest()


def pack(session: Session) -> bytes:
    """One file."""
    about, tensors = session.parts()
    return save_tensors(tensors, {"cns": json.dumps({**about, "digest": digest(session)}, sort_keys=True)})


def unpack(content: bytes, base) -> Session:
    """The inverse of `pack`, also for the bytes of a zipped export. Raises ValueError for anything that is not whole, sound and of this base."""
    try:
        if content.startswith(b"PK"):
            return _exported(content, base)
        about, tensors = _open(content)
        session = Session.read(about, tensors, base)
        if about.get("digest") != digest(session):
            raise Damaged("its digest is not that of what it holds")
    except Damaged as error:
        raise ValueError(f"the session file is damaged or no session ({error}): take another copy of it") from None
    return session


def _exported(content: bytes, base) -> Session:
    """The session that a zip of an export carries; nothing else in the zip is read. Raises Damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {PurePosixPath(m.filename).name: m for m in archive.infolist()}
            about = json.loads(_member(archive, members["session.json"], MAX_HEADER), parse_constant=_refuse)
            packed = _member(archive, members[about["tensors"]], MAX_BYTES)
        tensors = load_tensors(packed)
    except Damaged:
        raise
    except Exception:  # a reader of hostile zips raises anything
        raise Damaged("the zip holds no session that was exported") from None
    if about["tensors"] != f"session-{hashlib.sha256(packed).hexdigest()[:16]}.safetensors":
        raise Damaged("its tensors are not those that were exported")
    return Session.read(about, tensors, base)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """A file in a zip, whatever the zip says of its size."""
    with archive.open(member) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Damaged(f"`{member.filename[:40]}` in it is larger than {most // 2**20} MB")
    return content


def pack_draft(draft: Draft) -> bytes:
    images = {str(i): torch.frombuffer(bytearray(b), dtype=torch.uint8) for i, b in enumerate(draft.images)}
    return save_tensors(images, {"cns": json.dumps(draft.settings)})


def unpack_draft(content: bytes) -> Draft:
    """The inverse of `pack_draft`. Raises Damaged."""
    settings, images = _open(content)
    return Draft([images[n].numpy().tobytes() for n in sorted(images, key=int)], settings)


def _open(content: bytes) -> tuple[dict, dict[str, torch.Tensor]]:
    """(JSON, tensors) of a file of ours. Raises Damaged for anything else, before much memory is spent on it."""
    if len(content) > MAX_BYTES:
        raise Damaged(f"it has {len(content) / 2**20:.0f} MB, at most {MAX_BYTES // 2**20} are read")
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(MAX_HEADER, len(content) - 8):
        raise Damaged("it is no safetensors file, or cut off")
    try:
        about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["cns"], parse_constant=_refuse)
        if not isinstance(about, dict):
            raise Damaged("its JSON is no object")
        return about, load_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise Damaged(str(error)[:200] or "it cannot be read") from None


def _refuse(word: str):
    raise ValueError(f"its JSON holds {word}")
