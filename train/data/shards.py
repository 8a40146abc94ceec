"""A folder of token shards: a recipe's sources, tokenized once and mapped into memory by each run.

    plan.json                     the request: sources, tokenizer, share to hold out
    tokenizer/                    tokenizer.json and its side files
    shards/SOURCE-NUMBER.json     the record of a shard, beside its arrays: SOURCE-NUMBER.train.tokens.npy and so on
    index.json                    all shards, written when the last is done: without it the folder is incomplete

A shard is a training stream and a held-out stream of the next 64 million characters of a source. Its bytes depend on
these alone: any number of workers, or a second run after the first was killed, write the same files. A shard is done
when its JSON file exists, which is renamed into place after its arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import accumulate
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from model.files import replacing_file, write_json
from runtime.progress import progress_bar
from train.data.config import STORIES, DataSection, SourceSection
from train.data.corpus import (
    CHUNK_CHARACTERS,
    Chunk,
    Corpus,
    TokenSource,
    assemble_corpus,
    chunks,
    encode_chunk,
    limit_tokens,
    make_encoder,
    sections,
)
from train.data.sources import source_files
from train.data.streams import NONE_SKIPPED, Skipped, Stream, StreamEncoder
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError

FORMAT = 1
ARRAYS = ("tokens", "documents", "learned")
SIDES = ("train", "held_out")
MODEL_MAX_LENGTH = 1 << 20  # of a tokenizer that belongs to no model yet

Record = dict[str, Any]


class TokenFolder:
    """The paths of a folder of token shards, and reading and writing its files."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tokenizer = self.path / "tokenizer"
        self._plan = self.path / "plan.json"
        self._index = self.path / "index.json"
        self._shards = self.path / "shards"

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder holds a tokenizer."""
        return (self.tokenizer / "tokenizer.json").is_file()

    @property
    def is_complete(self) -> bool:
        """Whether every shard is done."""
        return self._index.is_file()

    def check(self, data: DataSection, tokenizer: CorpusTokenizer, seed: int) -> None:
        """Raise DataError where the folder was made, or begun, from other text, with another tokenizer or split."""
        found, wanted = _read_json(self._plan), json.loads(json.dumps(_plan(data, tokenizer, seed)))
        found_files, files = found.pop("file_bytes", {}), wanted.pop("file_bytes")
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        differing += [name for name in files if found_files.get(name) != files[name]]  # those that still exist
        if differing:
            raise DataError(
                f"{self.path} was made from other data ({differing[0]} differs): give another folder, or delete it"
            )

    def make(
        self, data: DataSection, tokenizer: CorpusTokenizer, seed: int, *, workers: int = 1, progress: bool = True
    ) -> None:
        """Tokenize the shards that are not done yet.

        Args:
            data: the sources.
            tokenizer: of all of them.
            seed: of the stories.
            workers: the number of processes; 1 uses this process.
            progress: whether to show a bar.

        Raises:
            DataError: the folder belongs to another recipe, or a source is broken.
        """
        if self._plan.is_file():
            self.check(data, tokenizer, seed)
        elif self.path.exists() and {path.name for path in self.path.iterdir()} - {self.tokenizer.name}:
            raise DataError(f"{self.path} exists and is not a folder of tokens: give another folder")
        else:
            tokenizer.save(self.tokenizer, max_length=MODEL_MAX_LENGTH, with_chat=True)
            write_json(self._plan, _plan(data, tokenizer, seed))
        if self.is_complete:
            return
        self._shards.mkdir(exist_ok=True)
        with progress_bar(description="tokenize", unit="documents", show=progress) as bar:
            _encode_all(self._tasks(data, seed, bar), tokenizer, data.on_unmaskable, workers, bar)
        write_json(self._index, self._summary(data))

    def _tasks(self, data: DataSection, seed: int, bar: Any) -> Iterator[tuple[Path, Chunk]]:
        """The path and the documents of each shard that is not done yet."""
        for place, (source, is_validation) in enumerate(sections(data)):
            bar.set_description_str(source.name)
            for number, chunk in enumerate(chunks(source, data, seed, is_validation=is_validation)):
                if self._is_enough(source, place):
                    break
                shard = self._shards / f"{place:03}-{number:06}"
                if shard.with_suffix(".json").is_file():
                    bar.update(len(chunk))
                else:
                    yield shard, chunk

    def _records(self, place: int) -> list[Record]:
        """The records of a source's shards that are done, in order."""
        return [_read_json(path) for path in sorted(self._shards.glob(f"{place:03}-*.json"))]

    def _is_enough(self, source: SourceSection, place: int) -> bool:
        """Whether the shards that are done reach the source's limit of tokens."""
        limit = source.max_tokens
        return limit is not None and sum(record["train_tokens"] for record in self._records(place)) >= limit

    def _summary(self, data: DataSection) -> Record:
        sources = []
        for place, (source, _) in enumerate(sections(data)):
            records = _up_to_limit(source, self._records(place))
            train = limit_tokens(source, [self._stream(record, "train") for record in records])
            totals = {
                "documents": sum(record["documents"] for record in records),
                "train_tokens": sum(stream.learnable for stream in train),
            }
            skipped = sum((Skipped(**record["skipped"]) for record in records), NONE_SKIPPED)
            sources.append({"name": source.name, **totals, "skipped": dataclasses.asdict(skipped), "shards": records})
        return {"format": FORMAT, "sources": sources}

    def index(self) -> Record:
        """The index of the folder: `sources`, each with `name`, `documents`, `train_tokens`, `skipped`, `shards`."""
        return _read_json(self._index)

    def corpus(self, data: DataSection, tokenizer: CorpusTokenizer, seed: int) -> Corpus:
        """The corpus of a complete folder, mapped into memory. Raises DataError where it belongs to another recipe."""
        self.check(data, tokenizer, seed)
        sources = []
        for (section, _), found in zip(sections(data), self.index()["sources"], strict=True):
            train, held_out = ([self._stream(record, side) for record in found["shards"]] for side in SIDES)
            hashes = [record["train"]["sha256"] for record in found["shards"]]
            if section.max_tokens is not None:
                train = limit_tokens(section, train)
                hashes = [stream.sha256() for stream in train]
            skipped = Skipped(**found["skipped"])
            sources.append(TokenSource(section.name, section.weight, train, held_out, hashes, skipped=skipped))
        return assemble_corpus(sources, data, tokenizer.separator_id)

    def _stream(self, record: Record, side: str) -> Stream:
        held = record[side]
        arrays = {}
        for name in held["arrays"]:
            path = self._shards / f"{record['shard']}.{side}.{name}.npy"
            try:
                arrays[name] = np.load(path, mmap_mode="r" if held["documents"] else None)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path} is missing or truncated ({error}); delete {self.path} and tokenize again"
                ) from None
        return Stream(**arrays)


def _up_to_limit(source: SourceSection, records: list[Record]) -> list[Record]:
    """The first records, as many as reach the source's limit of tokens; workers may have made more."""
    before = accumulate((record["train_tokens"] for record in records), initial=0)
    limit = source.max_tokens
    return [record for record, tokens in zip(records, before, strict=False) if limit is None or tokens < limit]


def _plan(data: DataSection, tokenizer: CorpusTokenizer, seed: int) -> Record:
    """Everything that the contents of the shards depend on."""
    sources = [
        {key: value for key, value in dataclasses.asdict(source).items() if key not in ("weight", "stream")}
        | ({"validation": True} if is_validation else {})
        for source, is_validation in sections(data)
    ]
    if any(source.path == STORIES for source in data.all_sources):
        sources.append({"stories": data.documents, "seed": seed})
    files = [path for source, _ in sections(data) for path in source_files(source, data.root) if path.is_file()]
    template = tokenizer.chat_template
    return {
        "format": FORMAT,
        "sources": sources,
        "file_bytes": {os.path.relpath(path, data.root): path.stat().st_size for path in files},
        "held_out": data.held_out_share,
        "chunk_characters": CHUNK_CHARACTERS,
        "tokenizer_sha256": hashlib.sha256(tokenizer.tokenizer.to_str().encode()).hexdigest(),
        "separator": tokenizer.separator,
        "on_unmaskable": data.on_unmaskable,
        "chat_template_sha256": template and hashlib.sha256(template.source.encode()).hexdigest(),
    }


def _encode_all(
    tasks: Iterator[tuple[Path, Chunk]], tokenizer: CorpusTokenizer, on_unmaskable: str, workers: int, bar: Any
) -> None:
    """Write each shard, in this process or in workers."""
    if workers == 1:
        encoder = make_encoder(tokenizer, on_unmaskable, progress=bar.update)
        for task in tasks:
            _write_shard(encoder, *task)
        return
    # Processes, because threads would share one interpreter; spawned, because a fork copies the threads' locks.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(tokenizer, on_unmaskable)) as pool:
        pending: set[Future[int]] = set()
        for task in tasks:
            pending.add(pool.submit(_work, *task))
            if len(pending) > workers:  # one more than is being worked on, so that few chunks are in memory
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                bar.update(sum(future.result() for future in done))
        bar.update(sum(future.result() for future in pending))


_ENCODERS: list[StreamEncoder] = []  # of a worker process


def _begin_worker(tokenizer: CorpusTokenizer, on_unmaskable: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; a worker finishes its shard
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes use all cores already
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _ENCODERS.append(make_encoder(tokenizer, on_unmaskable))


def _exit_with_parent() -> None:
    """End this worker as soon as its parent has ended, however that was killed."""
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)


def _work(shard: Path, chunk: Chunk) -> int:
    _write_shard(_ENCODERS[0], shard, chunk)
    return len(chunk)


def _write_shard(encoder: StreamEncoder, shard: Path, chunk: Chunk) -> None:
    """Write the arrays of a shard, and then its record."""
    record: Record = {"shard": shard.name, "documents": len(chunk)}
    for side, stream in zip(SIDES, encode_chunk(encoder, chunk), strict=True):
        arrays = {name: array for name in ARRAYS if (array := getattr(stream, name)) is not None}
        for name, array in arrays.items():
            with (
                replacing_file(shard.with_name(f"{shard.name}.{side}.{name}.npy")) as temporary,
                temporary.open("wb") as file,
            ):
                np.save(file, array)
        record[side] = {
            "documents": len(stream.documents),
            "tokens": stream.learnable,
            "arrays": list(arrays),
            "sha256": stream.sha256(),
        }
    record["train_tokens"] = record["train"]["tokens"]
    record["skipped"] = dataclasses.asdict(encoder.pop_skipped())
    write_json(shard.with_suffix(".json"), record)


def _read_json(path: Path) -> Record:
    try:
        value: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return value
