"""Windows of wall time, and the cells that they are made of. Pure.

A window of a whole number of minutes is made of cells of a minute; any other is one cell. Both begin at multiples of their width since the
epoch: windows of five minutes at :00, :05, ...
"""

NS = 1_000_000_000
MINUTE_NS = 60 * NS
# After its end a window waits this long for rows that are on their way: a row is dated by the first byte of its request. A short
# window waits as long as it is itself.
GRACE_NS = 15 * NS


def window_ns(window_s: float) -> int:
    """Its width in nanoseconds."""
    return max(1, round(window_s * NS))


def cell_ns(window_s: float) -> int:
    """Width of its cells in nanoseconds."""
    width = window_ns(window_s)
    return MINUTE_NS if width % MINUTE_NS == 0 else width


def floor_to(at_ns: int, width_ns: int) -> int:
    """The beginning of the cell or window that a time is in."""
    return at_ns - at_ns % width_ns


def place(cell_start_ns: int, width_ns: int, closed_until_ns: int) -> tuple[int, bool]:
    """Start of the window of width_ns that a cell is counted in, and whether it came too late for its own.

    closed_until_ns: where the newest closed window ended. What comes later than that counts in the window that follows it.
    """
    start = floor_to(cell_start_ns, width_ns)
    # Of windows that were shorter when the newest was closed, the one that it was a part of is still open.
    is_open = start + width_ns > closed_until_ns
    return (start, False) if is_open else (floor_to(closed_until_ns + width_ns - 1, width_ns), True)


__all__ = ["GRACE_NS", "MINUTE_NS", "NS", "cell_ns", "floor_to", "place", "window_ns"]
