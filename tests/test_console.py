import os
import sys

import pytest

from medjax.console import NO_DRIVER, without_lines


def test_lines_that_libraries_print_of_a_gpu_that_is_not_there_are_left_out(capfd):
    with without_lines(NO_DRIVER):
        os.write(2, b"I0000 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.\n")
        os.write(2, "and this: é\n".encode())
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "and this: é\nafter\n"


def test_what_was_printed_before_an_error_is_not_lost(capfd):
    with pytest.raises(KeyError), without_lines(NO_DRIVER):
        os.write(2, b"a line\n")
        raise KeyError
    assert capfd.readouterr().err == "a line\n"
