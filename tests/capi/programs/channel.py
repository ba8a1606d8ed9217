"""The Python package against an echo server of echo.c on another host: `channel.py LOCAL_IP REMOTE_IP`."""

import asyncio
import errno
import os
import select
import sys

import machnet
from machnet.aio import AsyncChannel

PORT, NOBODY = 31580, 9


def fails(kind, number, act):
    try:
        act()
    except kind as failure:
        assert failure.errno == number and len(failure.strerror) > 20, failure
        return
    raise AssertionError(f"it does not raise {kind}")


def following(channel, kind):
    """The next thing, which must be of this kind."""
    while True:
        received = channel.receive()
        if received is not None:
            assert isinstance(received, kind), received
            return received
        assert channel.wait(60)


def talk(local, remote):
    fails(ConnectionRefusedError, errno.ECONNREFUSED, lambda: machnet.Channel("/nonexistent"))
    with machnet.Channel() as channel:
        fails(ConnectionRefusedError, errno.ECONNREFUSED, lambda: channel.connect(remote, NOBODY))
        fails(OSError, errno.EINVAL, lambda: channel.connect("nowhere", PORT))
        flow = channel.connect(remote, PORT, local_ip=local, timeout=2)
        assert (flow.local_ip, flow.remote_ip, flow.remote_port) == (local, remote, PORT)
        assert following(channel, machnet.Opened) == machnet.Opened(flow, False)
        for size in (1, 1417, 1418, 1419, 2836, 1 << 20, 4 << 20):
            data = os.urandom(size)
            channel.send(flow, data)
            assert following(channel, machnet.Message) == machnet.Message(flow, data), size
        for number in range(100):
            channel.append(flow, b"%d" % number)
        channel.flush()
        for number in range(100):
            assert following(channel, machnet.Message).data == b"%d" % number
        fails(OSError, errno.EINVAL, lambda: channel.send(flow, b""))
        fails(OSError, errno.EMSGSIZE, lambda: channel.send(flow, bytes((8 << 20) + 1)))

        assert not channel.wait(0.01) and channel.wait_room(flow) and channel.wait(room=flow)
        assert not channel.arm() and channel.arm_room(flow) and channel.arm(room=flow)
        channel.send(flow, bytearray(b"wake up"))
        while not channel.arm():
            assert select.select([channel], [], [], 60)[0]
        assert following(channel, machnet.Message).data == b"wake up"

        channel.limit_unacknowledged(flow, 10000)
        large, sent = bytes(1 << 20), 0
        try:
            while True:
                channel.send(flow, large)
                sent += 1
        except machnet.NoRoom as full:
            assert full.errno == errno.EAGAIN and channel.unacknowledged_bytes(flow) > 0
        for _ in range(sent):
            following(channel, machnet.Message)
        channel.close(flow)
        closed = following(channel, machnet.Closed)
        assert closed.flow == flow and closed.reason == "closed" and closed.acknowledged_messages > 10
        fails(OSError, errno.ENOTCONN, lambda: channel.send(flow, b"too late"))
        other = channel.connect(remote, PORT)
        channel.abort(other)
        following(channel, machnet.Opened)
        assert following(channel, machnet.Closed).flow == other


def listen(local):
    with machnet.Channel() as listener, machnet.Channel() as other:
        port = listener.listen()
        fails(OSError, errno.EADDRINUSE, lambda: other.listen(local, port))
        flow = other.connect(local, port)
        opened = following(listener, machnet.Opened)
        assert opened.accepted and opened.flow.remote_port == flow.local_port
        listener.unlisten(local, port)
        fails(OSError, errno.ECONNREFUSED, lambda: other.connect(local, port))
        other.detach()
        assert following(listener, machnet.Closed).reason.startswith("the other application ended")


async def in_an_event_loop(remote):
    """Two flows of one channel, each with more under way than there is room for, while others wait to receive."""
    sizes = {}
    async with AsyncChannel() as channel:
        flows = [await channel.connect(remote, PORT) for _ in range(2)]

        async def hear(bytes_in_all):
            while bytes_in_all > 0:
                received = await channel.receive()
                if isinstance(received, machnet.Message):
                    sizes[received.flow] = sizes.get(received.flow, 0) + len(received.data)
                    bytes_in_all -= len(received.data)

        async def say(flow, count):
            for _ in range(count):
                await channel.send(flow, bytes(1 << 20))

        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await asyncio.wait_for(asyncio.gather(hear(60 << 20), say(flows[0], 30), say(flows[1], 30)), 60)
        assert sizes == {flow: 30 << 20 for flow in flows}
        # A wait that is given up leaves the others alone.
        try:
            await asyncio.wait_for(channel.receive(), 0.05)
            raise AssertionError("nothing has come")
        except asyncio.TimeoutError:
            pass
        waiting = asyncio.create_task(channel.receive())
        await asyncio.sleep(0.02)
        await channel.send(flows[0], b"here")
        assert (await asyncio.wait_for(waiting, 60)).data == b"here"
        # So does a connect; whoever wanted its flow has gone.
        try:
            await asyncio.wait_for(channel.connect("10.0.255.99", PORT, timeout=0.2), 0.01)
            raise AssertionError("nobody is there")
        except asyncio.TimeoutError:
            pass
        await channel.close(flows[0])
        while not isinstance(await channel.receive(), machnet.Closed):
            pass
        assert ticks > 10, "the event loop goes on"
        ticking.cancel()


if __name__ == "__main__":
    talk(*sys.argv[1:])
    listen(sys.argv[1])
    asyncio.run(in_an_event_loop(sys.argv[2]))
    print("All is well, with", machnet.__version__)
