"""What is fetched from a hub on the loopback interface, what is taken up, and what is said where it can't be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir, snapshot_download

from tests.hub_server import COMMIT, REFUSED, Hub, Repository, etag_of, open_hub
from tests.refusals import refused
from vllava_cli.engine import hub, hub_download
from vllava_cli.errors import CheckpointError, HubError
from vllava_cli.nouns import Source

MODEL = "owner/model"
CONFIGS = ["added_tokens.json", "generation_config.json", "preprocessor_config.json"]
CONFIGS += ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "config.json"]
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
INDEX, CONFIG = "model.safetensors.index.json", "adapter_config.json"


@pytest.fixture
def server(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:  # noqa: ARG001
    """A hub, and the settings that lead there, as the environment would have them."""
    with open_hub() as site:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", site.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hub_download, "PAUSES_S", (0.0,))
        yield site


def fetched(model: str = MODEL, revision: str | None = None) -> Source:
    """All of a model, as a command has it."""
    source = hub.locate(model, revision)
    hub.fetch_weights(source)
    return source


def same_files(folder: Path, published: Path) -> bool:
    names = sorted(path.name for path in published.iterdir())
    return sorted(path.name for path in folder.iterdir()) == names and all(
        (folder / name).read_bytes() == (published / name).read_bytes() for name in names
    )


def test_a_first_download_is_complete_and_quiet_and_the_next_start_asks_nothing(
    server: Hub, published: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.add(MODEL, published)
    source = hub.locate(MODEL)
    assert sorted(server.bodies()) == sorted((name, 0) for name in CONFIGS)
    hub.fetch_weights(source)
    asked = server.bodies()
    assert asked[0] == (INDEX, 0)
    assert sorted(asked[1:]) == [(name, 0) for name in SHARDS]
    assert source == Source(model=MODEL, folder=source.folder, revision=COMMIT)
    assert same_files(source.folder, published)
    assert fetched() == source
    assert server.requests == []
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_the_hub_closed_is_made_anew(server: Hub, published: Path) -> None:
    server.add(MODEL, published)
    server.hang_ups |= {"config.json", SHARDS[0]}
    assert same_files(fetched().folder, published)
    assert not server.hang_ups


@pytest.mark.parametrize("name", [*CONFIGS, INDEX, *SHARDS])
def test_a_download_that_breaks_off_is_taken_up(name: str, server: Hub, published: Path) -> None:
    server.add(MODEL, published)
    server.breaks[name] = half = len((published / name).read_bytes()) // 2
    assert refused(HubError, fetched) == f"The download of {name} broke off: run the same command again to continue it."
    blobs = hub_download.repository_folder(MODEL) / "blobs"
    complete = {path.name for path in published.iterdir() if (blobs / etag_of(path.name, path.read_bytes())).exists()}
    server.breaks.clear()
    server.requests.clear()
    source = fetched()
    again = server.bodies()
    assert (name, half) in again
    assert name not in complete
    assert not complete & {asked for asked, _ in again}
    assert same_files(source.folder, published)


@pytest.mark.parametrize(
    "here",
    [
        ["config.json"],
        ["config.json", "preprocessor_config.json"],
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"],
        sorted(set(CONFIGS) - {"generation_config.json"}),
        CONFIGS[:-1],
    ],
)
def test_a_description_that_is_here_in_part_is_completed(here: list[str], server: Hub, published: Path) -> None:
    """As other programs leave it."""
    server.add(MODEL, published)
    snapshot_download(MODEL, allow_patterns=here)
    server.bodies()
    source = hub.locate(MODEL)
    assert sorted(asked for asked, _ in server.bodies()) == sorted(set(CONFIGS) - set(here))
    assert all((source.folder / name).read_bytes() == (published / name).read_bytes() for name in CONFIGS)


@pytest.mark.parametrize("name", [*CONFIGS, INDEX, *SHARDS])
def test_a_file_that_is_gone_is_fetched_again(name: str, server: Hub, published: Path) -> None:
    server.add(MODEL, published)
    source = fetched()
    server.bodies()
    blob = (source.folder / name).resolve()
    blob.unlink()  # the link stays, as where somebody made room
    again = fetched()
    if name in ("added_tokens.json", "special_tokens_map.json"):
        assert server.bodies() == []  # tokenizer.json says the same
    else:
        assert server.bodies() == [(name, 0)]
        assert same_files(again.folder, published)


def test_the_hubs_own_library_and_ours_find_what_the_other_fetched(
    server: Hub, hub_cache: Path, published: Path
) -> None:
    server.add(MODEL, published)
    server.add("owner/other", published)
    snapshot_download("owner/other")
    server.bodies()
    assert same_files(fetched("owner/other").folder, published)
    assert server.requests == []
    source = fetched()
    assert snapshot_download(MODEL, local_files_only=True) == str(source.folder)
    found = scan_cache_dir(hub_cache)
    assert (len(found.warnings), sorted(repository.repo_id for repository in found.repos)) == (
        0,
        [MODEL, "owner/other"],
    )
    assert not list(hub_cache.rglob("*.incomplete"))


def test_a_file_that_a_repository_lacks_is_asked_for_once(server: Hub, published: Path) -> None:
    server.add(MODEL, published, without=("generation_config.json",))
    snapshot_download(MODEL)
    server.bodies()
    hub.locate(MODEL)
    assert [request.what for request in server.requests] == ["info"]
    server.requests.clear()
    hub.locate(MODEL)
    assert server.requests == []


def test_branches_tags_and_commits_are_found_again_without_the_network(
    server: Hub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "f" * 40
    server.add(MODEL, published).revisions |= {"refs/pr/1": COMMIT, "v2": other}
    for revision, commit in [("v2", other), ("refs/pr/1", COMMIT), (None, COMMIT), ("main", COMMIT), (other, other)]:
        assert fetched(revision=revision).revision == commit
    asked = [asked for asked, _ in server.bodies()]
    assert sorted(asked) == sorted(path.name for path in published.iterdir())  # the other commit has the same contents
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision, commit in [("v2", other), ("refs/pr/1", COMMIT), (None, COMMIT), (other, other), (COMMIT, COMMIT)]:
        assert fetched(revision=revision).revision == commit
    assert server.requests == []


def test_a_branch_that_has_moved_keeps_what_is_here_and_its_weights(server: Hub, published: Path) -> None:
    repository = server.add(MODEL, published)
    source = hub.locate(MODEL)
    repository.revisions = {"main": "f" * 40, "old": COMMIT}
    assert fetched() == source
    assert same_files(source.folder, published)


def test_one_file_of_weights_goes_before_shards(server: Hub, published: Path) -> None:
    files = server.add(MODEL, published).files
    files["model.safetensors"] = files[SHARDS[0]]
    source = hub.locate(MODEL)
    server.bodies()
    hub.fetch_weights(source)
    assert server.bodies() == [("model.safetensors", 0)]


LACK = "The model owner/model is not in the cache {cache} and "
LOG_IN = "log in again with hf auth login, or unset HF_TOKEN."
GATED = "ask for access at {url}/owner/model, then log in with hf auth login."
NAME = "check the name, or log in with hf auth login."
PORTAL = "log in to this network first, or correct HF_ENDPOINT."
UNREACHED = "run hf download owner/model where there is a network, or try --model demo, which is built in."


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("gated", "The hub's model owner/model is gated: " + GATED),
        ("unknown", "The hub has no model owner/model, or it is private: " + NAME),
        ("revision", "The hub's model owner/model has no revision v2: leave --revision out for main."),
        ("503", "The hub answers with status 503 about owner/model: try again later."),
        ("401", "The hub answers with status 401 about owner/model: " + LOG_IN),
        ("200", LACK + "the server at {url} is not the hub: " + PORTAL),
        ("silent", LACK + "the hub doesn't answer within 0.1 seconds: try again, or set HF_HUB_ETAG_TIMEOUT to more."),
        ("offline", LACK + "HF_HUB_OFFLINE is set: unset it where there is a network."),
        ("refused", LACK + "the hub can't be reached ({refused}): " + UNREACHED),
    ],
)
def test_a_refusal_is_one_sentence(
    case: str,
    said: str,
    server: Hub,
    hub_cache: Path,
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if case != "unknown":
        server.add(MODEL, published, is_gated=case == "gated")
    server.is_silent = case == "silent"
    server.status = int(case) if case.isdigit() else 0
    monkeypatch.setattr(hub_download, "ANSWER_S", 0.1 if case == "silent" else 60.0)
    if case == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if case == "refused":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused(HubError, hub.locate, MODEL, "v2" if case == "revision" else None) == said.format(
        url=server.url, cache=hub_cache, refused=REFUSED
    )
    assert capfd.readouterr() == ("", "")
    assert len(server.requests) <= 1 + 7 * (case == "gated")


def test_what_is_here_in_part_is_named_where_the_network_is_gone(
    server: Hub, hub_cache: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(MODEL, published)
    snapshot_download(MODEL, allow_patterns=["config.json"])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused(HubError, hub.locate, MODEL) == (
        f"The model owner/model lacks tokenizer.json in the cache {hub_cache} and the hub can't be reached "
        f"({REFUSED}): {UNREACHED}"
    )
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    assert hub.locate(MODEL).revision == COMMIT


@pytest.mark.parametrize("is_adapter", [False, True])
def test_weights_without_safetensors_are_refused_before_anything_is_fetched(
    is_adapter: bool, server: Hub, published: Path
) -> None:
    server.add(MODEL, published, without=(*SHARDS, INDEX)).files |= {"pytorch_model.bin": b"", CONFIG: b"{}"}
    source = hub.locate(MODEL)
    server.bodies()
    with pytest.raises(HubError) as caught:
        hub.locate_adapter(MODEL) if is_adapter else hub.fetch_weights(source)
    assert str(caught.value) == (
        "The hub's adapter owner/model has no adapter_model.safetensors: an adapter is read from adapter_config.json "
        "and adapter_model.safetensors, so name another one."
        if is_adapter
        else "The hub's model owner/model has no model.safetensors: vllava reads weights from safetensors files only, "
        "so name another one."
    )
    assert server.bodies() == []


def test_an_adapter_is_called_one(server: Hub, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["owner/gated"] = Repository(files=dict.fromkeys(hub.ADAPTER_FILES, b"{}"), is_gated=True)
    for name, message in (
        ("owner/lora", "The hub has no adapter owner/lora, or it is private: check the name, or log in with hf auth l"),
        ("owner/gated", "The hub's adapter owner/gated is gated: "),
        ("./lora", "There is no adapter folder ./lora: give the folder of a LoRA adapter, or a hub id."),
        ("owner/-bad-", "owner/-bad- is neither a folder nor a hub id such as owner/my-lora."),
    ):
        assert refused(CheckpointError, hub.locate_adapter, name).startswith(message)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused(HubError, hub.locate_adapter, "owner/lora") == (
        f"The adapter owner/lora is not in the cache {hub_cache} and the hub can't be reached ({REFUSED}): run hf "
        "download owner/lora where there is a network."
    )


def test_a_file_that_breaks_off_is_told_while_another_one_stands_still(server: Hub, published: Path) -> None:
    server.add(MODEL, published)
    server.holds[SHARDS[0]] = server.breaks[SHARDS[2]] = 1000
    with pytest.raises(HubError, match=f"The download of {SHARDS[2]} broke off"):
        fetched()


def test_a_server_without_ranges_sends_all_again(server: Hub, published: Path) -> None:
    server.add(MODEL, published)
    server.has_ranges = False
    server.breaks[SHARDS[1]] = 1000
    with pytest.raises(HubError):
        fetched()
    server.breaks.clear()
    assert same_files(fetched().folder, published)


@pytest.mark.parametrize("left", [b"\0" * 1000, b"\0" * 10_000_000], ids=["zeros, as after a crash", "too long"])
def test_a_damaged_part_is_fetched_anew(left: bytes, server: Hub, published: Path) -> None:
    server.add(MODEL, published)
    source = hub.locate(MODEL)
    blobs = hub_download.repository_folder(MODEL) / "blobs"
    (blobs / f"{etag_of(SHARDS[0], (published / SHARDS[0]).read_bytes())}.incomplete").write_bytes(left)
    hub.fetch_weights(source)
    assert same_files(source.folder, published)


def test_a_body_that_is_not_what_was_promised_is_an_error(server: Hub, published: Path) -> None:
    files = server.add(MODEL, published).files
    source = hub.locate(MODEL)
    right = files[SHARDS[0]]
    server.mangled[SHARDS[0]] = right[:-1] + b"!"
    assert refused(HubError, hub.fetch_weights, source) == (
        f"The hub's file {SHARDS[0]} arrived damaged: try again, or use another network."
    )
    server.mangled.clear()
    assert same_files(fetched().folder, published)


def test_a_disk_that_is_too_small_is_told_before_it_is_full(
    server: Hub, hub_cache: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(MODEL, published)
    source = hub.locate(MODEL)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert refused(HubError, hub.fetch_weights, source) == (
        f"The model owner/model takes 0.0 GB more, and {hub_cache} has 0.0 GB free: make room there, or set HF_HOME "
        "to a folder of a larger disk."
    )


def test_a_cache_that_cannot_be_written_to_is_named(server: Hub, hub_cache: Path, published: Path) -> None:
    server.add(MODEL, published)
    hub_cache.write_text("a file")
    with pytest.raises(HubError) as caught:
        hub.locate(MODEL)
    assert f" can't be kept in {hub_cache}/models--owner--model: " in str(caught.value)
    assert str(caught.value).endswith(". Make room there, or set HF_HOME to another folder.")


def test_two_that_fetch_at_once_share_one_download(server: Hub, published: Path) -> None:
    server.add(MODEL, published)
    with ThreadPoolExecutor(3) as pool:
        sources = list(pool.map(lambda _: fetched(), range(3)))
    assert sorted(server.bodies()) == sorted((path.name, 0) for path in published.iterdir())
    assert same_files(sources[0].folder, published)


def test_the_token_goes_to_the_hub_alone(server: Hub, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    server.add(MODEL, published)
    fetched()
    assert {request.what for request in server.requests if request.method == "GET" and not request.has_token} == {
        *SHARDS
    }


def test_names_that_would_lead_out_of_the_cache_are_left_out(server: Hub, published: Path) -> None:
    files = server.add(MODEL, published).files
    index = json.loads(files[INDEX])
    index["weight_map"]["more"] = "../../../evil.safetensors"
    files[INDEX] = json.dumps(index).encode()
    files["../../../evil.safetensors"] = b"evil"
    with pytest.raises(CheckpointError, match="doesn't say in which files of its folder the weights are"):
        fetched()
    assert all(asked in {*CONFIGS, INDEX} for asked, _ in server.bodies())


def test_an_adapter_is_completed_as_well(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (folder / name).write_text(f"{name}!")
    server.add("owner/lora", folder)
    server.breaks["adapter_model.safetensors"] = 5
    with pytest.raises(HubError):
        hub.locate_adapter("owner/lora")
    server.breaks.clear()
    server.bodies()
    source = hub.locate_adapter("owner/lora")
    assert server.bodies() == [("adapter_model.safetensors", 5), ("adapter_config.json", 0)]
    assert {path.name for path in source.folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert hub.locate_adapter("owner/lora") == source
    assert server.requests == []


def test_an_adapter_that_is_a_checkpoint_as_well_is_completed_as_one(server: Hub, published: Path) -> None:
    files = server.add(MODEL, published).files
    files |= dict.fromkeys(hub.ADAPTER_FILES, b"{}")
    folder = hub.locate_adapter(MODEL).folder
    assert not (folder / "config.json").exists()
    assert hub.locate(MODEL).folder == folder
    assert (folder / "config.json").exists()


def test_whether_an_adapter_is_a_checkpoint_is_asked_once(server: Hub) -> None:
    server.repositories[MODEL] = Repository(files=dict.fromkeys(hub.ADAPTER_FILES, b"{}"))
    folder = hub.locate_adapter(MODEL).folder
    server.requests.clear()
    assert [hub.locate(MODEL).folder, hub.locate(MODEL).folder] == [folder, folder]
    assert [request.what for request in server.requests] == ["info"]
