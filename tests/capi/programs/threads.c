/*
 * Threads with a channel each, against an echo server of echo.c on another host.
 *
 *     threads LOCAL_IP REMOTE_IP
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <machnet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PORT = 31580, THREADS = 8, FLOWS = 20, ROUNDS = 30, LONGEST = 5000 };

typedef struct {
  pthread_t thread;
  unsigned number;
  const char *local, *remote;
  void *channel; /* attached by the main thread, or none */
} Talker;

#define CHECK(is_so)                                                                       \
  do {                                                                                     \
    if (!(is_so)) {                                                                        \
      fprintf(stderr, "threads: line %d: %s: %s\n", __LINE__, #is_so, machnet_x_error()); \
      exit(1);                                                                             \
    }                                                                                      \
  } while (0)

/* Every flow says its own number, in messages of all lengths. */
static void say_and_hear(void *channel, const MachnetFlow_t *flows, unsigned round) {
  unsigned char message[LONGEST];
  size_t size = 1 + (round * 997) % LONGEST;
  for (unsigned i = 0; i < FLOWS; i++) {
    memset(message, (int)(i + round), size);
    while (machnet_send(channel, flows[i], message, size) != 0) {
      CHECK(errno == EAGAIN);
      CHECK(machnet_x_wait(channel, &flows[i], -1) == 1);
    }
  }
  for (unsigned heard = 0; heard < FLOWS;) {
    MachnetFlow_t from;
    ssize_t got = machnet_recv(channel, message, sizeof(message), &from);
    CHECK(got >= 0);
    if (got == 0) {
      CHECK(machnet_x_wait(channel, NULL, -1) == 1);
      continue;
    }
    unsigned i = 0;
    while (flows[i].src_port != from.dst_port) i++;
    CHECK((size_t)got == size && message[0] == (unsigned char)(i + round) && message[size - 1] == message[0]);
    heard++;
  }
}

static void *talk(void *argument) {
  Talker *talker = argument;
  CHECK(strcmp(machnet_x_error(), "no error") == 0);
  void *channel = talker->channel ? talker->channel : machnet_attach();
  CHECK(channel != NULL);
  MachnetFlow_t flows[FLOWS];
  for (unsigned i = 0; i < FLOWS; i++) {
    CHECK(machnet_connect(channel, talker->local, talker->remote, PORT, &flows[i]) == 0);
  }
  for (unsigned round = 0; round < ROUNDS; round++) {
    say_and_hear(channel, flows, round);
    /* Each thread hears of its own failures only. */
    if (talker->number % 2 == 0) {
      CHECK(machnet_send(channel, flows[0], NULL, 0) == -1 && errno == EINVAL);
      CHECK(strstr(machnet_x_error(), "at least one byte") != NULL);
    } else {
      CHECK(machnet_send(channel, machnet_x_reversed(flows[0]), "x", 1) == -1 && errno == ENOTCONN);
      CHECK(strstr(machnet_x_error(), "swap src and dst") != NULL);
    }
  }
  machnet_detach(channel);
  return NULL;
}

int main(int count, char **arguments) {
  CHECK(count == 3);
  Talker talkers[THREADS];
  for (unsigned i = 0; i < THREADS; i++) {
    /* A channel may be handed to another thread. */
    talkers[i] = (Talker){.number = i, .local = arguments[1], .remote = arguments[2]};
    talkers[i].channel = i < 2 ? machnet_attach() : NULL;
    CHECK(i >= 2 || talkers[i].channel != NULL);
    CHECK(pthread_create(&talkers[i].thread, NULL, talk, &talkers[i]) == 0);
  }
  for (unsigned i = 0; i < THREADS; i++) pthread_join(talkers[i].thread, NULL);
  CHECK(strcmp(machnet_x_error(), "no error") == 0);
  printf("All is well\n");
  return 0;
}
