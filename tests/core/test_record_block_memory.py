"""The memory of blocks: pages are used again, never while somebody looks at them, and none is held for long."""

import gc
import mmap
import queue
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from serve._core.record_block import RecordBlock, RecordBlocks
from tests.core.record_blocks import (
    BYTES,
    FULL_MAPPED,
    HEAD,
    MOST_BEHIND,
    SMALL_MAPPED,
    mapped,
    pages,
    sized,
    taken,
)
from tests.core.test_record_columns import VECTOR, vector_record


def held_by_process() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


@pytest.mark.parametrize("n_bytes", [200, 300_000], ids=["few", "many"])
def test_pages_go_back_and_are_used_again(n_bytes: int) -> None:
    """Two places in turn; not while somebody looks at them, from whatever thread they come back."""
    blocks, seen = RecordBlocks((BYTES,)), []
    for seq in range(8):
        blocks.add_for_test(sized(n_bytes, seq))
        held = [taken(blocks)]
        assert bytes(held[0].records) == sized(n_bytes, seq)
        seen.append(pages(held[0])[0])
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
    assert seen == [seen[0], seen[1]] * 4
    assert seen[0] != seen[1]


def test_pages_that_somebody_looks_at_are_not_used_again() -> None:
    blocks, views = RecordBlocks((BYTES,)), []
    for seq in range(12):
        blocks.add_for_test(sized(8000, seq))
        block = taken(blocks)
        views.append(block.records if seq % 2 else block.framed(HEAD, b"behind"))
        del block
    gc.collect()
    assert len({pa.py_buffer(view).address - 32 * (seq % 2) for seq, view in enumerate(views)}) == 12
    for seq, view in enumerate(views):
        assert bytes(view) == (sized(8000, seq) if seq % 2 else HEAD + sized(8000, seq) + b"behind")


@pytest.mark.parametrize("n_records", [1, 32, 33, 34, 35, 40, 900])
def test_streams_of_few_rows_hold_little_and_grow(n_records: int) -> None:
    """What was there before is still there, in the same order; also where the pages were used before."""
    blocks, records = RecordBlocks((BYTES,)), [sized(2000, seq) for seq in range(n_records)]
    for _ in range(4):
        assert [blocks.add_for_test(record) for record in records] == [1] * n_records
        block = taken(blocks)
        assert bytes(block.records) == b"".join(records)
        assert mapped(block) == (SMALL_MAPPED if len(block) <= SMALL_MAPPED - MOST_BEHIND - 32 else FULL_MAPPED)
        assert pages(block)[0] % FULL_MAPPED == 0, "a huge page, if it is large"
        del block


def test_a_burst_does_not_hold_its_memory_for_ever() -> None:
    """A stream that has become quiet writes into small pages again."""
    blocks, sizes = RecordBlocks((BYTES,)), []
    for n_bytes in [1_000_000] * 4 + [200] * 6:
        blocks.add_for_test(sized(n_bytes))
        sizes.append(mapped(taken(blocks)))
    assert sizes[:4] == [FULL_MAPPED] * 4
    assert sizes[-3:] == [SMALL_MAPPED] * 3


@pytest.mark.parametrize("n_bytes", [200, 100_000, 4 << 20])
def test_no_memory_is_left_behind(n_bytes: int) -> None:
    """Neither of records over the limit, nor of pages that grew, nor where many are taken before one comes back, nor of the owners."""
    def use(blocks: RecordBlocks) -> None:
        for _ in range(10):
            several = []
            for record in (small, large) * 2:
                if not blocks.add_for_test(record):
                    several.append(taken(blocks))
                    blocks.add_for_test(record)
                if record is large:
                    several.append(taken(blocks))
        blocks.add_for_test(large)

    small, large, before = sized(200), sized(n_bytes), held_by_process()
    for _ in range(100):
        use(RecordBlocks((BYTES,), 1 << 20))
    assert held_by_process() - before < 8 << 20


def test_trimmed_blocks_hold_no_memory_for_the_next_rows() -> None:
    blocks = RecordBlocks((BYTES,))
    assert blocks.trim() == 0
    blocks.add_for_test(sized(8000, 1))
    block = taken(blocks)
    assert blocks.trim() == 0, "the block has it"
    del block
    assert blocks.trim() == SMALL_MAPPED
    assert blocks.trim() == 0
    for held in (2 * FULL_MAPPED, 0):
        for seq in range(2):            # one is the spare, the other waits for the next rows
            blocks.add_for_test(sized(1_000_000, seq))
            taken(blocks)
        assert not held or blocks.trim() == held
    blocks.add_for_test(sized(8000, 7))
    assert blocks.trim() == FULL_MAPPED, "rows stay where they are"
    block = taken(blocks)
    assert bytes(block.records) == sized(8000, 7)
    del block
    assert blocks.trim() == 0, "pages for many rows that had few were let go"


def test_block_outlives_its_owner_and_views_outlive_both() -> None:
    blocks = RecordBlocks((VECTOR,))
    record = vector_record(3, tags=b"who\0Ada\0").pack()
    blocks.add_for_test(record)
    block = taken(blocks)
    blocks.add_for_test(vector_record(4).pack())
    del blocks
    gc.collect()
    assert bytes(block.records) == record
    views = [block.records, block.framed(HEAD, b"abc")[32:-3], block.records[:]]
    del block
    gc.collect()
    for _ in range(20):                 # what would come to lie there, were it free
        other = RecordBlocks((VECTOR,))
        other.add_for_test(vector_record(9).pack())
        assert taken(other).n_rows == 9
    while views:
        assert [bytes(view) for view in views] == [record] * len(views)
        views.pop()
        gc.collect()


def test_blocks_come_back_while_others_are_taken() -> None:
    """From another thread, at any time: no block is written over before it is gone."""
    blocks = RecordBlocks((BYTES,), 3000)
    given_away: queue.Queue[tuple[int, RecordBlock] | None] = queue.Queue(4)
    wrong = []

    def look() -> None:
        while (item := given_away.get()) is not None:
            seq, block = item
            if bytes(block.records) != sized(200 + 8 * (seq % 700), seq):
                wrong.append(seq)

    thread = threading.Thread(target=look)
    thread.start()
    for seq in range(3000):
        blocks.add_for_test(sized(200 + 8 * (seq % 700), seq))
        given_away.put((seq, taken(blocks)))
    given_away.put(None)
    thread.join()
    assert wrong == []
