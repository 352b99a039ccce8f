"""The embedded starter model: its world (`art`, `world`), its training (`train`) and its marks (`evaluate`).

Nothing in the running app imports this package; `python -m cns.starter` is its only door.
"""
