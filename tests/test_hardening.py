"""What keeps a public app from harm, as far as no other test holds it already:

run ids and keys `test_app`, `test_store`, `test_keeping`; pictures `test_images`; session files `test_session`, `test_store`;
escaped messages `test_app`, `test_plots`; tokens `test_people`, `test_hub_store`; files that go `test_bench_load`.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from conftest import picture
from test_architecture import FILES, imports
from test_keeping import Visitor, app  # noqa: F401  fixtures

from cns.bench import ROOT
from cns.regions import LIMIT
from cns.ui import gpu, temp
from cns.ui.common import message

SECRET = re.compile(r"(^|[._])(token|secret|password|oauth_info)$")
A_WORD = re.compile(r"(^|\.)(c|m|concept|learned|gone|concept\(.*\)|concepts\[.*\])\.token$")  # a concept's token stands in prompts
IN_PROMPTS = ("generate.py", "probing.py")  # where a `token` is a concept's, too
SPOKEN = re.compile(r"(^|\.)(print|warn|format|join|write|esc|note|told|Error|Warning|Info)$|(^|\.)log(ging|ger)?\.")


def launch_options() -> dict[str, object]:
    """The plain values that app.py launches with."""
    calls = [n for n in ast.walk(ast.parse((ROOT / "app.py").read_text())) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "launch"]
    assert len(calls) == 1
    return {k.arg: k.value.value for k in calls[0].keywords if isinstance(k.value, ast.Constant)}


def test_it_launches_without_open_folders_error_pages_or_a_history_and_with_a_limit_for_files():
    options = launch_options()
    assert options["show_error"] is False and options["run_history"] is False and options["max_file_size"] == "200mb"
    assert not {"allowed_paths", "auth", "share_server_address"} & options.keys()


def test_files_are_cleaned_up_every_hour_after_an_hour(app):  # noqa: F811
    assert app.delete_cache == (3600, 3600) and not app.allowed_paths
    path = temp.new_file("x.txt")
    path.write_text("x")
    temp.sweep(app, 3600)
    assert path.exists()
    temp.sweep(app, -1)
    assert not path.exists() and not path.parent.exists()


def test_uploads_lie_in_this_process_own_folder_and_go_with_the_other_files(app):  # noqa: F811
    tab = Visitor(app)
    path = Path(tab.upload(b"mine", "mine.png")["path"])
    assert path.is_relative_to(temp.ROOT) and path.read_bytes() == b"mine" and path in temp.left()
    assert temp.ROOT.stat().st_mode & 0o777 == 0o700
    temp.sweep(app, 3600)
    assert path.exists()
    temp.sweep(app, -1)
    assert not path.exists() and temp.UPLOADS.exists()
    assert Path(tab.upload(b"again", "mine.png")["path"]).read_bytes() == b"again"


def test_an_upload_that_was_swept_away_is_asked_for_again_by_its_name_alone(app):  # noqa: F811
    def asked(call, *words):
        with pytest.raises(Exception, match="is no longer here") as said:
            call()
        assert all(word in str(said.value) for word in words) and "/" not in str(said.value)

    tab, content = Visitor(app), io.BytesIO()
    key = tab.call("resume", "")[2]
    picture().save(content, "PNG")
    start, how = tab.upload(content.getvalue(), "mine.png"), [1, 0, {}, "", 2, 2.0, 60, 100, *[""] * (2 * LIMIT)]
    draw = partial(tab.call, "generated", False, None, "a house", start, None, *how)
    assert draw()[1]["value"]
    session = tab.upload(b"mine")
    temp.sweep(app, -1)
    asked(draw, "Your picture `mine.png`", "add it again")
    asked(partial(tab.call, "view", [{"image": start, "caption": None}]), "Your picture `mine.png`", "add it again")
    asked(partial(tab.call, "take_in", session, None, key), "Your file `s.safetensors`", "upload it again")
    for ask in (("generate", "a house", "", 1, 0, 2, None, "", None, None, None, start, 0.6), ("teach", key, "rex", "dog", [start], 2, 0, False)):
        asked(partial(tab.call, *ask), "Your picture `mine.png`")


FOLDERS = """
import subprocess, sys
import gradio.utils
def root():
    for name in [n for n in sys.modules if n.split(".")[0] == "cns"]:
        del sys.modules[name]
    from cns.ui import gpu, temp
    assert gradio.utils.get_upload_folder() == str(temp.UPLOADS)
    gpu.flag("0" * 32, "keep").touch()
    return temp.ROOT
if sys.argv[1:]:
    print(root())
else:
    child = subprocess.run([sys.executable, "-c", sys.orig_argv[2], "child"], capture_output=True, text=True, check=True).stdout.strip() if root().exists() else ""
    print(root(), root(), child, root().exists())
"""


def test_hot_reload_keeps_the_folder_a_child_process_has_its_own_and_each_goes_with_its_process(tmp_path):
    run = {"cwd": ROOT, "env": {**os.environ, "TMPDIR": str(tmp_path)}, "capture_output": True, "text": True, "check": True}
    first, second, child, exists = subprocess.run([sys.executable, "-c", FOLDERS], **run).stdout.split()
    assert first == second and exists == "True" and child != first
    assert {Path(first).parent, Path(child).parent} == {tmp_path} and [*tmp_path.iterdir()] == []  # flags of runs and all


def test_flags_of_runs_go_with_the_other_files_and_their_folder_stays(app):  # noqa: F811
    flag = temp.made(gpu.flag("0" * 32, "keep"))
    flag.touch()
    assert flag in temp.left()
    temp.sweep(app, -1)
    assert not flag.exists() and temp.FLAGS.exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "app.py", "README.md", "../../../../etc/passwd", ".git/config", "cns/__init__.py"])
def test_no_file_of_the_machine_or_the_repository_is_served(app, name):  # noqa: F811
    for path in (name, str(ROOT / name)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{app.local_url}gradio_api/file={path}", timeout=60)
        assert refused.value.code in (403, 404)


def test_a_program_cannot_name_a_file_of_the_machine_as_its_picture(app):  # noqa: F811
    for path in ("/etc/passwd", str(ROOT / "assets/starter.png")):
        body = {"data": ["0" * 32, "rex", "dog", [{"path": path, "meta": {"_type": "gradio.FileData"}}], 1, 0, False]}
        request = urllib.request.Request(f"{app.local_url}gradio_api/call/teach", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            event = json.load(answer)["event_id"]
        said = urllib.request.urlopen(f"{app.local_url}gradio_api/call/teach/{event}", timeout=60).read().decode()
        assert said.startswith("event: error")


@pytest.mark.parametrize("session", ["../../evil", "/tmp/evil", "{evil}"])
def test_the_clients_session_hash_is_no_path_no_key_and_no_authority(app, rex, session):  # noqa: F811
    from cns.store import pack

    tab = Visitor(app)
    tab.session = session
    key = tab.call("resume", "")[2]
    assert len(key) == 32 and "evil" not in key
    tab.call("take_in", tab.upload(pack(rex)), None, key)
    again = Visitor(app)
    again.session = tab.session  # who takes another's hash has not his key
    assert "Nothing taught yet" in again.call("resume", "")[4]
    assert [f for f in Path(tempfile.gettempdir()).glob("*evil*")] == [] == [f for f in temp.left() if "evil" in str(f)]


def test_nothing_is_unpickled_or_evaluated_anywhere():
    assert [f.name for f in FILES for module, _ in imports(f) if module.split(".")[0] in ("pickle", "marshal", "shelve", "dill", "joblib")] == []
    calls = [
        (f.name, ast.unparse(n.func))
        for f in FILES
        for n in ast.walk(ast.parse(f.read_text()))
        if isinstance(n, ast.Call) and ast.unparse(n.func) in ("eval", "exec", "torch.load", "np.load", "os.system", "compile")
        and not any((k.arg, ast.unparse(k.value)) == ("weights_only", "True") for k in n.keywords)  # no code in it is run
        and not (ast.unparse(n.func) == "np.load" and "allow_pickle" not in ast.unparse(n))
    ]
    assert calls == []


def test_files_given_out_have_names_that_are_ours_in_folders_that_nobody_can_guess():
    one, two = temp.new_file("a.png"), temp.new_file("a.png")
    assert one.parent != two.parent and len(one.parent.name) == 32 and one.parent.parent == temp.ROOT


def test_a_message_cannot_carry_markup():
    shown = str(message(ValueError("<img src=x onerror=alert(1)>")).message)
    assert "<" not in shown
    assert "&lt;img" in shown.lower()


def worded(node) -> bool:
    """Whether what is in `node` becomes words: an f-string, a text put together, something printed, logged, shown or raised."""
    if isinstance(node, ast.BinOp):
        return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in (node.left, node.right))
    return isinstance(node, ast.JoinedStr | ast.Raise) or (isinstance(node, ast.Call) and bool(SPOKEN.search(ast.unparse(node.func))))


def secrets_in(node):
    """Names, attributes and keys in `node` that hold what only its owner may see."""
    for n in ast.walk(node):
        text = ast.unparse(n) if isinstance(n, ast.Name | ast.Attribute) else ""
        if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Constant):
            text = f"{ast.unparse(n.value)}.{n.slice.value}"
        if SECRET.search(text) and not A_WORD.search(text):
            yield text


def leaks(code: str) -> set[str]:
    return {text for node in ast.walk(ast.parse(code)) if worded(node) for text in secrets_in(node)}


def test_no_token_goes_into_a_message_a_log_or_an_error():
    files = [ROOT / "cns/__main__.py", ROOT / "app.py", *(f for folder in ("store", "ui") for f in (ROOT / "cns" / folder).glob("*.py"))]
    assert {f.name: said for f in files if (said := leaks(f.read_text()) - ({"token"} if f.name in IN_PROMPTS else set()))} == {}


@pytest.mark.parametrize("leak", [
    'f"the Hub refuses {token}"', "print(token)", "print('as', api.token)", 'log.warning("not saved: %s", self._token)', "logging.info(get_token())", "warnings.warn(f'{secret!r}')",
    'raise ValueError("no such token: " + token)', "raise OSError(401, password)", '"%s may not" % token', '"{} may not".format(info["access_token"])', "gr.Warning(store.secret())",
    "sys.stderr.write(token)", 'html.esc(session["oauth_info"])', "raise HubRefuses(' '.join([person.name, token])) from None",
])  # fmt: skip
def test_a_token_that_is_said_is_found(leak):
    assert leaks(leak)


@pytest.mark.parametrize("fine", ['f"{c.token} was taught"', 'f"{session.concept(name).token}"', "print(c['token'])", "client(repo, token)", 'f"{secrets.token_hex(8)}"', "HfApi(token=token)", "raise ValueError('the token is missing')"])
def test_a_concepts_token_and_the_word_itself_may_be_said(fine):
    assert not leaks(fine)
