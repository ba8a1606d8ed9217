/*
 * What a program that was made for Microsoft's Machnet sees of it: types and functions as its users know them, and
 * nothing of ours. Programs of the tests are compiled with this, linked with a library that does nothing, and run with
 * ours.
 */
#ifndef MACHNET_V1_H
#define MACHNET_V1_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MACHNET_MSG_MAX_LEN (8 * 1024 * 1024)
#define MACHNET_MSGBUF_NOTIFY_DELIVERY (1 << 7)

struct MachnetFlow {
  uint32_t src_ip;
  uint32_t dst_ip;
  uint16_t src_port;
  uint16_t dst_port;
};
typedef struct MachnetFlow MachnetFlow_t;

struct MachnetIovec {
  void *base;
  size_t len;
};
typedef struct MachnetIovec MachnetIovec_t;

struct MachnetMsgHdr {
  uint32_t msg_size;
  MachnetFlow_t flow_info;
  MachnetIovec_t *msg_iov;
  size_t msg_iovlen;
  uint16_t flags;
};
typedef struct MachnetMsgHdr MachnetMsgHdr_t;

extern int g_ctrl_socket;

int machnet_init(void);
void *machnet_attach(void);
int machnet_listen(void *channel, const char *local_ip, uint16_t port);
int machnet_connect(void *channel, const char *local_ip, const char *remote_ip, uint16_t remote_port,
                    MachnetFlow_t *flow);
int machnet_send(const void *channel, MachnetFlow_t flow, const void *buf, size_t len);
int machnet_sendmsg(const void *channel, const MachnetMsgHdr_t *msghdr);
int machnet_sendmmsg(const void *channel, const MachnetMsgHdr_t *msghdr_iovec, int vlen);
ssize_t machnet_recv(const void *channel, void *buf, size_t len, MachnetFlow_t *flow);
int machnet_recvmsg(const void *channel, MachnetMsgHdr_t *msghdr);

#ifdef __cplusplus
}
#endif

#endif
