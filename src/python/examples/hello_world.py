"""The smallest program: without --remote it prints what it receives, with --remote it sends a message."""

import argparse

import machnet

PORT = 31580


def receive(channel, local):
    channel.listen(local, PORT)
    print(f"Listening on {local}:{PORT}.", flush=True)
    while True:
        received = channel.receive()
        if received is None:
            channel.wait()
        elif isinstance(received, machnet.Message):
            print(f"Received message: {received.data.decode()}", flush=True)


def send(channel, local, remote):
    flow = channel.connect(remote, PORT, local_ip=local)
    channel.send(flow, b"Hello World!")
    channel.close(flow)
    # Closing is orderly: the last event says how many messages the other host has.
    while True:
        received = channel.receive()
        if received is None:
            channel.wait()
        elif isinstance(received, machnet.Closed):
            assert received.acknowledged_messages == 1, received.reason
            print(f"Sent to {remote}:{PORT}, and the other host has it.")
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", required=True, help="our address, one of the daemon's")
    parser.add_argument("--remote", help="the other host's address")
    arguments = parser.parse_args()
    with machnet.Channel() as channel:
        if arguments.remote:
            send(channel, arguments.local, arguments.remote)
        else:
            receive(channel, arguments.local)
