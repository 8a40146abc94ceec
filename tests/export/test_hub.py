"""Down from a Hub and up to it, over its own protocol, with connections that drop."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from export.bundle import export_bundle
from export.precisions import parse_precisions
from model import Checkpoint
from tests.export.hub_server import TOKEN, blob_id, completed, downloaded, files_of, one_line

REPO = "someone/tiny-onnx"


@pytest.fixture(scope="module")
def whole_bundle(checkpoint_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    precisions = parse_precisions("fp32,int8")
    export_bundle(Checkpoint(checkpoint_folder), out, precisions, source="somewhere/tiny", progress=False)
    return out


@pytest.fixture
def bundle(whole_bundle, tmp_path):
    return shutil.copytree(whole_bundle, tmp_path / "bundle")


def pushed(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_push_makes_a_repository_with_exactly_the_manifests_files(hub, run, bundle):
    (bundle / "notes.txt").write_text("mine")
    (bundle / "onnx" / "model_q4.onnx.bak").write_text("mine")
    result = pushed(run("export", "push", bundle, "--repo", REPO, "--private", "--json"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    expected = {*manifest["files"], "manifest.json"}
    assert set(result["uploaded"]) == expected
    assert hub.repos[REPO]["main"].keys() == expected | {".gitattributes"}
    assert REPO in hub.private
    local = files_of(bundle)
    assert all(hub.repos[REPO]["main"][name] == local[name] for name in manifest["files"])
    assert result["commit"] == hub.head(REPO, "main")[0]


def test_pushing_again_sends_nothing(hub, run, bundle):
    first = pushed(run("export", "push", bundle, "--repo", REPO, "--json"))
    hub.requests.clear()
    again = run("export", "push", bundle, "--repo", REPO, "--json")
    assert (pushed(again)["uploaded"], pushed(again)["commit"]) == ([], first["commit"])
    assert hub.sent("PUT") == []
    assert not any("/commit/" in path for path in hub.sent("POST"))


def test_a_new_version_sends_what_changed_and_removes_the_graphs_that_are_gone(hub, run, bundle, checkpoint_folder):
    pushed(run("export", "push", bundle, "--repo", REPO, "--json"))
    export_bundle(Checkpoint(checkpoint_folder), bundle, parse_precisions("fp32"), source="new", progress=False)
    result = pushed(run("export", "push", bundle, "--repo", REPO, "--json"))
    assert set(result["uploaded"]) >= {"README.md", "manifest.json"}
    assert "onnx/model.onnx" in result["unchanged"]
    assert result["deleted"] == ["onnx/model_int8.onnx"]
    assert hub.repos[REPO]["main"].keys() == files_of(bundle).keys() | {".gitattributes"}


def test_after_a_dropped_connection_only_what_is_missing_is_sent(hub, run, bundle):
    large = [name for name in files_of(bundle) if name.endswith(".onnx")]
    assert len(large) == 2
    hub.drops = {"/commit/": 1}  # both graphs have arrived, the commit has not
    error = one_line(run("export", "push", bundle, "--repo", REPO))
    assert "run the same command again" in error
    assert hub.repos[REPO]["main"].keys() == {".gitattributes"}
    assert len(hub.large_files) == 2
    hub.requests.clear()
    assert set(pushed(run("export", "push", bundle, "--repo", REPO, "--json"))["uploaded"]) >= {*large, "config.json"}
    assert hub.sent("PUT") == []
    assert hub.repos[REPO]["main"].keys() == files_of(bundle).keys() | {".gitattributes"}


def test_a_graph_whose_upload_drops_arrives_in_the_end(hub, run, bundle):
    hub.drops = {"/lfs/": 1}
    done = completed(lambda: run("export", "push", bundle, "--repo", REPO, "--json"))
    assert "onnx/model.onnx" in pushed(done)["uploaded"]
    assert hub.drops == {"/lfs/": 0}
    assert hub.repos[REPO]["main"]["onnx/model.onnx"] == (bundle / "onnx" / "model.onnx").read_bytes()


def test_the_card_gets_licence_and_base_model(hub, run, bundle):
    hub.repos["base/model"] = {"main": {"config.json": b"{}"}}
    hub.licenses["base/model"] = "apache-2.0"
    before = files_of(bundle)
    pushed(run("export", "push", bundle, "--repo", REPO, "--base-model", "base/model", "--json"))
    card = hub.repos[REPO]["main"]["README.md"].decode()
    for line in ("license: apache-2.0", "base_model: base/model", "library_name: onnx", "# tiny, as ONNX"):
        assert line in card
    assert files_of(bundle) == before
    given = run("export", "push", bundle, "--repo", REPO, "--license", "mit", "--base-model", "base/model", "--json")
    assert pushed(given)["uploaded"] == ["README.md"]
    assert "license: mit" in hub.repos[REPO]["main"]["README.md"].decode()


def test_a_changed_file_is_refused_before_anything_is_sent(hub, run, bundle):
    path = bundle / "onnx" / "model_int8.onnx"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert "model_int8.onnx changed since the export" in one_line(run("export", "push", bundle, "--repo", REPO))
    assert hub.requests == []


def test_a_manifest_that_leads_out_of_the_bundle_is_refused(hub, run, bundle, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = {"bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    (bundle / "manifest.json").write_text(
        json.dumps(manifest | {"files": manifest["files"] | {"../secret.txt": entry}})
    )
    assert "outside the bundle" in one_line(run("export", "push", bundle, "--repo", REPO))
    assert hub.requests == []


def test_errors_of_push_are_one_line_each(hub, run, bundle):
    assert "HF_TOKEN" in one_line(run("export", "push", bundle, "--repo", REPO, token=None))
    assert "HF_TOKEN" in one_line(run("export", "push", bundle, "--repo", REPO, token="hf_wrong"))
    assert "OWNER/NAME" in one_line(run("export", "push", bundle, "--repo", "datasets/someone/tiny"))
    assert "connection" in one_line(run("export", "push", bundle, "--repo", REPO, endpoint="http://127.0.0.1:9"))
    hub.repos["someone/weights"] = {"main": {"config.json": b"{}", "model.safetensors": b"0"}}
    assert "no bundle" in one_line(run("export", "push", bundle, "--repo", "someone/weights"))
    assert hub.repos["someone/weights"]["main"].keys() == {"config.json", "model.safetensors"}


def test_what_was_pushed_is_run_and_inspected_by_its_id_and_revision(hub, run, bundle):
    result = pushed(run("export", "push", bundle, "--repo", REPO, "--revision", "v2", "--license", "mit", "--json"))
    assert result["revision"] == "v2"
    assert hub.repos[REPO]["main"].keys() == {".gitattributes"}
    hub.drops = {"model_int8.onnx": 1}
    arguments = ("runtime", "generate", REPO, "--revision", "v2", "--prompt", "The cat", "--greedy", "--json")
    done = completed(lambda: run(*arguments, token=None))
    assert hub.drops == {"model_int8.onnx": 0}
    here = run("runtime", "generate", bundle, "--prompt", "The cat", "--greedy", "--json")
    assert json.loads(done.stdout)["token_ids"] == json.loads(here.stdout)["token_ids"]
    hub.repos[REPO]["main"] = hub.repos[REPO]["v2"] | {"README.md": b"edited on the Hub"}
    inspected = run("export", "inspect", REPO)
    assert "all files are whole" in inspected.stdout, inspected.stderr


@pytest.mark.parametrize("command", ["runtime generate {}", "export run {} --out never"])
@pytest.mark.parametrize(
    ("repo", "token", "words"),
    [
        ("someone/else", TOKEN, "neither a folder nor a Hub repository someone/else: check the owner and the name"),
        ("someone/else", None, "nor a public Hub repository: check the name; if it is private, run `hf auth login`"),
        ("someone/private", None, "if it is private, run `hf auth login`"),
        ("someone/gated", None, "someone/gated is gated on the Hub (401): accept its terms on {}/someone/gated, then"),
        ("someone/gated", TOKEN, "someone/gated is gated on the Hub (403): accept its terms on"),
        ("someone/refused", TOKEN, "refuses someone/refused (403): your token may not read it"),
        (REPO, "hf_wrong", "does not accept your token (401)"),
        (REPO + " --revision v9", TOKEN, f"{REPO} has no revision 'v9'; it has main, v1"),
    ],
)
def test_each_refusal_of_the_hub_says_what_to_do(hub, run, tmp_path, command, repo, token, words):
    files = {"config.json": b"{}", "manifest.json": b"{}"}
    hub.repos = {name: {"main": files} for name in ("someone/private", "someone/gated", "someone/refused")}
    hub.repos[REPO] = {"main": files, "v1": files}
    hub.private, hub.gated, hub.refused = {"someone/private"}, {"someone/gated"}, {"someone/refused"}
    arguments = command.replace("never", str(tmp_path / "never")).format(repo).split()
    assert words.format(hub.url) in one_line(run(*arguments, token=token))
    assert not (tmp_path / "never").exists()


@pytest.fixture(scope="module")
def bundle_with_weights_beside(checkpoint_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "large"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.bundle.EMBEDDED_BYTES", 0)
        precisions = parse_precisions("fp32,int8,int8-kv8")
        export_bundle(Checkpoint(checkpoint_folder), out, precisions, source="large", progress=False)
    return out


FOREIGN = {"onnx/model_q4f16.onnx": b"0", "onnx/notes.json": b"{}", "original/config.json": b"{}", "pytorch.bin": b"0"}


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize(
    ("precision", "graphs"),
    [
        ("int8", {"model_int8.onnx", "model_int8.onnx_data"}),
        ("int8-kv8", {"model_int8_kv8.onnx", "model_int8.onnx_data"}),
        ("fp32", {"model.onnx", "model.onnx_data"}),
        (None, {"model_int8.onnx", "model_int8.onnx_data"}),
    ],
)
def test_generating_downloads_one_precision_and_the_small_files(
    hub, run, bundle_with_weights_beside, precision, graphs, has_manifest
):
    files = files_of(bundle_with_weights_beside) | FOREIGN
    small = {name for name in files if "/" not in name and name.endswith((".json", ".md"))}
    if not has_manifest:
        small.remove("manifest.json")
        del files["manifest.json"]
    hub.repos[REPO] = {"main": files}
    options = [] if precision is None else ["--precision", precision]
    arguments = ["runtime", "generate", REPO, "--greedy", "--max-new-tokens", "2", *options]
    done = run(*arguments, token=None)
    assert done.returncode == 0, done.stderr
    assert downloaded(hub) == small | {f"onnx/{name}" for name in graphs}


@pytest.mark.parametrize(("has_manifest", "words"), [(True, "could not be asked"), (False, "no precision 'fp32'")])
def test_what_was_downloaded_runs_without_the_hub(hub, run, bundle_with_weights_beside, has_manifest, words):
    files = files_of(bundle_with_weights_beside)
    if not has_manifest:
        del files["manifest.json"]
    hub.repos[REPO] = {"main": files}
    arguments = ["runtime", "generate", REPO, "--greedy", "--max-new-tokens", "2"]
    done = run(*arguments, token=None)
    again = run(*arguments, token=None, offline=True)
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
    assert words in one_line(run(*arguments, "--precision", "fp32", token=None, offline=True))


def test_a_graph_that_the_manifest_promises_and_the_hub_lacks_is_named(hub, run, bundle_with_weights_beside):
    files = files_of(bundle_with_weights_beside)
    del files["onnx/model_int8.onnx_data"]
    hub.repos[REPO] = {"main": files}
    assert "lists onnx/model_int8.onnx_data, which is not there" in one_line(run("runtime", "generate", REPO))


def test_the_servers_hashes_are_gits(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
