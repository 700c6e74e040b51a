// Programs that nobody wrote for us: Debian's Python and Redis.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/scoped_fd.h"
#include "restore/round_trip.h"

namespace incr {
namespace {

#define ASSERT_OK(expression)                  \
  do {                                         \
    const absl::Status status_ = (expression); \
    ASSERT_TRUE(status_.ok()) << status_;      \
  } while (0)

constexpr char kPython[] = R"(
import hashlib, os, signal, sys, tempfile, threading, time
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
table = {i: hashlib.sha256(str(i).encode()).hexdigest() for i in range(100000)}
lock, done = threading.Lock(), [0] * 4
def work(n):
    i = n
    while not stop.is_set():
        for _ in range(50):
            i = (i * 1103515245 + 12345) % 100000
            if table[i] != hashlib.sha256(str(i).encode()).hexdigest():
                print('BAD', i); os._exit(1)
        with lock: done[n] += 1
        time.sleep(0.001)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for t in threads: t.start()
lines = open(sys.argv[1], 'w+')
print('ready', flush=True)
tick = 0
while not stop.wait(0.005):
    lines.write('line %d\n' % tick); lines.flush()
    print('tick', tick, min(done), flush=True)
    tick += 1
for t in threads: t.join()
lines.seek(0)
assert [int(l.split()[1]) for l in lines] == list(range(tick))
print('done', flush=True)
)";

TEST(RealPrograms, PythonWithThreadsAndADictGoesOn) {
  if (access("/usr/bin/python3", X_OK) != 0) GTEST_SKIP() << "no /usr/bin/python3";
  RoundTrip trip;
  ASSERT_OK(trip.Start({"/usr/bin/python3", "-c", kPython, trip.directory() + "/lines"}));
  for (int round = 0; round < 4; ++round) {
    ASSERT_OK(trip.WaitForLine("tick"));
    auto epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    trip.Kill();
    ASSERT_OK(trip.Restore(*epoch));
    for (int i = 0; i < 10; ++i) ASSERT_OK(trip.WaitForLine("tick"));
  }
  trip.Signal(SIGTERM);
  EXPECT_EQ(trip.WaitForExit(), 0) << trip.output();
}

// One command to a Redis on loopback; "" if there is no answer within 5 s.
std::string Ask(int port, const std::string& command) {
  const int64_t deadline_us = MonotonicMicros() + 5'000'000;
  while (MonotonicMicros() < deadline_us) {
    ScopedFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    timeval timeout{2, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    char answer[4096];
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
        ::write(fd.get(), (command + "\r\n").data(), command.size() + 2) > 0) {
      const ssize_t n = ::read(fd.get(), answer, sizeof answer);
      if (n > 0) return std::string(answer, n);
    }
    usleep(10'000);
  }
  return "";
}

TEST(RealPrograms, RedisAnswersWithTheDataOfItsEpoch) {
  if (access("/usr/bin/redis-server", X_OK) != 0) GTEST_SKIP() << "no /usr/bin/redis-server";
  const int port = 20000 + getpid() % 10000;
  RoundTrip trip;
  ASSERT_OK(trip.Start({"/usr/bin/redis-server", "--port", absl::StrCat(port), "--save", "",
                        "--dir", trip.directory(), "--appendonly", "no", "--enable-debug-command", "yes"},
                       ""));
  ASSERT_EQ(Ask(port, "DEBUG POPULATE 20000"), "+OK\r\n") << trip.output();
  std::vector<std::pair<uint64_t, std::string>> epochs;  // and what DEBUG DIGEST said
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Ask(port, absl::StrCat("SET key", i, " value")), "+OK\r\n");
    const std::string digest = Ask(port, "DEBUG DIGEST");
    ASSERT_EQ(digest.size(), 43u) << digest;
    auto epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    epochs.emplace_back(*epoch, digest);
  }
  for (int i : {2, 0, 1}) {
    trip.Kill();
    ASSERT_OK(trip.Restore(epochs[i].first));
    EXPECT_EQ(Ask(port, "DEBUG DIGEST"), epochs[i].second);
    EXPECT_EQ(Ask(port, "DBSIZE"), absl::StrCat(":", 20001 + i, "\r\n"));
  }
  trip.Signal(SIGTERM);
  EXPECT_EQ(trip.WaitForExit(), 0) << trip.output();
}

}  // namespace
}  // namespace incr
