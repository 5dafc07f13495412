"""Where a checkpoint named by the user lies on this machine: a directory, or a snapshot of a hub repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import CheckpointError

# What an encoder needs. Weights in other formats (ONNX, TensorFlow, pickles unless asked for) are not downloaded.
_PATTERNS = ("*.json", "*.txt", "*.model", "*.md", "LICENSE*", "NOTICE*", "*.safetensors")
_PICKLE_PATTERNS = ("*.bin",)
_CODE_PATTERNS = ("*.py",)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Located:
    """A checkpoint on disk. ``name`` is how to speak of it, ``revision`` the commit of a hub snapshot ("" if local)."""

    path: Path
    name: str
    revision: str


def locate_checkpoint(
    spec: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Located:
    """Find a local directory, or the files of a hub repository.

    The name is written into artifacts, which leave this machine. So it is a hub id or a relative path as given, and an
    absolute path is shortened to its last part.

    Parameters
    ----------
    spec : str
        A directory or a hub id.
    revision : str, optional
        Branch, tag or commit of a hub repository.
    offline : bool
        Whether to look in the hub cache only.
    allow_pickle : bool
        Whether weights that are a pickle may be fetched.
    trust_remote_code : bool
        Whether code of the checkpoint may be fetched.

    Returns
    -------
    Located
        Where the files are, and the name and revision to record.

    Raises
    ------
    CheckpointError
        If it is neither a directory nor a hub id, the repository or the revision is unknown, access is refused, or
        there is no network.
    """
    path = Path(spec)
    if spec and path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{spec} is a directory and has no revisions; leave out --revision")
        inside = not path.is_absolute() and ".." not in path.parts
        return Located(path, path.as_posix() if inside and path.parts else path.resolve().name, "")
    if (spec and path.exists()) or not _HUB_ID.fullmatch(spec):
        raise CheckpointError(f"{spec or 'an empty name'} is neither a directory nor a hub id such as naver/splade-v3")
    patterns = [*_PATTERNS, *(_PICKLE_PATTERNS if allow_pickle else ()), *(_CODE_PATTERNS if trust_remote_code else ())]
    snapshot = _download(spec, revision, offline, patterns)
    return Located(snapshot, spec, snapshot.name)


def _download(repo: str, revision: str | None, offline: bool, patterns: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline = offline or constants.HF_HUB_OFFLINE
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=offline, allow_patterns=patterns))
    except GatedRepoError:
        fix = "accept its terms on the hub and log in (hf auth login)"
        raise CheckpointError(f"the hub repository {repo} is gated; {fix}") from None
    except RevisionNotFoundError:
        raise CheckpointError(f"the hub repository {repo} has no revision {revision!r}; check --revision") from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{repo} is neither a directory here nor a repository on the hub; check the name"
        ) from None
    except HFValidationError as error:
        raise CheckpointError(f"{repo} is not a hub id ({str(error).partition(chr(10))[0]}); check the name") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        why = "may not be asked (offline)" if offline else "cannot be reached"
        raise CheckpointError(
            f"{repo} is not a directory, it is not in the hub cache, and the hub {why}; "
            "download it where there is a network, or name a directory"
        ) from None
    except (HTTPError, OSError) as error:
        raise CheckpointError(
            f"cannot get {repo} from the hub ({type(error).__name__}); try again, or name a directory"
        ) from None
