"""optimum's ORTModelForCausalLM, and transformers' loop above it."""

from pathlib import Path

import onnxruntime
import torch
from answers import Generate, answer, read_job
from optimum.onnxruntime import ORTModelForCausalLM


def load(bundle: Path, file: str) -> Generate:
    options = onnxruntime.SessionOptions()
    for entry in read_job()["session_entries"].items():
        options.add_session_config_entry(*entry)
    model = ORTModelForCausalLM.from_pretrained(
        bundle,
        subfolder=str(Path(file).parent),
        file_name=Path(file).name,
        local_files_only=True,
        session_options=options,
    )

    def generate(prompt_ids: list[int], new_tokens: int) -> list[int]:
        ids = torch.tensor([prompt_ids])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
        return output[0, len(prompt_ids) :].tolist()

    return generate


answer(load)
