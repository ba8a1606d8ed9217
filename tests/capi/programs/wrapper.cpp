// The C++ header against an echo server of echo.c on another host.
//
//     wrapper LOCAL_IP REMOTE_IP
#include <poll.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <machnet.hpp>
#include <unordered_set>
#include <utility>

namespace {

constexpr std::uint16_t kPort = 31580, kNobody = 9;
using std::chrono::milliseconds;

void check(bool is_so, const char *what) {
  if (is_so) return;
  std::cerr << "wrapper: not so: " << what << '\n';
  std::exit(1);
}
#define CHECK(is_so) check((is_so), #is_so)

// The next thing, which must be of this type.
template <typename T>
T next(machnet::Channel &channel) {
  for (;;) {
    if (auto received = channel.receive()) {
      CHECK(std::holds_alternative<T>(*received));
      return std::get<T>(*received);
    }
    channel.wait();
  }
}

template <typename Act>
void fails(Act act, std::errc code) {
  try {
    act();
  } catch (const machnet::Error &error) {
    CHECK(error.code() == code);
    CHECK(std::string(error.what()).size() > 20);
    return;
  }
  CHECK(!"it fails");
}

void talk(const std::string &local, const std::string &remote) {
  fails([] { machnet::Channel nobody("/nonexistent"); }, std::errc::connection_refused);
  machnet::Channel first;
  fails([&] { first.connect(local, remote, kNobody); }, std::errc::connection_refused);
  machnet::Channel channel = std::move(first);
  CHECK(first.get() == nullptr);

  const machnet::Flow flow = channel.connect(local, remote, kPort, milliseconds(2000));
  CHECK(flow.dst_port == kPort);
  CHECK(!next<machnet::Opened>(channel).accepted);
  for (std::size_t size : {1, 1418, 1419, 100000}) {
    const std::string sent(size, 'x');
    CHECK(channel.send(flow, sent));
    const auto message = next<machnet::Message>(channel);
    CHECK(message.flow() == flow && message.size() == size && message.text() == sent);
    CHECK(size > 1418 || message.segments() == 1);
    CHECK(channel.send(flow, message));
    CHECK(next<machnet::Message>(channel).text() == sent);
  }
  for (int i = 0; i < 10; i++) CHECK(channel.append(flow, "small"));
  channel.flush();
  for (int i = 0; i < 10; i++) CHECK(next<machnet::Message>(channel).segment(0) == "small");

  CHECK(!channel.wait(milliseconds(10)));
  CHECK(channel.wait_room(flow) && channel.wait_either(flow));
  CHECK(!channel.arm() && channel.arm_room(flow) && channel.arm_either(flow));
  CHECK(channel.send(flow, "wake up"));
  while (!channel.arm()) {
    pollfd on{channel.fd(), POLLIN, 0};
    CHECK(poll(&on, 1, 60000) == 1);
  }
  CHECK(next<machnet::Message>(channel).text() == "wake up");
  fails([&] { channel.send(flow, ""); }, std::errc::invalid_argument);

  channel.limit_unacknowledged(flow, 10000);
  const std::string large(1 << 20, 'y');
  while (!channel.send(flow, large)) channel.wait_room(flow);
  CHECK(!channel.send(flow, large));
  CHECK(next<machnet::Message>(channel).size() == large.size());
  CHECK(channel.unacknowledged_bytes(flow) <= large.size());

  channel.close(flow);
  const auto closed = next<machnet::Closed>(channel);
  CHECK(closed.flow == flow && closed.reason == MACHNET_X_REASON_CLOSED && closed.acknowledged_messages > 8);
  CHECK(std::string(closed.why()) == "closed");
  fails([&] { channel.abort(flow); }, std::errc::not_connected);
}

void listen(const std::string &local) {
  machnet::Channel listener, other;
  const std::uint16_t port = listener.listen("", 0);
  fails([&] { other.listen(local, port); }, std::errc::address_in_use);
  std::unordered_set<machnet::Flow> accepted;
  for (int i = 0; i < 3; i++) {
    const auto flow = other.connect(local, local, port);
    const auto opened = next<machnet::Opened>(listener);
    CHECK(opened.accepted && opened.flow == machnet_x_reversed(flow));
    accepted.insert(opened.flow);
  }
  CHECK(accepted.size() == 3);
  listener.unlisten(local, port);
  fails([&] { other.connect(local, local, port); }, std::errc::connection_refused);
}

}  // namespace

int main(int count, char **arguments) {
  CHECK(count == 3);
  talk(arguments[1], arguments[2]);
  listen(arguments[1]);
  std::cout << "All is well" << std::endl;
}
