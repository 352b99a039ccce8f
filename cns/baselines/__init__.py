"""What CNS is measured against: every method by name, with its settings for the starter."""

from ..teaching import TeachSettings
from .lora import CLora, Lora, LoraDare, LoraLinear, LoraSum, LoraTies
from .methods import Base, Cns, CustomDiffusion, Ewc, FinetuneKV, FinetuneUnet, Joint, Method, Solo, TokenOnly

METHODS: dict[str, type[Method]] = {
    "cns": Cns, "cns_paper": Cns, "finetune_kv": FinetuneKV, "finetune_unet": FinetuneUnet, "token_only": TokenOnly,
    "custom_diffusion": CustomDiffusion, "lora_solo": Lora, "lora_sum": LoraSum, "lora_linear": LoraLinear, "lora_ties": LoraTies,
    "lora_dare": LoraDare, "c_lora": CLora, "ewc": Ewc, "joint": Joint, "solo": Solo, "base": Base,
}  # fmt: skip
PAPER = {"score": "response", "response": 0.0, "base_share": 0.2, "rate": 1e-2, "general_share": 0.5, "lambda_previous": 1e-2, "lambda_base": 1e-4}  # the paper's regulariser; its strengths were not published
TUNED: dict[str, dict] = {
    "cns": {}, "solo": {}, "cns_paper": PAPER, "base": {}, "token_only": {}, "finetune_kv": {"rate": 1e-3}, "joint": {"rate": 1e-3},
    "finetune_unet": {"rate": 1e-4}, "custom_diffusion": {"rate": 1e-3}, "ewc": {"rate": 1e-3, "lambda_previous": 1e-2},
    "lora_solo": {"rate": 3e-3}, "lora_sum": {"rate": 3e-3}, "lora_linear": {"rate": 3e-3}, "lora_ties": {"rate": 3e-3},
    "lora_dare": {"rate": 3e-3}, "c_lora": {"rate": 3e-3, "lambda_previous": 1e-2},
}  # fmt: skip


def method(name: str, base, **changes) -> Method:
    """A fresh learner. Raises ValueError for a name that is none of `METHODS`."""
    if name not in METHODS:
        raise ValueError(f"method `{name}` is unknown: choose of {', '.join(METHODS)}")
    return METHODS[name](base, TeachSettings.of(base, **{"preview_every": 0, **TUNED[name], **changes}))
