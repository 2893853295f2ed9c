"""Row packets: where each row begins in a block of bytes that MySQL sent, found for all rows of the block at once.

A packet is three bytes of length, one of sequence number, and what it carries; a row of the binary protocol carries a
zero first (MySQL's documentation, "Binary Protocol Resultset Row"). Each packet tells only where the next one begins,
so the plain way is a walk, row by row. Here every place that looks like the head of a row is a guess, and guesses count
only as far as they follow one another from the first byte on, which is the same walk, done by numpy. A wrong guess
costs time; it can never become a row.
"""

from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Places = np.ndarray[Any, np.dtype[np.intp]]

HEAD = 4
"""Bytes before what a packet carries: three of length, one of sequence number."""

FULL = 0xFFFFFF
"""Length of a packet that goes on in the next one."""


def length_at(block: Bytes, place: int) -> int:
    """The length in the head of the packet at a place."""
    return int(block[place]) | int(block[place + 1]) << 8 | int(block[place + 2]) << 16


def row_starts(block: Bytes, begin: int, end: int) -> tuple[Places, int]:
    """Where the rows begin that lie whole in a block.

    Args:
        block: the bytes.
        begin: where a packet begins.
        end: where the bytes end.

    Returns:
        The places of the packets that carry rows, and the place of the first packet that is none, is not whole, or goes
        on in another one; `end` if there is none.
    """
    guesses, after = _guesses(block, begin, end)
    # Of guesses that follow one another, the last one of each chain.
    breaks = np.flatnonzero(after[:-1] != guesses[1:]) if len(guesses) else guesses
    found: list[Places] = []
    place = begin
    while place < end:
        at = int(np.searchsorted(guesses, place))
        if at < len(guesses) and guesses[at] == place:
            chain = int(np.searchsorted(breaks, at))
            last = int(breaks[chain]) if chain < len(breaks) else len(guesses) - 1
            found.append(guesses[at : last + 1])
            place = int(after[last])
        elif is_row(block, place, end):
            found.append(np.array([place], np.intp))
            place += HEAD + length_at(block, place)
        else:
            break
    return (np.concatenate(found) if found else np.empty(0, np.intp)), place


def is_row(block: Bytes, place: int, end: int) -> bool:
    """Whether the packet at a place carries a row, and lies whole in the block."""
    if place + HEAD >= end or block[place + HEAD] != 0:
        return False
    length = length_at(block, place)
    return length < FULL and place + HEAD + length <= end


def _guesses(block: Bytes, begin: int, end: int) -> tuple[Places, Places]:
    """Places that look like the head of a whole row shorter than 64 KiB, in order, and where their packets end."""
    looks = (block[begin + 2 : max(begin, end - HEAD + 2)] | block[begin + HEAD : end]) == 0
    guesses = np.flatnonzero(looks) + begin
    after = guesses + (HEAD + block[guesses].astype(np.intp) + (block[guesses + 1].astype(np.intp) << 8))
    whole = after <= end
    guesses, after = guesses[whole], after[whole]
    # The next packet has the next sequence number, as far as its head is to be seen.
    follows = (block[np.minimum(after + 3, end - 1)] == block[guesses + 3] + np.uint8(1)) | (after + 3 >= end)
    return guesses[follows], after[follows]
