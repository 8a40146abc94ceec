"""The folder of a run, and what a run needs to go on after it was stopped.

    recipe.json     the recipe with every override, as it was run
    tokenizer/      tokenizer.json and the files that go with it
    checkpoint/     the latest model, as Hugging Face lays it out: what `export` takes
    state/          training.safetensors: weights, AdamW's moments and the step they belong to, all in one file
    held_out.txt    the documents that were never trained on, the separator between two
    metrics.jsonl   a line a step           samples.txt   what the model wrote on the way          loss.png   the curve

The state repeats the weights so that it is whole whenever the run dies: a checkpoint and a state written one after the
other could be of two different steps. It holds no random state, for batches and samples are functions of the seed and
the step.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from model import TransformerModel, save_checkpoint
from model.files import replacing_file, write_json, write_text
from train.config import Recipe
from train.corpus import Corpus
from train.data_config import TokenizerSection
from train.errors import RecipeError, RunError
from train.lora import merged
from train.tokenizer import CorpusTokenizer


class RunFolder:
    """Paths of a run, and reading and writing what lies there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"
        self.held_out = self.path / "held_out.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.txt"
        self.picture = self.path / "loss.png"
        self._recipe = self.path / "recipe.json"
        self._tokenizer = self.path / "tokenizer"
        self._state = self.path / "state" / "training.safetensors"

    def check_free(self, *, overwrite: bool) -> None:
        """Raise RunError where something stands at the path that must not be overwritten."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not overwrite:
            raise RunError(f"{self.path} exists; choose another --out, resume it, or pass --overwrite")
        if not self._recipe.is_file():
            raise RunError(f"{self.path} is not the folder of a run, so --overwrite does not delete it")

    def create(self, recipe: Recipe, tokenizer: CorpusTokenizer, corpus: Corpus, *, max_length: int) -> None:
        """Make the folder anew, with the recipe, the tokenizer and the documents that are held out."""
        if self.path.exists():
            shutil.rmtree(self.path)
        write_json(self._recipe, recipe.to_dict())
        write_text(self.held_out, tokenizer.separator.join(corpus.held_out_texts(tokenizer)))
        with_chat = corpus.has_conversations or recipe.tokenizer.chat_template is not None
        tokenizer.save(self._tokenizer, max_length=max_length, with_chat=with_chat)

    def recipe(self) -> Recipe:
        """The recipe that the run was started with. Raises RunError where there is no run."""
        try:
            return Recipe.from_dict(json.loads(self._recipe.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunError(f"{self.path} is not the folder of a run: it has no recipe.json") from None
        except (OSError, ValueError, RecipeError) as error:
            raise RunError(f"{self._recipe} cannot be read: {error}") from None

    def tokenizer(self, section: TokenizerSection) -> CorpusTokenizer:
        """The tokenizer that the run was started with."""
        return CorpusTokenizer.load(self._tokenizer, section)

    def save(self, model: TransformerModel, optimizer: Optimizer, *, step: int, data: str) -> None:
        """Write the state and then the checkpoint, each whole or not at all; `data` is the corpus' fingerprint."""
        metadata = {"step": str(step), "data": data}
        with replacing_file(self._state) as temporary:
            save_file(_state_tensors(model, optimizer), temporary, metadata)
        config = model.config
        generation = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id, "do_sample": True}
        save_checkpoint(
            merged(model),
            self.checkpoint,
            side_files=sorted(self._tokenizer.iterdir()),
            extra_files={"generation_config.json": generation},
        )

    def load_state(self, model: TransformerModel, optimizer: Optimizer, *, data: str) -> int:
        """Put a saved state into a model and its optimizer; return the step to go on from.

        Raises:
            RunError: no state, a cut-off one, or one of another model or other data.
        """
        if not self._state.is_file():
            raise RunError(f"{self.path} has no state to resume from: it was stopped before its first save")
        try:
            with safe_open(self._state, framework="pt") as file:
                metadata: dict[str, Any] = file.metadata()
                saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self._state} is cut off or broken ({error}); the run cannot be resumed") from None
        if metadata["data"] != data:
            raise RunError(f"the data of {self.path} have changed since it was started; it cannot be resumed exactly")
        _prepare_moments(optimizer)
        expected = _state_tensors(model, optimizer)
        if {name: tensor.shape for name, tensor in expected.items()} != {
            name: tensor.shape for name, tensor in saved.items()
        }:
            raise RunError(f"{self._state} is the state of another model")
        for name, tensor in expected.items():
            tensor.copy_(saved[name])
        return int(metadata["step"])


def _state_tensors(model: TransformerModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """Every number that training changes, by name: `weight.NAME`, and AdamW's `exp_avg.NAME` and the like."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"weight.{name}": parameter.detach() for parameter, name in names.items()}
    for parameter, moments in optimizer.state.items():
        tensors |= {f"{key}.{names[parameter]}": value for key, value in moments.items()}
    return tensors


def _prepare_moments(optimizer: Optimizer) -> None:
    """Give a fresh optimizer the tensors of its state, which it makes at its first step.

    The step that makes them changes weights and moments, so all of them must be overwritten afterwards.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = parameter.detach().new_zeros(parameter.shape)
    optimizer.step()
    optimizer.zero_grad()
