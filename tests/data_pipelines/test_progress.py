from data_pipelines.progress import progress


def test_items_pass_and_the_end_is_reported(capsys):
    assert list(progress(iter("abc"), 3, "decoding")) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == "" and "decoding: 100%" in captured.err and "3/3" in captured.err


def test_nothing_to_do_says_nothing(capsys):
    assert list(progress([], 0, "decoding")) == []
    assert capsys.readouterr().err == ""
