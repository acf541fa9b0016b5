"""CRC-32C (RFC 3720), which Python's library lacks. Slow: some ten megabytes a second."""


def _make_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _make_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def is_whole(message):
    """Whether a Frame's bytes are those that the server wrote: its last field is the CRC of all before."""
    return len(message) >= 5 and message[-5] == 0x7D and crc32c(memoryview(message)[:-5]) == int.from_bytes(message[-4:], "little")
