"""A terminal for tests, without a screen."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import textwrap

from tests import tiny


def screen_of(code, *, rows, columns):
    """Runs Python code in a terminal of some size; returns the lines that it shows at the end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tiny.ROOT, stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    written = b""
    while True:
        try:
            written += os.read(master, 4096)
        except OSError:  # the process has ended
            break
    assert process.wait(timeout=60) == 0, written
    os.close(master)
    lines, column = [""], 0
    for character in written.decode():
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
            column = 0
        else:
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + character + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]
