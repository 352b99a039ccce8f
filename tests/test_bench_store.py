import random

from conftest import picture, taught

import cns
from cns.bench import store as bench_store
from cns.bench.store import YEAR, arrivals, crowd, play


def test_the_writer_batches_and_keeps_its_interval():
    assert play([0.0] + [1.0] * 150, interval=30, batch=100).commits == {0: 3}
    year = play([float(t) for t in range(3600)], interval=30, batch=100)
    assert year.commits[0] == 120 and year.longest <= 30


def test_nothing_is_left_out_and_a_queue_shows_as_waiting():
    year = play([0.0] * 1000, interval=30, batch=100)
    assert sum(year.commits.values()) == 10 and year.longest == 270


def test_arrivals_lie_in_the_year():
    times = arrivals(100, 12, random.Random(0))
    assert len(times) == 1200 and times == sorted(times) and times[0] >= 0 and times[-1] <= YEAR


def test_a_crowd_can_be_resumed(tiny_base, tmp_path):
    session = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    store = crowd(tmp_path, cns.store.pack(session), 5, 3)
    assert store.load(f"{4:032x}", tiny_base).tokens == ("<rex>",) and len(store.history(f"{0:032x}")) == 3


def test_the_year_is_printed(capsys):
    bench_store.year()
    assert "commits in the busiest hour" in capsys.readouterr().out
