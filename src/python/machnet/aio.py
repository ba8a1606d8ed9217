"""Channels for asyncio: what would wait is awaited, and the event loop sleeps on the channel's descriptor."""

import asyncio
from typing import AsyncIterator, List, Optional, Tuple

from ._channel import Channel, Flow, NoRoom, Received

# How long somebody who waits for room on one flow may be overlooked while another waits for room on another: the
# descriptor can wait for one of them only.
LOOK_AGAIN_SECONDS = 0.01


class AsyncChannel:
    """A channel whose tasks share it, in one event loop."""

    def __init__(self, socket: Optional[str] = None, **options):
        self._channel = Channel(socket, **options)
        self._waiting: "List[Tuple[asyncio.Future, Optional[Flow]]]" = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._timer: Optional[asyncio.TimerHandle] = None
        self._connecting: Optional[asyncio.Future] = None

    async def __aenter__(self) -> "AsyncChannel":
        return self

    async def __aexit__(self, *_) -> None:
        self.detach()

    def detach(self) -> None:
        """As `Channel.detach`."""
        self._wake()
        if self._connecting is None:
            self._channel.detach()
        else:
            self._connecting.add_done_callback(lambda _: self._channel.detach())

    def listen(self, ip: str = "", port: int = 0, *, shared: bool = False) -> int:
        """As `Channel.listen`."""
        return self._channel.listen(ip, port, shared=shared)

    async def connect(self, remote_ip: str, port: int, **options) -> Flow:
        """As `Channel.connect`. The event loop goes on meanwhile, and other tasks wait that use this channel."""
        await self._turn()
        self._wake()
        connect = lambda: self._channel.connect(remote_ip, port, **options)
        connecting = self._connecting = asyncio.get_running_loop().run_in_executor(None, connect)
        connecting.add_done_callback(self._connected)
        try:
            # A thread cannot be cancelled: the channel is its own until it is done.
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(self._unwanted)
            raise

    async def send(self, flow: Flow, data: bytes) -> None:
        """Sends a message, and waits for room if need be."""
        while True:
            await self._turn()
            try:
                return self._channel.send(flow, data)
            except NoRoom:
                await self._wait(flow)

    async def receive(self) -> Received:
        """The next message, or what happened to a flow."""
        while True:
            await self._turn()
            received = self._channel.receive()
            if received is not None:
                return received
            await self._wait(None)

    async def __aiter__(self) -> AsyncIterator[Received]:
        while True:
            yield await self.receive()

    async def close(self, flow: Flow) -> None:
        """As `Channel.close`."""
        await self._turn()
        self._channel.close(flow)

    async def abort(self, flow: Flow) -> None:
        """As `Channel.abort`."""
        await self._turn()
        self._channel.abort(flow)

    def _connected(self, _) -> None:
        self._connecting = None

    def _unwanted(self, connecting) -> None:
        """Whoever wanted the flow has gone."""
        if not connecting.cancelled() and connecting.exception() is None:
            self._channel.close(connecting.result())

    async def _turn(self) -> None:
        """Waits until no other thread has the channel."""
        while self._connecting is not None:
            await asyncio.wait([self._connecting])

    async def _wait(self, room: Optional[Flow]) -> None:
        """Sleeps until something may have changed: for room on a flow, or for something to receive."""
        self._loop = asyncio.get_running_loop()
        future = self._loop.create_future()
        entry = (future, room)
        self._waiting.append(entry)
        try:
            self._arm()
            await future
        except OSError:
            # The others shall see it, too.
            self._wake()
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _arm(self) -> None:
        rooms = [room for _, room in self._waiting if room is not None]
        if not rooms:
            is_there = self._channel.arm()
        elif len(rooms) < len(self._waiting):
            is_there = self._channel.arm(room=rooms[0])
        else:
            is_there = self._channel.arm_room(rooms[0])
        if is_there:
            self._wake()
            return
        self._loop.add_reader(self._channel.fileno(), self._wake)
        if len(rooms) > 1 and self._timer is None:
            self._timer = self._loop.call_later(LOOK_AGAIN_SECONDS, self._wake)

    def _wake(self) -> None:
        """Everybody looks again, and arms again who waits on."""
        if self._loop is not None:
            self._loop.remove_reader(self._channel.fileno())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for future, _ in waiting:
            if not future.done():
                future.set_result(None)
