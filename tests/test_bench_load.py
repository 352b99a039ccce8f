import pytest

from cns.bench.load import Crowd, run


def test_a_crowd_mixes_nothing_and_leaves_no_file(tiny_base):
    out = run(tiny_base, Crowd(visitors=4, teachers=2, requests=14, steps=2, teach_steps=2))
    assert out.wrong == [] and [len(w) for w in out.waits] == [4, 4, 3, 3] and out.taught >= 2
    assert out.files >= 14 and out.after == []
    assert len(out.memory) == 14


@pytest.mark.parametrize(("field", "value"), [("visitors", 0), ("teachers", 21), ("requests", 3), ("steps", 0), ("teach_steps", 0)])
def test_a_crowd_that_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"`{field}` is"):
        Crowd(**{field: value})
