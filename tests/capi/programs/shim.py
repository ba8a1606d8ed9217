"""A program in another language for Microsoft's Machnet: it loads libmachnet_shim by its name, and knows Machnet's
functions only. Without a remote address it serves, with one it asks: `shim.py LOCAL_IP [REMOTE_IP]`."""

import ctypes
import sys

PORT = 888


class Flow(ctypes.Structure):
    _fields_ = [
        ("src_ip", ctypes.c_uint32),
        ("dst_ip", ctypes.c_uint32),
        ("src_port", ctypes.c_uint16),
        ("dst_port", ctypes.c_uint16),
    ]


shim = ctypes.CDLL("libmachnet_shim.so")
shim.machnet_attach.restype = ctypes.c_void_p
shim.machnet_listen.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint16]
shim.machnet_connect.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint16, ctypes.c_void_p]
shim.machnet_send.argtypes = [ctypes.c_void_p, Flow, ctypes.c_char_p, ctypes.c_size_t]
shim.machnet_recv.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
shim.machnet_recv.restype = ctypes.c_ssize_t

assert shim.machnet_init() == 0
channel = shim.machnet_attach()
assert channel
local, *remote = sys.argv[1:]
buffer = ctypes.create_string_buffer(4096)
# Bytes of its own, at an odd address.
place = (ctypes.c_char * (ctypes.sizeof(Flow) + 1))()


def receive():
    """Waits for a message, and gives it with its flow."""
    while True:
        size = shim.machnet_recv(channel, buffer, len(buffer), ctypes.addressof(place) + 1)
        assert size >= 0
        if size > 0:
            return buffer.raw[:size], Flow.from_buffer_copy(place, 1)


if remote:
    flow = Flow()
    assert shim.machnet_connect(channel, local.encode(), remote[0].encode(), PORT, ctypes.addressof(flow)) == 0
    for number in range(1, 300):
        message = b"%d" % number * number
        assert shim.machnet_send(channel, flow, message, len(message)) == 0
        answer, came = receive()
        assert answer == message and (came.src_port, came.dst_port) == (PORT, flow.src_port)
    print("All is well")
else:
    assert shim.machnet_listen(channel, local.encode(), PORT) == 0
    print("Listening", flush=True)
    while True:
        message, came = receive()
        back = Flow(came.dst_ip, came.src_ip, came.dst_port, came.src_port)
        assert shim.machnet_send(channel, back, message, len(message)) == 0
