"""A server that answers requests, and clients that ask all at once, by asyncio."""

import argparse
import asyncio
import statistics
import time

import machnet
from machnet.aio import AsyncChannel

PORT = 888


async def serve(channel, local):
    channel.listen(local, PORT)
    print(f"Listening on {local}:{PORT}.", flush=True)
    async for received in channel:
        if isinstance(received, machnet.Message):
            try:
                await channel.send(received.flow, received.data.upper())
            except OSError as gone:
                print(f"No answer to {received.flow.remote_port}: {gone.strerror}.", flush=True)
        elif isinstance(received, machnet.Closed):
            print(f"The client at port {received.flow.remote_port}: {received.reason}.", flush=True)


class Client:
    """Asks over several flows, each from a task of its own."""

    def __init__(self, channel):
        self.channel = channel
        self.answers = {}

    async def hear(self):
        """Gives every answer to the task that waits for it."""
        async for received in self.channel:
            if isinstance(received, machnet.Message):
                self.answers[received.flow].put_nowait(received.data)
            elif isinstance(received, machnet.Closed):
                self.answers[received.flow].put_nowait(None)

    async def ask(self, local, remote, requests):
        """Gives how long each answer took, in seconds."""
        flow = await self.channel.connect(remote, PORT, local_ip=local)
        answers = self.answers[flow] = asyncio.Queue()
        took = []
        for number in range(requests):
            began = time.perf_counter()
            await self.channel.send(flow, b"how are you, %d?" % number)
            assert await answers.get() == b"HOW ARE YOU, %d?" % number
            took.append(time.perf_counter() - began)
        await self.channel.close(flow)
        assert await answers.get() is None
        return took


async def ask(channel, local, remote, clients, requests):
    client = Client(channel)
    hearing = asyncio.create_task(client.hear())
    took = await asyncio.gather(*(client.ask(local, remote, requests) for _ in range(clients)))
    hearing.cancel()
    median = statistics.median(second for one in took for second in one)
    print(f"{clients * requests} answers, the median after {median * 1e6:.0f} us.")


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", required=True, help="our address, one of the daemon's")
    parser.add_argument("--remote", help="the server's address; without it, this is the server")
    parser.add_argument("--clients", type=int, default=4, help="how many ask at once")
    parser.add_argument("--requests", type=int, default=1000, help="how much each of them asks")
    arguments = parser.parse_args()
    async with AsyncChannel() as channel:
        if arguments.remote:
            await ask(channel, arguments.local, arguments.remote, arguments.clients, arguments.requests)
        else:
            await serve(channel, arguments.local)


if __name__ == "__main__":
    asyncio.run(main())
