"""The dataset card of a repo that holds sessions."""

CARD = """---
pretty_name: CNS Studio sessions
viewer: false
---

# Sessions of CNS Studio

This dataset is written by the app CNS Studio and holds what its visitors taught. **Keep it private.**

| path | what it is |
|---|---|
| `sessions/ab/abcd.../` | one session; the folder is named by the SHA-256 of a key that only the visitor's browser has, or of the id of somebody who signed in, and then holds a folder for each of his sessions |
| `<time>-<content>-<before>-<verb>-<concept>.safetensors` | one version: when it was saved, digests of itself and of the version it was made from, and what was done |

A file holds sparse changes of a text-to-image model's cross-attention weights, the embedding of each taught name, masks as
bits, one generated picture of each concept and CLIP embeddings of the visitor's pictures, all as tensors with JSON in the
metadata. The visitor's pictures themselves are not in it. Of each session the newest 10 versions are kept.

To remove deleted sessions from the history as well:

```python
from huggingface_hub import HfApi

api, repo = HfApi(), "owner/name"
api.super_squash_history(repo, repo_type="dataset")
used = {f.lfs.sha256 for f in api.list_repo_tree(repo, recursive=True, repo_type="dataset") if getattr(f, "lfs", None)}
api.permanently_delete_lfs_files(repo, [f for f in api.list_lfs_files(repo, repo_type="dataset") if f.file_oid not in used], repo_type="dataset")
```
"""
