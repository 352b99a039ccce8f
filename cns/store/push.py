"""An exported folder in, a model repo on the Hub out, with a card that shows what it draws and how well."""

import re
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from ..export import ABOUT
from ..parts import Shares, shares, whole
from .hub import REPO

LARGE = 2**20  # bytes from which on a file is uploaded by itself, before the commit

CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
tags: [text-to-image, concept-neurons{tags}]
---

# {title}

What CNS Studio (Concept Neuron Selection) taught to `{base}` (revision {revision}): {tokens}. {how}

| | prompt | neurons | of the model | CLIP-I before | CLIP-I |
|---|---|---|---|---|---|
{rows}

CLIP-I is the mean cosine of the CLIP embeddings of drawn pictures and of those that it was taught from, before and after. The pictures
show what the model drew when each concept was just taught. `cns-session` holds the session itself: `python -m cns import` takes it in
bit for bit.
"""
EMBEDDINGS = "the other files are the embeddings of the tokens: in a prompt, A1111 calls one by its file's name, ComfyUI by `embedding:` and that name."
HOW = {
    "pipeline": "The whole model: `DiffusionPipeline.from_pretrained(...)` loads it, and the tokens work in any prompt.",
    "patch": f"`cns.diff.safetensors` is a patch for A1111 and ComfyUI, to load as a LoRA at strength 1; {EMBEDDINGS}",
    "lora": "`cns.lora.safetensors` is a LoRA of rank {rank} for A1111 and ComfyUI with a relative error of {relative_error:.1%}; " + EMBEDDINGS,
    "session": "`python -m cns import` takes it in.",
}


def card(session, about: dict, repo: str) -> str:
    """The model card of an export, as Markdown; its pictures lie in `samples`."""
    rows = "\n".join(
        f"| ![{c.name}](samples/{c.name}.png) | `{c.stats['prompt']}` | {c.stats['neurons']:,} | {c.stats['share_of_model']:.2%} | {_score(c.stats['clip_i_before'])} | {_score(c.stats['clip_i'])} |"
        for c in session.concepts
    )
    tokens = ", ".join(f"`{c.token}` ({c.class_word})" for c in session.concepts)
    return CARD.format(
        title=repo.split("/")[1], base=about["base"], revision=about["revision"], tokens=tokens, rows=rows, how=HOW[about["kind"]].format(**about),
        tags=", lora" if about["kind"] == "lora" else "",
    )  # fmt: skip


def _score(value: float | None) -> str:
    return "no CLIP" if value is None else f"{value:.3f}"


def client(repo: str, token: str | None) -> HfApi:
    """A client that acts with `token` and no other. Raises ValueError before any work is done for a bad name or a missing token."""
    if not re.fullmatch(REPO, repo or ""):
        raise ValueError(f"`{repo}` names no model repo: write `owner/name`")
    token = (token or "").strip()
    if not re.fullmatch("[!-~]{1,8192}", token):
        raise ValueError(f"pushing to `{repo}` needs a token of yours that may write there: make one at huggingface.co/settings/tokens (the shell reads it from `HF_TOKEN`)")
    return HfApi(token=token)


def own_token() -> str | None:
    """The token that this machine's user is signed in with or that `HF_TOKEN` holds; never for somebody else's push."""
    return get_token()


def push(folder: Path, session, about: dict, repo: str, api: HfApi, private: bool = True) -> str:
    """Put `folder`, an export of `session`, into the model repo `repo` as one commit. Returns the repo's address.

    Raises OSError when the Hub does not let us, FileExistsError when `repo` already holds something that is no export of ours.
    """
    return whole(pushing(folder, session, about, repo, api, private))


def pushing(folder: Path, session, about: dict, repo: str, api: HfApi, private: bool = True) -> Shares[str]:
    """`push` in parts, a large file each; after the last yield comes the commit, which brings the small ones.

    Nothing is left of one that is dropped between two: a repo that it made is deleted, one that was there is as it was.
    """
    for c in session.concepts:
        (folder / "samples").mkdir(exist_ok=True)
        c.picture.save(folder / "samples" / f"{c.name}.png")
    (folder / "README.md").write_text(card(session, about, repo))
    with _told(repo):
        new = not api.repo_exists(repo)
        if new:
            api.create_repo(repo, private=private, exist_ok=True)
        head = api.repo_info(repo).sha
        there = set(api.list_repo_files(repo, revision=head)) - {".gitattributes", "README.md"}
    if there and ABOUT not in there:
        raise FileExistsError(f"the model repo `{repo}` holds files that are no export of ours: choose a new name")
    files = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*")) if f.is_file()}
    sizes = {path: f.stat().st_size for path, f in files.items()}
    operations: list = [CommitOperationAdd(path, files[path]) for path, size in sizes.items() if size < LARGE]
    try:
        for path, share in shares({path: size for path, size in sizes.items() if size >= LARGE}):
            with _told(repo):
                operations.append(CommitOperationAdd(path, files[path]))
                api.preupload_lfs_files(repo, operations[-1:])
            yield share
    except (GeneratorExit, KeyboardInterrupt):
        if new:
            _unmade(api, repo, head)
        raise
    operations += [CommitOperationDelete(path) for path in sorted(there - {*files})]
    with _told(repo):
        api.create_commit(repo, operations, commit_message=f"Add {', '.join(session.tokens)}", parent_commit=head)
    return f"{api.endpoint}/{repo}"


def _unmade(api: HfApi, repo: str, head: str) -> None:
    """Delete the repo that was just made, unless somebody wrote to it meanwhile."""
    try:
        if api.repo_info(repo).sha == head:
            api.delete_repo(repo)
    except Exception:
        raise OSError(f"nothing was pushed, but the new model repo `{repo}` is still there, empty: delete it on the Hub") from None


@contextmanager
def _told(repo: str):
    """Within: whatever the client raises, whichever of its libraries it comes from, becomes an OSError of one sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        raise OSError(_said(error, repo)) from None
    except Exception as error:
        raise OSError(f"the Hub cannot be reached ({type(error).__name__}): check the network, and push again") from None


def _said(error: HfHubHTTPError, repo: str) -> str:
    """What happened and what to do, in one sentence without a token."""
    status = error.response.status_code if error.response is not None else 0
    if status == 403:
        return f"the token may not write to the model repo `{repo}`: give it the scope to write there (a fine-grained token: write access to contents of repos)"
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return "the Hub does not accept the token: give one that is valid and may write"
    if status in (401, 404):
        return f"the model repo `{repo}` is not there, or the token may not see it: check its name"
    return f"the Hub answers with error {status}: push again later"
