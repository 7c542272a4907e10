# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""QR codes for enrolment, drawn with letters: byte mode, error correction L, versions 1 to 20 (ISO/IEC 18004).

Written here because the controller needs nothing but ansible-core, and because a secret must not be handed to a
tool on its command line.
"""

from __future__ import annotations

from collections.abc import Callable

# For each version from 1: error correction words of a block at level L, and the number of blocks.
_BLOCKS_L = (
    (7, 1), (10, 1), (15, 1), (20, 1), (26, 1), (18, 2), (20, 2), (24, 2), (30, 2), (18, 4),
    (20, 4), (24, 4), (26, 4), (30, 4), (22, 6), (24, 6), (28, 6), (30, 6), (28, 7), (28, 8),
)  # fmt: skip
_FORMAT_L = 0b01

Matrix = list[list[bool]]


def encode(text: str, mask: int | None = None) -> Matrix:
    """The modules of the smallest code that holds ``text``; True is dark.

    Args:
        mask: 0 to 7; the one that is easiest to read where it is not given.

    Raises:
        ValueError: too long.
    """
    data = text.encode("utf-8")
    for version in range(1, len(_BLOCKS_L) + 1):
        capacity = _data_words(version)
        if len(data) * 8 + 4 + (8 if version < 10 else 16) <= capacity * 8:
            break
    else:
        raise ValueError(f"a text of {len(data)} bytes is too long for a QR code")
    words = _interleave(_words(data, version, capacity), version)
    size = 17 + 4 * version
    grid: list[list[bool | None]] = [[None] * size for _ in range(size)]
    _patterns(grid, version)
    free = [[cell is None for cell in row] for row in grid]
    _place(grid, words)
    candidates = range(8) if mask is None else (mask,)
    drawn = [_masked(grid, free, number) for number in candidates]
    return min(drawn, key=_penalty)


def draw(matrix: Matrix) -> str:
    """Two rows a line, dark on light whatever the terminal's colours are, with the quiet zone that readers need."""
    width = len(matrix) + 8
    blank = [False] * width
    rows = [blank] * 4 + [[False] * 4 + list(row) + [False] * 4 for row in matrix] + [blank] * 4
    if len(rows) % 2:
        rows.append(blank)
    # Light modules are drawn: on a dark terminal that is right, and readers take the inverse too.
    shapes = {(True, True): " ", (False, True): "▀", (True, False): "▄", (False, False): "█"}
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        lines.append("".join(shapes[pair] for pair in zip(upper, lower, strict=True)))
    return "\n".join(lines) + "\n"


def _data_words(version: int) -> int:
    per_block, blocks = _BLOCKS_L[version - 1]
    return _raw_bits(version) // 8 - per_block * blocks


def _raw_bits(version: int) -> int:
    """Modules that are left for data and error correction."""
    bits = (16 * version + 128) * version + 64
    if version >= 2:
        count = version // 7 + 2
        bits -= (25 * count - 10) * count - 55
        if version >= 7:
            bits -= 36
    return bits


def _words(data: bytes, version: int, capacity: int) -> bytes:
    length = 8 if version < 10 else 16
    bits = f"0100{len(data):0{length}b}" + "".join(f"{byte:08b}" for byte in data)
    bits += "0" * min(4, capacity * 8 - len(bits))
    bits += "0" * (-len(bits) % 8)
    out = bytearray(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    padding = (0xEC, 0x11)
    for number in range(capacity - len(out)):
        out.append(padding[number % 2])
    return bytes(out)


def _interleave(words: bytes, version: int) -> bytes:
    check, count = _BLOCKS_L[version - 1]
    short = len(words) // count
    longer = len(words) % count
    blocks, at = [], 0
    for number in range(count):
        size = short + (number >= count - longer)
        blocks.append(words[at : at + size])
        at += size
    divisor = _divisor(check)
    checks = [_remainder(block, divisor) for block in blocks]
    out = bytearray()
    for column in range(short + (longer > 0)):
        out += bytes(block[column] for block in blocks if column < len(block))
    for column in range(check):
        out += bytes(one[column] for one in checks)
    return bytes(out)


def _multiply(left: int, right: int) -> int:
    """In the field of 256 elements over x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    for bit in range(7, -1, -1):
        product = (product << 1) ^ ((product >> 7) * 0x11D)
        product ^= ((right >> bit) & 1) * left
    return product


def _divisor(degree: int) -> list[int]:
    result = [0] * (degree - 1) + [1]
    root = 1
    for _ in range(degree):
        for at in range(degree):
            result[at] = _multiply(result[at], root)
            if at + 1 < degree:
                result[at] ^= result[at + 1]
        root = _multiply(root, 2)
    return result


def _remainder(data: bytes, divisor: list[int]) -> bytes:
    result = [0] * len(divisor)
    for byte in data:
        factor = byte ^ result.pop(0)
        result.append(0)
        for at, coefficient in enumerate(divisor):
            result[at] ^= _multiply(coefficient, factor)
    return bytes(result)


def _centres(version: int) -> list[int]:
    if version == 1:
        return []
    count = version // 7 + 2
    step = (version * 8 + count * 3 + 5) // (count * 4 - 4) * 2
    last = 4 * version + 10
    return [6, *(last - step * number for number in range(count - 2, -1, -1))]


def _patterns(grid: list[list[bool | None]], version: int) -> None:
    """Everything that does not depend on the data; places of the format are taken, to be filled in later."""
    size = len(grid)
    for at in range(size):
        grid[6][at] = grid[at][6] = at % 2 == 0
    for row, column in ((3, 3), (3, size - 4), (size - 4, 3)):
        for down in range(-4, 5):
            for across in range(-4, 5):
                y, x = row + down, column + across
                if 0 <= y < size and 0 <= x < size:
                    grid[y][x] = max(abs(down), abs(across)) not in (2, 4)
    centres = _centres(version)
    corners = {(6, 6), (6, size - 7), (size - 7, 6)}
    for row in centres:
        for column in centres:
            if (row, column) not in corners:
                for down in range(-2, 3):
                    for across in range(-2, 3):
                        grid[row + down][column + across] = max(abs(down), abs(across)) != 1
    for place in _format_places(size):
        for y, x in place:
            grid[y][x] = False
    grid[size - 8][8] = True
    if version >= 7:
        remainder = version
        for _ in range(12):
            remainder = (remainder << 1) ^ ((remainder >> 11) * 0x1F25)
        bits = version << 12 | remainder
        for number in range(18):
            y, x = number // 3, size - 11 + number % 3
            grid[y][x] = grid[x][y] = bool(bits >> number & 1)


def _format_places(size: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """For each bit of the format from the lowest, its two places as (row, column)."""
    first = [(at, 8) for at in range(6)] + [(7, 8), (8, 8), (8, 7)] + [(8, 14 - at) for at in range(9, 15)]
    second = [(8, size - 1 - at) for at in range(8)] + [(size - 15 + at, 8) for at in range(8, 15)]
    return list(zip(first, second, strict=True))


def _place(grid: list[list[bool | None]], words: bytes) -> None:
    """Up and down in columns of two, from the right; what is left over stays light."""
    size = len(grid)
    bits = "".join(f"{word:08b}" for word in words)
    at = 0
    for right in range(size - 1, 0, -2):
        column = right if right > 6 else right - 1
        upward = (column + 1) & 2 == 0
        for step in range(size):
            row = size - 1 - step if upward else step
            for x in (column, column - 1):
                if grid[row][x] is None:
                    grid[row][x] = at < len(bits) and bits[at] == "1"
                    at += 1


def _masked(grid: list[list[bool | None]], free: list[list[bool]], mask: int) -> Matrix:
    rules: tuple[Callable[[int, int], bool], ...] = (
        lambda y, x: (y + x) % 2 == 0,
        lambda y, x: y % 2 == 0,
        lambda y, x: x % 3 == 0,
        lambda y, x: (y + x) % 3 == 0,
        lambda y, x: (y // 2 + x // 3) % 2 == 0,
        lambda y, x: y * x % 2 + y * x % 3 == 0,
        lambda y, x: (y * x % 2 + y * x % 3) % 2 == 0,
        lambda y, x: ((y + x) % 2 + y * x % 3) % 2 == 0,
    )
    rule = rules[mask]
    result = [
        [bool(cell) ^ (free[y][x] and rule(y, x)) for x, cell in enumerate(row)] for y, row in enumerate(grid)
    ]
    data = _FORMAT_L << 3 | mask
    remainder = data
    for _ in range(10):
        remainder = (remainder << 1) ^ ((remainder >> 9) * 0x537)
    bits = (data << 10 | remainder) ^ 0x5412
    for number, places in enumerate(_format_places(len(grid))):
        for y, x in places:
            result[y][x] = bool(bits >> number & 1)
    return result


def _penalty(matrix: Matrix) -> int:
    """The standard's measure of how hard a code is to read."""
    size = len(matrix)
    total = 0
    finder = ("10111010000", "00001011101")
    for line in (*matrix, *(list(column) for column in zip(*matrix, strict=True))):
        text = "".join("1" if cell else "0" for cell in line)
        run, last = 0, ""
        for letter in [*text, ""]:
            if letter == last:
                run += 1
                continue
            total += run - 2 if run >= 5 else 0
            run, last = 1, letter
        total += 40 * sum(text.startswith(finder, at) for at in range(size - 10))
    for y in range(size - 1):
        for x in range(size - 1):
            square = matrix[y][x], matrix[y][x + 1], matrix[y + 1][x], matrix[y + 1][x + 1]
            total += 3 if len(set(square)) == 1 else 0
    dark = sum(map(sum, matrix))
    total += 10 * (abs(dark * 20 - size * size * 10) // (size * size))
    return total
