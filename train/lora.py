"""LoRA (arXiv:2106.09685) by the `peft` library: a few small matrices beside the model's own learn, the rest stays.

The checkpoint that a run writes holds the sums, so it is an ordinary one, for `export` and everybody else. There is no
dropout: a run's random state is a function of its seed and step alone, and so resumes exactly.
"""

from __future__ import annotations

import torch

from model import TransformerModel
from train.config import LoraSection
from train.errors import RecipeError

ADAPTER = "default"


def add_adapters(model: TransformerModel, section: LoraSection) -> None:
    """Freeze a model, and give the named projections adapters that learn.

    They change nothing at first, for one of each pair of matrices is zero.

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


@torch.no_grad()
def merged(model: TransformerModel) -> TransformerModel:
    """The model as it is, or with what its adapters add summed into copies of its weights."""
    if not any(".lora_A." in name for name, _ in model.named_parameters()):
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
    plain.model.rotary = model.model.rotary  # the meta device left its tables without numbers
    return plain.train(model.training)
