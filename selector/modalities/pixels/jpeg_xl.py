"""The size of a JPEG XL image from its header. Its Pillow plugin tells it only after it has decoded all."""

from __future__ import annotations

_BARE, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_LENGTHS = (9, 13, 18, 30)  # bits of a side, by the two bits before it
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height, from 1
_HEADER = 12  # bytes, more than the size takes


def header_size(raw: bytes) -> tuple[int, int]:
    """(width, height) as the file says (ISO/IEC 18181-1, *SizeHeader*; 18181-2 for the boxes around it).

    Raises:
        ValueError: it has no such header.
    """
    start = raw if raw.startswith(_BARE) else _codestream(raw)
    if not start.startswith(_BARE) or len(start) < 3:
        raise ValueError("no JPEG XL header")
    bits = int.from_bytes(start[2:_HEADER], "little")

    def read(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = read(1)

    def side() -> int:
        return 8 * (1 + read(5)) if small else 1 + read(_LENGTHS[read(2)])

    height = side()
    ratio = read(3)
    if not ratio:
        return side(), height
    over, under = _RATIOS[ratio - 1]
    return height * over // under, height


def _codestream(raw: bytes) -> bytes:
    """The first bytes of the image itself, from the boxes of a container; empty where there are none."""
    if not raw.startswith(_CONTAINER):
        return b""
    at, found = 0, b""
    while at + 8 <= len(raw) and len(found) < _HEADER:
        length, kind, begin = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8], at + 8
        if length == 1:
            length, begin = int.from_bytes(raw[begin : begin + 8], "big"), begin + 8
        end = at + length if length else len(raw)
        if end < begin:
            break
        if kind == b"jxlc":
            return raw[begin : min(end, begin + _HEADER)]
        if kind == b"jxlp":
            found += raw[begin + 4 : min(end, begin + 4 + _HEADER)]
        at = end
    return found
