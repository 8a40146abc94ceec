"""The folder of a run, and what it contains.

    run.json        what the run is: recipe, versions, git commit, parameters by part, data with their hashes, sessions
    tokenizer/      tokenizer.json and the files that go with it
    checkpoint/     the latest model, as Hugging Face lays it out: what `export` takes
    checkpoint-*/   what it was when the run was extended from an earlier step
    adapter/        of a run with [lora]: its adapters alone, in peft's layout
    best/           the same, of the step with the lowest held-out loss
    state/          what `resume` continues from (train.run.state)
    held_out.txt    the documents that are never trained on, with the separator between them
    metrics.jsonl   one line per step (train.run.metrics)
    samples/        texts that the model generated during training
    loss.png        the loss curve
    tensorboard/    the metrics for TensorBoard, if the recipe asks for them
    run.lock        who writes here, as long as somebody does (train.run.claim)

A state contains the weights too. Without them, a run that is killed between writing its checkpoint and its state would
be left with weights and moments of two different steps.
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
from train.run.claim import LOCK, claim, release
from train.run.state import States


class RunFolder:
    """The paths of a run folder, and reading and writing its files."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"
        self.best = self.path / "best"
        self.adapter = self.path / "adapter"
        self.held_out = self.path / "held_out.txt"
        self.metrics = self.path / "metrics.jsonl"
        self._samples = self.path / "samples"
        self.picture = self.path / "loss.png"
        self.tensorboard = self.path / "tensorboard"
        self.states = States(self.path / "state")
        self._record = self.path / "run.json"
        self._tokenizer = self.path / "tokenizer"
        self._old: list[Path] = []  # what a new run replaces

    def claim_new(self, *, overwrite: bool) -> None:
        """Become the only writer of a folder for a new run (train.run.claim).

        Raises:
            RunError: another process writes there, or it holds files that must not be overwritten.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose another --out")
        claim(self.path)
        try:
            self._check_free(overwrite=overwrite)
        except RunError:
            self.release()
            raise

    def _check_free(self, *, overwrite: bool) -> None:
        # run.json last: as long as it is there, a deletion that was cut off can be repeated.
        entries = (path for path in self.path.iterdir() if path.name != LOCK)
        self._old = sorted(entries, key=lambda path: path == self._record)
        if self._old and not overwrite:
            raise RunError(f"{self.path} exists; choose another --out, resume it, or pass --overwrite")
        if self._old and not self._record.is_file():
            raise RunError(f"{self.path} is not the folder of a run, so --overwrite does not delete it")

    def claim(self) -> None:
        """Become the only writer of the run that the folder holds. Raises RunError where another process is."""
        if not self._record.is_file():
            raise RunError(f"{self.path} is not the folder of a run: it has no run.json")
        claim(self.path)

    def release(self) -> None:
        """Let others write here. A folder that was made by the claim and is still empty is removed."""
        release(self.path)

    def create(
        self, record: dict[str, Any], tokenizer: CorpusTokenizer, corpus: Corpus, *, max_length: int, with_chat: bool
    ) -> None:
        """Write the run's record, its tokenizer and its held-out documents, in place of what was there when claimed."""
        for path in self._old:
            _remove(path)
        write_json(self._record, record)
        write_text(self.held_out, tokenizer.separator.join(corpus.held_out_texts(tokenizer.tokenizer)))
        tokenizer.save(self._tokenizer, max_length=max_length, with_chat=with_chat)

    def recipe(self) -> Recipe:
        """The recipe that the run was started with. Raises RunError where the folder holds no run."""
        record = self._read_record()
        try:
            return Recipe.from_dict(record["recipe"])
        except (KeyError, TypeError, RecipeError) as error:
            raise RunError(f"{self._record} cannot be read: {error}") from None

    def ending(self) -> dict[str, Any] | None:
        """When a run of some hours ends, as it was decided; None before that, and for other runs."""
        return self._read_record().get("ending")

    def note(self, **changes: Any) -> None:
        """Change entries of run.json."""
        write_json(self._record, self._read_record() | changes)

    def add_session(self, session: dict[str, Any]) -> None:
        """Add a session to run.json."""
        self.note(sessions=[*self._read_record().get("sessions", []), session])

    def keep_checkpoint(self, step: int) -> Path:
        """Keep the checkpoint under the name of its step. Returns its new path."""
        kept = self.path / f"checkpoint-step-{step:08d}"
        if kept.exists():
            shutil.rmtree(kept)
        self.checkpoint.replace(kept)
        return kept

    def tokenizer(self, section: TokenizerSection) -> CorpusTokenizer:
        """The tokenizer that the run was started with."""
        return CorpusTokenizer.load(self._tokenizer, section)

    def save_model(self, model: TransformerModel, folder: Path) -> None:
        """Write a model with its tokenizer as a checkpoint folder, atomically."""
        config = model.config
        generation = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id, "do_sample": True}
        save_checkpoint(
            merged(model),
            folder,
            side_files=sorted(self._tokenizer.iterdir()),
            extra_files={"generation_config.json": generation},
        )

    def save_sample(self, text: str, step: int) -> None:
        """Keep a text that the model generated at a step. Repeating the step writes the same file."""
        write_text(self._samples / f"step-{step:08d}.txt", text + "\n")

    def clean(self) -> None:
        """Delete the temporary files of a process that was killed while writing."""
        self.states.clean()
        for pattern in (".*.partial", ".*.old"):
            for leftover in self.path.glob(pattern):
                _remove(leftover)

    def _read_record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path} is not the folder of a run: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self._record} cannot be read: {error}") from None
        return record


def _remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
