/*
 * What Machnet does not have, and what it does wrong, against an echo server of `echo.c` on another host.
 *
 *     ours LOCAL_IP REMOTE_IP
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <machnet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 31580, NOBODY = 9, SECOND = 1000000, LONG = 60 * SECOND };

static unsigned char buffer[MACHNET_MSG_MAX_LEN];

/* Says what is wrong, with the library's words about it. */
#define CHECK(is_so)                                                                              \
  do {                                                                                            \
    if (!(is_so)) {                                                                               \
      fprintf(stderr, "ours: line %d: %s: %s\n", __LINE__, #is_so, machnet_x_error());            \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)
#define FAILS(call, number)              \
  do {                                   \
    errno = 0;                           \
    CHECK((call) == -1);                 \
    CHECK(errno == (number));            \
    CHECK(machnet_x_error()[0] != '\0'); \
  } while (0)

static int is_same(MachnetFlow_t a, MachnetFlow_t b) {
  return a.src_ip == b.src_ip && a.dst_ip == b.dst_ip && a.src_port == b.src_port && a.dst_port == b.dst_port;
}

/* The next item, which must be of this kind and flow. */
static MachnetXItem_t await(void *channel, uint32_t kind, MachnetFlow_t flow) {
  MachnetXItem_t item;
  int got;
  while ((got = machnet_x_receive(channel, &item)) == 0) {
    CHECK(machnet_x_wait(channel, NULL, LONG) == 1);
  }
  CHECK(got == 1);
  CHECK(item.kind == kind);
  CHECK(is_same(item.flow, flow));
  return item;
}

static void null_and_nonsense_are_errors(void *channel, MachnetFlow_t flow) {
  MachnetMsgHdr_t message = {4, flow, NULL, 1, 0};
  MachnetIovec_t part = {buffer, 3}, wild = {NULL, 4};
  uint16_t port = 1;
  FAILS(machnet_listen(NULL, "10.0.0.1", 1), EINVAL);
  CHECK(machnet_listen(channel, "10.0.0", 1) == -EINVAL);
  FAILS(machnet_listen(channel, NULL, 0), EINVAL);
  FAILS(machnet_listen(channel, "192.0.2.1", 1), EADDRNOTAVAIL);
  FAILS(machnet_connect(channel, NULL, NULL, 1, &flow), EINVAL);
  FAILS(machnet_connect(channel, NULL, "::1", 1, &flow), EINVAL);
  FAILS(machnet_connect(channel, NULL, "10.0.0.2", 1, NULL), EINVAL);
  FAILS(machnet_send(NULL, flow, buffer, 1), EINVAL);
  FAILS(machnet_send(channel, flow, NULL, 1), EINVAL);
  FAILS(machnet_send(channel, flow, buffer, 0), EINVAL);
  FAILS(machnet_send(channel, flow, buffer, SIZE_MAX), EMSGSIZE);
  FAILS(machnet_send(channel, machnet_x_reversed(flow), buffer, 1), ENOTCONN);
  CHECK(strstr(machnet_x_error(), "swap") != NULL);
  FAILS(machnet_sendmsg(channel, NULL), EINVAL);
  FAILS(machnet_sendmsg(channel, &message), EINVAL);
  message.msg_iov = &part;
  FAILS(machnet_sendmsg(channel, &message), EINVAL);
  message.msg_iov = &wild;
  FAILS(machnet_sendmsg(channel, &message), EINVAL);
  message.msg_iovlen = SIZE_MAX;
  FAILS(machnet_sendmsg(channel, &message), EINVAL);
  FAILS(machnet_recvmsg(channel, &message), EINVAL);
  CHECK(machnet_sendmmsg(channel, NULL, 3) == 0);
  CHECK(machnet_sendmmsg(channel, &message, -1) == 0);
  FAILS(machnet_recv(channel, NULL, 1, NULL), EINVAL);
  FAILS(machnet_recvmsg(channel, NULL), EINVAL);
  FAILS(machnet_x_receive(channel, NULL), EINVAL);
  FAILS(machnet_x_listen(channel, NULL, NULL, 0), EINVAL);
  FAILS(machnet_x_listen(channel, NULL, &port, 6), EINVAL);
  FAILS(machnet_x_unlisten(channel, NULL, 7), ENOENT);
  FAILS(machnet_x_connect(channel, NULL, "10.0.0.2", 1, 0, 70000, &flow), EINVAL);
  FAILS(machnet_x_close(NULL, flow), EINVAL);
  FAILS(machnet_x_wait(NULL, NULL, 0), EINVAL);
  FAILS(machnet_x_fd(NULL), EINVAL);
  CHECK(machnet_x_attach("/nonexistent", MACHNET_X_ALL_SHARDS) == NULL && errno == ECONNREFUSED);
  CHECK(strstr(machnet_x_error(), "start machnet-shards") != NULL);
  CHECK(machnet_x_attach(NULL, -3) == NULL && errno == EINVAL);
  size_t size = 1;
  CHECK(machnet_bind(-1, &size) == NULL && size == 0 && errno == EOPNOTSUPP);
  machnet_detach(NULL);
}

/* With Machnet a connect that failed made every later one fail. */
static void a_failed_connect_leaves_the_channel_as_it_was(void *channel, const char *local, const char *remote) {
  MachnetFlow_t flow = {1, 2, 3, 4}, before = flow;
  for (int i = 0; i < 3; i++) {
    FAILS(machnet_connect(channel, local, remote, NOBODY, &flow), ECONNREFUSED);
    CHECK(is_same(flow, before));
  }
  /* Nobody has that address. */
  FAILS(machnet_x_connect(channel, local, "10.0.255.99", NOBODY, SECOND / 10, MACHNET_X_ANY_SHARD, &flow),
        errno == EHOSTUNREACH ? EHOSTUNREACH : ETIMEDOUT);
  CHECK(is_same(flow, before));
}

/* With Machnet the message was lost. */
static void too_small_a_buffer_loses_nothing(void *channel, MachnetFlow_t flow) {
  static const char text[] = "This needs more than a few bytes.";
  CHECK(machnet_send(channel, flow, text, sizeof(text)) == 0);
  while (machnet_x_next_size(channel) == 0) {
    CHECK(machnet_x_wait(channel, NULL, LONG) == 1);
  }
  CHECK(machnet_x_next_size(channel) == sizeof(text));
  MachnetFlow_t from = {0, 0, 0, 0};
  for (size_t room = 0; room < sizeof(text); room++) {
    FAILS(machnet_recv(channel, buffer, room, &from), EMSGSIZE);
    MachnetIovec_t part = {buffer, room};
    MachnetMsgHdr_t message = {0, {0, 0, 0, 0}, &part, 1, 0};
    FAILS(machnet_recvmsg(channel, &message), EMSGSIZE);
    CHECK(message.msg_size == sizeof(text));
  }
  CHECK(from.src_ip == 0);
  CHECK(machnet_recv(channel, buffer, sizeof(text), &from) == sizeof(text));
  CHECK(is_same(from, machnet_x_reversed(flow)) && memcmp(buffer, text, sizeof(text)) == 0);
  CHECK(machnet_recv(channel, buffer, sizeof(buffer), NULL) == 0);
}

static void a_message_is_received_in_place(void *channel, MachnetFlow_t flow) {
  enum { SIZE = 100000 };
  for (int i = 0; i < SIZE; i++) buffer[i] = (unsigned char)(i * 7 + i / 256);
  CHECK(machnet_send(channel, flow, buffer, SIZE) == 0);
  MachnetXItem_t item = await(channel, MACHNET_X_MESSAGE, flow);
  CHECK(item.msg_size == SIZE && item.segments_len >= 1);
  /* It may be read, and sent, until the next one is asked for. */
  CHECK(machnet_x_append(channel, flow, "more", 4) == 0 && machnet_x_flush(channel) == 0);
  size_t at = 0;
  for (size_t i = 0; i < item.segments_len; i++) {
    CHECK(memcmp(item.segments[i].base, buffer + at, item.segments[i].len) == 0);
    at += item.segments[i].len;
  }
  CHECK(at == SIZE);
  item = await(channel, MACHNET_X_MESSAGE, flow);
  CHECK(item.segments_len == 1 && item.msg_size == 4 && memcmp(item.segments[0].base, "more", 4) == 0);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void a_wait_ends_by_time_by_a_message_or_by_room(void *channel, MachnetFlow_t flow) {
  double began = seconds();
  CHECK(machnet_x_wait(channel, NULL, SECOND / 20) == 0);
  CHECK(seconds() - began >= 0.05);
  CHECK(machnet_x_wait(channel, NULL, 0) == 0);
  CHECK(machnet_x_wait_room(channel, flow, 0) == 1);

  /* As much as there is room for, each with room for a smaller one after it; all of it comes back. */
  size_t sent = 0, came = 0;
  while (machnet_send(channel, flow, buffer, 1 << 20) == 0) sent++;
  CHECK(errno == EAGAIN && sent > 0);
  CHECK(machnet_x_unacknowledged_bytes(channel, flow) > 0);
  while (came < sent + 1) {
    int got = machnet_x_wait(channel, &flow, LONG);
    CHECK(got == 1);
    ssize_t size = machnet_recv(channel, buffer, sizeof(buffer), NULL);
    CHECK(size == 0 || size == 1 << 20);
    came += size > 0;
    if (size > 0 && came == sent) {
      CHECK(machnet_x_wait_room(channel, flow, LONG) == 1);
      CHECK(machnet_send(channel, flow, buffer, 1 << 20) == 0);
    }
  }
}

static void a_descriptor_can_be_polled(void *channel, MachnetFlow_t flow) {
  struct pollfd on = {machnet_x_fd(channel), POLLIN, 0};
  CHECK(on.fd >= 0);
  CHECK(machnet_x_arm(channel, NULL) == 0);
  CHECK(poll(&on, 1, 20) == 0);
  CHECK(machnet_x_arm(channel, &flow) == 1);
  CHECK(machnet_x_arm_room(channel, flow) == 1);
  CHECK(machnet_send(channel, flow, "wake up", 7) == 0);
  while (machnet_x_next_size(channel) == 0) {
    if (machnet_x_arm(channel, NULL) == 0) CHECK(poll(&on, 1, 60000) == 1);
  }
  CHECK(machnet_x_arm(channel, NULL) == 1);
  CHECK(machnet_recv(channel, buffer, sizeof(buffer), NULL) == 7);
}

static void a_flow_is_limited(void *channel, MachnetFlow_t flow) {
  CHECK(machnet_x_limit_unacknowledged(channel, flow, 20000) == 0);
  size_t sent = 0;
  while (machnet_send(channel, flow, buffer, 1000) == 0 && sent < 100000) sent++;
  CHECK(errno == EAGAIN && sent < 100000);
  for (size_t came = 0; came < sent;) {
    CHECK(machnet_x_wait(channel, NULL, LONG) == 1);
    if (machnet_recv(channel, buffer, sizeof(buffer), NULL) == 1000) came++;
  }
  CHECK(machnet_x_limit_unacknowledged(channel, flow, SIZE_MAX) == 0);
}

static void flows_tell_of_their_ends(void *channel, const char *local, const char *remote) {
  MachnetFlow_t closed, aborted;
  CHECK(machnet_connect(channel, local, remote, PORT, &closed) == 0);
  CHECK(machnet_connect(channel, local, remote, PORT, &aborted) == 0);
  CHECK(!is_same(closed, aborted));
  for (int i = 0; i < 2; i++) {
    MachnetXItem_t item;
    while (machnet_x_receive(channel, &item) == 0) {
    }
    CHECK(item.kind == MACHNET_X_OPENED && item.accepted == 0);
  }
  for (int i = 0; i < 3; i++) {
    CHECK(machnet_send(channel, closed, "one of three", 12) == 0);
    await(channel, MACHNET_X_MESSAGE, closed);
  }
  CHECK(machnet_x_close(channel, closed) == 0);
  FAILS(machnet_send(channel, closed, "too late", 8), ENOTCONN);
  MachnetXItem_t item = await(channel, MACHNET_X_CLOSED, closed);
  CHECK(item.reason == MACHNET_X_REASON_CLOSED && item.acknowledged_messages == 3);
  CHECK(strcmp(machnet_x_reason(item.reason), "closed") == 0);
  FAILS(machnet_x_close(channel, closed), ENOTCONN);

  CHECK(machnet_x_abort(channel, aborted) == 0);
  item = await(channel, MACHNET_X_CLOSED, aborted);
  CHECK(item.reason == MACHNET_X_REASON_RESET);
  FAILS(machnet_x_unacknowledged_bytes(channel, aborted), ENOTCONN);
  CHECK(strlen(machnet_x_reason(65535)) > 0);
}

static void an_endpoint_listens_and_accepts(const char *local) {
  uint16_t port = 0, same = 0;
  void *listener = machnet_x_attach(NULL, MACHNET_X_LEAST_LOADED_SHARD), *other = machnet_attach();
  CHECK(listener != NULL && other != NULL);
  CHECK(machnet_x_listen(listener, "", &port, MACHNET_X_SHARED) == 0 && port != 0);
  same = port;
  FAILS(machnet_listen(other, "0.0.0.0", port), EADDRINUSE);
  CHECK(machnet_x_listen(other, NULL, &same, MACHNET_X_SHARED) == 0 && same == port);
  CHECK(machnet_x_unlisten(other, local, port) == 0);
  MachnetFlow_t flow;
  CHECK(machnet_connect(other, NULL, local, port, &flow) == 0);
  CHECK(machnet_send(other, flow, "hello", 5) == 0);
  MachnetXItem_t item = await(listener, MACHNET_X_OPENED, machnet_x_reversed(flow));
  CHECK(item.accepted == 1);
  await(listener, MACHNET_X_MESSAGE, machnet_x_reversed(flow));
  machnet_detach(other);
  item = await(listener, MACHNET_X_CLOSED, machnet_x_reversed(flow));
  CHECK(item.reason == MACHNET_X_REASON_APP_GONE);
  machnet_detach(listener);
}

static void a_forked_child_attaches_for_itself(void *channel, MachnetFlow_t flow) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    FAILS(machnet_send(channel, flow, "no", 2), EPERM);
    FAILS(machnet_recv(channel, buffer, sizeof(buffer), NULL), EPERM);
    machnet_detach(channel);
    void *own = machnet_attach();
    CHECK(own != NULL);
    machnet_detach(own);
    exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(machnet_send(channel, flow, "yes", 3) == 0);
  await(channel, MACHNET_X_MESSAGE, flow);
}

static void a_dead_daemon_is_an_error(void *channel, MachnetFlow_t flow) {
  printf("The daemon may end\n");
  fflush(stdout);
  int got;
  while ((got = machnet_x_wait(channel, NULL, LONG)) == 1) {
  }
  CHECK(got == -1 && errno == EPIPE && strstr(machnet_x_error(), "attach again") != NULL);
  FAILS(machnet_recv(channel, buffer, sizeof(buffer), NULL), EPIPE);
  FAILS(machnet_x_arm(channel, NULL), EPIPE);
  FAILS(machnet_connect(channel, NULL, "10.0.255.2", PORT, &flow), EPIPE);
  FAILS(machnet_listen(channel, NULL, PORT), EPIPE);
  machnet_detach(channel);
  /* Its socket may live for a moment longer. */
  while (machnet_init() == -1 && errno == EPIPE) {
  }
  FAILS(machnet_init(), ECONNREFUSED);
  CHECK(machnet_attach() == NULL && errno == ECONNREFUSED);
  printf("The daemon may come back\n");
  fflush(stdout);
  while ((channel = machnet_attach()) == NULL) {
    CHECK(errno == ECONNREFUSED || errno == EPIPE);
    struct timespec pause = {0, 10000000};
    nanosleep(&pause, NULL);
  }
  CHECK(machnet_init() == 0);
  machnet_detach(channel);
}

int main(int count, char **arguments) {
  CHECK(count == 3);
  const char *local = arguments[1], *remote = arguments[2];
  CHECK(strcmp(machnet_x_error(), "no error") == 0);
  CHECK(machnet_init() == 0);
  void *channel = machnet_attach();
  CHECK(channel != NULL);
  a_failed_connect_leaves_the_channel_as_it_was(channel, local, remote);
  MachnetFlow_t flow;
  CHECK(machnet_connect(channel, NULL, remote, PORT, &flow) == 0);
  CHECK(await(channel, MACHNET_X_OPENED, flow).accepted == 0);
  null_and_nonsense_are_errors(channel, flow);
  too_small_a_buffer_loses_nothing(channel, flow);
  a_message_is_received_in_place(channel, flow);
  a_wait_ends_by_time_by_a_message_or_by_room(channel, flow);
  a_descriptor_can_be_polled(channel, flow);
  a_flow_is_limited(channel, flow);
  flows_tell_of_their_ends(channel, local, remote);
  an_endpoint_listens_and_accepts(local);
  a_forked_child_attaches_for_itself(channel, flow);

  MachnetFlow_t other;
  CHECK(machnet_connect(channel, NULL, remote, PORT, &other) == 0);
  CHECK(await(channel, MACHNET_X_OPENED, other).accepted == 0);
  printf("The server may end\n");
  fflush(stdout);
  for (int i = 0; i < 2; i++) {
    MachnetXItem_t item;
    while (machnet_x_receive(channel, &item) == 0) {
      CHECK(machnet_x_wait(channel, NULL, LONG) == 1);
    }
    CHECK(item.kind == MACHNET_X_CLOSED && item.reason == MACHNET_X_REASON_APP_GONE);
  }
  a_dead_daemon_is_an_error(channel, flow);
  printf("All is well\n");
  return 0;
}
