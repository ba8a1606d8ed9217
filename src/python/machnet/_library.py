"""libmachnet, as machnet.h declares it."""

import ctypes
import os
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_void_p
from ctypes import c_int32, c_int64, c_uint16, c_uint32, c_uint64

# The usual places; MACHNET_LIBRARY in the environment names another.
NAMES = ("libmachnet.so.0", "/usr/local/lib/libmachnet.so.0")

MESSAGE, OPENED, CLOSED, SILENT, ALIVE = range(1, 6)
ALL_SHARDS, LEAST_LOADED_SHARD, ANY_SHARD = -1, -2, -1
SHARED = 1


class Ends(Structure):
    """MachnetFlow_t."""

    _fields_ = [("src_ip", c_uint32), ("dst_ip", c_uint32), ("src_port", c_uint16), ("dst_port", c_uint16)]


class Segment(Structure):
    """MachnetIovec_t."""

    _fields_ = [("base", c_void_p), ("len", c_size_t)]


class Item(Structure):
    """MachnetXItem_t."""

    _fields_ = [
        ("kind", c_uint32),
        ("flow", Ends),
        ("segments", POINTER(Segment)),
        ("segments_len", c_size_t),
        ("msg_size", c_size_t),
        ("acknowledged_messages", c_uint64),
        ("reason", c_uint16),
        ("accepted", c_uint16),
    ]


def load():
    """Loads the library and says of its functions what they take and give."""
    named = os.environ.get("MACHNET_LIBRARY")
    mistakes = []
    for name in (named,) if named else NAMES:
        try:
            return declared(ctypes.CDLL(name, use_errno=True))
        except OSError as mistake:
            mistakes.append(str(mistake))
    remedy = "install it with make install, or name it in MACHNET_LIBRARY"
    raise ImportError(f"libmachnet cannot be loaded ({'; '.join(mistakes)}): {remedy}")


def declared(library):
    """The library with the types of its functions."""
    functions = {
        "machnet_detach": (None, c_void_p),
        "machnet_send": (c_int, c_void_p, Ends, c_char_p, c_size_t),
        "machnet_x_abort": (c_int, c_void_p, Ends),
        "machnet_x_append": (c_int, c_void_p, Ends, c_char_p, c_size_t),
        "machnet_x_arm": (c_int, c_void_p, POINTER(Ends)),
        "machnet_x_arm_room": (c_int, c_void_p, Ends),
        "machnet_x_attach": (c_void_p, c_char_p, c_int32),
        "machnet_x_close": (c_int, c_void_p, Ends),
        "machnet_x_connect": (c_int, c_void_p, c_char_p, c_char_p, c_uint16, c_int64, c_int32, POINTER(Ends)),
        "machnet_x_error": (c_char_p,),
        "machnet_x_fd": (c_int, c_void_p),
        "machnet_x_flush": (c_int, c_void_p),
        "machnet_x_limit_unacknowledged": (c_int, c_void_p, Ends, c_size_t),
        "machnet_x_listen": (c_int, c_void_p, c_char_p, POINTER(c_uint16), c_uint32),
        "machnet_x_reason": (c_char_p, c_uint16),
        "machnet_x_receive": (c_int, c_void_p, POINTER(Item)),
        "machnet_x_unacknowledged_bytes": (c_int64, c_void_p, Ends),
        "machnet_x_unlisten": (c_int, c_void_p, c_char_p, c_uint16),
        "machnet_x_version": (c_char_p,),
        "machnet_x_wait": (c_int, c_void_p, POINTER(Ends), c_int64),
        "machnet_x_wait_room": (c_int, c_void_p, Ends, c_int64),
    }
    for name, (gives, *takes) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = gives, takes
    return library
