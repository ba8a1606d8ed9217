/* What machnet-shards calls in libdpdk: macros, inline functions and thread-locals made callable, one call per burst.
 * Nothing is decided here. Negative results are -errno. src/lib.rs declares the same, with documentation. */
#ifndef MACHNET_SHARDS_DPDK_SHIM_H
#define MACHNET_SHARDS_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;

struct shim_frame {
	struct rte_mbuf *mbuf;
	uint8_t *data;
	uint16_t len;
	uint16_t capacity;
	uint8_t checksum; /* enum shim_checksum */
};

enum shim_checksum { SHIM_UNVERIFIED, SHIM_VERIFIED, SHIM_PARTIAL };

struct shim_port {
	char driver[64];
	char device[64];
	uint8_t mac[6];
	uint16_t max_mtu;
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t reta_size;
	uint16_t hash_key_size;
	int32_t socket;
	uint32_t kernel_interface;
	uint8_t hashes_udp;
	uint8_t checksums_udp;
	uint8_t link_up;
};

struct shim_configuration {
	uint16_t queues;
	uint16_t mtu;
	uint16_t key_len;
	uint8_t interrupts;
	uint8_t checksums;
	uint8_t key[64];
};

struct shim_rss {
	uint8_t key[64];
	uint16_t key_len;
	uint16_t table_len;
	uint16_t table[2048];
	uint8_t hashes_udp;
};

/* The process */
typedef void (*shim_sink)(uint32_t level, const char *text, size_t len);
int shim_log_to(shim_sink sink);
int shim_eal_init(int argc, char **argv);
int shim_eal_cleanup(void);
const char *shim_version(void);
const char *shim_driver_directory(void);
int shim_thread_register(void);
void shim_thread_unregister(void);

/* Memory */
struct rte_mempool *shim_pool_create(const char *name, uint32_t frames, uint32_t cache, uint16_t data_room, int socket,
				     int is_contiguous, int *error);
uint32_t shim_pool_available(const struct rte_mempool *pool);
void shim_pool_free(struct rte_mempool *pool);
int shim_allocate(struct rte_mempool *pool, struct shim_frame *frames, uint32_t count);
void shim_free(const struct shim_frame *frames, uint32_t count);

/* Ports */
int shim_probe(const char *device_arguments);
int shim_remove(uint16_t port);
int shim_port_after(int port);
int shim_port_named(const char *device, uint16_t *port);
int shim_port_describe(uint16_t port, struct shim_port *into);
int shim_ring_pair(const char *name, uint16_t queues, uint32_t slots, uint16_t ports[2]);
int shim_configure(uint16_t port, const struct shim_configuration *asked);
int shim_queue_setup(uint16_t port, uint16_t queue, uint16_t rx_slots, uint16_t tx_slots, int socket,
		     struct rte_mempool *pool);
int shim_start(uint16_t port);
int shim_promiscuous(uint16_t port);
int shim_rss_spread(uint16_t port, uint16_t table_len, uint16_t queues);
int shim_rss_read(uint16_t port, uint16_t table_len, uint16_t key_len, struct shim_rss *into);
int shim_losses(uint16_t port, uint64_t *missed, uint64_t *no_buffer);
void shim_stop(uint16_t port);
void shim_close(uint16_t port);

/* Interrupts */
int shim_interrupt_fd(uint16_t port, uint16_t queue);
int shim_interrupt_watch(uint16_t port, uint16_t queue, int epoll_fd);
int shim_interrupt_enable(uint16_t port, uint16_t queue);
int shim_interrupt_disable(uint16_t port, uint16_t queue);
int shim_interrupt_drain(int epoll_fd);

/* Bursts */
uint16_t shim_receive(uint16_t port, uint16_t queue, struct shim_frame *into, uint16_t max, uint64_t *chained);
uint16_t shim_transmit(uint16_t port, uint16_t queue, const struct shim_frame *frames, uint16_t count,
		       uint64_t *refused);

#endif
