"""What an app and a job of one person hand each other: files in a folder of a private dataset repo in that person's own account.

    hub:<owner>/<name>/<folder>: the pictures and the session that go to the job; the session that comes back takes the place of the one that went

Whoever reads here takes what he reads as hostile: the owner of the repo, and whatever runs with his token, may have put anything there.
"""

import random
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars

from ..images import MAX_BYTES as MAX_PICTURE
from ..session import Session
from .archive import MAX_BYTES, pack, unpack
from .hub import REPO, TRIES, HubRefuses, limited

SESSION = "session.safetensors"
FOLDER = re.compile("[a-z0-9_][a-z0-9_-]{0,63}(/[a-z0-9_][a-z0-9_-]{0,63}){0,3}")
CARD = """---
viewer: false
---

What CNS Studio hands to the jobs that it runs in your account, and what they hand back: pictures while they are taught, and sessions. **Keep it private.**
A job's folder is removed when its result was taken; earlier commits still hold it, so delete this repo whenever no job of yours runs.
"""


@dataclass(frozen=True)
class Exchange:
    """One folder of the dataset `repo`; `api` acts with the token of its owner."""

    repo: str
    folder: str
    api: HfApi

    def __post_init__(self):
        if not REPO.fullmatch(self.repo) or not FOLDER.fullmatch(self.folder):
            raise ValueError(f"`hub:{self.repo}/{self.folder}` names no folder of a dataset repo: write `hub:owner/name/folder`")

    @classmethod
    def at(cls, address: str | Path, api: HfApi | None = None) -> "Exchange":
        """The folder at `hub:owner/name/folder`, by default with the token that this machine has."""
        owner, name, folder = [*str(address).removeprefix("hub:").split("/", 2), "", "", ""][:3]
        if api is None:
            disable_progress_bars()
            api = HfApi(token=get_token() or False)
        return cls(f"{owner}/{name}", folder, api)

    @property
    def address(self) -> str:
        return f"hub:{self.repo}/{self.folder}"

    @property
    def url(self) -> str:
        """Where its owner sees it."""
        return f"{self.api.endpoint}/datasets/{self.repo}/tree/main/{self.folder}"

    def make(self) -> None:
        """The repo, private, if it is not there."""
        try:
            limited(self.api).create_repo(self.repo, repo_type="dataset", private=True, exist_ok=True)
        except Exception as error:
            raise refused(error, self.repo) from None

    def put(self, files: dict[str, bytes]) -> None:
        """Write `files` into the folder, as one commit."""

        def operations(there):
            card = {} if "README.md" in there else {"README.md": CARD.encode()}
            return [CommitOperationAdd(p, c) for p, c in {**card, **{f"{self.folder}/{name}": content for name, content in files.items()}}.items()]

        self._commit(operations, f"Hand over {self.folder}")

    def clear(self) -> None:
        """Remove the folder."""
        self._commit(lambda there: [CommitOperationDelete(p) for p in there if p.startswith(f"{self.folder}/")], f"Remove {self.folder}")

    def read(self, name: str, most: int = MAX_BYTES) -> bytes | None:
        """The file `name` of the folder, at most `most` bytes; None when it is not there."""
        path = f"{self.folder}/{name}"
        try:
            sha = self._head()
            size = self._sizes(sha).get(path)
            if size is None:
                return None
            if size > most:
                raise HubRefuses(f"`{name}` in `{self.address}` has {size / 2**20:.0f} MB, at most {most // 2**20} are read")
            with tempfile.TemporaryDirectory(prefix="cns-read-") as own:
                file = self.api.hf_hub_download(self.repo, path, repo_type="dataset", revision=sha, local_dir=own, cache_dir=f"{own}/cache", force_download=True)
                return Path(file).read_bytes()
        except Exception as error:
            raise refused(error, self.repo) from None

    def _head(self) -> str:
        info = limited(self.api).repo_info(self.repo, repo_type="dataset")
        if not info.private:
            raise HubRefuses(f"the dataset `{self.repo}` is public, so everybody could read your pictures in it: make it private first")
        return str(info.sha)

    def _sizes(self, sha: str) -> dict[str, int]:
        """{path: bytes} of what the folder and the repo's top hold at commit `sha`."""
        found: dict[str, int] = {}
        for folder in (None, self.folder):
            try:
                found |= {e.path: e.size for e in self.api.list_repo_tree(self.repo, folder, revision=sha, repo_type="dataset") if isinstance(e, RepoFile)}
            except EntryNotFoundError:
                continue
        return found

    def _commit(self, operations, message: str) -> None:
        """What `operations` makes of the paths that are there, on the newest commit; again where another one came between."""
        try:
            for attempt in range(TRIES):
                head = self._head()
                todo = operations(self._sizes(head))
                try:
                    if todo:
                        self.api.create_commit(self.repo, todo, commit_message=message, repo_type="dataset", parent_commit=head)
                    return
                except HfHubHTTPError as error:
                    if error.response.status_code != 412 or attempt == TRIES - 1:
                        raise
                    time.sleep(random.uniform(0, 0.5 * (attempt + 1)))
        except Exception as error:
            raise refused(error, self.repo) from None


def fetched(path: Path) -> Path | bytes:
    """The content of a file at `hub:owner/name/folder/file`; any other path as it is."""
    if not _on_hub(path):
        return path
    content = Exchange.at(path.parent).read(path.name, MAX_PICTURE)
    if content is None:
        raise FileNotFoundError(f"there is no file `{path}`: check the path")
    return content


def opened(where: Path, base) -> Session | None:
    """The session in a folder of this machine or at `hub:owner/name/folder`; None when there is none."""
    if _on_hub(where):
        content = Exchange.at(where).read(SESSION)
        return unpack(content, base) if content is not None else None
    return Session.load(where, base) if (where / "session.json").exists() else None


def keep(where: Path, session: Session) -> None:
    """The inverse of `opened`."""
    if _on_hub(where):
        Exchange.at(where).put({SESSION: pack(session)})
    else:
        session.save(where)


def _on_hub(path: Path) -> bool:
    return str(path).startswith("hub:")


def status_of(error: Exception) -> int | None:
    """The Hub's answer, if it gave one."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def refused(error: Exception, repo: str) -> HubRefuses:
    """What happened and what its owner can do, in one sentence without a token."""
    if isinstance(error, HubRefuses):
        return error
    status = status_of(error)
    said = {
        401: "the Hub does not accept your token, or not any more: sign out and in again (in a shell, set `HF_TOKEN`)",
        403: f"your token may not use the dataset `{repo}`: sign out and in again and allow this app to make repos (in a shell, give `HF_TOKEN` write access)",
        404: f"the dataset `{repo}` is not there, or your token may not see it",
        412: f"others keep writing to `{repo}` at the same moment: try again",
        429: "the Hub asks to wait, as there were too many requests: try again in a few minutes",
    }
    if isinstance(error, RepositoryNotFoundError):
        status = 404
    if status in said:
        return HubRefuses(said[status])
    return HubRefuses(f"the Hub answers with error {status}: try again in a moment" if status else f"the Hub cannot be reached ({type(error).__name__}): try again in a moment")
