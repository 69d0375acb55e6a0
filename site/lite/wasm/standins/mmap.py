"""A file that is read instead of being mapped: WASI has no mmap."""

import os

ACCESS_READ, ACCESS_WRITE, ACCESS_COPY = 1, 2, 3
ALLOCATIONGRANULARITY = PAGESIZE = 4096


class mmap(bytes):
    """Some bytes of it."""

    def __new__(cls, fileno: int, length: int, access: int = ACCESS_READ, offset: int = 0):
        content = bytearray()
        while len(content) < length and (part := os.pread(fileno, length - len(content), offset + len(content))):
            content += part
        return super().__new__(cls, content)

    def size(self) -> int:
        """Its bytes."""
        return len(self)
