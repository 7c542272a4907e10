"""QR codes: module by module what another encoder draws."""

from __future__ import annotations

import pytest
import qrcode
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import qr
from qrcode.util import MODE_8BIT_BYTE, QRData


@pytest.mark.parametrize("length", [1, 17, 18, 60, 78, 106, 130, 134, 192, 230, 271, 600, 858])
@pytest.mark.parametrize("mask", [0, 3, 5, 7])
def test_every_module_is_where_another_encoder_puts_it(length: int, mask: int) -> None:
    text = ("otpauth://totp/x?secret=" * 40)[:length]
    other = qrcode.QRCode(error_correction=qrcode.constants.ERROR_CORRECT_L, border=0, mask_pattern=mask)
    other.add_data(QRData(text.encode(), MODE_8BIT_BYTE))
    other.make(fit=True)
    assert qr.encode(text, mask) == [[bool(cell) for cell in row] for row in other.get_matrix()]


def test_what_is_drawn_has_two_rows_a_line_and_a_quiet_zone() -> None:
    matrix = qr.encode("otpauth://totp/gateway:alice")
    lines = qr.draw(matrix).splitlines()
    assert {len(line) for line in lines} == {len(matrix) + 8}
    assert set(lines[0]) == set(lines[1]) == {"█"} and len(lines) == (len(matrix) + 9) // 2
    rows = []
    for line in lines:
        rows += [[letter in " ▄" for letter in line], [letter in " ▀" for letter in line]]
    assert [row[4:-4] for row in rows[4 : 4 + len(matrix)]] == matrix


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="too long for a QR code"):
        qr.encode("x" * 859)
