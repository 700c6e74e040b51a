// The whole restore of a program that holds one of nearly every kind of descriptor, restored from its own
// restores (testdata/targets/fil_everything.cc looks at them all).
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "restore/round_trip.h"

namespace incr {
namespace {

#define ASSERT_OK(expression)                  \
  do {                                         \
    const absl::Status status_ = (expression); \
    ASSERT_TRUE(status_.ok()) << status_;      \
  } while (0)

TEST(FileRoundTrip, EveryKindOfDescriptorSurvivesARestoreOfARestore) {
  RoundTrip trip;
  const std::string directory = trip.directory() + "/work";
  ASSERT_EQ(::mkdir(directory.c_str(), 0755), 0);
  ASSERT_OK(trip.Start({"fil_everything", directory}));
  for (int round = 0; round < 3; ++round) {
    ASSERT_OK(trip.WaitForLine("tick"));
    auto epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    ASSERT_OK(trip.WaitForLine("tick"));
    trip.Kill();
    ASSERT_OK(trip.Restore(*epoch));
    ASSERT_OK(trip.WaitForLine("tick"));
  }
  trip.Signal(SIGTERM);
  EXPECT_EQ(trip.WaitForExit(), 0) << trip.output();
  EXPECT_NE(trip.output().find("\ndone\n"), std::string::npos) << trip.output();
}

// Its relative socket file is made before the steps that fail here.
TEST(FileRoundTrip, ARestoreThatFailsOrIsGivenUpLeavesTheStaleSocketFile) {
  RoundTrip trip;
  const std::string directory = trip.directory() + "/work";
  ASSERT_EQ(::mkdir(directory.c_str(), 0755), 0);
  ASSERT_OK(trip.Start({"fil_everything", directory}));
  ASSERT_OK(trip.WaitForLine("tick"));
  auto epoch = trip.Checkpoint();
  ASSERT_OK(epoch.status());
  trip.Kill();
  const auto look = [&] {
    std::map<std::string, ino_t> found;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      struct stat status{};
      ::lstat(entry.path().c_str(), &status);
      if (S_ISSOCK(status.st_mode)) found[entry.path().filename()] = status.st_ino;
    }
    return found;
  };
  const auto before = look();
  ASSERT_EQ(before.size(), 1u);
  trip.store().SpoilPage(3);
  ASSERT_FALSE(trip.RestoreStopped(*epoch).ok());
  EXPECT_EQ(look(), before);
  trip.store().SpoilPage(-1);
  {
    auto restored = trip.RestoreStopped(*epoch);
    ASSERT_OK(restored.status());
    EXPECT_NE(look(), before);
  }
  EXPECT_EQ(look(), before);
  ::unlink((directory + "/socket").c_str());
  ASSERT_OK(trip.RestoreStopped(*epoch).status());
  EXPECT_TRUE(look().empty());
  ASSERT_OK(trip.Restore(*epoch));
  ASSERT_OK(trip.WaitForLine("tick"));
  EXPECT_EQ(look().size(), 1u);
  trip.Signal(SIGTERM);
  EXPECT_EQ(trip.WaitForExit(), 0) << trip.output();
}

// What the server on 127.0.0.1:`port` answers to a line; "" if nobody does.
std::string Ask(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience = {10, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
      ::write(fd, "?\n", 2) == 2) {
    char text[256];
    for (ssize_t n; (n = ::read(fd, text, sizeof text)) > 0;) answer.append(text, n);
  }
  ::close(fd);
  return answer;
}

// An event loop (epoll, a socket pair to wake it), executor threads, and a database with an
// open transaction: SQLite holds POSIX locks on a file that it also closes and opens.
constexpr char kAsyncioServer[] = R"(
import asyncio, sqlite3, sys
questions = 0
database = sqlite3.connect(sys.argv[1] + '/db', check_same_thread=False)
database.execute('create table t(a)')
database.commit()
database.execute('insert into t values(1)')
def count():
    database.execute('insert into t values(2)')
    return database.execute('select count(*) from t').fetchone()[0]
async def answer(reader, writer):
    global questions
    questions += 1
    await reader.readline()
    rows = await asyncio.get_running_loop().run_in_executor(None, count)
    writer.write(b'%d questions, %d rows' % (questions, rows))
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(answer, '127.0.0.1', 0)
    print('ready %d' % server.sockets[0].getsockname()[1])  # in one write
    while True: await asyncio.sleep(0.01)
asyncio.run(main())
)";

TEST(FileRoundTrip, AnAsyncioServerWithADatabaseTransactionGoesOn) {
  if (::access("/usr/bin/python3", X_OK) != 0) GTEST_SKIP() << "no /usr/bin/python3";
  RoundTrip trip;
  ASSERT_OK(trip.Start({"/usr/bin/python3", "-u", "-c", kAsyncioServer, trip.directory()}));
  const std::string output = trip.output();
  const int port = std::atoi(output.c_str() + output.find("ready") + 6);
  ASSERT_GT(port, 0) << output;
  EXPECT_EQ(Ask(port), "1 questions, 2 rows");
  for (int round = 2; round < 5; ++round) {
    auto epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    trip.Kill();
    EXPECT_EQ(Ask(port), "");
    ASSERT_OK(trip.Restore(*epoch));
    EXPECT_EQ(Ask(port),
              std::to_string(round) + " questions, " + std::to_string(round + 1) + " rows")
        << trip.output();
  }
}

}  // namespace
}  // namespace incr
