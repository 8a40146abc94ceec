"""Checkpoint -> bundle folder: the graphs, the files around them, the manifest and the model card.

The folder is built under a temporary name and renamed when it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from export import genai
from export.cache_layout import CacheLayout, LaidOutCheckpoint
from export.calibration import Calibration
from export.coverage import measure_coverage
from export.errors import ExportError
from export.graph import build_graph
from export.graph_builder import OPSET
from export.int8_cache import write_int8_cache_graph
from export.manifest import file_entries
from export.model_card import model_card
from export.naming import model_name
from export.operators import FusedOperators, Operators
from export.portable import portable_recipes
from export.precisions import Recipe
from export.smoothing import SmoothedCheckpoint
from export.standard_operators import StandardOperators
from export.weight_formats import WeightFormat
from model import ModelConfig, ModelSource, WeightSource
from model.files import replacing_folder, write_json, write_text
from model.parameters import parameter_counts
from model.sources import tokenizer_folder
from runtime.bundle import MANIFEST, graph_and_weight_bytes, read_json
from runtime.generation_config import FILE as GENERATION_CONFIG
from runtime.generation_config import generation_defaults, special_token_ids
from runtime.precisions import PRECISIONS, Precision
from runtime.progress import progress_bar
from runtime.text.tokenizer import load_tokenizer
from runtime.version import VERSION

# Up to this size the weights lie in the .onnx file itself; above, in a file beside it that is mapped, not parsed.
EMBEDDED_BYTES = 16 * 2**20
# Tensors this small stay in the .onnx file even then.
SMALL_TENSOR_BYTES = 1024
# The oldest onnxruntime whose MatMulNBits multiplies 8-bit blocks on the CPU.
MINIMUM_ONNXRUNTIME = "1.22"
# Where transformers stores the templates that have names.
TEMPLATES_FOLDER = "additional_chat_templates"
# Turns a SentencePiece model into tokenizer.json.
CONVERT_TOKENIZER = (
    "pip install transformers sentencepiece && "
    'python -c \'from transformers import LlamaTokenizer as T; T.from_pretrained("{0}").save_pretrained("{0}")\''
)


def export_bundle(
    checkpoint: ModelSource,
    out: Path,
    recipes: Sequence[Recipe],
    *,
    source: str,
    base_model: str | None = None,
    name: str | None = None,
    compare: Callable[[Path], dict[str, Any]] | None = None,
    portable: bool = False,
    calibration_tokens: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a bundle; what stood at `out` before (an older bundle) is replaced at the end.

    Args:
        checkpoint: what to export.
        out: the bundle's folder.
        recipes: one graph each.
        source: how the user named the checkpoint, for the manifest.
        base_model: its Hub id if it came from there, for the model card.
        name: for people; None for the Hub id's, or what the model or its folder is called.
        compare: called with the finished folder before it takes its place; its figures go into manifest and card.
        portable: write standard ONNX operators alone, for other engines: slower, and without a cache in place.
        calibration_tokens: how many the model samples where a precision needs its activations; None for what the
            recipes want. 0 rounds no weights by them; a precision that cannot do without gets the usual number.
        progress: show how far it is, on stderr.

    Returns:
        The manifest.

    Raises:
        ExportError: the tokenizer is missing or another model's, `out` holds something other than a bundle, or a
            precision has no portable form.
        BundleError: a generation_config.json that asks for what cannot be, such as a token beyond the vocabulary.
        CheckpointError: weights that cannot be read or are not finite.
    """
    operators: type[Operators] = StandardOperators if portable else FusedOperators
    if portable:
        recipes = portable_recipes(recipes)
    _check_tokenizer(checkpoint)
    _check_generation_config(checkpoint)
    _check_destination(out, checkpoint.folder)
    with replacing_folder(out) as folder:
        (folder / "onnx").mkdir()
        for path in checkpoint.side_files():
            shutil.copyfile(path, folder / path.name)
        _gather_templates(tokenizer_folder(checkpoint), folder)
        if not (folder / GENERATION_CONFIG).is_file():
            write_json(folder / GENERATION_CONFIG, _generation_config(checkpoint))
        tokens = max(recipe.tokens for recipe in recipes) if calibration_tokens is None else calibration_tokens
        calibration = Calibration(checkpoint, tokens=tokens, progress=progress)
        entries, external = _write_graphs(folder, recipes, calibration, operators)
        write_json(folder / "config.json", _config(checkpoint.config, external, operators))
        generation = read_json(folder / GENERATION_CONFIG)
        in_place = operators.in_place_cache
        graph_config = checkpoint.config.replace(head_dim=operators.cache_head_dim(checkpoint.config))
        write_json(folder / genai.FILE, genai.genai_config(graph_config, generation, entries, in_place_cache=in_place))
        manifest = {"name": name or model_name(checkpoint, source, base_model)}
        manifest |= _manifest(checkpoint, entries, source, operators)
        if base_model is not None:
            manifest["base_model"] = base_model
        write_json(folder / MANIFEST, manifest)
        if compare is not None:
            manifest["comparison"] = compare(folder)
        write_text(folder / "README.md", model_card(checkpoint.config, manifest))
        manifest["files"] = file_entries(folder)
        write_json(folder / MANIFEST, manifest)
    return manifest


def _write_graphs(
    folder: Path, recipes: Sequence[Recipe], calibration: Calibration, operators: type[Operators]
) -> tuple[dict[str, Any], list[str]]:
    """One graph for each recipe. Returns the manifest's entries, and which graphs have their weights beside them."""
    has_int8_cache = any(recipe.precision.has_int8_cache for recipe in recipes)
    layout = None
    if calibration.tokens or has_int8_cache:
        layout = CacheLayout.of(calibration.cache_statistics, calibration.config)
    plain, smoothed = _views(calibration, layout, has_int8_cache)
    entries, external, formats = {}, [], {}
    for recipe in recipes:
        precision, seen = recipe.precision, smoothed if recipe.smoothed else plain
        path = folder / "onnx" / precision.file
        if layout is not None and precision.has_int8_cache:
            graph = folder / "onnx" / PRECISIONS[precision.weights].file
            write_int8_cache_graph(graph, path, layout, seen.weights)
        else:
            formats[recipe.name] = recipe.make_format(seen)
            if _write_graph(seen.weights, path, formats[recipe.name], operators, calibration.progress):
                external.append(precision.file)
        entries[recipe.name] = _describe_precision(seen.config, folder, precision, formats[precision.weights])
        entries[recipe.name]["folded"] = seen.folded
    return entries, external


def _views(
    calibration: Calibration, layout: CacheLayout | None, has_int8_cache: bool
) -> tuple[Calibration, Calibration]:
    """How floats see the weights, and how what is rounded sees them: as they are unless something is gained by it."""
    if layout is None:
        return calibration, calibration
    laid_out = LaidOutCheckpoint(calibration.weights, layout)
    plain = calibration.through(laid_out) if has_int8_cache else calibration
    if not calibration.tokens:
        return plain, plain
    return plain, calibration.through(laid_out, SmoothedCheckpoint(laid_out, calibration.mean_squares))


def _write_graph(
    weights: WeightSource, path: Path, weight_format: WeightFormat, operators: type[Operators], progress: bool
) -> bool:
    """Build and save one graph. Returns whether its weights lie in a file beside it."""
    layers = weights.config.num_hidden_layers
    with progress_bar(total=layers + 1, description=path.name, unit="layers", show=progress) as bar:
        model = build_graph(weights, weight_format, lambda _: bar.update(), operators=operators)
        total = sum(tensor.const_value.nbytes for tensor in model.graph.initializers.values())
        is_external = total > EMBEDDED_BYTES
        bar.set_postfix_str("writing")
        _save(model, path, f"{path.name}_data" if is_external else None)
        bar.update()
    return is_external


def _save(model: ir.Model, path: Path, external_data: str | None) -> None:
    """Write a graph. Float32 weights are read now, so a fault in them is raised here, as the source words it."""
    try:
        ir.save(model, path, external_data=external_data, size_threshold_bytes=SMALL_TENSOR_BYTES)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


def _describe_precision(
    config: ModelConfig, folder: Path, precision: Precision, weight_format: WeightFormat
) -> dict[str, Any]:
    coverage = measure_coverage(folder / "onnx" / precision.file)
    expected_tables = 1 if config.tie_word_embeddings else 2
    if coverage.vocabulary_tables > expected_tables:
        raise ExportError(
            f"{precision.name} would hold {coverage.vocabulary_tables} vocabulary tables instead of {expected_tables}: "
            f"onnxruntime {version('onnxruntime')} copies it when it optimizes the graph; try another version"
        )
    return {
        "file": f"onnx/{precision.file}",
        "summary": precision.summary,
        "weights": weight_format.describe(),
        "file_bytes": graph_and_weight_bytes(folder, precision.name),
        "int8_weight_fraction": round(coverage.int8_fraction, 6),
        "weight_bytes_by_type": coverage.weight_bytes,
        "vocabulary_tables": coverage.vocabulary_tables,
    }


def _manifest(
    checkpoint: ModelSource, entries: dict[str, Any], source: str, operators: type[Operators]
) -> dict[str, Any]:
    return {
        "format": 1,
        "source": source,
        "parameters": parameter_counts(checkpoint.config),
        "precisions": entries,
        "operators": operators.name,
        "in_place_cache": operators.in_place_cache,
        "rotary": operators.rotary(checkpoint.config),
        "opset": OPSET,
        "minimum_onnxruntime": MINIMUM_ONNXRUNTIME,
        "versions": {"smoltext": VERSION} | {name: version(name) for name in ("onnx-ir", "onnxruntime", "torch")},
    }


def _config(config: ModelConfig, external: Sequence[str], operators: type[Operators]) -> dict[str, Any]:
    """The model's config as the graph has it: what engines ask it is the size of the cache.

    Padded heads show in `head_dim`, and `max_position_embeddings` is the context that RoPE's scaling reaches.
    transformers.js asks which graphs have their weights in a second file.
    """
    values = config.to_dict() | {
        "head_dim": operators.cache_head_dim(config),
        "max_position_embeddings": config.max_position_embeddings,
    }
    if external:
        values["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(external, True)}
    return values


def _gather_templates(source: Path, folder: Path) -> None:
    """Named templates, such as one for tools, that transformers stores in files of their own: in one file, by name.

    That is the older spelling, which transformers.js reads too.
    """
    names = {path.stem: path for path in sorted((source / TEMPLATES_FOLDER).glob("*.jinja"))}
    default = folder / "chat_template.jinja"
    if not names or not default.is_file():
        return
    templates = {name: path.read_text(encoding="utf-8") for name, path in ({"default": default} | names).items()}
    settings = read_json(folder / "tokenizer_config.json")
    listed = [{"name": name, "template": template} for name, template in templates.items()]
    write_json(folder / "tokenizer_config.json", settings | {"chat_template": listed})
    default.unlink()


def _generation_config(checkpoint: ModelSource) -> dict[str, Any]:
    config = checkpoint.config.to_dict()
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}


def _check_tokenizer(checkpoint: ModelSource) -> None:
    home = tokenizer_folder(checkpoint)
    convert = CONVERT_TOKENIZER.format(home)
    if (home / "tokenizer.model").is_file() and not (home / "tokenizer.json").is_file():
        raise ExportError(f"{home} has a tokenizer.model and no tokenizer.json; make it with: {convert}")
    # Added tokens may lie beyond the model's table, and rows of the table beyond the tokenizer: the runtime knows both.
    size, expected = load_tokenizer(home).get_vocab_size(with_added_tokens=False), checkpoint.config.vocab_size
    if size > expected:
        raise ExportError(
            f"{checkpoint.folder}: tokenizer.json has {size} tokens, the model's vocabulary {expected}: "
            "it belongs to another model"
        )


def _check_generation_config(checkpoint: ModelSource) -> None:
    paths = (path for path in checkpoint.side_files() if path.name == GENERATION_CONFIG)
    config, generation = checkpoint.config.to_dict(), read_json(next(paths, checkpoint.folder / GENERATION_CONFIG))
    generation_defaults(generation)
    for name in ("bos_token_id", "eos_token_id"):
        special_token_ids(name, generation, config, checkpoint.config.vocab_size)


def _check_destination(out: Path, checkpoint: Path) -> None:
    if not out.exists():
        return
    if out.resolve() == checkpoint.resolve():
        raise ExportError(f"--out {out} is the checkpoint itself; choose another folder")
    if not out.is_dir():
        raise ExportError(f"--out {out} is a file; choose a folder")
    if any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise ExportError(f"--out {out} holds files that are no bundle; choose another folder, or empty it")
