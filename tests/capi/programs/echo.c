/*
 * A program for Microsoft's Machnet: an echo server, or a client that sends messages of given sizes and compares what
 * comes back, by every function that there is. It spins, as such programs do.
 *
 *     echo LOCAL_IP                          serves
 *     echo LOCAL_IP REMOTE_IP SIZE...        asks
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machnet_v1.h"

enum { PORT = 31580, PARTS = 3, SMALL_MESSAGES = 40, SMALL_BYTES = 20 };

static void *channel;
static unsigned char *sent, *received;

static void fail(const char *what) {
  fprintf(stderr, "echo: %s\n", what);
  exit(1);
}

static MachnetFlow_t reversed(MachnetFlow_t flow) {
  MachnetFlow_t back = {flow.dst_ip, flow.src_ip, flow.dst_port, flow.src_port};
  return back;
}

static void serve(const char *local_ip) {
  if (machnet_listen(channel, "not an address", PORT) != -22) fail("an address that is none is not EINVAL");
  if (machnet_listen(channel, local_ip, PORT) != 0) fail("cannot listen");
  printf("Listening\n");
  fflush(stdout);
  for (;;) {
    MachnetFlow_t flow;
    ssize_t size = machnet_recv(channel, received, MACHNET_MSG_MAX_LEN, &flow);
    if (size < 0) fail("cannot receive");
    if (size == 0) continue;
    while (machnet_send(channel, reversed(flow), received, (size_t)size) != 0) {
    }
  }
}

/* Bytes that differ from place to place and from size to size. */
static void fill(size_t size, unsigned seed) {
  uint32_t word = (uint32_t)size * 2654435761u + seed;
  for (size_t i = 0; i < size; i++) {
    word = word * 1664525u + 1013904223u;
    sent[i] = (unsigned char)(word >> 24);
  }
  memset(received, 0, size);
}

static void compare(size_t size, const char *how) {
  if (memcmp(sent, received, size) != 0) fail(how);
}

static void same(MachnetFlow_t a, MachnetFlow_t b) {
  if (a.src_ip != b.src_ip || a.dst_ip != b.dst_ip || a.src_port != b.src_port || a.dst_port != b.dst_port) {
    fail("the answer is of another flow");
  }
}

static void ask(MachnetFlow_t flow, size_t size) {
  fill(size, 1);
  while (machnet_send(channel, flow, sent, size) != 0) {
  }
  MachnetFlow_t from;
  ssize_t got;
  while ((got = machnet_recv(channel, received, size, &from)) == 0) {
  }
  if (got != (ssize_t)size) fail("another size comes back");
  same(from, reversed(flow));
  compare(size, "other bytes come back");
}

/* The same in parts, which need not be those of the sender. */
static void ask_in_parts(MachnetFlow_t flow, size_t size) {
  fill(size, 2);
  size_t third = size / PARTS;
  MachnetIovec_t out[PARTS] = {{sent, third}, {sent + third, 0}, {sent + third, size - third}};
  MachnetMsgHdr_t message = {(uint32_t)size, flow, out, PARTS, MACHNET_MSGBUF_NOTIFY_DELIVERY};
  while (machnet_sendmsg(channel, &message) != 0) {
  }
  size_t first = size - third;
  MachnetIovec_t in[PARTS] = {{received, first}, {received + first, 0}, {received + first, third}};
  MachnetMsgHdr_t answer;
  memset(&answer, 0, sizeof(answer));
  answer.msg_iov = in;
  answer.msg_iovlen = PARTS;
  int got;
  while ((got = machnet_recvmsg(channel, &answer)) == 0) {
  }
  if (got != 1 || answer.msg_size != size) fail("another size comes back in parts");
  same(answer.flow_info, reversed(flow));
  compare(size, "other bytes come back in parts");
}

static void ask_many(MachnetFlow_t flow) {
  MachnetIovec_t parts[SMALL_MESSAGES];
  MachnetMsgHdr_t messages[SMALL_MESSAGES];
  fill(SMALL_MESSAGES * SMALL_BYTES, 3);
  for (int i = 0; i < SMALL_MESSAGES; i++) {
    parts[i] = (MachnetIovec_t){sent + i * SMALL_BYTES, SMALL_BYTES};
    messages[i] = (MachnetMsgHdr_t){SMALL_BYTES, flow, &parts[i], 1, 0};
  }
  for (int queued = 0; queued < SMALL_MESSAGES;) {
    queued += machnet_sendmmsg(channel, messages + queued, SMALL_MESSAGES - queued);
  }
  for (int i = 0; i < SMALL_MESSAGES;) {
    MachnetFlow_t from;
    ssize_t got = machnet_recv(channel, received + i * SMALL_BYTES, SMALL_BYTES, &from);
    if (got != 0 && got != SMALL_BYTES) fail("another size comes back of many");
    if (got != 0) i++;
  }
  compare(SMALL_MESSAGES * SMALL_BYTES, "other bytes come back of many");
}

int main(int count, char **arguments) {
  sent = malloc(MACHNET_MSG_MAX_LEN);
  received = malloc(MACHNET_MSG_MAX_LEN);
  if (count < 2 || sent == NULL || received == NULL) fail("wrong arguments");
  if (machnet_init() != 0) fail("cannot init");
  if (machnet_init() != 0) fail("cannot init again");
  channel = machnet_attach();
  if (channel == NULL) fail("cannot attach");
  if (count == 2) serve(arguments[1]);
  MachnetFlow_t flow;
  if (machnet_connect(channel, arguments[1], arguments[2], PORT, &flow) != 0) fail("cannot connect");
  if (flow.dst_port != PORT || flow.src_port == 0 || flow.src_ip == flow.dst_ip) fail("the flow is another one");
  if (machnet_send(channel, flow, sent, 0) != -1) fail("a message of no bytes is sent");
  if (machnet_send(channel, flow, sent, (size_t)MACHNET_MSG_MAX_LEN + 1) != -1) fail("too long a message is sent");
  for (int i = 3; i < count; i++) {
    size_t size = strtoull(arguments[i], NULL, 10);
    ask(flow, size);
    ask_in_parts(flow, size);
  }
  ask_many(flow);
  printf("All came back to %08" PRIx32 ", control socket %d\n", flow.src_ip, g_ctrl_socket);
  return 0;
}
