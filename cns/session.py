"""What a model has learned, as data: concepts in the order taught, the general mask, one sparse delta for all of them.

A session is immutable; teaching returns a new one. It goes to a folder as safetensors and JSON and comes back bit for
bit. The delta covers the union of the concepts' masks; each concept's own mask is one bit for each entry of that union.

At an entry that several concepts use, the delta is the sum of their increments, and each of them keeps its own; at all
others the delta is the one concept's increment. So any concept can be scaled, or taken out again (see `owning`).
"""

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from . import files, trust
from .delta import SparseDelta, applied
from .selection import layer_of

VERSION = 2
STRONGEST = 1.5  # times what was taught
WRONG = (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OSError, ValueError, OverflowError)


class Damaged(ValueError):
    """What was read cannot be a session."""


@dataclass(frozen=True)
class Learned:
    """One taught concept: its token's embedding [din], its mask as flat indices per weight, and how it went."""

    name: str
    class_word: str
    vector: Tensor
    mask: dict[str, Tensor]
    picture: Image.Image  # as drawn when just taught
    features: Tensor | None  # unit CLIP embeddings of its images [k, d]; the images themselves are not kept
    stats: dict = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)  # its increments, float32, at the entries of its mask that others use too
    rms: dict[str, Tensor] = field(default_factory=dict)  # r [din] per layer, see `selection`: what the masks were chosen by; empty in old sessions
    gradients: dict[str, Tensor] = field(default_factory=dict)  # [dout + din] per weight, see `factored`, where the gradient chose; else empty

    @property
    def token(self) -> str:
        return f"<{self.name}>"

    @property
    def words(self) -> str:
        return f"{self.token} {self.class_word}"


@dataclass(frozen=True)
class Session:
    """Everything taught to one base. `general[name]` is the packed general mask, uint8 [ceil(dout * din / 8)]."""

    base_id: str
    base_revision: str
    concepts: tuple[Learned, ...] = ()
    delta: SparseDelta = field(default_factory=SparseDelta)
    general: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def new(cls, base) -> "Session":
        return cls(base.id, base.revision)

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(c.token for c in self.concepts)

    @property
    def vectors(self) -> dict[str, Tensor]:
        """Embeddings by token, for `text.encode`."""
        return {c.token: c.vector for c in self.concepts}

    def concept(self, name: str) -> Learned:
        """The concept of that name or token. Raises ValueError that names the taught ones."""
        for c in self.concepts:
            if name in (c.name, c.token):
                return c
        raise ValueError(f"concept `{name}` was never taught. Taught: {', '.join(f'`{c.name}`' for c in self.concepts) or 'nothing yet'}")

    def check(self, base) -> None:
        """Raises ValueError when this session belongs to another base."""
        if (self.base_id, self.base_revision) != (base.id, base.revision):
            raise ValueError(
                f"this session was taught on base `{self.base_id}` (revision {self.base_revision}), "
                f"not on `{base.id}` (revision {base.revision}): start with `--base {self.base_id}`, or start a new session"
            )

    @contextmanager
    def on(self, base):
        """Within: the base's lock is held and W = W0 + delta."""
        self.check(base)
        with base.lock, applied(base.weights, self.delta):
            yield

    def increments(self, name: str) -> dict[str, Tensor]:
        """What concept `name` alone added to the base: float32, one for each index of its mask."""
        c = self.concept(name)
        out = {n: self.delta.at(n, index) for n, index in c.mask.items()}
        for n, own in c.shared.items():
            out[n][torch.isin(c.mask[n], torch.cat([o.mask[n] for o in self.concepts if o is not c and n in o.mask]))] = own
        return out

    def of(self, concepts: Sequence[Learned], increments: Sequence[dict[str, Tensor]]) -> "Session":
        """A session of this base with exactly these concepts; its delta is the sum of their `increments`, whatever their order."""
        indices, values, shared = {}, {}, [{} for _ in concepts]
        for n in dict.fromkeys(n for c in concepts for n in c.mask):
            users = [i for i, c in enumerate(concepts) if n in c.mask]
            masks, parts = [concepts[i].mask[n] for i in users], [increments[i][n] for i in users]
            indices[n], place, count = torch.cat(masks).unique(return_inverse=True, return_counts=True)
            total = torch.zeros(len(count), dtype=torch.float64)  # float64 makes the sum of a few float32 exact
            values[n] = total.index_add_(0, place, torch.cat(parts).double()).float()
            for i, part, at in zip(users, parts, place.split([len(m) for m in masks])):
                if (several := count[at] > 1).any():
                    shared[i][n] = part[several]
        return replace(self, concepts=tuple(replace(c, shared=s) for c, s in zip(concepts, shared)), delta=SparseDelta(indices, values))

    def times(self, strengths: dict[str, float]) -> dict[str, float]:
        """`strengths` by name. Raises ValueError for one of a concept that was never taught or one that is not 0 (silent) to 1.5."""
        times = {self.concept(name).name: s for name, s in strengths.items()}
        for name, s in times.items():
            if not isinstance(s, int | float) or not 0 <= s <= STRONGEST:
                raise ValueError(f"strength of `{name}` is {s}: choose 0 to {STRONGEST}")
        return times

    def scaled(self, strengths: dict[str, float]) -> "Session":
        """This session with each named concept's increments times its strength; others stay as taught. Raises ValueError as `times`."""
        times = self.times(strengths)
        if all(s == 1 for s in times.values()):
            return self
        return self.of(self.concepts, [{n: times.get(c.name, 1.0) * v for n, v in self.increments(c.name).items()} for c in self.concepts])

    def silenced(self, name: str) -> "Session":
        """This session with the base's values at every neuron of concept `name`, shared ones included."""
        zeros = {n: torch.zeros(len(i)) for n, i in self.concept(name).mask.items()}
        return replace(self, delta=self.delta.replaced(self.concept(name).mask, zeros))

    def summary(self, base) -> dict:
        """JSON-safe: the base, every concept's statistics, what changed and how many bytes the tensors take."""
        return {
            "base": self.base_id, "revision": self.base_revision, "changed_weights": len(self.delta),
            "changed_share": len(self.delta) / base.parameters, "bytes": sum(t.nbytes for t in self._tensors().values()),
            "concepts": [{"name": c.name, "token": c.token, "class_word": c.class_word, **c.stats} for c in self.concepts],
        }  # fmt: skip

    def _tensors(self) -> dict[str, Tensor]:
        out = {f"general/{n}": m for n, m in self.general.items()}
        for n, index in self.delta.indices.items():
            out[f"delta/{n}/index"], out[f"delta/{n}/value"] = index.int(), self.delta.values[n]
        for i, c in enumerate(self.concepts):
            out[f"concept/{i}/vector"] = c.vector
            if c.features is not None:
                out[f"concept/{i}/features"] = c.features
            out[f"concept/{i}/picture"] = _png(c.picture)
            for n, index in c.mask.items():
                out[f"concept/{i}/mask/{n}"] = pack(torch.isin(self.delta.indices[n], index))
            out |= {f"concept/{i}/shared/{n}": own for n, own in c.shared.items()}
            out |= {f"concept/{i}/rms/{layer}": r for layer, r in c.rms.items()}
            out |= {f"concept/{i}/gradient/{n}": g for n, g in c.gradients.items()}
        return {k: v.contiguous() for k, v in out.items()}

    def parts(self) -> tuple[dict, dict[str, Tensor]]:
        """(what JSON keeps, what tensors keep): all of the session."""
        concepts = [{"name": c.name, "class_word": c.class_word, "stats": c.stats} for c in self.concepts]
        return {"version": VERSION, "base": self.base_id, "revision": self.base_revision, "concepts": concepts}, self._tensors()

    @classmethod
    def read(cls, about: dict, tensors: dict[str, Tensor], base) -> "Session":
        """The inverse of `parts`, for parts that nobody vouches for. Raises Damaged, and ValueError when they are of another base."""
        try:
            version, head = about["version"], cls(str(about["base"]), str(about["revision"]))
        except WRONG:
            raise Damaged("it does not say its version, base and revision") from None
        if type(version) is not int or version != VERSION:
            raise Damaged(f"it has format {str(version)[:20]}, this program reads {VERSION}")
        head.check(base)
        try:
            return _assemble(head, about, tensors, base)
        except WRONG as error:
            raise Damaged(str(error)) from None

    def save(self, folder: str | Path) -> None:
        """Write to `folder` so that at every moment it holds a whole session: new tensors first, then the JSON that names them.

        Raises PermissionError when it may not be written, OSError when the disk refuses.
        """
        folder = Path(folder)
        about, tensors = self.parts()
        content = save_tensors(tensors)
        file = f"session-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        try:
            files.write(folder / file, content)
            files.write(folder / "session.json", json.dumps({**about, "tensors": file}, indent=1).encode())
        except PermissionError:
            raise PermissionError(f"`{folder}` cannot be written: choose a folder that you may write to") from None
        for old in set(folder.glob("session-*.safetensors")) - {folder / file}:
            old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path, base) -> "Session":
        """The session in `folder`. Raises FileNotFoundError when there is none, ValueError when it is damaged or of another base."""
        folder = Path(folder)
        if not (folder / "session.json").exists():
            raise FileNotFoundError(f"there is no session in `{folder}`: teach something into it first")
        try:
            about = json.loads((folder / "session.json").read_text())
            content = (folder / Path(str(about["tensors"])).name).read_bytes()
            if about["tensors"] != f"session-{hashlib.sha256(content).hexdigest()[:16]}.safetensors":
                raise Damaged("the tensors are not those that were saved")
            return cls.read(about, load_tensors(content), base)
        except (Damaged, SafetensorError, json.JSONDecodeError, UnicodeDecodeError, OSError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"the session in `{folder}` is damaged ({error}): restore the folder from a copy, or start a new one") from None


def _assemble(head: Session, about: dict, tensors: dict[str, Tensor], base) -> Session:
    trust.check_names(tensors, len(about["concepts"]), base)
    taught = tuple(c["name"] for c in about["concepts"])
    if len(set(taught)) < len(taught):
        raise ValueError("two concepts have one name")
    names = sorted({k.split("/")[1] for k in tensors if k.startswith("delta/")})
    indices, values = {}, {}
    for n in names:
        if tensors[f"delta/{n}/index"].dtype != torch.int32 or tensors[f"delta/{n}/index"].ndim != 1:
            raise ValueError(f"indices of `{n}` are not whole numbers in a row")
        index, value = tensors[f"delta/{n}/index"].long(), tensors[f"delta/{n}/value"]
        size = base.weights[n].numel()
        if index.shape != value.shape or value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ValueError(f"values of `{n}` are not finite numbers, one for each index")
        if len(index) and (index[0] < 0 or index[-1] >= size or (index.diff() <= 0).any()):
            raise ValueError(f"indices of `{n}` are not rising within 0 to {size - 1}")
        indices[n], values[n] = index, value
    general = {n: tensors[f"general/{n}"] for n in base.weights if f"general/{n}" in tensors}
    for n, packed in general.items():
        unpack(packed, base.weights[n].numel())
    concepts = []
    for i, c in enumerate(about["concepts"]):
        trust.check_concept(c["name"], c["class_word"], c["stats"], taught, base)
        vector, features = tensors[f"concept/{i}/vector"], tensors.get(f"concept/{i}/features")
        trust.check_features(features, base)
        if vector.dtype != torch.float32 or vector.shape != (sum(base.widths),) or not torch.isfinite(vector).all():
            raise ValueError(f"embedding of `{c['name']}` is not {sum(base.widths)} finite numbers")
        mask = {n: indices[n][unpack(tensors[f"concept/{i}/mask/{n}"], len(indices[n]))] for n in names if f"concept/{i}/mask/{n}" in tensors}
        picture = trust.check_picture(tensors[f"concept/{i}/picture"])
        shared = {n: tensors[f"concept/{i}/shared/{n}"] for n in mask if f"concept/{i}/shared/{n}" in tensors}
        if any(own.dtype != torch.float32 or not torch.isfinite(own).all() for own in shared.values()):
            raise ValueError(f"the increments of `{c['name']}` are not finite numbers")
        rms = {layer: tensors[f"concept/{i}/rms/{layer}"] for layer in base.layers if f"concept/{i}/rms/{layer}" in tensors}
        trust.check_selected_by(rms, {layer_of(n): w.shape[1] for n, w in base.weights.items()})
        gradients = {n: tensors[f"concept/{i}/gradient/{n}"] for n in base.weights if f"concept/{i}/gradient/{n}" in tensors}
        trust.check_selected_by(gradients, {n: sum(w.shape) for n, w in base.weights.items()})
        concepts.append(Learned(c["name"], c["class_word"], vector, mask, picture, features, c["stats"], shared, rms, gradients))
    session = replace(head, concepts=tuple(concepts), delta=SparseDelta(indices, values), general=general)
    _check_sums(session)
    return session


def _check_sums(session: Session) -> None:
    """Raises ValueError unless the delta is what the concepts' increments add up to."""
    again = session.of(session.concepts, [session.increments(c.name) for c in session.concepts])
    for n, index in session.delta.indices.items():
        same = n in again.delta.indices and torch.equal(index, again.delta.indices[n]) and torch.equal(session.delta.values[n], again.delta.values[n])
        if not same and len(index):
            raise ValueError(f"values of `{n}` are not what its concepts add up to")
    if any(c.shared.keys() != a.shared.keys() for c, a in zip(session.concepts, again.concepts)):
        raise ValueError("a concept's own increments are missing where it shares neurons")


def pack(mask: Tensor) -> Tensor:
    """Boolean mask of any shape to uint8 bits [ceil(n / 8)]."""
    return torch.from_numpy(np.packbits(mask.flatten().numpy()))


def unpack(bits: Tensor, count: int) -> Tensor:
    """The inverse of `pack`: bool [count]. Raises ValueError for a wrong length."""
    if bits.dtype != torch.uint8 or bits.numel() != (count + 7) // 8:
        raise ValueError(f"a mask has {bits.numel()} bytes, not the {(count + 7) // 8} that {count} entries take")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool))


def _png(picture: Image.Image) -> Tensor:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return torch.frombuffer(bytearray(out.getvalue()), dtype=torch.uint8)
