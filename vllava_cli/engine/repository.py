"""A model's repository: what the hub says about it, and where the hub's cache keeps it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vllava_cli.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

Kind = Literal["model", "adapter"]
ANSWER_S = 4.0
"""How long the hub may take for its first answer, unless HF_HUB_ETAG_TIMEOUT says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files that a repository has at a commit."""

    model: str
    commit: str
    names: frozenset[str]
    kind: Kind = "model"

    @property
    def folder(self) -> Path:
        """Where the cache shows them."""
        return repository_folder(self.model) / "snapshots" / self.commit


def cache_folder() -> Path:
    """Where the hub's files are cached: HF_HUB_CACHE, HF_HOME or the default."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_folder(model: str) -> Path:
    """Where the cache keeps what it has of a model."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_folder() / repo_folder_name(repo_id=model, repo_type="model")


def ask(model: str, revision: str | None, *, lack: str, kind: Kind = "model") -> Listing:
    """What the hub has of a revision, whose commit is remembered in the cache.

    `lack` says what isn't here: the sentence of an error begins with it. Errors: HubError.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it would print what the hub advertises
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{lack} and HF_HUB_OFFLINE is set: unset it where there is a network.")
    limit_s = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else ANSWER_S
    try:
        info = _info(model, revision, limit_s, kind)
        names = frozenset(file.rfilename for file in info.siblings or () if is_plain(file.rfilename))
        listing = Listing(model=model, commit=plain(info.sha), names=names, kind=kind)
    except TimeoutError as exc:
        raise HubError(
            f"{lack} and the hub doesn't answer within {limit_s:g} seconds: try again, or set "
            "HF_HUB_ETAG_TIMEOUT to more."
        ) from exc
    except network_fault() as exc:
        other = ", or try --model demo, which is built in" if kind == "model" else ""
        raise HubError(
            f"{lack} and the hub can't be reached ({str(exc) or type(exc).__name__}): run hf download {model} where "
            f"there is a network{other}."
        ) from exc
    except (ValueError, LookupError, TypeError, AttributeError) as exc:  # whatever its library stumbles over
        raise HubError(
            f"{lack} and what answers at {constants.ENDPOINT} is not the hub: log in to this network first, or correct "
            "HF_ENDPOINT."
        ) from exc
    _remember(listing, revision or "main")
    return listing


@contextmanager
def refusals(model: str, revision: str | None, kind: Kind) -> Iterator[None]:
    """Turns an answer of the hub that refuses something into one sentence. Errors: HubError."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HFValidationError as exc:
        example = "LanguageBind/Video-LLaVA-7B-hf" if kind == "model" else "owner/my-lora"
        raise HubError(f"{model} is neither a folder nor a hub id such as {example}.") from exc
    except errors.GatedRepoError as exc:
        raise HubError(
            f"The hub's {kind} {model} is gated: ask for access at {constants.ENDPOINT}/{model}, then log in with "
            "hf auth login."
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise HubError(
            f"The hub has no {kind} {model}, or it is private: check the name, or log in with hf auth login."
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise HubError(f"The hub's {kind} {model} has no revision {revision}: leave --revision out for main.") from exc
    except errors.HfHubHTTPError as exc:
        status = exc.response.status_code
        remedy = "log in anew with hf auth login, or unset HF_TOKEN" if status in (401, 403) else "try again later"
        raise HubError(f"The hub answers with status {status} about {model}: {remedy}.") from exc


def network_fault() -> type[Exception]:
    """The error of the HTTP library below the hub's library: httpx, or httpx2."""
    from huggingface_hub.errors import HTTPError

    found: type[Exception] = HTTPError
    return found


def plain(name: str | None) -> str:
    """What the hub says, as the name of a file in a folder. Errors: ValueError where it would lead elsewhere."""
    if not name or not is_plain(name):
        raise ValueError(name)
    return name


def is_plain(name: str) -> bool:
    """Whether it names a file in the folder itself: "config.json", and neither "a/b" nor ".."."""
    return name not in ("", ".", "..") and not set(name) & set('/\\:"\0')


def _remember(listing: Listing, revision: str) -> None:
    """As the hub's library does it. Where the cache can't be written to, what is fetched into it will say so."""
    if revision != listing.commit:
        with suppress(OSError):
            reference = repository_folder(listing.model) / "refs" / revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(listing.commit, encoding="utf-8")


def _info(model: str, revision: str | None, limit_s: float, kind: Kind) -> ModelInfo:
    """Errors: TimeoutError, also where an address isn't found or one after the other is tried; HubError."""
    from huggingface_hub import HfApi

    def question() -> ModelInfo:
        with refusals(model, revision, kind):
            return HfApi().model_info(model, revision=revision, timeout=limit_s + 1)

    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(question).result(limit_s)
    finally:
        pool.shutdown(wait=False)
