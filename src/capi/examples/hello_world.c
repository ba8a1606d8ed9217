/*
 * The smallest program: without a remote address it prints what it receives, with one it sends a message.
 *
 *     cc hello_world.c $(pkg-config --cflags --libs machnet) -o hello_world
 *     ./hello_world LOCAL_IP [REMOTE_IP]
 */
#include <machnet.h>
#include <stdio.h>
#include <stdlib.h>

enum { PORT = 31580, WITHOUT_END = -1 };

static void fail(const char *what) {
  fprintf(stderr, "hello_world: cannot %s: %s\n", what, machnet_x_error());
  exit(1);
}

static void receive(void *channel, const char *local_ip) {
  if (machnet_listen(channel, local_ip, PORT) != 0) fail("listen");
  printf("Listening on %s:%d.\n", local_ip, PORT);
  fflush(stdout);
  for (;;) {
    char text[1024];
    MachnetFlow_t flow;
    ssize_t size = machnet_recv(channel, text, sizeof(text), &flow);
    if (size < 0) fail("receive");
    if (size == 0) {
      if (machnet_x_wait(channel, NULL, WITHOUT_END) < 0) fail("wait");
      continue;
    }
    printf("Received message: %.*s\n", (int)size, text);
    fflush(stdout);
  }
}

static void send(void *channel, const char *local_ip, const char *remote_ip) {
  MachnetFlow_t flow;
  if (machnet_connect(channel, local_ip, remote_ip, PORT, &flow) != 0) fail("connect");
  if (machnet_send(channel, flow, "Hello World!", 12) != 0) fail("send");
  /* Closing is orderly: the last event of the flow says how many messages the other host has. */
  machnet_x_close(channel, flow);
  for (;;) {
    MachnetXItem_t item;
    int got = machnet_x_receive(channel, &item);
    if (got < 0) fail("receive");
    if (got == 0 && machnet_x_wait(channel, NULL, WITHOUT_END) < 0) fail("wait");
    if (got == 1 && item.kind == MACHNET_X_CLOSED) {
      if (item.acknowledged_messages == 1) {
        printf("Sent to %s:%d, and the other host has it.\n", remote_ip, PORT);
        return;
      }
      fprintf(stderr, "hello_world: not delivered: %s\n", machnet_x_reason(item.reason));
      exit(1);
    }
  }
}

int main(int count, char **arguments) {
  if (count < 2) {
    fprintf(stderr, "usage: hello_world LOCAL_IP [REMOTE_IP]\n");
    return 2;
  }
  void *channel = machnet_attach();
  if (channel == NULL) fail("attach");
  if (count == 2) {
    receive(channel, arguments[1]);
  } else {
    send(channel, arguments[1], arguments[2]);
  }
  machnet_detach(channel);
  return 0;
}
