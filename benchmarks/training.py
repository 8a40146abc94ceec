"""Training speed in pairs: our loop, a plain loop in nanoGPT's style, and transformers' Trainer, on one shape.

    python -m benchmarks.training --preset tiny --rows 10 --context 256
    python -m benchmarks.training --overrides '{"vocab_size": 49152, "hidden_size": 192}' --rows 4

Each takes the same number of steps on the same random tokens, in turn, round after round, in one process. The output is
the ratio of each round, its median and its range. The Trainer needs accelerate: pip install --no-deps accelerate.

The plain loop is what nanoGPT's train.py does (github.com/karpathy/nanoGPT): all logits at once, F.cross_entropy, fused
AdamW, clipped gradients. It trains our model; `nanoGPT` has its own model too (benchmarks.nanogpt), of as many weights
where intermediate_size is 8/3 of hidden_size and there are as many KV heads as heads. The Trainer trains transformers'
LlamaForCausalLM with its own optimizer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.nanogpt import nanogpt
from model import ModelConfig, TransformerModel
from train.config import MachineSection, ModelSection, OptimizerSection, Recipe, ScheduleSection
from train.data.batches import Batches
from train.data.config import DataSection
from train.data.corpus import Corpus, TokenSource
from train.data.streams import Stream
from train.distributed.parallel import parallelize
from train.distributed.ranks import Ranks
from train.loop import training_step
from train.loss import NextTokenLoss
from train.optimizer import build_optimizers
from train.run.folder import RunFolder
from train.run.run import Run

Steps = Callable[[int], None]  # takes this number of steps
OPTIMIZER = OptimizerSection(lr=1e-3)


def ours(config: ModelConfig, stream: Tensor, rows: int, context: int, machine: MachineSection) -> Steps:
    """The loop of this repository, as a run calls it."""
    recipe = Recipe(
        model=ModelSection(preset="tiny"),
        schedule=ScheduleSection(steps=1_000_000),
        data=DataSection(context=context, batch_size=rows),
        optimizer=OPTIMIZER,
        machine=machine,
    )
    model = TransformerModel(config)
    loss = parallelize(NextTokenLoss(model), machine, Ranks())
    ids = stream.numpy().astype(np.uint16)
    everything = Stream(ids, np.array([[0, len(ids) - 1]]))
    source = TokenSource("random", None, [everything], [], [])
    batches = Batches([source], recipe.data, seed=0)
    run = Run(
        recipe,
        RunFolder("nowhere"),
        Ranks(),
        model,
        loss,
        build_optimizers(model, OPTIMIZER),
        None,  # type: ignore[arg-type] - a step needs no tokenizer
        Corpus([source], [everything], separator=0),
        batches,
    )
    return lambda count: [training_step(run) for _ in range(count)] and None


def plain(config: ModelConfig, stream: Tensor, rows: int, context: int) -> Steps:
    """The direct loop, without regard to memory."""
    model = TransformerModel(config)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)

    def steps(count: int) -> None:
        for _ in range(count):
            places = torch.randint(len(stream) - context - 1, (rows,)).tolist()
            input_ids = torch.stack([stream[place : place + context] for place in places])
            labels = torch.stack([stream[place + 1 : place + context + 1] for place in places])
            loss = F.cross_entropy(model(input_ids).flatten(0, 1), labels.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return steps


def trainer(config: ModelConfig, stream: Tensor, rows: int, context: int) -> Steps:
    """transformers' Trainer with its defaults for this work; the time of `train()` less its first and last steps."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    model = LlamaForCausalLM(LlamaConfig(**config.to_dict()))
    data = [{"input_ids": row, "labels": row} for row in stream[: len(stream) // context * context].view(-1, context)]

    def steps(count: int) -> None:
        arguments = TrainingArguments(
            tempfile.mkdtemp(),
            max_steps=count,
            per_device_train_batch_size=rows,
            learning_rate=1e-3,
            weight_decay=0.01,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        quiet = Trainer(model=model, args=arguments, train_dataset=data)
        quiet.remove_callback(__import__("transformers").trainer_callback.PrinterCallback)
        quiet.train()

    return steps


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, and with --json the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--overrides", type=json.loads, default={}, metavar="JSON", help="fields of the model's config")
    parser.add_argument("--rows", type=int, default=10, help="a step (default %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="tokens a row (default %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--without-trainer", action="store_true")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    config = ModelConfig.from_preset(arguments.preset).replace(**arguments.overrides)
    stream = torch.randint(config.vocab_size, (500 * arguments.context,), generator=torch.Generator().manual_seed(0))
    shape = (config, stream, arguments.rows, arguments.context)
    engines = {
        "ours": ours(*shape, MachineSection(device="cpu")),
        "plain loop": plain(*shape),
        "nanoGPT": nanogpt(*shape),
    }
    if not arguments.without_trainer:
        engines["Trainer"] = trainer(*shape)
    times = measure(engines, arguments.steps, arguments.rounds)
    for line in table(times, arguments.steps * arguments.rows * arguments.context):
        print(line)
    return 0


def measure(engines: dict[str, Steps], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round of each engine, after a round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for name, take in engines.items():
            started = time.perf_counter()
            take(steps)
            times[name].append(time.perf_counter() - started)
    return {name: seconds[1:] for name, seconds in times.items()}


def table(times: dict[str, list[float]], tokens: int) -> list[str]:
    """A line an engine: its speed, and how many times faster ours is, round by round."""
    lines = [f"{'':<12}{'tokens/s':>10}   ours is faster by"]
    for name, seconds in times.items():
        ratios = sorted(theirs / own for theirs, own in zip(seconds, times["ours"], strict=True))
        middle = f"{statistics.median(ratios):.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"{name:<12}{tokens / statistics.median(seconds):>10,.0f}   {middle}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
