"""Push a folder that stockpot made to the Hugging Face hub, and pull one with its family tree.

Everything goes through ``huggingface_hub``: token (``HF_TOKEN`` or its login), ``HF_ENDPOINT``,
cache, offline mode. A repository is private unless asked otherwise. Only files that belong to a
model are sent; what else lies in the folder stays here unless it is named. The record
(``stockpot.json``) goes along, so that who pulls a model has its parents, recipe and metrics.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.bounded import GIGABYTE, ChildLimits, run_bounded
from stockpot.checkpoints.hub import fetch_folder
from stockpot.checkpoints.open import PICKLE_SUFFIXES, open_stored
from stockpot.errors import (
    CheckpointError,
    InputError,
    OutputError,
    StockpotError,
    UnsafeFileError,
)
from stockpot.files import atomic_folder, below
from stockpot.outside import outside
from stockpot.provenance import (
    FILE_NAME,
    HUB_ID,
    RELATIONS,
    Parent,
    Record,
    card,
    has_record,
    read_record,
    versions,
    write_record,
)
from stockpot.reading import read_json, read_text
from stockpot.yaml_lines import parse_yaml

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODEL_FILES = (
    "README.md",
    FILE_NAME,
    "merge_report.json",
    # weights
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "head.safetensors",
    "components/*.safetensors",
    # what loads them
    "config.json",
    "head.json",
    "components.json",
    "adapter_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    # tokenizers
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    # sentence-transformers
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "?_*/config.json",
)
"""Patterns of the files that make a model; stockpot writes these, or copies them from a parent."""

SECONDS = 3600.0
"""What examining a model that was pulled may take."""
_PLACE = re.compile(r"(/|~/|[A-Za-z]:[\\/])[^\n]+")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")


@dataclass(frozen=True)
class Push:
    """What a push sends, or has sent.

    ``files``: paths in the repository; ``left_out``: those that stay here; ``notes``: what differs
    from the folder; ``url``: of the commit, empty before.
    """

    repository: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    size: int
    url: str = ""


@dataclass(frozen=True)
class Pulled:
    """A folder from the hub. ``record`` is its own, or one that names the repository."""

    folder: Path
    record: Record
    own_record: bool


def push(
    folder: str | Path,
    repository: str,
    *,
    public: bool = False,
    base_models: Sequence[str] = (),
    license: str | None = None,
    also: Sequence[str] = (),
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    quiet: bool = True,
) -> Push:
    """Send a model folder to ``owner/name``, which is made where it does not exist.

    Args:
        public: make the repository public, or push to one that is.
        base_models: hub ids of the parents, for the card, where the record names local folders.
        license: for the card; never guessed.
        also: patterns of other files to send.
        revision: a branch that exists.
        dry_run: check everything, send nothing.

    Raises:
        InputError: no record of stockpot in the folder, weights that are not the record's, an id
            that is none, a public repository without ``public``, no permission.
        StockpotError: the hub did not answer.
    """
    folder = Path(folder)
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"'{repository}' is no repository", hint="expected owner/name")
    for name in base_models:
        if not HUB_ID.fullmatch(name):
            raise InputError(f"base model '{name}' is no hub id", hint="expected owner/name")
    if not has_record(folder):
        raise InputError(
            f"{folder} was not made by stockpot: it has no {FILE_NAME}",
            hint="push what recycle, merge or tangent wrote, or use `hf upload`",
        )
    record = read_record(folder)
    files, left_out = _choose(folder, also)
    _check_weights(folder, record, files)
    contents, notes = _rewritten(folder, record, files, base_models, license)
    size = sum(
        len(contents[name]) if name in contents else (folder / name).stat().st_size
        for name in files
    )
    plan = Push(repository, tuple(files), tuple(left_out), tuple(notes), size)
    if dry_run:
        return plan
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents.get(name, folder / name))
        for name in files
    ]
    with _hub(repository, quiet=quiet):
        api = HfApi(library_name="stockpot")
        if _make_repository(api, repository, public=public):
            notes.append(
                f"'{repository}' was there and stays private: --public makes new ones public"
            )
        done = api.create_commit(
            repository,
            operations,
            commit_message=message or f"{record.kind}: {record.name}",
            revision=revision,
        )
    return Push(repository, plan.files, plan.left_out, tuple(notes), size, str(done.commit_url))


def pull(
    source: str,
    output: str | Path,
    *,
    overwrite: bool = False,
    quiet: bool = True,
    memory: int | None = None,
    seconds: float = SECONDS,
) -> Pulled:
    """Bring ``owner/name`` or ``owner/name@revision`` into the folder ``output``.

    A model that brings no record gets one that names the repository, its commit and the hash of its
    weights, so that what is made from it knows its parent. The files are examined in a child
    process, which may have ``memory`` bytes (by default 4 GiB and three times the files) and
    ``seconds``.

    Raises:
        LimitError: examining the files takes more than that.
        CheckpointError: no such model, or weights that are not what the record says.
        OutputError: the folder exists.
    """
    output = Path(output)
    name = source.partition("@")[0]
    if not _REPOSITORY.fullmatch(name):
        raise InputError(f"'{source}' is no repository", hint="expected owner/name")
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists already", hint="choose another name, or --overwrite")
    with _hub(name, quiet=quiet):
        fetched = fetch_folder(source)
    with atomic_folder(output, replace=overwrite) as folder:
        for file in sorted(fetched.rglob("*")):
            inside = file.relative_to(fetched)
            if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                _check_source(file, fetched)
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / inside)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        limits = ChildLimits(memory or 4 * GIGABYTE + 3 * size, seconds)
        what = f"examining what '{source}' holds"
        found = run_bounded(examine, folder, limits=limits, what=what)
        own = has_record(folder)
        if own:
            record = read_record(folder)
        else:
            record = Record(
                kind="base",
                name=name,
                parents=(Parent(name, found, role="hub"),),
                recipe={"hub": name, "commit": fetched.name},
                versions=versions("huggingface_hub"),
                digest=found,
            )
            write_record(folder, record)
    return Pulled(output, record, own)


def examine(folder: Path) -> str:
    """The hash of the weights in a folder, all of whose weights files were read and fit its record.

    Raises ``CheckpointError`` naming the file that does not, or cannot be read.
    """
    if has_record(folder):
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        record = read_record(folder)
        _check_weights(folder, record, sorted(names))
        return record.digest or ""
    with open_stored(folder) as checkpoint:
        return checkpoint.digest()


def _check_source(file: Path, fetched: Path) -> None:
    """A fetched file is a plain one, or a link into the blobs of the hub's cache."""
    target, blobs = file.resolve(), fetched.resolve().parent.parent / "blobs"
    if not target.is_relative_to(fetched.resolve()) and target.parent != blobs:
        raise UnsafeFileError(f"{file} is a link out of its folder, to {target}")


def _check_weights(folder: Path, record: Record, names: Iterable[str]) -> None:
    """Weights files among ``names`` can be read, and those of the model are what the record says.

    Raises ``CheckpointError`` naming the file.
    """
    for name in names:
        if name.endswith((".safetensors", *PICKLE_SUFFIXES)):
            with open_stored(folder / name):
                pass
    if record.digest is None or not _has_weights(folder):
        return
    with open_stored(folder) as checkpoint:
        found = checkpoint.digest()
    if found != record.digest:
        raise CheckpointError(
            f"{folder}: the weights are not those that {FILE_NAME} tells of "
            f"(hash {found[:12]}, expected {record.digest[:12]})",
            hint="they were changed afterwards, or damaged on the way",
        )


def _has_weights(folder: Path) -> bool:
    """Whether the folder holds one model's own weights, in one file or in shards."""
    if (folder / "adapter_config.json").is_file():
        return False
    names = ("model.safetensors", "model.safetensors.index.json")
    return any((folder / name).is_file() for name in names)


def _choose(folder: Path, also: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files that make the model and those that were asked for; and the rest."""
    files, left_out, used = [], [], set()
    for path in below(folder):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.parent.resolve() != folder.resolve() / Path(name).parent:
            left_out.append(f"{name} (a link)")
            continue
        asked = [pattern for pattern in also if fnmatchcase(name, pattern)]
        used.update(asked)
        if asked or any(_matches(name, pattern) for pattern in MODEL_FILES):
            files.append(name)
        else:
            left_out.append(name)
    for pattern in also:
        if pattern not in used:
            raise InputError(f"{folder} holds no file '{pattern}'")
    if "README.md" not in files:
        files.append("README.md")
    return files, left_out


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern fits, a star standing for no slash."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _rewritten(
    folder: Path,
    record: Record,
    files: Sequence[str],
    base_models: Sequence[str],
    license: str | None,
) -> tuple[dict[str, bytes], list[str]]:
    """Files that are sent otherwise than they lie in the folder, and why.

    Places of this machine are cut to their last part; the card names its base models.
    """
    contents: dict[str, bytes] = {}
    notes: list[str] = []
    places: set[str] = set()
    for name in ("stockpot.json", "merge_report.json"):
        if name in files:
            value = read_json(folder / name)
            cut: set[str] = set()
            plain = _without_places(value, cut)
            if cut:
                text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
                contents[name] = text.encode()
                places |= cut
                notes.append(f"{name}: {len(cut)} paths of this machine cut to their last part")
    path = folder / "README.md"
    text = _card_text(path) if path.is_file() else card(record)
    text = _with_front_matter(text, record, base_models, license)
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place, _short(place))
    contents["README.md"] = text.encode()
    return contents, notes


def _card_text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a text: {error}") from error


def _with_front_matter(
    text: str, record: Record, base_models: Sequence[str], license: str | None
) -> str:
    import yaml

    found = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    front: dict[str, Any] = (parse_yaml(found[1], "README.md") if found else None) or {}
    if not isinstance(front, dict):
        raise InputError("README.md: what stands between its first '---' lines is no table")
    body = text[found.end() :] if found else "\n" + text
    known = front.pop("base_model", [])
    known = [known] if isinstance(known, str) else known
    front.pop("base_model_relation", None)
    # A name without an owner is a folder of the author, or one of a few old models of the hub.
    bases = list(base_models) or [name for name in known if "/" in name]
    if bases:
        front["base_model"] = bases
        if record.kind in RELATIONS:
            front["base_model_relation"] = RELATIONS[record.kind]
    if license:
        front["license"] = license
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n{body}"


def _without_places(value: Any, cut: set[str]) -> Any:
    if isinstance(value, str):
        if _PLACE.fullmatch(value):
            cut.add(value)
            return _short(value)
        return value
    if isinstance(value, list):
        return [_without_places(item, cut) for item in value]
    if isinstance(value, dict):
        return {key: _without_places(item, cut) for key, item in value.items()}
    return value


def _short(place: str) -> str:
    last = re.split(r"[\\/]", place.rstrip("\\/"))[-1]
    return f"./{last}"


def _make_repository(api: HfApi, repository: str, *, public: bool) -> bool:
    """Whether a public repository was asked for and a private one is there."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=not public, exist_ok=True)
        return False
    if not info.private and not public:
        raise InputError(
            f"'{repository}' is public: what is pushed there can be read by everybody",
            hint="say --public, or choose another name",
        )
    return bool(info.private) and public


@contextmanager
def _hub(repository: str, *, quiet: bool) -> Iterator[None]:
    """Turn what ``huggingface_hub`` raises into one line, and keep its bars quiet."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    # Where nobody watches, bars would run into the line that says what went wrong.
    silenced = (quiet or not sys.stderr.isatty()) and not are_progress_bars_disabled()
    if silenced:
        disable_progress_bars()
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise InputError(
            f"'{repository}': you are not logged in", hint="run `hf auth login`, or set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        reason = (error.server_message or str(error)).strip().splitlines()[0]
        if status in (401, 403):
            raise InputError(
                f"'{repository}': the hub refuses ({status}): {reason}",
                hint="run `hf auth login` with a token that may write, or set HF_TOKEN",
            ) from error
        raise StockpotError(
            f"'{repository}': the hub failed ({status}): {reason}", hint="try again later"
        ) from error
    except ValueError as error:  # a card or a name that the hub does not accept
        raise InputError(f"'{repository}': {error}") from error
    except (OSError, RuntimeError) as error:  # an upload that failed is a RuntimeError
        reason = f"{error} {error.__cause__ or ''}".strip().splitlines()[0]
        raise StockpotError(
            f"'{repository}': the hub cannot be reached: {reason}", hint="try again later"
        ) from error
    except Exception as error:
        known = outside(error)
        if known is None or isinstance(error, StockpotError):
            raise
        raise StockpotError(f"'{repository}': {known.message}", hint=known.hint) from error
    finally:
        if silenced:
            enable_progress_bars()
