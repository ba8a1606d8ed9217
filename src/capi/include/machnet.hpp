// machnet.h for C++17: a channel that gives itself back, failures as exceptions, and what is received as a variant.
// There is nothing to link beyond libmachnet. machnet.h says what everything means, and which thread may do what.
//
//     machnet::Channel channel;
//     const auto flow = channel.connect("10.0.0.1", "10.0.0.2", 888);
//     channel.send(flow, "How are you?");
//     for (;;) {
//       const auto received = channel.receive();
//       if (!received) {
//         channel.wait();
//       } else if (const auto *message = std::get_if<machnet::Message>(&*received)) {
//         std::cout << message->text() << '\n';
//         break;
//       }
//     }
#ifndef MACHNET_HPP
#define MACHNET_HPP

#include <machnet.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <variant>

namespace machnet {

/// A function failed: its code is the errno, and its text what to do.
class Error : public std::system_error {
 public:
  Error() : Error(errno) {}
  explicit Error(int number) : std::system_error(number, std::generic_category(), machnet_x_error()) {}
};

/// A flow, with this host as its source.
struct Flow : MachnetFlow_t {
  Flow() : MachnetFlow_t{} {}
  Flow(const MachnetFlow_t &flow) : MachnetFlow_t(flow) {}  // NOLINT: it is the same

  friend bool operator==(const Flow &a, const Flow &b) {
    return a.src_ip == b.src_ip && a.dst_ip == b.dst_ip && a.src_port == b.src_port && a.dst_port == b.dst_port;
  }
  friend bool operator!=(const Flow &a, const Flow &b) { return !(a == b); }
};

/// A message where the daemon put it: it may be looked at until the channel receives, waits, arms or connects next.
class Message {
 public:
  explicit Message(const MachnetXItem_t &item)
      : flow_(item.flow), segments_(item.segments), count_(item.segments_len), size_(item.msg_size) {}

  /// The flow it came over; an answer goes there.
  const Flow &flow() const { return flow_; }
  /// Its length in bytes, at least 1.
  std::size_t size() const { return size_; }

  /// The parts that one after the other are the message; one if it came in one packet.
  std::size_t segments() const { return count_; }
  std::string_view segment(std::size_t index) const {
    return {static_cast<const char *>(segments_[index].base), segments_[index].len};
  }

  /// A copy of the whole.
  std::string text() const {
    std::string whole;
    whole.reserve(size_);
    for (std::size_t i = 0; i < count_; i++) whole += segment(i);
    return whole;
  }

 private:
  friend class Channel;
  Flow flow_;
  const MachnetIovec_t *segments_;
  std::size_t count_, size_;
};

/// The first event of every flow.
struct Opened {
  Flow flow;
  /// Whether the other side connected.
  bool accepted;
};

/// The last event of every flow.
struct Closed {
  Flow flow;
  /// MACHNET_X_REASON_...
  std::uint16_t reason;
  /// How many messages that were sent on it the other host has acknowledged.
  std::uint64_t acknowledged_messages;

  /// The reason in words.
  const char *why() const { return machnet_x_reason(reason); }
};

/// The other host has not answered for some seconds.
struct Silent {
  Flow flow;
};

/// It answers again.
struct Alive {
  Flow flow;
};

using Received = std::variant<Message, Opened, Closed, Silent, Alive>;

/// A channel to the daemon; given back when it is destroyed. One thread at a time.
class Channel {
 public:
  using Microseconds = std::chrono::microseconds;

  /// Attaches to the daemon of this host. Throws Error, as does everything here that fails.
  Channel() : Channel(machnet_attach()) {}
  /// Attaches to the daemon at this socket, or with one shard only.
  explicit Channel(const std::string &socket, std::int32_t shard = MACHNET_X_ALL_SHARDS)
      : Channel(machnet_x_attach(socket.c_str(), shard)) {}

  /// For the functions of machnet.h.
  void *get() const { return channel_.get(); }

  /// Accepts flows there; an empty address is the daemon's only one, port 0 a free one. Gives the port.
  std::uint16_t listen(const std::string &local_ip, std::uint16_t port, bool shared = false) {
    check(machnet_x_listen(get(), local_ip.c_str(), &port, shared ? MACHNET_X_SHARED : 0));
    return port;
  }
  void unlisten(const std::string &local_ip, std::uint16_t port) {
    check(machnet_x_unlisten(get(), local_ip.c_str(), port));
  }

  /// Opens a flow, and waits for the other host; 5 seconds unless another time is given.
  Flow connect(const std::string &local_ip, const std::string &remote_ip, std::uint16_t port,
               std::optional<Microseconds> timeout = std::nullopt, std::int32_t shard = MACHNET_X_ANY_SHARD) {
    MachnetFlow_t flow;
    check(machnet_x_connect(get(), local_ip.c_str(), remote_ip.c_str(), port, number(timeout), shard, &flow));
    return flow;
  }

  /// Sends a message; false: there is no room now, wait for it.
  bool send(const Flow &flow, std::string_view message) {
    return has_room(machnet_send(get(), flow, message.data(), message.size()));
  }
  /// Sends a received message, from where it lies.
  bool send(const Flow &flow, const Message &message) {
    MachnetMsgHdr_t header{};
    header.msg_size = static_cast<std::uint32_t>(message.size());
    header.flow_info = flow;
    header.msg_iov = const_cast<MachnetIovec_t *>(message.segments_);
    header.msg_iovlen = message.count_;
    return has_room(machnet_sendmsg(get(), &header));
  }
  /// The same, but it is under way only after the next flush, send, wait, or receive that finds nothing.
  bool append(const Flow &flow, std::string_view message) {
    return has_room(machnet_x_append(get(), flow, message.data(), message.size()));
  }
  void flush() { check(machnet_x_flush(get())); }

  /// The next message, or what happened to a flow, if there is one. Never waits.
  std::optional<Received> receive() {
    MachnetXItem_t item;
    const int got = machnet_x_receive(get(), &item);
    check(got);
    if (got == 0) return std::nullopt;
    switch (item.kind) {
      case MACHNET_X_OPENED:
        return Opened{item.flow, item.accepted != 0};
      case MACHNET_X_CLOSED:
        return Closed{item.flow, item.reason, item.acknowledged_messages};
      case MACHNET_X_SILENT:
        return Silent{item.flow};
      case MACHNET_X_ALIVE:
        return Alive{item.flow};
      default:
        return Message(item);
    }
  }

  /// Waits until something can be received; false: the time is up, or a signal came. Without a time there is no end.
  bool wait(std::optional<Microseconds> timeout = std::nullopt) {
    return check(machnet_x_wait(get(), nullptr, number(timeout)));
  }
  /// The same, or until the message fits that was refused last on that flow.
  bool wait_either(const Flow &flow, std::optional<Microseconds> timeout = std::nullopt) {
    return check(machnet_x_wait(get(), &flow, number(timeout)));
  }
  /// Waits only for room on a flow.
  bool wait_room(const Flow &flow, std::optional<Microseconds> timeout = std::nullopt) {
    return check(machnet_x_wait_room(get(), flow, number(timeout)));
  }

  /// The descriptor for poll and its like, after one of the next three said false.
  int fd() const {
    const int fd = machnet_x_fd(get());
    check(fd);
    return fd;
  }
  /// Prepares a sleep on the descriptor; true: what would be waited for is there.
  bool arm() { return check(machnet_x_arm(get(), nullptr)); }
  bool arm_either(const Flow &flow) { return check(machnet_x_arm(get(), &flow)); }
  bool arm_room(const Flow &flow) { return check(machnet_x_arm_room(get(), flow)); }

  /// Ends a flow after all that was sent, or at once.
  void close(const Flow &flow) { check(machnet_x_close(get(), flow)); }
  void abort(const Flow &flow) { check(machnet_x_abort(get(), flow)); }

  /// Bytes that were sent on a flow and are not known to have arrived; and their limit from now on.
  std::uint64_t unacknowledged_bytes(const Flow &flow) {
    const std::int64_t bytes = machnet_x_unacknowledged_bytes(get(), flow);
    if (bytes < 0) throw Error();
    return static_cast<std::uint64_t>(bytes);
  }
  void limit_unacknowledged(const Flow &flow, std::size_t bytes) {
    check(machnet_x_limit_unacknowledged(get(), flow, bytes));
  }

 private:
  struct Detach {
    void operator()(void *channel) const { machnet_detach(channel); }
  };

  explicit Channel(void *channel) : channel_(channel) {
    if (!channel_) throw Error();
  }

  static bool check(int status) {
    if (status < 0) throw Error();
    return status != 0;
  }
  static bool has_room(int status) {
    if (status < 0 && errno == EAGAIN) return false;
    check(status);
    return true;
  }
  static std::int64_t number(std::optional<Microseconds> timeout) { return timeout ? timeout->count() : -1; }

  std::unique_ptr<void, Detach> channel_;
};

}  // namespace machnet

/// For flows as keys of unordered containers.
template <>
struct std::hash<machnet::Flow> {
  std::size_t operator()(const machnet::Flow &flow) const noexcept {
    const auto two = [](std::uint64_t high, std::uint64_t low) { return high << 32 | low; };
    const std::uint64_t ports = two(flow.src_port, flow.dst_port);
    return std::hash<std::uint64_t>()(two(flow.src_ip, flow.dst_ip) ^ ports * 0x9E3779B97F4A7C15u);
  }
};

#endif
