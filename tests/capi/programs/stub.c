/* The library that programs of Machnet's are linked with before they are run with ours: every function fails. */
#include "machnet_v1.h"

int g_ctrl_socket = -7;

int machnet_init(void) { return -7; }

void *machnet_attach(void) { return NULL; }

int machnet_listen(void *channel, const char *local_ip, uint16_t port) {
  (void)channel, (void)local_ip, (void)port;
  return -7;
}

int machnet_connect(void *channel, const char *local_ip, const char *remote_ip, uint16_t remote_port,
                    MachnetFlow_t *flow) {
  (void)channel, (void)local_ip, (void)remote_ip, (void)remote_port, (void)flow;
  return -7;
}

int machnet_send(const void *channel, MachnetFlow_t flow, const void *buf, size_t len) {
  (void)channel, (void)flow, (void)buf, (void)len;
  return -7;
}

int machnet_sendmsg(const void *channel, const MachnetMsgHdr_t *msghdr) {
  (void)channel, (void)msghdr;
  return -7;
}

int machnet_sendmmsg(const void *channel, const MachnetMsgHdr_t *msghdr_iovec, int vlen) {
  (void)channel, (void)msghdr_iovec, (void)vlen;
  return -7;
}

ssize_t machnet_recv(const void *channel, void *buf, size_t len, MachnetFlow_t *flow) {
  (void)channel, (void)buf, (void)len, (void)flow;
  return -7;
}

int machnet_recvmsg(const void *channel, MachnetMsgHdr_t *msghdr) {
  (void)channel, (void)msghdr;
  return -7;
}
