/*
 * Reliable messages between hosts in microseconds, through the machnet-shards daemon of this host: for C11 and
 * C++17.
 *
 * The functions machnet_init to machnet_recvmsg are those of Microsoft's Machnet, with its types, return values and
 * rules: a program written for Machnet is linked with this library instead and runs. What Machnet does not have
 * begins with machnet_x_, MachnetX or MACHNET_X_.
 *
 *     void *channel = machnet_attach();
 *     MachnetFlow_t flow;
 *     if (channel && machnet_connect(channel, "10.0.0.1", "10.0.0.2", 888, &flow) == 0)
 *         machnet_send(channel, flow, "How are you?", 12);
 *
 * Build with: cc program.c $(pkg-config --cflags --libs machnet)
 *
 *
 * FLOWS
 *
 * A flow is named by its four values. All of them are in host byte order: 10.0.0.1 is 0x0a000001. Which end comes
 * first depends on where the value comes from:
 *
 *     where                                      src             dst
 *     machnet_connect, machnet_x_connect         this host       the other host
 *     machnet_recv, machnet_recvmsg              the other host  this host
 *     machnet_x_receive                          this host       the other host
 *     whatever is given to a function            this host       the other host
 *
 * So a flow that was connected is used as it is; to answer a message of machnet_recv, swap its ends
 * (machnet_x_reversed does). A flow is found among all others in constant time.
 *
 *
 * ERRORS
 *
 * A function that fails says so by its return value, sets errno, and keeps a sentence for machnet_x_error, which
 * says what to do. After a success errno means nothing. Null pointers and lengths that make no sense are errors
 * (EINVAL). Errors that any function with a channel may have:
 *
 *     EPIPE      the daemon is gone; whatever it had delivered can still be received. Detach, and attach again
 *     ETIMEDOUT  the daemon does not answer (machnet_connect: or the other host does not)
 *     EPROTO     what serves the socket is no daemon of this release, or the channel was damaged
 *     EPERM      this is a forked child, and the channel is its parent's
 *
 * With MACHNET_VERBOSE=1 in the environment each failure to attach, listen or connect is also written to stderr. A
 * mistake of the library itself ends the process by abort(); no exception comes out of it.
 *
 *
 * THREADS AND FORKS
 *
 * A channel is for one thread at a time, receiving and sending included; it may be handed to another thread.
 * Different channels are independent, so have one per thread. Functions without a channel may be called by any
 * thread at any time. errno and machnet_x_error are each thread's own. The library starts no thread and handles no
 * signal, and none of its functions may be called by a signal handler. A forked child has nothing of its parent's
 * channels and attaches for itself.
 */
#ifndef MACHNET_H
#define MACHNET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The longest message, in bytes. */
#define MACHNET_MSG_MAX_LEN (8 * 1024 * 1024)

/* A flag of MachnetMsgHdr_t; without effect, as it is with Machnet. */
#define MACHNET_MSGBUF_NOTIFY_DELIVERY (1 << 7)

/* A flow: both ends in host byte order. 12 bytes, passed by value. */
typedef struct MachnetFlow {
  uint32_t src_ip;
  uint32_t dst_ip;
  uint16_t src_port;
  uint16_t dst_port;
} MachnetFlow_t;

/* A part of a message in memory. */
typedef struct MachnetIovec {
  void *base;
  size_t len; /* in bytes */
} MachnetIovec_t;

/* A message in parts. */
typedef struct MachnetMsgHdr {
  uint32_t msg_size;        /* in bytes, of all parts together */
  MachnetFlow_t flow_info;  /* the flow it goes to, or came over */
  MachnetIovec_t *msg_iov;  /* the parts, in their order */
  size_t msg_iovlen;        /* how many parts */
  uint16_t flags;           /* 0, or MACHNET_MSGBUF_NOTIFY_DELIVERY */
} MachnetMsgHdr_t;

/* A channel, as Machnet names it. Functions take it as void *. */
typedef struct MachnetChannelCtx MachnetChannelCtx_t;

/*
 * ---- Machnet's functions -----------------------------------------------------------------------------------------
 */

/*
 * Asks whether this process may use the daemon of this host. Need not be called, and may be called again.
 *
 * 0, or -1. ECONNREFUSED: no daemon serves the socket, which is /var/run/machnet/machnet_ctrl.sock or what
 * MACHNET_SOCKET in the environment names. EACCES: this user may not use it. EOPNOTSUPP: library and daemon speak
 * different versions. EDQUOT: a limit of the daemon is reached. ECONNABORTED or EPIPE: it is stopping.
 */
int machnet_init(void);

/*
 * A new channel to the daemon, or NULL with an errno of machnet_init. It is given back by machnet_detach or at the
 * end of the process, however that comes: what was sent is still delivered for a second, unless the daemon is
 * configured otherwise; flows are closed, ports are free.
 */
void *machnet_attach(void);

/*
 * Gives a channel back, which must not be used afterwards. Nothing if it is NULL. Machnet exports this name and
 * does nothing.
 */
void machnet_detach(void *channel);

/*
 * Accepts flows to an address of the daemon at a port, 1 to 65535, from now on. Their messages are received on this
 * channel. As local_ip, "0.0.0.0", "" and NULL stand for the daemon's address, if it has just one.
 *
 * 0; -EINVAL if local_ip is no IPv4 address; else -1. EADDRINUSE: somebody else listens there. EADDRNOTAVAIL: the
 * daemon does not have that address. EINVAL: port 0, or no single address to stand for.
 */
int machnet_listen(void *channel, const char *local_ip, uint16_t port);

/*
 * Opens a flow from an address of the daemon to a host and port where somebody listens, and waits for that host:
 * less than a millisecond usually, 5 seconds at most. local_ip as for machnet_listen.
 *
 * 0 and *flow, or -1 and *flow unchanged; the channel goes on either way. ECONNREFUSED: nobody listens there, or no
 * daemon runs there. ETIMEDOUT: the host does not answer. EHOSTUNREACH: no packet reaches it. ENETDOWN: the
 * interface is down. EADDRNOTAVAIL: the daemon does not have local_ip, or every local port is in use. EINVAL: an
 * address cannot be read. EDQUOT: a limit is reached. EOPNOTSUPP: the other host speaks another protocol.
 */
int machnet_connect(void *channel, const char *local_ip, const char *remote_ip, uint16_t remote_port,
                    MachnetFlow_t *flow);

/*
 * Sends one message of 1 to MACHNET_MSG_MAX_LEN bytes. Never waits; buf may be used again at once.
 *
 * 0: the message is in the memory that is shared with the daemon. It arrives once, complete and in order, unless
 * the flow ends. -1: nothing was sent. EAGAIN: no room now, receive what waits or wait (machnet_x_wait_room).
 * ENOTCONN: the flow is closed, or is none of this channel. EINVAL: no byte. EMSGSIZE: too many.
 */
int machnet_send(const void *channel, MachnetFlow_t flow, const void *buf, size_t len);

/*
 * As machnet_send, of the parts of msghdr one after the other, which are msg_size bytes together (else EINVAL). A
 * part may be empty. There are at most 65536 of them.
 */
int machnet_sendmsg(const void *channel, const MachnetMsgHdr_t *msghdr);

/*
 * Sends several messages as machnet_sendmsg does, but cheaper: small ones of one flow travel together. Stops at the
 * first that cannot be sent, which sets errno, and gives the number of those before it: 0 to vlen.
 */
int machnet_sendmmsg(const void *channel, const MachnetMsgHdr_t *msghdrs, int vlen);

/*
 * Receives the next message of any flow into buf, which has len bytes. Never waits.
 *
 * The length of the message, and *flow, whose src is the other host (flow may be NULL); 0: nothing has arrived; -1:
 * see errno. EMSGSIZE: the message is longer than len. Nothing is lost: it stays the next one, and
 * machnet_x_next_size says how long it is. EPIPE: as above.
 *
 * What happens to flows is passed over here; machnet_x_receive shows it. After 64 looks in a row that found nothing,
 * each further one gives way to other programs (sched_yield): who waits should call machnet_x_wait, which also sleeps.
 */
ssize_t machnet_recv(const void *channel, void *buf, size_t len, MachnetFlow_t *flow);

/*
 * Receives the next message into the parts of msghdr, in their order.
 *
 * 1: a message; msg_size is its length and flow_info as in machnet_recv. 0: nothing has arrived. -1: as
 * machnet_recv; with EMSGSIZE, msg_size is the length that is needed.
 */
int machnet_recvmsg(const void *channel, MachnetMsgHdr_t *msghdr);

/*
 * ---- Names of Machnet's that mean nothing here: programs that mention them can be linked -------------------------
 */

/* Always fails: a channel is what machnet_attach gives. Gives NULL with EOPNOTSUPP, and 0 as *channel_size unless that
 * is a null pointer; closes shm_fd. */
MachnetChannelCtx_t *machnet_bind(int shm_fd, size_t *channel_size);

extern int g_ctrl_socket;          /* -1 */
extern unsigned char g_app_uuid[16];  /* zeros */
extern char g_app_uuid_str[37];    /* the same as text */

/*
 * ---- Ours: attach, listen, connect -------------------------------------------------------------------------------
 */

#define MACHNET_X_VERSION_MAJOR 0
#define MACHNET_X_VERSION_MINOR 1
#define MACHNET_X_VERSION_PATCH 0

/* The version of the library that runs, as "0.1.0". */
const char *machnet_x_version(void);

/*
 * A sentence about the last failure of a function in this thread, without a period or a line break; "no error" if
 * there was none. Valid until this is called again in this thread.
 */
const char *machnet_x_error(void);

/* The same flow with its ends swapped: from machnet_recv to machnet_send, and back. */
static inline MachnetFlow_t machnet_x_reversed(MachnetFlow_t flow) {
  MachnetFlow_t reversed;
  reversed.src_ip = flow.dst_ip;
  reversed.dst_ip = flow.src_ip;
  reversed.src_port = flow.dst_port;
  reversed.dst_port = flow.src_port;
  return reversed;
}

/* For machnet_x_attach: memory for every shard of the daemon, or for the one with the least load only. */
#define MACHNET_X_ALL_SHARDS (-1)
#define MACHNET_X_LEAST_LOADED_SHARD (-2)
/* For machnet_x_connect. */
#define MACHNET_X_ANY_SHARD (-1)

/*
 * As machnet_attach, to the daemon whose control socket is at this path (NULL: as machnet_attach), and with a
 * channel to one shard only if shard is MACHNET_X_LEAST_LOADED_SHARD or the number of one, from 0: that takes less
 * memory, and the daemon copies frames once more that the NIC delivers to other shards.
 */
void *machnet_x_attach(const char *socket_path, int32_t shard);

/* For machnet_x_listen: other channels of the same user may listen there, too, if all of them say this. Each new flow
 * goes to one of them. */
#define MACHNET_X_SHARED 1u

/*
 * As machnet_listen, with flags: 0 or MACHNET_X_SHARED. *port 0 takes a free port, which *port is then. 0, or -1
 * for any failure.
 */
int machnet_x_listen(void *channel, const char *local_ip, uint16_t *port, uint32_t flags);

/* Accepts no more flows there; those that are open stay. 0, or -1. ENOENT: this channel does not listen there. */
int machnet_x_unlisten(void *channel, const char *local_ip, uint16_t port);

/*
 * As machnet_connect. The other host has timeout_us to answer, rounded to milliseconds, at least one; 5 seconds if
 * that is negative. The flow lives on this shard, counted from 0 within local_ip (EINVAL: it does not have that
 * one), or with MACHNET_X_ANY_SHARD where the NIC delivers its packets.
 */
int machnet_x_connect(void *channel, const char *local_ip, const char *remote_ip, uint16_t remote_port,
                      int64_t timeout_us, int32_t shard, MachnetFlow_t *flow);

/*
 * ---- Ours: flows -------------------------------------------------------------------------------------------------
 *
 * 0, or -1 with ENOTCONN if there is no such flow on this channel, or its end has been received.
 */

/* Closes a flow: what was sent is still delivered, then MACHNET_X_CLOSED follows. 0 also if it was closed before. */
int machnet_x_close(void *channel, MachnetFlow_t flow);

/* Ends a flow at once: what the other host has not acknowledged is not sent any more. MACHNET_X_CLOSED follows. */
int machnet_x_abort(void *channel, MachnetFlow_t flow);

/*
 * Bytes of messages that were sent on a flow and are not known to have arrived at the other host, or -1; 0 for a
 * flow that has ended.
 */
int64_t machnet_x_unacknowledged_bytes(void *channel, MachnetFlow_t flow);

/*
 * From now on at most so many bytes of a flow may be unacknowledged, rounded to whole packets, and at least one
 * packet; a longer message is taken when nothing else is under way.
 */
int machnet_x_limit_unacknowledged(void *channel, MachnetFlow_t flow, size_t bytes);

/*
 * ---- Ours: send and receive --------------------------------------------------------------------------------------
 */

/*
 * As machnet_send, but the message is under way only after the next machnet_x_flush, machnet_send, machnet_x_close
 * or wait, or when nothing was there to receive. Small messages of one flow that are appended one after the other
 * travel together, which costs much less than one by one.
 */
int machnet_x_append(void *channel, MachnetFlow_t flow, const void *buf, size_t len);

/* Sends what was appended. 0, or -1. */
int machnet_x_flush(void *channel);

/* The length of the next message, which stays the next one; 0 if there is none; -1: as machnet_recv. */
ssize_t machnet_x_next_size(void *channel);

/* What machnet_x_receive receives. */
#define MACHNET_X_MESSAGE 1u /* a message: segments, segments_len, msg_size */
#define MACHNET_X_OPENED 2u  /* the first event of every flow: accepted */
#define MACHNET_X_CLOSED 3u  /* the last one, also of a flow that was closed here: reason, acknowledged_messages */
#define MACHNET_X_SILENT 4u  /* the other host has not answered for some seconds; it may come back */
#define MACHNET_X_ALIVE 5u   /* it has come back */

/* Why a flow ended. There may be others in later releases. */
#define MACHNET_X_REASON_OTHER 0u          /* none given, or one that this release does not know */
#define MACHNET_X_REASON_CLOSED 1u         /* one of the two applications closed it */
#define MACHNET_X_REASON_APP_GONE 2u       /* the other application ended without closing it */
#define MACHNET_X_REASON_RESET 3u          /* one of the two applications aborted it, or the other host reset it */
#define MACHNET_X_REASON_PEER_GONE 4u      /* the other host does not answer any more */
#define MACHNET_X_REASON_PEER_RESTARTED 5u /* the other host's daemon was restarted */
#define MACHNET_X_REASON_REFUSED 6u        /* nobody listens there any more */
#define MACHNET_X_REASON_PROTOCOL 7u       /* the other host broke the rules of the protocol */
#define MACHNET_X_REASON_NO_SUCH_FLOW 8u   /* the other host does not know the flow */
#define MACHNET_X_REASON_LIMIT 9u          /* a limit of one of the daemons was reached */
#define MACHNET_X_REASON_SHUTDOWN 10u      /* one of the daemons was stopped */

/* A message, or what happened to a flow. Fields that are not about its kind are 0. */
typedef struct MachnetXItem {
  uint32_t kind;                   /* MACHNET_X_MESSAGE, ... */
  MachnetFlow_t flow;              /* as the send calls take it: src is this host */
  const MachnetIovec_t *segments;  /* the message: these, one after the other */
  size_t segments_len;             /* how many; one if the message came in one packet */
  size_t msg_size;                 /* its length in bytes */
  uint64_t acknowledged_messages;  /* how many messages that were sent on the flow the other host has acknowledged */
  uint16_t reason;                 /* MACHNET_X_REASON_... */
  uint16_t accepted;               /* 1: the other side connected; 0: this one did */
} MachnetXItem_t;

/*
 * Receives the next message where the daemon put it, without copying it, or what happened to a flow, in the order
 * in which it happened. Never waits. The message may be read, not written, until the next call with this channel of
 * a function that receives or looks for the next size, waits, arms or connects; sending does not end it.
 *
 * 1: *item; 0: nothing has arrived; -1: as machnet_recv.
 */
int machnet_x_receive(void *channel, MachnetXItem_t *item);

/* A reason in words, such as "the other host does not answer any more". */
const char *machnet_x_reason(uint16_t reason);

/*
 * ---- Ours: waiting -----------------------------------------------------------------------------------------------
 *
 * Times are in microseconds; a negative one has no end. What was appended is sent first. Waiting looks on for some
 * 50 microseconds, giving way to others, then sleeps.
 */

/*
 * Waits until something can be received; or, if room is no null pointer, until the message fits that was refused
 * last on that flow with EAGAIN, whichever comes first.
 *
 * 1: it is there; it may be only a part of a long message, or what happened to a flow, so that machnet_recv finds
 * nothing yet. 0: the time is up, or a signal came. -1: see errno.
 */
int machnet_x_wait(void *channel, const MachnetFlow_t *room, int64_t timeout_us);

/*
 * Waits only until the message fits that was refused last on a flow; 1 at once if none was. Two programs that only
 * ever wait for room may wait for each other: receive in between, or use machnet_x_wait.
 */
int machnet_x_wait_room(void *channel, MachnetFlow_t flow, int64_t timeout_us);

/*
 * A descriptor for poll, epoll and their like, or -1. It is the channel's: do not read, write or close it. It means
 * something after machnet_x_arm or machnet_x_arm_room.
 */
int machnet_x_fd(void *channel);

/*
 * Prepares a sleep on machnet_x_fd: call it before every one.
 *
 * 1: what machnet_x_wait would wait for is there, do not sleep. 0: the descriptor becomes readable when it is, or
 * when the daemon is gone. -1: see errno.
 */
int machnet_x_arm(void *channel, const MachnetFlow_t *room);

/* The same for what machnet_x_wait_room waits for. */
int machnet_x_arm_room(void *channel, MachnetFlow_t flow);

#ifdef __cplusplus
}
#endif

#endif
