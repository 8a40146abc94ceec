"""Who may import whom: the import law of the design, read from the source and seen in a clean process."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.draw_packages import PAGE, circles, module_graph, page, room_graph

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("model", "train", "export", "runtime", "app")
# A package may import itself and these. Tests may import all.
MAY_IMPORT = {
    "model": {"runtime"},
    "train": {"model", "runtime"},
    "export": {"model", "runtime"},
    "runtime": set(),
    "app": {"runtime"},
}
# Libraries that only these packages, and the tests, may import.
HOME_OF = {
    "torch": {"model", "train", "export"},
    "safetensors": {"model", "train", "export"},
    "onnx": {"export"},
    "onnx_ir": {"export"},
    "onnxscript": {"export"},
    "gradio": {"app"},
    "fastapi": {"app"},
    "starlette": {"app"},
    "uvicorn": {"app"},
    "pydantic": {"app"},
    "prometheus_client": {"app"},
    "transformers": set(),
    "lm_eval": {"train"},
}
# The rooms of a folder from the ground up: each may import those before it alone.
ORDER = {
    "runtime": (
        "errors",
        "contract",
        "precisions",
        "progress",
        "version",
        "hub",
        "sampling",
        "generation_config",
        "bundle",
        "text",
        "engine",
        "generation",
        "language_model",
        "chat_session",
        "batch",
        "evaluation",
        "cli",
        "__main__",
    ),
    "train": (
        "errors",
        "labels",
        "signals",
        "recipe_paths",
        "data",
        "config",
        "loss",
        "distillation",
        "preference",
        "lora",
        "optimizer",
        "precision",
        "schedule",
        "throughput",
        "dropout",
        "distributed",
        "evaluate",
        "samples",
        "harness",
        "run",
        "setup",
        "resume",
        "step_actions",
        "loop",
        "commands",
        "__main__",
    ),
}
RUNTIME_MAY_LOAD = {"numpy", "onnxruntime", "tokenizers", "runtime"} | set(sys.stdlib_module_names)
LONGEST_FILE_LINES = 400


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "*.py"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # an archive without its history
        paths = [path for folder in (*PACKAGES, "tests") for path in (REPOSITORY / folder).rglob("*.py")]
    return sorted(path for path in paths if path.is_file())


FILES = tracked_files()


def package_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).parts[0]


def files_of(package: str) -> list[Path]:
    return [path for path in FILES if package_of(path) == package]


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that a tree imports, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module if node.level == 0 else f"relative to {node.level}"


def imported_when_loaded(body: list[ast.stmt]) -> Iterator[str]:
    """What importing the module imports: not what stands in functions, nor what only a type checker reads."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imported_when_loaded(node.orelse)
            continue
        for _, blocks in ast.iter_fields(node):
            if isinstance(blocks, list) and blocks and isinstance(blocks[0], ast.stmt):
                yield from imported_when_loaded(blocks)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_it_may_know(package):
    forbidden = set(PACKAGES) - MAY_IMPORT[package] - {package} | {"tests"}
    for path in files_of(package):
        found = {name.split(".")[0] for name in imported(parse(path))} & forbidden
        assert not found, f"{path.relative_to(REPOSITORY)} imports {found}; {package} may not know it"


def test_no_import_is_part_of_a_circle():
    for graph in (module_graph(), room_graph()):
        assert circles(graph) == []


@pytest.mark.parametrize("folder", ORDER)
def test_rooms_know_only_those_below_them(folder):
    order = [f"{folder}.{room}" for room in ORDER[folder]]
    rooms = {room: known for room, known in room_graph().items() if room.startswith(f"{folder}.")}
    assert sorted(rooms) == sorted(order)
    for place, room in enumerate(order):
        own = {known for known in rooms[room] if known.startswith(f"{folder}.")}
        assert own <= set(order[:place]), f"{room} knows what stands beside or above it"


def test_the_diagram_in_the_docs_is_that_of_the_imports():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_each_question_of_contributing_is_answered_by_a_file_that_holds_the_answer():
    rows = [line.split("|")[1:4] for line in (REPOSITORY / "CONTRIBUTING.md").read_text().splitlines() if "? |" in line]
    answers = [
        (question, re.search(r"\]\((.+?)\)", file), re.search(r"`(.+?)`", what)) for question, file, what in rows
    ]
    for question, file, what in answers:
        assert question.strip().endswith("?")
        tree = parse(REPOSITORY / file[1])
        names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        names |= {ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        assert set(what[1].split(".")) <= names, question
    assert len(answers) == 8


@pytest.mark.parametrize("library", HOME_OF)
def test_a_library_is_imported_in_its_home_only(library):
    for path in FILES:
        if package_of(path) in {*HOME_OF[library], "tests", "benchmarks"}:
            continue
        found = {name for name in imported(parse(path)) if name.split(".")[0] == library}
        assert not found, f"{path.relative_to(REPOSITORY)} imports {found}"


def test_bars_are_made_by_one_module_that_knows_logs():
    assert [path for path in FILES if "tqdm" in set(imported(parse(path)))] == [REPOSITORY / "runtime" / "progress.py"]


@pytest.mark.parametrize("path", files_of("runtime"), ids=lambda path: path.name)
def test_a_module_of_the_runtime_loads_numpy_onnxruntime_tokenizers_and_nothing_else(path):
    loaded = {name.split(".")[0] for name in imported_when_loaded(parse(path).body)}
    assert loaded <= RUNTIME_MAY_LOAD


def test_the_names_of_the_graph_are_written_in_the_contract_alone():
    names = ("past_key_values.", "present.", "num_logits_to_keep", "position_ids", "attention_mask")
    for path in [*files_of("runtime"), *files_of("export"), *files_of("app")]:
        if path.name == "contract.py":
            continue
        strings = {node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant)}
        found = [name for name in names if name in strings]
        assert not found, f"{path.relative_to(REPOSITORY)} writes {found}; take them from runtime.contract"


@pytest.mark.parametrize(
    "statement",
    [
        "import runtime",
        "from runtime import LanguageModel, Bundle, SamplingOptions, DecoderSession, generate_step",
        "import sys; sys.argv = {generate!r}; import runpy; runpy.run_module('runtime', run_name='__main__')",
        "import sys; sys.argv = {bench!r}; import runpy; runpy.run_module('runtime', run_name='__main__')",
    ],
    ids=["package", "names", "generate", "bench"],
)
def test_a_clean_process_that_runs_the_runtime_loads_no_training_and_no_exporter(statement, tiny_bundle):
    forbidden = (*HOME_OF, "model", "train", "export", "app", "tests", "huggingface_hub", "jinja2")
    statement = statement.format(
        generate=["runtime", "generate", str(tiny_bundle), "--prompt", "the", "--greedy", "--max-new-tokens", "4"],
        bench=["runtime", "bench", str(tiny_bundle), "--repeats", "1"],
    )
    script = (
        f"import sys\ntry:\n    exec({statement!r})\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        f"loaded = [name for name in {forbidden!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_file_is_short_and_loads_no_pickle(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE_LINES
    tree = parse(path)
    assert not {"pickle", "cPickle", "dill", "joblib", "shelve"} & {name.split(".")[0] for name in imported(tree)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if ast.unparse(call.func) == "torch.load":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert options.get("weights_only") == "True", f"line {call.lineno}: torch.load may run what the file says"
        if ast.unparse(call.func) in ("np.load", "numpy.load"):
            assert not any(keyword.arg == "allow_pickle" for keyword in call.keywords), f"line {call.lineno}"


def test_every_package_of_the_design_is_there():
    assert {package_of(path) for path in FILES} >= set(PACKAGES) - {"app"}
