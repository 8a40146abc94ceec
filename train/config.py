"""The recipe of a run: a TOML file read into frozen dataclasses.

An unknown key is an error that names the nearest known key. Values of the wrong type and contradictions between
sections are errors too, and all are found before anything is loaded. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.data.config import PAIRS, DataSection, TokenizerSection
from train.errors import RecipeError
from train.errors import require as _check
from train.recipe_paths import begin_text_at, resolve_paths

RECIPES_FOLDER = Path(__file__).parent / "recipes"
LENGTHS = ("steps", "tokens", "epochs", "hours")  # keys of the section `schedule`
RESUMABLE = ("machine", "schedule", "run")  # sections of a run that may change when it is resumed
BRANCHABLE = (*RESUMABLE, "data", "optimizer")  # and when another run branches off


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{key} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Which model: a preset with random weights, or a checkpoint to continue from."""

    preset: str | None = None  # a name in model/presets
    init_from: str | None = None  # a checkpoint folder, GGUF file or Hub id
    overrides: Mapping[str, Any] = field(default_factory=dict)  # fields of ModelConfig, for a preset
    dropout: float = 0.0  # while training: the share of embeddings, and of what each layer adds, that is left out

    def __post_init__(self) -> None:
        _check(0 <= self.dropout < 1, "model.dropout is a share, from 0 to below 1")
        if (self.preset is None) == (self.init_from is None):
            raise RecipeError("model needs one of preset and init_from")
        if self.init_from is not None and self.overrides:
            raise RecipeError("model.overrides would change the shape of the checkpoint that model.init_from names")


@dataclass(frozen=True, kw_only=True)
class LoraSection:
    """Low-rank adapters instead of all weights (arXiv:2106.09685), on the checkpoint of `model.init_from`."""

    rank: int = 16
    alpha: int = 32  # the adapters' product is scaled by alpha / rank
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        _check(self.rank >= 1, "lora.rank must be at least 1")
        _check(self.alpha >= 1, "lora.alpha must be at least 1")
        _check(bool(self.projections), "lora.projections must name at least one")


@dataclass(frozen=True, kw_only=True)
class PreferenceSection:
    """Direct preference optimization (DPO, arXiv:2305.18290), on pairs of answers (`data.rows = "pairs"`)."""

    beta: float = 0.1  # how strongly the model is kept near the reference: a larger one keeps it nearer
    reference: str | None = None  # a checkpoint; default: the one of model.init_from

    def __post_init__(self) -> None:
        _check(self.beta > 0, "preference.beta must be positive")


@dataclass(frozen=True, kw_only=True)
class DistillationSection:
    """Learning from the probabilities of a larger model with the same tokenizer (arXiv:1503.02531)."""

    teacher: str  # a checkpoint folder, GGUF file or Hub id
    weight: float = 0.5  # of the divergence from the teacher; the rest is that of the cross-entropy
    temperature: float = 1.0  # by which the logits of both are divided

    def __post_init__(self) -> None:
        _check(0 < self.weight <= 1, "distillation.weight is a share, above 0 and up to 1")
        _check(self.temperature > 0, "distillation.temperature must be positive")


@dataclass(frozen=True, kw_only=True)
class OptimizerSection:
    """The optimizer: AdamW (arXiv:1711.05101), or Muon for the blocks' matrices and AdamW for the rest."""

    name: str = "adamw"  # or "muon"
    lr: float = 3e-3  # for both: Muon's updates are scaled to the size of AdamW's
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.95  # for Muon
    weight_decay: float = 0.01  # for matrices alone
    max_grad_norm: float = 1.0  # the limit on the norm of all gradients together
    z_loss: float = 0.0  # weight of log(Z)^2, which keeps logits from drifting (PaLM, arXiv:2204.02311: 1e-4)
    on_non_finite: str = "stop"  # or "skip": the step makes no update, with a warning

    def __post_init__(self) -> None:
        _check_choice("optimizer.name", self.name, ("adamw", "muon"))
        _check_choice("optimizer.on_non_finite", self.on_non_finite, ("stop", "skip"))
        _check(0 < self.lr < 1, "optimizer.lr must lie between 0 and 1")
        _check(all(0 <= beta < 1 for beta in self.betas), "optimizer.betas must lie between 0 and 1")
        _check(self.eps > 0, "optimizer.eps must be positive")
        _check(0 <= self.momentum < 1, "optimizer.momentum must lie between 0 and 1")
        _check(self.weight_decay >= 0, "optimizer.weight_decay must not be negative")
        _check(self.max_grad_norm > 0, "optimizer.max_grad_norm must be positive")
        _check(self.z_loss >= 0, "optimizer.z_loss must not be negative")


@dataclass(frozen=True, kw_only=True)
class ScheduleSection:
    """Warm-up, stable, decay (WSD, arXiv:2404.06395); the older practice is a cosine over all steps after warm-up.

    One of `steps`, `tokens`, `epochs` and `hours` says how long a run is (train.schedule turns the others into steps).
    """

    steps: int = 0
    tokens: float = 0  # with a label
    epochs: float = 0  # how often the training text is read
    hours: float = 0  # of this machine, evaluations and saves included; the decay begins in time to end by then
    warmup_steps: int = 0
    decay_steps: int = 0  # at the end of the run
    decay_share: float = 0.0  # instead of decay_steps: the decay's share of the run
    decay: str = "linear"  # or "cosine"
    final: float = 0.0  # the share of the peak rate at which the decay ends

    def __post_init__(self) -> None:
        _check_choice("schedule.decay", self.decay, ("linear", "cosine"))
        _check(0 <= self.final <= 1, "schedule.final is a share, from 0 to 1")
        _check(0 <= self.decay_share <= 1, "schedule.decay_share is a share, from 0 to 1")
        for name in (*LENGTHS, "warmup_steps", "decay_steps"):
            _check(0 <= getattr(self, name) < float("inf"), f"schedule.{name} must not be negative")
        given = [name for name in LENGTHS if getattr(self, name)]
        _check(len(given) == 1, f"schedule needs one of {', '.join(LENGTHS)}, and has {' and '.join(given) or 'none'}")
        _check(not (self.decay_steps and self.decay_share), "schedule has both decay_steps and decay_share; keep one")
        _check(
            not self.steps or self.warmup_steps + self.decay_steps <= self.steps,
            f"schedule.warmup_steps and decay_steps exceed the {self.steps} steps of the run",
        )

    @property
    def decay_start(self) -> int:
        """The first step whose rate falls, counted from 0, of a schedule in steps."""
        return self.steps - self.decay_steps


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """The seed, and after how many steps each action is due: 0 for never.

    Before its decay and at its end a run is saved in any case.
    """

    seed: int = 0  # for the weights, the stories and the order of rows
    evaluate_every: int = 500
    sample_every: int = 500
    save_every: int = 500
    sample_prompts: tuple[str, ...] = ()  # in a chat run what a user asks; default: a held-out question, or nothing
    sample_tokens: int = 160  # of a sample, at most
    sample_sliding_window: bool = False  # samples go on past the context, approximately
    keep_last: int = 2  # saved states beside that before the decay; an older one is used where a newer is broken
    patience: int = 0  # stop after this many evaluations without a better held-out loss; 0: never
    tensorboard: bool = False  # also write the metrics for TensorBoard
    tracker: str = "none"  # or "wandb" or "trackio": also send the metrics there
    project: str = "smoltext"  # the name of the tracker's project

    def __post_init__(self) -> None:
        for name in ("seed", "evaluate_every", "sample_every", "save_every", "patience"):
            _check(getattr(self, name) >= 0, f"run.{name} must not be negative")
        _check_choice("run.tracker", self.tracker, ("none", "wandb", "trackio"))
        _check(not self.patience or self.evaluate_every > 0, "run.patience needs evaluations: set run.evaluate_every")
        _check(self.keep_last >= 1, "run.keep_last must be at least 1")
        _check(self.sample_tokens >= 1, "run.sample_tokens must be at least 1")


@dataclass(frozen=True, kw_only=True)
class MachineSection:
    """How the machine is used. It changes speed and memory; it changes results by rounding alone.

    A resumed run may therefore have other values in this section.
    """

    device: str = "auto"  # "cpu", "cuda", "mps" (Apple's GPUs), or "auto": a GPU where there is one
    threads: int = 0  # on the CPU; 0 leaves the choice to torch
    precision: str = "auto"  # of products: "fp32", "tf32", "bf16", "fp16", or the best there (train.precision)
    micro_batch_size: int = 0  # rows per pass on a device; gradients accumulate over a step. 0: all its rows
    compile: bool = False  # torch.compile: minutes at the start, then faster steps
    recompute_activations: bool = False  # keep only the blocks' inputs and recompute the rest: less memory
    loss_chunk_tokens: int = 0  # how many tokens' logits exist at a time; 0: as many as fit 64 MiB
    sharding: str = "ddp"  # each device holds all weights, or ("fsdp") a part of them
    deterministic: bool = False  # on a GPU: slower kernels that sum in a fixed order. A CPU always does
    peak_tflops: float = 0.0  # of one device, for the MFU; 0: from the table in train.throughput

    def __post_init__(self) -> None:
        _check_choice("machine.device", self.device, ("auto", "cpu", "cuda", "mps"))
        _check_choice("machine.precision", self.precision, ("auto", "fp32", "tf32", "bf16", "fp16"))
        _check_choice("machine.sharding", self.sharding, ("ddp", "fsdp"))
        for name in ("threads", "micro_batch_size", "loss_chunk_tokens", "peak_tflops"):
            _check(getattr(self, name) >= 0, f"machine.{name} must not be negative")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run: the same recipe on the same machine gives the same weights."""

    model: ModelSection
    schedule: ScheduleSection
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    data: DataSection = field(default_factory=DataSection)
    optimizer: OptimizerSection = OptimizerSection()
    run: RunSection = RunSection()
    machine: MachineSection = MachineSection()
    lora: LoraSection | None = None
    preference: PreferenceSection | None = None
    distillation: DistillationSection | None = None

    def __post_init__(self) -> None:
        _check(
            (self.preference is not None) == (self.data.rows == PAIRS),
            'a section preference goes with data.rows = "pairs"; keep both, or neither',
        )
        if self.preference is not None:
            _check(self.distillation is None, "a recipe has preference or distillation; keep one")
            _check(self.machine.sharding != "fsdp", "preference goes with machine.sharding = ddp, not with fsdp")
            known = self.preference.reference or self.model.init_from
            _check(known is not None, "preference needs model.init_from, a model that answers already")
        if self.lora is not None:
            _check(self.model.init_from is not None, "lora needs model.init_from")
            _check(self.machine.sharding != "fsdp", "lora goes with machine.sharding = ddp, not with fsdp")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from nested tables. Raises RecipeError, which names the key."""
        recipe: Recipe = _section(cls, values, "")
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested tables, which `from_dict` reads."""
        return dataclasses.asdict(self)

    def changed(self, overrides: Iterable[str], sections: tuple[str, ...]) -> Recipe:
        """The recipe with other values in some sections. Raises RecipeError for a key of another, and for `run.seed`.

        Relative paths in overrides begin at the current folder.
        """
        overrides = [override.strip() for override in overrides]
        for override in overrides:
            if override.partition(".")[0] not in sections or override.startswith("run.seed"):
                raise RecipeError(f"a run keeps its recipe: only {', '.join(sections)} can change, not {override!r}")
        return Recipe.from_dict(_overridden(self.to_dict(), overrides))


def read_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by path, or by its bare name in `train/recipes`. Its paths become absolute (train.recipe_paths).

    Args:
        name: such as `my.toml` or `stories-tiny`.
        overrides: such as `optimizer.lr=1e-3`; a value is TOML, or else a plain string. A relative path in an override
            begins at the current folder, one in the recipe at the recipe's.

    Raises:
        RecipeError: the file is missing, or it is not TOML, or not a recipe.
    """
    path = Path(name)
    if not path.is_file() and path.name == name:
        path = RECIPES_FOLDER / f"{name.removesuffix('.toml')}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(path.stem for path in RECIPES_FOLDER.glob("*.toml")))
        raise RecipeError(f"there is no recipe {name}; give the path of a TOML file, or one of: {known}") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is not readable TOML: {error}") from None
    _settle_paths(values, path.resolve().parent)
    values = _overridden(values, list(overrides))
    try:
        return Recipe.from_dict(values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def _settle_paths(values: dict[str, Any], folder: Path) -> None:
    """Make a recipe file's paths absolute. Where it names no root, its text begins beside it.

    The text of a recipe of this repository that names no root is the user's: it begins at the current folder.
    """
    data = values.setdefault("data", {})
    if isinstance(data, dict):
        data.setdefault("root", str(Path.cwd() if folder == RECIPES_FOLDER.resolve() else folder))
    resolve_paths(values, folder)


def _overridden(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The tables with the overrides applied, whose paths begin at the current folder."""
    begin_text_at(values, Path.cwd(), overrides)
    if any(override.startswith(f"schedule.{length}=") for override in overrides for length in LENGTHS):
        for length in LENGTHS:  # another length replaces the recipe's
            values.get("schedule", {}).pop(length, None)
    for override in overrides:
        _apply(values, override)
    resolve_paths(values, Path.cwd())
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set `section.key=value` in the nested tables."""
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not sections or not all((*sections, last)):
        raise RecipeError(f"--set wants section.key=value, such as optimizer.lr=1e-3, not {override!r}")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {override}: {section} is not a section")
    try:
        values[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[last] = text


def _section(cls: type, values: Any, prefix: str) -> Any:
    """An instance of a section's dataclass from its table. Raises RecipeError for an unknown key or a wrong type."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{prefix.removesuffix('.')} must be a section of keys, not {values!r}")
    known = typing.get_type_hints(cls)
    for key in values.keys() - known.keys():
        nearest = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known are {', '.join(sorted(known))}"
        raise RecipeError(f"unknown key {prefix}{key}; {hint}")
    required = {f.name for f in dataclasses.fields(cls) if dataclasses.MISSING is f.default is f.default_factory}
    if missing := sorted(required - values.keys()):
        raise RecipeError(f"{prefix}{missing[0]} is missing")
    return cls(**{key: _value(known[key], value, prefix + key) for key, value in values.items()})


def _value(kind: Any, value: Any, key: str) -> Any:
    """The value converted to its annotation: integers to floats where those are wanted, lists to tuples."""
    if isinstance(kind, types.UnionType):  # X | None
        if value is None:
            return None
        kind = next(member for member in typing.get_args(kind) if member is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return _section(typing.cast("type", kind), value, f"{key}.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is tuple:
        return _items(typing.get_args(kind), value, key)
    plain = typing.get_origin(kind) or kind
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise RecipeError(f"{key} must be {_WORDS.get(plain, plain.__name__)}, not {value!r}")
    return value


def _items(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    """The items of a list: a pair (`tuple[KIND, KIND]`), or any number of one kind (`tuple[KIND, ...]`)."""
    if kinds[-1] is Ellipsis:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{key} must be a list, not {value!r}")
        return tuple(_value(kinds[0], item, f"{key}[{place}]") for place, item in enumerate(value))
    if not isinstance(value, list | tuple) or len(value) != len(kinds):
        raise RecipeError(f"{key} must be two numbers, not {value!r}")
    return tuple(_value(kind, item, key) for kind, item in zip(kinds, value, strict=True))


_WORDS = {int: "a whole number", float: "a number", str: "a text", Mapping: "a table"}
