"""LoRA (arXiv:2106.09685) by the `peft` library: small adapter matrices learn, the model's own weights stay fixed.

The checkpoint that a run writes has the adapters merged, so it is an ordinary one for `export` and every other reader.
The adapters alone lie beside it, in peft's layout.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from model import TransformerModel
from model.files import replacing_folder, write_json
from train.config import LoraSection
from train.errors import RecipeError

ADAPTER = "default"


def add_adapters(model: TransformerModel, section: LoraSection) -> None:
    """Freeze a model, and add trainable adapters to the named projections.

    One matrix of each pair starts at zero, so at first the adapters change nothing.

    Raises:
        RecipeError: peft is not installed, or the model has no such projection.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RecipeError("lora needs peft: pip install -r requirements-extras.txt") from None
    projections = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name.endswith("_proj")}
    if unknown := sorted(set(section.projections) - projections):
        raise RecipeError(f"lora.projections: the model has no {unknown[0]}; it has {', '.join(sorted(projections))}")
    adapters = LoraConfig(r=section.rank, lora_alpha=section.alpha, target_modules=list(section.projections))
    inject_adapter_in_model(adapters, model, ADAPTER)


def has_adapters(model: TransformerModel) -> bool:
    """Whether `add_adapters` was called with the model."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def save_adapters(model: TransformerModel, section: LoraSection, base: str, folder: Path) -> None:
    """Write the adapters as a folder that peft loads on top of `base`, a checkpoint's folder or Hub id."""
    tensors = {
        f"base_model.model.{name}".replace(f".{ADAPTER}.", "."): parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": section.rank,
        "lora_alpha": section.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(section.projections),
        "inference_mode": True,
    }
    with replacing_folder(folder) as temporary:
        write_json(temporary / "adapter_config.json", settings)
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def merged(model: TransformerModel) -> TransformerModel:
    """The model itself where it has no adapters, else a copy with the adapters added to the weights."""
    if not has_adapters(model):
        return model
    from peft.tuners.lora import LoraLayer

    weights = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(ADAPTER)
    with torch.device("meta"):
        plain = TransformerModel(model.config)
    plain.load_state_dict(weights, strict=True, assign=True)
    if model.config.tie_word_embeddings:
        plain.lm_head.weight = plain.model.embed_tokens.weight
    plain.model.rotary = model.model.rotary  # the meta device gave its tables no values
    return plain.train(model.training)
