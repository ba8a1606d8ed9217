"""Reliable messages between hosts in microseconds, through the machnet-shards daemon of this host.

    import machnet

    with machnet.Channel() as channel:
        flow = channel.connect("10.0.0.2", 888)
        channel.send(flow, b"How are you?")
        while True:
            received = channel.receive()
            if received is None:
                channel.wait()
            elif isinstance(received, machnet.Message):
                print(received.data)
                break

`machnet.aio` has the same for asyncio. libmachnet must be installed; nothing else is needed.
"""

from ._channel import LIBRARY, Alive, Channel, Closed, Flow, Message, NoRoom, Opened, Received, Silent
from ._library import ALL_SHARDS, ANY_SHARD, LEAST_LOADED_SHARD

__version__ = LIBRARY.machnet_x_version().decode()

__all__ = [
    "ALL_SHARDS",
    "ANY_SHARD",
    "Alive",
    "Channel",
    "Closed",
    "Flow",
    "LEAST_LOADED_SHARD",
    "Message",
    "NoRoom",
    "Opened",
    "Received",
    "Silent",
]
