/*
 * A server that answers requests where they lie, and a client that measures how long an answer takes.
 *
 *     cc request_response.c $(pkg-config --cflags --libs machnet) -o request_response
 *     ./request_response LOCAL_IP                        serves
 *     ./request_response LOCAL_IP REMOTE_IP REQUESTS     asks
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <machnet.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PORT = 888, WITHOUT_END = -1 };

typedef struct {
  uint64_t number;
  char text[56];
} Request;

static void fail(const char *what) {
  fprintf(stderr, "request_response: cannot %s: %s\n", what, machnet_x_error());
  exit(1);
}

/* The next message or event. */
static MachnetXItem_t next(void *channel) {
  MachnetXItem_t item;
  int got;
  while ((got = machnet_x_receive(channel, &item)) == 0) {
    if (machnet_x_wait(channel, NULL, WITHOUT_END) < 0) fail("wait");
  }
  if (got < 0) fail("receive");
  return item;
}

/* Answers a request with itself. A client that does not read its answers is not waited for. */
static void answer(void *channel, const MachnetXItem_t *request) {
  MachnetMsgHdr_t message = {
      .msg_size = (uint32_t)request->msg_size,
      .flow_info = request->flow,
      .msg_iov = (MachnetIovec_t *)request->segments,
      .msg_iovlen = request->segments_len,
  };
  if (machnet_sendmsg(channel, &message) == 0) return;
  if (errno == EAGAIN) {
    machnet_x_abort(channel, request->flow);
  } else if (errno != ENOTCONN) {
    fail("answer");
  }
}

static void serve(void *channel, const char *local_ip) {
  if (machnet_listen(channel, local_ip, PORT) != 0) fail("listen");
  printf("Listening on %s:%d.\n", local_ip, PORT);
  fflush(stdout);
  for (;;) {
    MachnetXItem_t item = next(channel);
    switch (item.kind) {
      case MACHNET_X_MESSAGE:
        answer(channel, &item);
        break;
      case MACHNET_X_OPENED:
        printf("A client at port %u.\n", (unsigned)item.flow.dst_port);
        fflush(stdout);
        break;
      case MACHNET_X_CLOSED:
        printf("The client at port %u: %s.\n", (unsigned)item.flow.dst_port, machnet_x_reason(item.reason));
        fflush(stdout);
        break;
      default:
        break;
    }
  }
}

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int by_size(const void *left, const void *right) {
  uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
  return (a > b) - (a < b);
}

static void ask(void *channel, const char *local_ip, const char *remote_ip, size_t requests) {
  MachnetFlow_t flow;
  uint64_t *took = calloc(requests, sizeof(*took));
  if (took == NULL) fail("keep so many times");
  if (machnet_connect(channel, local_ip, remote_ip, PORT, &flow) != 0) fail("connect");
  for (size_t i = 0; i < requests; i++) {
    Request request = {i, "How are you?"};
    uint64_t began = nanoseconds();
    if (machnet_send(channel, flow, &request, sizeof(request)) != 0) fail("send");
    MachnetXItem_t item;
    do {
      item = next(channel);
      if (item.kind == MACHNET_X_CLOSED) {
        fprintf(stderr, "request_response: %s\n", machnet_x_reason(item.reason));
        exit(1);
      }
    } while (item.kind != MACHNET_X_MESSAGE);
    took[i] = nanoseconds() - began;
    /* A short message came in one packet, and lies in one place. */
    const Request *response = item.segments[0].base;
    if (item.msg_size != sizeof(request) || response->number != i) {
      fprintf(stderr, "request_response: another answer\n");
      exit(1);
    }
  }
  qsort(took, requests, sizeof(*took), by_size);
  printf("%zu answers, the median after %.1f us.\n", requests, (double)took[requests / 2] / 1e3);
  free(took);
  machnet_x_close(channel, flow);
  while (next(channel).kind != MACHNET_X_CLOSED) {
  }
}

int main(int count, char **arguments) {
  if (count != 2 && (count != 4 || atol(arguments[3]) <= 0)) {
    fprintf(stderr, "usage: request_response LOCAL_IP [REMOTE_IP REQUESTS]\n");
    return 2;
  }
  void *channel = machnet_attach();
  if (channel == NULL) fail("attach");
  if (count == 2) {
    serve(channel, arguments[1]);
  } else {
    ask(channel, arguments[1], arguments[2], (size_t)atol(arguments[3]));
  }
  machnet_detach(channel);
  return 0;
}
