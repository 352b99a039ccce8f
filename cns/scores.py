"""Pictures and words in, scores out: CLIP-I, CLIP-T and class word suggestions, all as cosines of CLIP embeddings."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

CLIP_I = "CLIP-I is how alike a drawn picture and those that were taught look to CLIP, a network that compares pictures: 1 is the same, 0 nothing in common."


class Scorer:
    """A frozen CLIP with its tokenizer and image processor."""

    def __init__(self, clip: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessorPil):
        self.clip, self.tokenizer, self.processor = clip.requires_grad_(False).eval(), tokenizer, processor

    @classmethod
    def load(cls, source: str | Path, device: str = "cpu", tokenizer: str | Path | None = None) -> "Scorer":
        """The CLIP at a folder or Hub id; `tokenizer`: where its tokenizer is, if not there."""
        clip = CLIPModel.from_pretrained(source, dtype=torch.float32).to(device)
        return cls(clip, CLIPTokenizer.from_pretrained(tokenizer or source), CLIPImageProcessorPil.from_pretrained(source))

    @torch.no_grad()
    def image_features(self, images: list[Image.Image]) -> Tensor:
        """Unit CLIP image embeddings [n, d]."""
        pixels = self.processor(images=[i.convert("RGB") for i in images], return_tensors="pt").pixel_values
        return F.normalize(_tensor(self.clip.get_image_features(pixel_values=pixels.to(self.clip.device))).cpu(), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:
        """Unit CLIP text embeddings [n, d]."""
        length = self.clip.config.text_config.max_position_embeddings
        ids = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        return F.normalize(_tensor(self.clip.get_text_features(input_ids=ids.to(self.clip.device))).cpu(), dim=-1)

    def clip_i(self, images: list[Image.Image], references: list[Image.Image] | Tensor) -> float:
        """CLIP-I: mean cosine [-1, 1] over all pairs of generated and reference pictures (or their embeddings [k, d])."""
        if not isinstance(references, Tensor):
            references = self.image_features(references)
        return (self.image_features(images) @ references.T).mean().item()

    def clip_t(self, images: list[Image.Image], prompt: str) -> float:
        """CLIP-T, raw cosine [-1, 1]: mean over the pictures. Name the class word in `prompt`, not the token."""
        return (self.image_features(images) @ self.text_features([prompt]).T).mean().item()

    def suggest(self, images: list[Image.Image], words) -> list[tuple[str, float]]:
        """The three class words that fit the pictures best, with their probabilities (softmax at the CLIP's own temperature)."""
        texts = self.text_features([f"a photo of a {w}" for w in words])
        logits = self.clip.logit_scale.exp().cpu() * (self.image_features(images) @ texts.T).mean(0)
        best = logits.softmax(0).topk(min(3, len(words)))
        return [(words[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist())]


def _tensor(output) -> Tensor:
    """`get_*_features` returns a tensor or, in newer transformers, an output that holds it."""
    return output if isinstance(output, Tensor) else output.pooler_output
