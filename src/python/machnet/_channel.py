"""Channels, and what is received from them."""

import ctypes
import errno
import ipaddress
from typing import NamedTuple, Optional, Union

from . import _library as c

LIBRARY = c.load()


class Flow(NamedTuple):
    """A flow: both of its ends, this host's first. It can be a key, and means something at its own channel only."""

    local_ip: str
    local_port: int
    remote_ip: str
    remote_port: int


class Message(NamedTuple):
    """A message that arrived."""

    flow: Flow
    data: bytes


class Opened(NamedTuple):
    """The first event of every flow; `accepted`: the other side connected."""

    flow: Flow
    accepted: bool


class Closed(NamedTuple):
    """The last event of every flow: why it ended, and how many messages the other host has acknowledged."""

    flow: Flow
    reason: str
    acknowledged_messages: int


class Silent(NamedTuple):
    """The other host has not answered for some seconds; it may come back."""

    flow: Flow


class Alive(NamedTuple):
    """It has come back."""

    flow: Flow


Received = Union[Message, Opened, Closed, Silent, Alive]


class NoRoom(BlockingIOError):
    """There is no room for a message on its flow now; nothing of it was sent."""


def _failure() -> OSError:
    number, why = ctypes.get_errno(), LIBRARY.machnet_x_error().decode(errors="replace")
    return NoRoom(number, why) if number == errno.EAGAIN else OSError(number, why)


def _check(status: int) -> int:
    if status < 0:
        raise _failure()
    return status


def _flow(ends: c.Ends) -> Flow:
    text = lambda ip: str(ipaddress.IPv4Address(ip))
    return Flow(text(ends.src_ip), ends.src_port, text(ends.dst_ip), ends.dst_port)


def _us(timeout: Optional[float]) -> int:
    return -1 if timeout is None else max(0, round(timeout * 1e6))


class Channel:
    """A channel to the daemon of this host: for one thread at a time.

    What fails is an `OSError` of the kind that its errno has (`ConnectionRefusedError`, `TimeoutError`, ...), with a
    sentence that says what to do.
    """

    def __init__(self, socket: Optional[str] = None, shard: int = c.ALL_SHARDS):
        self._flows: "dict[Flow, c.Ends]" = {}
        self._names: "dict[bytes, Flow]" = {}
        self._handle = LIBRARY.machnet_x_attach(None if socket is None else socket.encode(), shard)
        if not self._handle:
            raise _failure()

    def detach(self) -> None:
        """Gives the channel back: what was sent is still delivered, flows are closed. Nothing if it is already."""
        handle, self._handle = self._handle, None
        LIBRARY.machnet_detach(handle)

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_) -> None:
        self.detach()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.detach()

    def listen(self, ip: str = "", port: int = 0, *, shared: bool = False) -> int:
        """Accepts flows there from now on, and gives the port. Without an address it is the daemon's only one, port 0
        is a free one. `shared`: other channels of this user may listen there, too."""
        number = ctypes.c_uint16(port)
        flags = c.SHARED if shared else 0
        _check(LIBRARY.machnet_x_listen(self._handle, ip.encode(), ctypes.byref(number), flags))
        return number.value

    def unlisten(self, ip: str, port: int) -> None:
        """Accepts no more flows there."""
        _check(LIBRARY.machnet_x_unlisten(self._handle, ip.encode(), port))

    def connect(
        self,
        remote_ip: str,
        port: int,
        *,
        local_ip: str = "",
        timeout: Optional[float] = None,
        shard: int = c.ANY_SHARD,
    ) -> Flow:
        """Opens a flow, and waits for the other host: 5 seconds at most, or `timeout`."""
        ends = c.Ends()
        remote, local = remote_ip.encode(), local_ip.encode()
        _check(LIBRARY.machnet_x_connect(self._handle, local, remote, port, _us(timeout), shard, ctypes.byref(ends)))
        return self._named(ends)

    def send(self, flow: Flow, data: bytes) -> None:
        """Sends a message of 1 byte to 8 MiB. Never waits: raises `NoRoom`."""
        _check(LIBRARY.machnet_send(self._handle, self._ends(flow), bytes(data), len(data)))

    def append(self, flow: Flow, data: bytes) -> None:
        """The same, but it is under way only after the next flush, send, wait, or receive that finds nothing: cheaper
        for many small messages."""
        _check(LIBRARY.machnet_x_append(self._handle, self._ends(flow), bytes(data), len(data)))

    def flush(self) -> None:
        """Sends what was appended."""
        _check(LIBRARY.machnet_x_flush(self._handle))

    def receive(self) -> Optional[Received]:
        """The next message, or what happened to a flow; `None` if nothing has arrived. Never waits."""
        item = c.Item()
        if _check(LIBRARY.machnet_x_receive(self._handle, ctypes.byref(item))) == 0:
            return None
        flow = self._named(item.flow)
        if item.kind == c.MESSAGE:
            parts = [ctypes.string_at(part.base, part.len) for part in item.segments[: item.segments_len]]
            return Message(flow, parts[0] if len(parts) == 1 else b"".join(parts))
        if item.kind == c.OPENED:
            return Opened(flow, bool(item.accepted))
        if item.kind == c.CLOSED:
            self._flows.pop(flow, None)
            self._names.pop(bytes(item.flow), None)
            reason = LIBRARY.machnet_x_reason(item.reason).decode()
            return Closed(flow, reason, item.acknowledged_messages)
        return Silent(flow) if item.kind == c.SILENT else Alive(flow)

    def wait(self, timeout: Optional[float] = None, *, room: Optional[Flow] = None) -> bool:
        """Waits until something can be received, or until the message fits that was refused last on the flow `room`.
        False: the time is up (in seconds; without, there is no end), or a signal came. Other threads run meanwhile."""
        ends = None if room is None else ctypes.byref(self._ends(room))
        return _check(LIBRARY.machnet_x_wait(self._handle, ends, _us(timeout))) == 1

    def wait_room(self, flow: Flow, timeout: Optional[float] = None) -> bool:
        """Waits only until the message fits that was refused last on a flow."""
        return _check(LIBRARY.machnet_x_wait_room(self._handle, self._ends(flow), _us(timeout))) == 1

    def fileno(self) -> int:
        """The descriptor for `select` and its like, after `arm` or `arm_room` said False."""
        return _check(LIBRARY.machnet_x_fd(self._handle))

    def arm(self, *, room: Optional[Flow] = None) -> bool:
        """Prepares a sleep on the descriptor; True: what `wait` would wait for is there."""
        ends = None if room is None else ctypes.byref(self._ends(room))
        return _check(LIBRARY.machnet_x_arm(self._handle, ends)) == 1

    def arm_room(self, flow: Flow) -> bool:
        """The same for what `wait_room` waits for."""
        return _check(LIBRARY.machnet_x_arm_room(self._handle, self._ends(flow))) == 1

    def close(self, flow: Flow) -> None:
        """Closes a flow: what was sent is still delivered, then `Closed` follows."""
        _check(LIBRARY.machnet_x_close(self._handle, self._ends(flow)))

    def abort(self, flow: Flow) -> None:
        """Ends a flow at once; `Closed` follows."""
        _check(LIBRARY.machnet_x_abort(self._handle, self._ends(flow)))

    def unacknowledged_bytes(self, flow: Flow) -> int:
        """Bytes that were sent on a flow and are not known to have arrived."""
        return _check(LIBRARY.machnet_x_unacknowledged_bytes(self._handle, self._ends(flow)))

    def limit_unacknowledged(self, flow: Flow, limit_bytes: int) -> None:
        """From now on at most so many."""
        _check(LIBRARY.machnet_x_limit_unacknowledged(self._handle, self._ends(flow), limit_bytes))

    def _named(self, ends: c.Ends) -> Flow:
        key = bytes(ends)
        flow = self._names.get(key)
        if flow is None:
            flow = self._names[key] = _flow(ends)
            self._flows[flow] = c.Ends.from_buffer_copy(ends)
        return flow

    def _ends(self, flow: Flow) -> c.Ends:
        ends = self._flows.get(flow)
        if ends is None:
            number = lambda ip: int(ipaddress.IPv4Address(ip))
            ends = c.Ends(number(flow.local_ip), number(flow.remote_ip), flow.local_port, flow.remote_port)
        return ends
