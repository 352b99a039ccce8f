"""The starter's parts, built from their configs: tokenizer, CLIP, autoencoder, U-Net, scheduler.

Sizes were chosen for two CPU cores: a denoising pass of a batch of two takes about 0.05 s, and all weights together
stay under 64 MiB in half precision.
"""

import json

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

MAX_TOKENS = 32
TEXT_DIM = 192
LATENT = {"channels": 6, "side": 16}


def tokenizer(words) -> CLIPTokenizer:
    """A byte-pair CLIP tokenizer that keeps each of `words` whole."""
    trainer = trainers.BpeTrainer(
        vocab_size=20_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(words, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokens = list(model["vocab"])
    tokens += [t + "</w>" for t in sorted(pre_tokenizers.ByteLevel.alphabet()) if t + "</w>" not in model["vocab"]]
    vocab = {t: i for i, t in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def clip(tok) -> CLIPModel:
    """A small CLIP: 64-pixel ViT with 8-pixel patches, four-layer text tower, 128 shared dimensions."""
    return _clip(tok, text=(TEXT_DIM, 4), vision=(TEXT_DIM, 6), heads=3, projection=128)


def judge(tok) -> CLIPModel:
    """A smaller CLIP of another shape, for a second opinion."""
    return _clip(tok, text=(96, 2), vision=(128, 5), heads=4, projection=96)


def _clip(tok, *, text, vision, heads, projection) -> CLIPModel:
    """`text` and `vision` are (width, layers) of the two towers."""

    def tower(width, layers, **more):
        return {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads, **more}

    ids = {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}
    return CLIPModel(
        CLIPConfig(
            text_config=tower(*text, **ids, vocab_size=len(tok), max_position_embeddings=MAX_TOKENS),
            vision_config=tower(*vision, image_size=64, patch_size=8), projection_dim=projection,
        )
    )  # fmt: skip


def clip_processor() -> CLIPImageProcessorPil:
    """64 pixels, centre crop, normalised to [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=half, image_std=half)


def autoencoder() -> AutoencoderKL:
    """A 4x autoencoder: 64x64x3 pixels to 16x16x6 latents."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 128), layers_per_block=1, latent_channels=LATENT["channels"], norm_num_groups=8,
        mid_block_add_attention=False, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=64,
    )  # fmt: skip


def unet() -> UNet2DConditionModel:
    """16x16 without attention, then 8x8 and 4x4 with self- and cross-attention."""
    return UNet2DConditionModel(
        sample_size=LATENT["side"], in_channels=LATENT["channels"], out_channels=LATENT["channels"],
        block_out_channels=(128, 192, 224), layers_per_block=1, cross_attention_dim=TEXT_DIM, attention_head_dim=4,
        norm_num_groups=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def scheduler() -> DDIMScheduler:
    """v-prediction with zero terminal SNR, so that a flat background can have any brightness."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, steps_offset=1,
    )  # fmt: skip
