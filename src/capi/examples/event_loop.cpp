// A server in an event loop of its own: poll waits for messages or for room to answer in, and for the time to say how
// many there were. The other side is a request_response that asks.
//
//     c++ -std=c++17 event_loop.cpp $(pkg-config --cflags --libs machnet) -o event_loop
//     ./event_loop LOCAL_IP
#include <poll.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <iostream>
#include <machnet.hpp>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace {

constexpr std::uint16_t kPort = 888;
constexpr auto kReportEvery = std::chrono::seconds(1);

class Server {
 public:
  explicit Server(const std::string &local_ip) { channel_.listen(local_ip, kPort); }

  // Answers what has come, until nothing has or there is no room for an answer.
  void answer_all() {
    if (waiting_ && !answer(waiting_->first, waiting_->second)) return;
    waiting_.reset();
    while (auto received = channel_.receive()) {
      const auto *message = std::get_if<machnet::Message>(&*received);
      if (message && !answer(message->flow(), *message)) {
        waiting_.emplace(message->flow(), message->text());
        return;
      }
    }
  }

  std::uint64_t answered() const { return answered_; }

  // Sleeps until there is something to do, or the time is up.
  void sleep(std::chrono::milliseconds timeout) {
    if (waiting_ ? channel_.arm_room(waiting_->first) : channel_.arm()) return;
    pollfd on{channel_.fd(), POLLIN, 0};
    poll(&on, 1, static_cast<int>(timeout.count()));
  }

 private:
  // False: there is no room. Who has gone needs no answer.
  template <typename Bytes>
  bool answer(const machnet::Flow &flow, const Bytes &bytes) {
    try {
      if (!channel_.send(flow, bytes)) return false;
      ++answered_;
    } catch (const machnet::Error &error) {
      if (error.code() != std::errc::not_connected) throw;
    }
    return true;
  }

  machnet::Channel channel_;
  std::optional<std::pair<machnet::Flow, std::string>> waiting_;
  std::uint64_t answered_ = 0;
};

void serve(const char *local_ip) {
  Server server(local_ip);
  std::cout << "Listening on " << local_ip << ':' << kPort << '.' << std::endl;
  std::uint64_t reported = 0;
  auto report_at = std::chrono::steady_clock::now() + kReportEvery;
  for (;;) {
    server.answer_all();
    const auto now = std::chrono::steady_clock::now();
    if (now >= report_at) {
      if (server.answered() != reported) std::cout << "Answered " << server.answered() << " requests." << std::endl;
      reported = server.answered();
      report_at = now + kReportEvery;
    }
    server.sleep(std::chrono::ceil<std::chrono::milliseconds>(report_at - now));
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
