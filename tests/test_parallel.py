"""Two processes teach one thing, started by what `accelerate launch` starts several with: torch.distributed.run."""

import multiprocessing
import os
import socket
import subprocess
import sys

import torch
from conftest import QUICK, picture, tiny_pipeline

import cns
from cns import parallel

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_a_launcher_teaches_one_session_from_both_processes_batches(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "base")
    picture().save(tmp_path / "1.png")
    argv = ["teach", "--base", str(tmp_path / "base"), "--name", "rex", "--class", "dog", "--steps", "4", str(tmp_path / "1.png")]
    done = subprocess.run([*LAUNCH, "-m", "cns", *argv, "--session", str(tmp_path / "two")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<rex> taught") == 1
    base = cns.load_base(tmp_path / "base", "cpu")
    two = cns.Session.load(tmp_path / "two", base)
    concept = cns.Concept("rex", "dog", cns.load_images([tmp_path / "1.png"]))
    *_, alone = cns.teach(base, None, concept, cns.TeachSettings.of(base, steps=4, preview_every=0))
    one = alone.session
    assert all(torch.equal(i, two.delta.indices[n]) for n, i in one.delta.indices.items()), "the same neurons"
    assert any(not torch.equal(v, two.delta.values[n]) for n, v in one.delta.values.items()), "other batches"


def test_a_process_alone_is_left_alone(tiny_base, concept):
    assert parallel.join() is None and parallel.rank() == 0
    grad = torch.ones(3)
    parallel.average([grad])
    assert grad.tolist() == [1, 1, 1]
    parallel.leave()
    assert [*cns.teach(tiny_base, None, concept, cns.TeachSettings(**QUICK))][-1].session.tokens == ("<rex>",)


def average_of_two(rank, port, out):
    torch.set_num_threads(1)  # other threads did not survive the fork
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    assert parallel.join() == "cpu" and parallel.rank() == rank
    grad = torch.tensor([float(rank), 10.0])
    parallel.average([grad])
    out.put(grad.tolist())
    parallel.leave()


def test_gradients_become_their_mean():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    both = [context.Process(target=average_of_two, args=(r, port, out)) for r in range(2)]
    for p in both:
        p.start()
    assert [out.get(timeout=120) for _ in both] == [[0.5, 10.0]] * 2
    for p in both:
        p.join()
