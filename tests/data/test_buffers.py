"""Buffers: used again when nobody holds them, and never before."""

import threading

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.buffers import Buffers

HOLDERS = {
    "itself": lambda array: array,
    "a row": lambda array: array[1],
    "a view of a view": lambda array: array.reshape(-1)[5:].view(np.int8)[2:],
    "memory": lambda array: memoryview(array),
    "a tensor": torch.from_numpy,
    "a part of a tensor": lambda array: torch.from_numpy(array)[1:, 2],
    "an array of JAX": lambda array: jax.device_put(array).block_until_ready(),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_held_is_not_given_again(holder):
    buffers = Buffers()
    array = buffers.take((64, 4, 4))
    array[...] = 7
    held = HOLDERS[holder](array)
    before = np.asarray(held).copy()
    del array
    for _ in range(3):
        buffers.take((64, 4, 4))[...] = 9
    np.testing.assert_array_equal(np.asarray(held), before)


def test_what_is_free_is_given_again():
    buffers = Buffers()
    places = set()
    for _ in range(10):
        array = buffers.take((8, 3))
        places.add(array.ctypes.data)
        del array
    assert len(places) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2)), max_size=30))
def test_no_two_holders_have_the_same(steps):
    buffers, held = Buffers(), []
    for keep, size in steps:
        if not keep and held:
            held.pop(0)
        held.append(buffers.take((size, 4)))
        assert held[-1].shape == (size, 4)
        places = [array.ctypes.data for array in held]
        assert len(set(places)) == len(places)


def test_threads():
    buffers, wrong = Buffers(), []

    def work(number):
        for _ in range(300):
            array = buffers.take((100,))
            array[...] = number
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
