"""The folder of a run: everything about it, and where what lies.

    run.json        what the run is: recipe, versions, git commit, parameters by part, data with their hashes, sessions
    tokenizer/      tokenizer.json and the files that go with it
    checkpoint/     the latest model, as Hugging Face lays it out: what `export` takes
    best/           the same, of the step whose held-out loss was the least
    state/          what `resume` goes on from (train.run.state)
    held_out.txt    the documents that were never trained on, the separator between two
    metrics.jsonl   a line a step           samples/      what the model wrote on the way          loss.png   the curve
    tensorboard/    the metrics once more, if the recipe asks for it

A state repeats the weights so that it is whole whenever the run dies: a checkpoint and a state written one after the
other could be of two different steps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from model import TransformerModel, save_checkpoint
from model.files import write_json, write_text
from train.config import Recipe
from train.data.config import TokenizerSection
from train.data.corpus import Corpus
from train.data.tokenizer import CorpusTokenizer
from train.errors import RecipeError, RunError
from train.lora import merged
from train.run.state import States


class RunFolder:
    """Paths of a run, and reading and writing what lies there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"
        self.best = self.path / "best"
        self.held_out = self.path / "held_out.txt"
        self.metrics = self.path / "metrics.jsonl"
        self._samples = self.path / "samples"
        self.picture = self.path / "loss.png"
        self.tensorboard = self.path / "tensorboard"
        self.states = States(self.path / "state")
        self._record = self.path / "run.json"
        self._tokenizer = self.path / "tokenizer"

    def check_free(self, *, overwrite: bool) -> None:
        """Raise RunError where something stands at the path that must not be overwritten."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not overwrite:
            raise RunError(f"{self.path} exists; choose another --out, resume it, or pass --overwrite")
        if not self._record.is_file():
            raise RunError(f"{self.path} is not the folder of a run, so --overwrite does not delete it")

    def create(
        self, record: dict[str, Any], tokenizer: CorpusTokenizer, corpus: Corpus, *, max_length: int, with_chat: bool
    ) -> None:
        """Make the folder anew, with the run's record, its tokenizer and the documents that are held out."""
        if self.path.exists():
            shutil.rmtree(self.path)
        write_json(self._record, record)
        write_text(self.held_out, tokenizer.separator.join(corpus.held_out_texts(tokenizer.tokenizer)))
        tokenizer.save(self._tokenizer, max_length=max_length, with_chat=with_chat)

    def recipe(self) -> Recipe:
        """The recipe that the run was started with. Raises RunError where there is no run."""
        record = self._read_record()
        try:
            return Recipe.from_dict(record["recipe"])
        except (KeyError, TypeError, RecipeError) as error:
            raise RunError(f"{self._record} cannot be read: {error}") from None

    def add_session(self, session: dict[str, Any]) -> None:
        """Note in run.json that the run goes on, and on which machine."""
        record = self._read_record()
        write_json(self._record, record | {"sessions": [*record.get("sessions", []), session]})

    def tokenizer(self, section: TokenizerSection) -> CorpusTokenizer:
        """The tokenizer that the run was started with."""
        return CorpusTokenizer.load(self._tokenizer, section)

    def save_model(self, model: TransformerModel, folder: Path) -> None:
        """Write a model with its tokenizer as a checkpoint folder, whole or not at all."""
        config = model.config
        generation = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id, "do_sample": True}
        save_checkpoint(
            merged(model),
            folder,
            side_files=sorted(self._tokenizer.iterdir()),
            extra_files={"generation_config.json": generation},
        )

    def save_sample(self, text: str, step: int) -> None:
        """Keep a text that the model wrote at a step; a step that is done again gives the same file."""
        write_text(self._samples / f"step-{step:08d}.txt", text + "\n")

    def clean(self) -> None:
        """Delete what a process left that was killed while it wrote."""
        self.states.clean()
        for pattern in (".*.partial", ".*.old"):
            for leftover in self.path.glob(pattern):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _read_record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path} is not the folder of a run: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self._record} cannot be read: {error}") from None
        return record
