#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ether.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_ip.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_udp.h>
#include <rte_version.h>

#define BURST_MAX 64
#define TABLE_MAX (sizeof(((struct shim_rss *)0)->table) / sizeof(uint16_t))
#define TABLE_GROUPS (TABLE_MAX / RTE_ETH_RETA_GROUP_SIZE)
/* Checksums left to a device: those it makes, and those it checks, if it can. */
#define CHECKSUMS_TX RTE_ETH_TX_OFFLOAD_UDP_CKSUM
#define CHECKSUMS_RX RTE_ETH_RX_OFFLOAD_UDP_CKSUM
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* ---- The process ---- */

static shim_sink log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	log_sink((uint32_t)rte_log_cur_msg_loglevel(), text, len);
	return (ssize_t)len;
}

int shim_log_to(shim_sink sink)
{
	cookie_io_functions_t functions = {.write = log_write};
	log_sink = sink;
	FILE *stream = fopencookie(NULL, "w", functions);
	return stream == NULL ? -ENOMEM : rte_openlog_stream(stream);
}

int shim_eal_init(int argc, char **argv)
{
	return rte_eal_init(argc, argv) < 0 ? -rte_errno : 0;
}

int shim_eal_cleanup(void)
{
	return rte_eal_cleanup();
}

const char *shim_version(void)
{
	return rte_version();
}

const char *shim_driver_directory(void)
{
	return RTE_EAL_PMD_PATH;
}

int shim_thread_register(void)
{
	return rte_thread_register() < 0 ? -rte_errno : 0;
}

void shim_thread_unregister(void)
{
	rte_thread_unregister();
}

/* ---- Memory ---- */

struct rte_mempool *shim_pool_create(const char *name, uint32_t frames, uint32_t cache, uint16_t data_room, int socket,
				     int is_contiguous, int *error)
{
	struct rte_pktmbuf_pool_private private_data = {.mbuf_data_room_size = data_room};
	unsigned int element = (unsigned int)sizeof(struct rte_mbuf) + data_room;
	unsigned int flags = is_contiguous ? 0 : RTE_MEMPOOL_F_NO_IOVA_CONTIG;
	struct rte_mempool *pool =
		rte_mempool_create_empty(name, frames, element, cache, sizeof(private_data), socket, flags);
	if (pool == NULL) {
		*error = -rte_errno;
		return NULL;
	}
	*error = rte_mempool_set_ops_byname(pool, RTE_MBUF_DEFAULT_MEMPOOL_OPS, NULL);
	if (*error == 0) {
		rte_pktmbuf_pool_init(pool, &private_data);
		int populated = rte_mempool_populate_default(pool);
		*error = populated < 0 ? populated : 0;
	}
	if (*error != 0) {
		rte_mempool_free(pool);
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

uint32_t shim_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

void shim_pool_free(struct rte_mempool *pool)
{
	rte_mempool_free(pool);
}

static inline void describe(struct shim_frame *frame, struct rte_mbuf *mbuf)
{
	frame->mbuf = mbuf;
	frame->data = rte_pktmbuf_mtod(mbuf, uint8_t *);
	frame->len = mbuf->data_len;
	frame->capacity = mbuf->buf_len - mbuf->data_off;
	frame->checksum = SHIM_UNVERIFIED;
}

/* What the device says of the UDP checksum of a frame it has received. */
static inline uint8_t checksum_of(const struct rte_mbuf *mbuf)
{
	switch (mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) {
	case RTE_MBUF_F_RX_L4_CKSUM_GOOD:
		return SHIM_VERIFIED;
	case RTE_MBUF_F_RX_L4_CKSUM_NONE:
		return SHIM_PARTIAL;
	default: /* also for a bad one: who looks for himself can say so */
		return SHIM_UNVERIFIED;
	}
}

int shim_allocate(struct rte_mempool *pool, struct shim_frame *frames, uint32_t count)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	count = MIN(count, BURST_MAX);
	int result = rte_pktmbuf_alloc_bulk(pool, mbufs, count);
	if (result != 0)
		return result;
	for (uint32_t i = 0; i < count; i++)
		describe(&frames[i], mbufs[i]);
	return (int)count;
}

void shim_free(const struct shim_frame *frames, uint32_t count)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	while (count > 0) {
		uint32_t burst = MIN(count, BURST_MAX);
		for (uint32_t i = 0; i < burst; i++)
			mbufs[i] = frames[i].mbuf;
		rte_pktmbuf_free_bulk(mbufs, burst);
		frames += burst;
		count -= burst;
	}
}

/* ---- Ports ---- */

int shim_probe(const char *device_arguments)
{
	return rte_dev_probe(device_arguments);
}

int shim_remove(uint16_t port)
{
	struct rte_eth_dev_info details;
	int result = rte_eth_dev_info_get(port, &details);
	return result != 0 ? result : rte_dev_remove(details.device);
}

int shim_port_after(int port)
{
	uint64_t next = rte_eth_find_next_owned_by((uint16_t)(port + 1), RTE_ETH_DEV_NO_OWNER);
	return next < RTE_MAX_ETHPORTS ? (int)next : -ENODEV;
}

int shim_port_named(const char *device, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(device, port);
}

int shim_port_describe(uint16_t port, struct shim_port *into)
{
	struct rte_eth_dev_info details;
	struct rte_ether_addr mac;
	struct rte_eth_link link;
	memset(into, 0, sizeof(*into));
	int result = rte_eth_dev_info_get(port, &details);
	if (result != 0)
		return result;
	snprintf(into->driver, sizeof(into->driver), "%s", details.driver_name);
	rte_eth_dev_get_name_by_port(port, into->device);
	if (rte_eth_macaddr_get(port, &mac) == 0)
		memcpy(into->mac, mac.addr_bytes, sizeof(into->mac));
	into->max_mtu = details.max_mtu;
	into->max_rx_queues = details.max_rx_queues;
	into->max_tx_queues = details.max_tx_queues;
	into->reta_size = details.reta_size;
	into->hash_key_size = details.hash_key_size;
	into->socket = rte_eth_dev_socket_id(port);
	into->kernel_interface = details.if_index;
	into->hashes_udp = (details.flow_type_rss_offloads & RTE_ETH_RSS_NONFRAG_IPV4_UDP) != 0;
	into->checksums_udp = (details.tx_offload_capa & CHECKSUMS_TX) != 0;
	into->link_up = rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
	return 0;
}

int shim_ring_pair(const char *name, uint16_t queues, uint32_t slots, uint16_t ports[2])
{
	struct rte_ring *rings[2][RTE_PMD_RING_MAX_RX_RINGS];
	char ring_name[RTE_RING_NAMESIZE];
	if (queues > RTE_PMD_RING_MAX_RX_RINGS)
		return -EINVAL;
	for (int way = 0; way < 2; way++) {
		for (uint16_t queue = 0; queue < queues; queue++) {
			snprintf(ring_name, sizeof(ring_name), "%s_%d_%u", name, way, queue);
			rings[way][queue] =
				rte_ring_create(ring_name, slots, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
			if (rings[way][queue] == NULL)
				return -rte_errno;
		}
	}
	for (int end = 0; end < 2; end++) {
		snprintf(ring_name, sizeof(ring_name), "%s_%d", name, end);
		int port = rte_eth_from_rings(ring_name, rings[end], queues, rings[1 - end], queues, 0);
		if (port < 0)
			return -rte_errno;
		ports[end] = (uint16_t)port;
	}
	return 0;
}

int shim_configure(uint16_t port, const struct shim_configuration *asked)
{
	struct rte_eth_dev_info details;
	struct rte_eth_conf wanted;
	int result = rte_eth_dev_info_get(port, &details);
	if (result != 0)
		return result;
	memset(&wanted, 0, sizeof(wanted));
	uint64_t types = (RTE_ETH_RSS_IP | RTE_ETH_RSS_NONFRAG_IPV4_UDP) & details.flow_type_rss_offloads;
	if (types != 0 && asked->queues > 1) {
		wanted.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		wanted.rx_adv_conf.rss_conf.rss_hf = types;
		if (asked->key_len != 0) {
			/* The library keeps the pointer for as long as the port lives. */
			static uint8_t keys[RTE_MAX_ETHPORTS][sizeof(asked->key)];
			memcpy(keys[port], asked->key, sizeof(asked->key));
			wanted.rx_adv_conf.rss_conf.rss_key = keys[port];
			wanted.rx_adv_conf.rss_conf.rss_key_len = (uint8_t)asked->key_len;
		}
	}
	if (asked->checksums) {
		wanted.txmode.offloads |= CHECKSUMS_TX;
		wanted.rxmode.offloads |= CHECKSUMS_RX & details.rx_offload_capa;
	}
	wanted.rxmode.mtu = asked->mtu;
	wanted.intr_conf.rxq = asked->interrupts != 0;
	return rte_eth_dev_configure(port, asked->queues, asked->queues, &wanted);
}

int shim_queue_setup(uint16_t port, uint16_t queue, uint16_t rx_slots, uint16_t tx_slots, int socket,
		     struct rte_mempool *pool)
{
	int result = rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx_slots, &tx_slots);
	if (result != 0)
		return result;
	result = rte_eth_rx_queue_setup(port, queue, rx_slots, (unsigned int)socket, NULL, pool);
	if (result != 0)
		return result;
	return rte_eth_tx_queue_setup(port, queue, tx_slots, (unsigned int)socket, NULL);
}

int shim_start(uint16_t port)
{
	return rte_eth_dev_start(port);
}

int shim_promiscuous(uint16_t port)
{
	return rte_eth_promiscuous_enable(port);
}

int shim_rss_spread(uint16_t port, uint16_t table_len, uint16_t queues)
{
	struct rte_eth_rss_reta_entry64 table[TABLE_GROUPS];
	if (table_len > TABLE_MAX || queues == 0)
		return -E2BIG;
	memset(table, 0, sizeof(table));
	for (uint16_t entry = 0; entry < table_len; entry++) {
		table[entry / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << (entry % RTE_ETH_RETA_GROUP_SIZE);
		table[entry / RTE_ETH_RETA_GROUP_SIZE].reta[entry % RTE_ETH_RETA_GROUP_SIZE] = entry % queues;
	}
	return rte_eth_dev_rss_reta_update(port, table, table_len);
}

int shim_rss_read(uint16_t port, uint16_t table_len, uint16_t key_len, struct shim_rss *into)
{
	struct rte_eth_rss_reta_entry64 table[TABLE_GROUPS];
	memset(into, 0, sizeof(*into));
	memset(table, 0, sizeof(table));
	if (table_len > TABLE_MAX || key_len > sizeof(into->key))
		return -E2BIG;
	struct rte_eth_rss_conf hash = {.rss_key = into->key, .rss_key_len = (uint8_t)key_len};
	int result = rte_eth_dev_rss_hash_conf_get(port, &hash);
	if (result != 0)
		return result;
	for (size_t group = 0; group < TABLE_GROUPS; group++)
		table[group].mask = UINT64_MAX;
	result = rte_eth_dev_rss_reta_query(port, table, table_len);
	if (result != 0)
		return result;
	for (uint16_t entry = 0; entry < table_len; entry++)
		into->table[entry] = table[entry / RTE_ETH_RETA_GROUP_SIZE].reta[entry % RTE_ETH_RETA_GROUP_SIZE];
	into->table_len = table_len;
	into->key_len = key_len;
	into->hashes_udp = (hash.rss_hf & RTE_ETH_RSS_NONFRAG_IPV4_UDP) != 0;
	return 0;
}

int shim_losses(uint16_t port, uint64_t *missed, uint64_t *no_buffer)
{
	struct rte_eth_stats counters;
	int result = rte_eth_stats_get(port, &counters);
	if (result == 0) {
		*missed = counters.imissed;
		*no_buffer = counters.rx_nombuf;
	}
	return result;
}

void shim_stop(uint16_t port)
{
	(void)!rte_eth_dev_stop(port);
}

void shim_close(uint16_t port)
{
	(void)!rte_eth_dev_close(port);
}

/* ---- Interrupts ---- */

int shim_interrupt_fd(uint16_t port, uint16_t queue)
{
	return rte_eth_dev_rx_intr_ctl_q_get_fd(port, queue);
}

int shim_interrupt_watch(uint16_t port, uint16_t queue, int epoll_fd)
{
	return rte_eth_dev_rx_intr_ctl_q(port, queue, epoll_fd, RTE_INTR_EVENT_ADD, NULL);
}

int shim_interrupt_enable(uint16_t port, uint16_t queue)
{
	return rte_eth_dev_rx_intr_enable(port, queue);
}

int shim_interrupt_disable(uint16_t port, uint16_t queue)
{
	return rte_eth_dev_rx_intr_disable(port, queue);
}

int shim_interrupt_drain(int epoll_fd)
{
	struct rte_epoll_event event;
	return rte_epoll_wait(epoll_fd, &event, 1, 0);
}

/* ---- Bursts ---- */

uint16_t shim_receive(uint16_t port, uint16_t queue, struct shim_frame *into, uint16_t max, uint64_t *chained)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t count = rte_eth_rx_burst(port, queue, mbufs, MIN(max, BURST_MAX));
	uint16_t kept = 0;
	for (uint16_t i = 0; i < count; i++) {
		if (unlikely(mbufs[i]->nb_segs != 1)) {
			rte_pktmbuf_free(mbufs[i]);
			*chained += 1;
			continue;
		}
		/* The packet's headers, which are read after all others of the burst have been described. */
		rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], void *));
		rte_prefetch0(rte_pktmbuf_mtod_offset(mbufs[i], void *, RTE_CACHE_LINE_SIZE));
		describe(&into[kept], mbufs[i]);
		into[kept++].checksum = checksum_of(mbufs[i]);
	}
	return kept;
}

/* Asks the device to complete the UDP checksum; whether it was asked. */
static inline int leave_checksum(struct rte_mbuf *mbuf, uint8_t checksum)
{
	if (checksum != SHIM_PARTIAL)
		return 0;
	mbuf->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_UDP_CKSUM;
	mbuf->l2_len = sizeof(struct rte_ether_hdr);
	mbuf->l3_len = sizeof(struct rte_ipv4_hdr);
	mbuf->l4_len = sizeof(struct rte_udp_hdr);
	return 1;
}

uint16_t shim_transmit(uint16_t port, uint16_t queue, const struct shim_frame *frames, uint16_t count,
		       uint64_t *refused)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t sent = 0;
	while (sent < count) {
		uint16_t burst = MIN((uint16_t)(count - sent), BURST_MAX);
		int left = 0;
		for (uint16_t i = 0; i < burst; i++) {
			mbufs[i] = frames[sent + i].mbuf;
			mbufs[i]->data_len = frames[sent + i].len;
			mbufs[i]->pkt_len = frames[sent + i].len;
			left |= leave_checksum(mbufs[i], frames[sent + i].checksum);
		}
		uint16_t ready = left ? rte_eth_tx_prepare(port, queue, mbufs, burst) : burst;
		uint16_t taken = rte_eth_tx_burst(port, queue, mbufs, ready);
		sent += taken;
		if (taken < ready)
			break;
		if (unlikely(ready < burst)) {
			rte_pktmbuf_free(mbufs[ready]);
			sent += 1;
			*refused += 1;
		}
	}
	return sent;
}
