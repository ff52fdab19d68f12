from soak.bit_flips import not_of
from soak.chains import last_arrays


def test_what_was_flipped_does_not_count_and_all_else_does():
    names = [
        "records/a.tfrecord",
        "run/step 10['model']['w']",
        "run/step 13['model']['w']",
        "vqgan/step 10['model']['w']",
    ]
    assert not_of("records/a.tfrecord", names) == names[1:]
    assert not_of("run/checkpoints/10/optimizer/d/0", names) == [names[0], *names[2:]]


def test_a_checkpoint_that_cannot_be_read_is_no_array(tmp_path):
    (tmp_path / "7/model").mkdir(parents=True)
    assert [*last_arrays(tmp_path)] == ["step 7 cannot be read"]
