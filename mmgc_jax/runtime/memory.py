"""Settings of the C library's memory allocator."""

import ctypes

# Parameters of glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
    """Makes malloc keep freed memory for later calls, instead of returning it to the system.

    On a CPU, XLA allocates the temporary arrays of a training step at its beginning and frees them
    at its end. By default glibc returns large blocks to the system at once, and the kernel must
    provide and clear every page of them again in the next step. With glibc 2.36 on two cores,
    keeping them made steps of VGG16's last block 15 % faster, and those of an LSTM 10 to 20 %.

    The process then uses as much memory as it ever needed at once, until it ends. Call this before
    the first thread starts, since threads that exist keep their own arenas.

    Returns:
      Whether the C library has these settings; if not, nothing changes.
    """
    try:
        set_parameter = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False
    # Never trim the heap; never use mmap, whose blocks are always returned; a single heap for all
    # threads, since further heaps are limited to 64 MiB and use mmap for larger blocks.
    settings = ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1))
    return all([set_parameter(*setting) for setting in settings])
