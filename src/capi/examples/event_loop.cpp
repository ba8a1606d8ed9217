// A server in an event loop of its own: poll waits for messages or for room to answer in, and for the time to say how
// many there were. The other side is a request_response that asks.
//
//     c++ -std=c++17 event_loop.cpp $(pkg-config --cflags --libs machnet) -o event_loop
//     ./event_loop LOCAL_IP
#include <machnet.h>
#include <poll.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::uint16_t kPort = 888;
constexpr auto kReportEvery = std::chrono::seconds(1);

struct Detach {
  void operator()(void *channel) const { machnet_detach(channel); }
};
using Channel = std::unique_ptr<void, Detach>;

[[noreturn]] void fail(const std::string &what) {
  throw std::runtime_error("cannot " + what + ": " + machnet_x_error());
}

// An answer that found no room.
struct Waiting {
  MachnetFlow_t flow;
  std::vector<char> bytes;
};

// False: there is no room. Who has gone needs no answer.
bool answer(void *channel, MachnetFlow_t flow, const std::vector<char> &bytes, std::uint64_t *answered) {
  if (machnet_send(channel, flow, bytes.data(), bytes.size()) == 0) {
    ++*answered;
  } else if (errno == EAGAIN) {
    return false;
  } else if (errno != ENOTCONN) {
    fail("answer");
  }
  return true;
}

// Answers what has come, until nothing has or there is no room for an answer.
std::optional<Waiting> answer_all(void *channel, std::uint64_t *answered) {
  for (;;) {
    MachnetXItem_t item;
    const int got = machnet_x_receive(channel, &item);
    if (got < 0) fail("receive");
    if (got == 0) return std::nullopt;
    if (item.kind != MACHNET_X_MESSAGE) continue;
    std::vector<char> bytes;
    for (std::size_t i = 0; i < item.segments_len; i++) {
      const auto *begin = static_cast<const char *>(item.segments[i].base);
      bytes.insert(bytes.end(), begin, begin + item.segments[i].len);
    }
    if (!answer(channel, item.flow, bytes, answered)) return Waiting{item.flow, std::move(bytes)};
  }
}

void serve(const char *local_ip) {
  const Channel channel(machnet_attach());
  if (!channel) fail("attach");
  if (machnet_listen(channel.get(), local_ip, kPort) != 0) fail("listen");
  std::cout << "Listening on " << local_ip << ':' << kPort << '.' << std::endl;

  std::uint64_t answered = 0, reported = 0;
  std::optional<Waiting> waiting;
  auto report_at = std::chrono::steady_clock::now() + kReportEvery;
  for (;;) {
    if (waiting && answer(channel.get(), waiting->flow, waiting->bytes, &answered)) waiting.reset();
    if (!waiting) waiting = answer_all(channel.get(), &answered);

    const auto now = std::chrono::steady_clock::now();
    if (now >= report_at) {
      if (answered != reported) std::cout << "Answered " << answered << " requests." << std::endl;
      reported = answered;
      report_at = now + kReportEvery;
    }
    const int there = waiting ? machnet_x_arm_room(channel.get(), waiting->flow) : machnet_x_arm(channel.get(), nullptr);
    if (there < 0) fail("arm");
    if (there == 0) {
      pollfd on{machnet_x_fd(channel.get()), POLLIN, 0};
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(report_at - now);
      poll(&on, 1, static_cast<int>(left.count()) + 1);
    }
  }
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 2) {
    std::cerr << "usage: event_loop LOCAL_IP\n";
    return 2;
  }
  try {
    serve(arguments[1]);
  } catch (const std::exception &error) {
    std::cerr << "event_loop: " << error.what() << '\n';
    return 1;
  }
}
