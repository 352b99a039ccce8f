"""CNS Studio: `python app.py [--base ID] [--port N] [--host ADDRESS] [--share] [--store WHERE]`, or `gradio app.py` to work on it."""

import argparse
import importlib.util
import os
import sys

import gradio as gr
import spaces  # noqa: F401  before torch: ZeroGPU patches it
from gradio.utils import get_space

from cns.ui import LOOK, build

ON_SPACE = bool(os.environ.get("SPACE_ID"))


def options(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Teach one image model one thing after another.")
    parser.add_argument("--base", default=os.environ.get("CNS_BASE"), help="folder or Hub id of a Stable Diffusion (1, 2, XL, 3), PixArt, Sana or FLUX.1 pipeline (default: the embedded starter)")
    parser.add_argument("--store", default=os.environ.get("CNS_STORE"), metavar="WHERE", help="where sessions are kept: a folder (default: ~/.cache/cns-studio) or hub:owner/name")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if ON_SPACE else "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
    parser.add_argument("--share", action="store_true", help="also serve over a public link")
    return parser.parse_args(argv)


def opened(args):
    """(base, store, people who can sign in, if any); ends the program with one line when one of them cannot be had."""
    from cns import load_base
    from cns.store import open_store
    from cns.store.people import People

    try:
        store = None if ON_SPACE and not args.store else open_store(args.store)
        if store:
            store.secret()
        people = People() if store and get_space() and os.environ.get("OAUTH_CLIENT_ID") else None  # elsewhere Gradio would sign everybody in as the owner
        return load_base(args.base), store, people
    except (OSError, ValueError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(2)


if gr.NO_RELOAD:
    args = options() if __name__ == "__main__" else options([])
    base, store, people = opened(args)

demo = build(base, store, people=people, space=os.environ.get("SPACE_ID"))
demo.queue(max_size=32, default_concurrency_limit=8)

if __name__ == "__main__":
    try:
        demo.launch(
            server_name=args.host, server_port=args.port, share=args.share, show_error=False, max_file_size="200mb", run_history=False, **LOOK,
            mcp_server=importlib.util.find_spec("mcp") is not None,
        )  # fmt: skip
    except OSError as error:
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(2)
