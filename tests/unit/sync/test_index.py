"""The table of fingerprints that a source keeps."""

import os
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.frames import HASH_SIZE
from xenmoved.sync.index import TargetIndex, nonzero_blocks

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BLOCKS = 5000  # several pages of the file, and more than one batch of it
PUTS = st.lists(
    st.tuples(
        st.integers(0, BLOCKS - 1),
        st.lists(st.sampled_from([0, 0, 1, 2]), min_size=1, max_size=300),
    ),
    max_size=12,
)


def hashes(kinds):
    return b"".join(bytes([kind]) * HASH_SIZE for kind in kinds)


def blocks_of(runs):
    found = [number for first, count in runs for number in range(first, first + count)]
    assert found == sorted(set(found))
    return found


@QUICK
@given(PUTS, st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, BLOCKS)))
def test_it_gives_what_was_put(tmp_path, puts, part):
    index, model = TargetIndex(BLOCKS, tmp_path), [0] * BLOCKS
    for first, wanted in puts:
        kinds = wanted[: BLOCKS - first]
        index.put(first, hashes(kinds))
        model[first : first + len(kinds)] = kinds
    first, count = part[0], min(part[1], BLOCKS - part[0])
    assert index.get(0, BLOCKS) == hashes(model)
    assert index.get(first, count) == hashes(model[first : first + count])
    expected = [n for n in range(first, first + count) if model[n]]
    assert blocks_of(index.nonzero_runs(first, count)) == expected
    index.close()


@QUICK
@given(st.lists(st.sampled_from([0, 1, 2]), max_size=60), st.integers(0, 1000))
def test_runs_are_maximal_and_in_order(kinds, first):
    runs = list(nonzero_blocks(first, hashes(kinds)))
    assert blocks_of(runs) == [first + n for n, kind in enumerate(kinds) if kind]
    for (start, count), (following, _) in pairwise(runs):
        assert start + count < following


def test_a_new_index_is_all_zero_and_takes_no_space(tmp_path):
    blocks = 2**24  # a terabyte
    index = TargetIndex(blocks, tmp_path)
    assert list(index.nonzero_runs(0, blocks)) == []
    assert index.get(blocks - 1, 1) == bytes(HASH_SIZE)
    index.put(blocks - 1, b"h" * HASH_SIZE)
    index.put(7, b"h" * HASH_SIZE)
    assert list(index.nonzero_runs(0, blocks)) == [(7, 1), (blocks - 1, 1)]
    assert list(index.nonzero_runs(8, blocks - 9)) == []
    assert os.fstat(index._file.fileno()).st_blocks * 512 < 2**20
    index.close()


def test_runs_may_be_made_zero_while_they_are_read(tmp_path):
    index = TargetIndex(BLOCKS, tmp_path)
    index.put(0, b"h" * HASH_SIZE * BLOCKS)
    seen = 0
    for first, count in index.nonzero_runs(0, BLOCKS):
        index.put(first, bytes(HASH_SIZE * count))
        seen += count
    assert seen == BLOCKS
    assert list(index.nonzero_runs(0, BLOCKS)) == []
    index.close()


def test_it_leaves_nothing_behind_and_ends_at_its_end(tmp_path):
    index = TargetIndex(10, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="shorter"):
        index.get(5, 6)
    index.close()
    index.close()
