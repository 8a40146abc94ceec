"""The smallest mixture of weight formats whose KL divergence stays within a budget.

Each layer's attention, each layer's MLP and the vocabulary table are a group, which gets one of the candidate formats.
The cost of a format is measured for one group at a time, with restored weights in PyTorch; costs of independent errors
add up. Then the graph that this estimate selects is built and measured, and the estimate corrected by the measurement,
so that the budget holds for the graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from export.calibration import Calibration
from export.errors import ExportError
from export.graph import build_graph
from export.operators import FusedOperators
from export.probe import GraphProbe
from export.quantize import quantize_blockwise, restore_blockwise
from export.weight_formats import Blockwise, Float, Mixed, WeightFormat
from model import TransformerModel, build_model
from runtime import contract
from runtime.bundle import ModelShape
from runtime.evaluation.divergence import KlAccumulator
from runtime.evaluation.logits import Logits
from runtime.progress import progress_bar

# Of the sampled text, to measure on: the last rows.
MEASURED_TOKENS = 1024
VOCABULARY = "vocabulary"
# The estimate is corrected by what the graph measured, up or down; it is close after two or three rounds.
ROUNDS = 6
TINY = 1e-12
# Share of the budget to aim at, so that the remaining error of the estimate stays within it.
AIM = 0.95


@dataclass(frozen=True)
class Option:
    """One format for one group: its bytes, and what it costs alone."""

    weight_format: WeightFormat
    nbytes: int
    kl: float


def smallest_within(
    calibration: Calibration, kl_budget: float, candidates: Sequence[Blockwise], *, progress: bool = True
) -> Mixed:
    """Find the mixture.

    Args:
        calibration: the model and a text that it sampled.
        kl_budget: KL(model || graph) in nats, a mean over tokens.
        candidates: formats to choose from beside 32-bit floats, the smallest first. The vocabulary table takes 8 bits
            or floats.
        progress: show how far it is, on stderr.

    Raises:
        ExportError: a budget that is not above zero.
    """
    if not kl_budget > 0:
        raise ExportError(f"--kl-budget must be above 0 nats, not {kl_budget}")
    candidates = [replace(candidate, remembered={}) for candidate in candidates]
    probe = SensitivityProbe(calibration)
    options = probe.options(candidates, progress)
    target, seen = AIM * kl_budget, {}
    for _ in progress_bar(range(ROUNDS), description="auto", unit="graphs", show=progress):
        chosen = cheapest(options, target)
        mixture = _mixture(chosen)
        nbytes = sum(option.nbytes for option in chosen.values())
        if nbytes in seen:
            break
        seen[nbytes] = mixture, probe.kl(mixture)
        target *= AIM * kl_budget / max(seen[nbytes][1], TINY)
    within = [nbytes for nbytes, (_, kl) in seen.items() if kl <= kl_budget]
    return seen[min(within)][0] if within else Mixed(Float(), {})


def cheapest(options: Mapping[str, Sequence[Option]], kl: float) -> dict[str, Option]:
    """Fewest bytes for a sum of costs: from the smallest formats up, take the step that saves most KL for its bytes.

    Each group's options stand from the smallest to the largest.
    """
    at = dict.fromkeys(options, 0)
    while sum(options[group][number].kl for group, number in at.items()) > kl:
        steps = [
            ((now.kl - higher.kl) / max(1, higher.nbytes - now.nbytes), group, number)
            for group, current in at.items()
            for now in [options[group][current]]
            for number, higher in enumerate(options[group][current + 1 :], start=current + 1)
        ]
        if not steps:
            break
        _, group, number = max(steps)
        at[group] = number
    return {group: options[group][number] for group, number in at.items()}


class SensitivityProbe:
    """KL divergences on the last rows of the calibration's text: of one group in a format, and of a whole graph."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        rows = calibration.rows
        self.rows = rows[-max(1, MEASURED_TOKENS // rows.shape[1]) :]
        self.model = build_model(calibration.weights)
        self.positions = torch.arange(self.rows.shape[1])[None]
        with torch.inference_mode():
            self.hidden = self._hidden_states()
            self.expected = self._logits(self.hidden[-1])

    def options(self, candidates: Sequence[Blockwise], progress: bool) -> dict[str, list[Option]]:
        """Each group's formats with their costs, floats last, at which nothing is lost."""
        groups = self._groups()
        bar = progress_bar(groups, description="auto", unit="groups", show=progress)
        options = {}
        for group in bar:
            parameters = groups[group]
            fitting = [candidate for candidate in candidates if group != VOCABULARY or candidate.bits == 8]
            floats = Option(Float(), sum(parameter.numel() * 4 for parameter in parameters), 0.0)
            options[group] = [*(self._option(group, parameters, candidate) for candidate in fitting), floats]
        return options

    def kl(self, weight_format: WeightFormat) -> float:
        """Of the graph that a format makes."""
        config = self.calibration.config
        shape = ModelShape(
            vocab_size=config.vocab_size,
            num_hidden_layers=config.num_hidden_layers,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=FusedOperators.cache_head_dim(config),
            max_position_embeddings=config.max_position_embeddings,
        )
        divergence = KlAccumulator()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(build_graph(self.calibration.weights, weight_format), path, external_data="model.onnx_data")
            probe = GraphProbe(path, shape)
            for row, expected in zip(self.rows, self.expected, strict=True):
                divergence.add(Logits(expected.numpy()), Logits(probe.run([row.tolist()])[contract.LOGITS][0]))
        return divergence.kl

    @torch.inference_mode()
    def _option(self, group: str, parameters: Sequence[Tensor], candidate: Blockwise) -> Option:
        """One group in a format, its weights rounded to the nearest; GPTQ's gain appears when the graph is measured."""
        kept = [parameter.clone() for parameter in parameters]
        nbytes = 0
        for parameter in parameters:
            quantized, scales = quantize_blockwise(parameter.numpy(), candidate.block_size, candidate.bits)
            nbytes += quantized.nbytes + scales.nbytes
            parameter.copy_(torch.from_numpy(restore_blockwise(quantized, scales, parameter.shape[1], candidate.bits)))
        if group == VOCABULARY:
            logits = self._logits(self._hidden_states()[-1])
        else:
            layer = int(group.partition(".")[0])
            logits = self._logits(self._run_from(layer, self.hidden[layer])[-1])
        for parameter, old in zip(parameters, kept, strict=True):
            parameter.copy_(old)
        divergence = KlAccumulator()
        for expected, found in zip(self.expected, logits, strict=True):
            divergence.add(Logits(expected.numpy()), Logits(found.numpy()))
        return Option(candidate, nbytes, divergence.kl)

    def _groups(self) -> dict[str, list[Tensor]]:
        """Group -> its matrices."""
        model: TransformerModel = self.model
        head = [] if model.config.tie_word_embeddings else [model.lm_head.weight]
        groups = {VOCABULARY: [model.model.embed_tokens.weight, *head]}
        for number, block in enumerate(model.model.layers):
            for part in ("self_attn", "mlp"):
                matrices = [weight for weight in block.get_submodule(part).parameters() if weight.ndim == 2]
                groups[f"{number}.{part}"] = matrices
        return {group: [matrix.data for matrix in matrices] for group, matrices in groups.items()}

    def _hidden_states(self) -> list[Tensor]:
        """What each layer reads, and what the last one leaves: float32 [rows, length, hidden_size] each."""
        trunk = self.model.model
        embedded = trunk.embed_tokens(self.rows)
        if trunk.embed_positions is not None:
            embedded = embedded + trunk.embed_positions(self.positions)
        return [embedded, *self._run_from(0, embedded)]

    def _run_from(self, layer: int, hidden: Tensor) -> list[Tensor]:
        """What the layers from this one on leave."""
        return list(self._states(layer, hidden))

    def _states(self, layer: int, hidden: Tensor) -> Iterator[Tensor]:
        for block in self.model.model.layers[layer:]:
            hidden = block(hidden, self.positions, self.model.model.rotary, None)
            yield hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(self.model.model.norm(hidden))
        return logits


def _mixture(chosen: Mapping[str, Option]) -> Mixed:
    """Floats, but for the groups that have something smaller."""
    exceptions = {}
    for group, option in chosen.items():
        beginnings = ("model.embed_tokens", "lm_head") if group == VOCABULARY else (f"model.layers.{group}.",)
        if option.weight_format != Float():
            exceptions |= dict.fromkeys(beginnings, option.weight_format)
    return Mixed(Float(), exceptions)
