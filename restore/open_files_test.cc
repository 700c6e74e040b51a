// Round trips: a process sets up descriptors, is captured and killed; another one gets them from
// the image and looks at them itself.
#include "restore/open_files.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/capture_files.h"
#include "checkpoint/forked_target.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "process/frozen_process.h"
#include "process/remote_memory.h"
#include "process/remote_syscalls.h"

// In a child: ends the check with what was wrong.
#define REQUIRE(condition)                                                            \
  do {                                                                                \
    if (!(condition)) {                                                               \
      return absl::StrCat("line ", __LINE__, ": ", #condition, " (", strerror(errno), ")"); \
    }                                                                                 \
  } while (false)

namespace incr {
namespace {

using ::testing::HasSubstr;

// Steps of a restore, on a child that already runs.
absl::Status InstallInto(ForkedTarget& child, const pb::Image& image, const PreparedFiles& files) {
  auto frozen = FrozenProcess::Freeze(child.handle());
  if (!frozen.ok()) return frozen.status();
  auto memory = RemoteMemory::Open(child.handle(), true);
  if (!memory.ok()) return memory.status();
  auto instruction = FindSyscallInstruction(child.handle());
  if (!instruction.ok()) return instruction.status();
  auto syscalls = RemoteSyscalls::Begin(child.pid(), *instruction);
  if (!syscalls.ok()) return syscalls.status();
  auto scratch = RemoteScratch::Map(&*syscalls, &*memory, 4096, PROT_READ | PROT_WRITE);
  if (!scratch.ok()) return scratch.status();
  const absl::Status installed = InstallFiles(*syscalls, *memory, scratch->address(),
                                              image.processes(0), image, files, {});
  if (!installed.ok()) return installed;
  const absl::Status finished =
      FinishFiles(*syscalls, *memory, scratch->address(), image.processes(0), image);
  if (!finished.ok()) return finished;
  if (auto s = scratch->Release(); !s.ok()) return s;
  if (auto s = syscalls->End(); !s.ok()) return s;
  return std::move(*frozen).Thaw();
}

class OpenFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/open_files_XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    ::signal(SIGPIPE, SIG_IGN);
  }
  void TearDown() override { (void)!std::system(("rm -rf " + directory_).c_str()); }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  void CaptureAndKill(ForkedTarget::Setup setup) {
    ForkedTarget target = ForkedTarget::Clean(std::move(setup));
    image_.Clear();
    const absl::Status captured =
        CaptureFiles(target.handle(), false, image_.add_processes(), &image_);
    ASSERT_TRUE(captured.ok()) << captured;
    // As the store would have it.
    pb::Image copy;
    ASSERT_TRUE(copy.ParseFromString(image_.SerializeAsString()));
    image_ = copy;
  }

  absl::Status Prepare() { return PrepareFiles(image_, image_.processes(0)).status(); }

  // What the restored process found wrong.
  std::string Restore(ForkedTarget::Check check) {
    auto files = PrepareFiles(image_, image_.processes(0));
    if (!files.ok()) return std::string(files.status().message());
    ForkedTarget child = ForkedTarget::Inheriting(std::move(check));
    const absl::Status installed = InstallInto(child, image_, *files);
    if (!installed.ok()) return std::string(installed.message());
    files->socket_files.Keep();
    *files = PreparedFiles();  // as RestoreEpoch does before the program runs
    return child.Finish();
  }

  std::string RoundTrip(ForkedTarget::Setup setup, ForkedTarget::Check check) {
    CaptureAndKill(std::move(setup));
    return Restore(std::move(check));
  }

  std::string directory_;
  pb::Image image_;
};

int CreateFile(const std::string& path, int flags = O_RDWR) {
  return ::open(path.c_str(), flags | O_CREAT, 0644);
}

void Pipe(int reader, int writer, int flags = 0) {
  int ends[2];
  (void)!::pipe2(ends, flags);
  MoveFd(ends[0], 900);
  MoveFd(ends[1], writer);
  MoveFd(900, reader);
}

void SocketPair(int a, int b, int type = SOCK_STREAM) {
  int ends[2];
  ::socketpair(AF_UNIX, type, 0, ends);
  MoveFd(ends[0], 900);
  MoveFd(ends[1], b);
  MoveFd(900, a);
}

std::string ReadText(int fd) {
  char text[256] = {};
  const ssize_t n = ::read(fd, text, sizeof text - 1);
  return n < 0 ? strerror(errno) : std::string(text, n);
}

int OpenFdCount() {
  int count = 0;
  for (int fd = 0; fd < 4096; ++fd) count += ::fcntl(fd, F_GETFD) >= 0;
  return count;
}

sockaddr_un UnixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

bool BindUnix(int fd, const std::string& path) {
  const sockaddr_un address = UnixAddress(path);
  const socklen_t length = offsetof(sockaddr_un, sun_path) + path.size() + (path[0] != '\0');
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0;
}

bool ConnectUnix(int fd, const std::string& path) {
  const sockaddr_un address = UnixAddress(path);
  const socklen_t length = offsetof(sockaddr_un, sun_path) + path.size() + (path[0] != '\0');
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0;
}

sockaddr_in Loopback(uint16_t port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

uint16_t PortOf(int fd) {
  sockaddr_in6 address{};  // the port is at the same place in both families
  socklen_t length = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.sin6_port);
}

bool ListenTcp(int fd, uint16_t port = 0) {
  const sockaddr_in address = Loopback(port);
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
         ::listen(fd, 8) == 0;
}

bool ConnectTcp(int fd, uint16_t port) {
  const sockaddr_in address = Loopback(port);
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

void Watch(int epoll, int fd, uint32_t events, uint64_t data) {
  epoll_event event = {events, {.u64 = data}};
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

TEST_F(OpenFilesTest, FilesComeBackAtTheirNumbersPositionsAndFlags) {
  EXPECT_EQ(RoundTrip(
                [&] {
                  MoveFd(CreateFile(Path("w")), 5);
                  (void)!::write(5, "0123456789", 10);
                  ::lseek(5, 4, SEEK_SET);
                  ::dup3(5, 30, O_CLOEXEC);
                  MoveFd(::open(Path("w").c_str(), O_RDONLY), 7);
                  ::lseek(7, 8, SEEK_SET);
                  MoveFd(::open(Path("w").c_str(), O_WRONLY | O_APPEND | O_NONBLOCK), 9);
                  MoveFd(::open(Path("w").c_str(), O_PATH), 11);
                },
                [&]() -> std::string {
                  REQUIRE(OpenFdCount() == 3 + 5);
                  REQUIRE(ReadText(7) == "89");
                  REQUIRE(::lseek(5, 0, SEEK_CUR) == 4);
                  REQUIRE(::write(5, "AB", 2) == 2);
                  REQUIRE(::lseek(30, 0, SEEK_CUR) == 6);  // one open file description
                  REQUIRE(::fcntl(30, F_GETFD) == FD_CLOEXEC);
                  REQUIRE(::fcntl(5, F_GETFD) == 0);
                  REQUIRE((::fcntl(9, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK)) ==
                          (O_WRONLY | O_APPEND | O_NONBLOCK));
                  REQUIRE(::write(9, "end", 3) == 3);
                  REQUIRE(::lseek(30, 0, SEEK_SET) == 0);
                  REQUIRE(ReadText(5) == "0123AB6789end");
                  REQUIRE((::fcntl(11, F_GETFL) & O_PATH) != 0);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, NamesThatAreNotUtf8ComeBackToo) {
  EXPECT_EQ(RoundTrip(
                [&] {
                  ::mkdir(Path("d\xe4").c_str(), 0755);
                  (void)!::chdir(Path("d\xe4").c_str());
                  MoveFd(CreateFile(Path("d\xe4/\xff")), 5);
                  (void)!::write(5, "x", 1);
                },
                [&]() -> std::string {
                  REQUIRE(::access("\xff", F_OK) == 0);
                  REQUIRE(::lseek(5, 0, SEEK_CUR) == 1);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, DirectoriesWorkingDirectoryAndUmask) {
  EXPECT_EQ(RoundTrip(
                [&] {
                  for (char c = 'a'; c < 'k'; ++c) ::close(CreateFile(Path(std::string(1, c))));
                  MoveFd(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY), 6);
                  (void)!::chdir(directory_.c_str());
                  ::umask(0123);
                },
                [&]() -> std::string {
                  char cwd[PATH_MAX];
                  REQUIRE(::getcwd(cwd, sizeof cwd) == directory_);
                  REQUIRE(::umask(0) == 0123);
                  REQUIRE(::openat(6, "c", O_RDONLY) >= 0);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, MemoryDevices) {
  EXPECT_EQ(RoundTrip(
                [&] {
                  MoveFd(::open("/dev/zero", O_RDONLY), 5);
                  MoveFd(::open("/dev/full", O_WRONLY), 6);
                  MoveFd(::open("/dev/urandom", O_RDONLY), 7);
                },
                [&]() -> std::string {
                  char bytes[8];
                  REQUIRE(::read(5, bytes, 8) == 8 && bytes[7] == 0);
                  REQUIRE(::write(6, "x", 1) == -1 && errno == ENOSPC);
                  REQUIRE(::read(7, bytes, 8) == 8);
                  REQUIRE(::read(0, bytes, 8) == 0);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, FilesOfItsOwnUnderProcShowTheNewProcess) {
  EXPECT_EQ(RoundTrip(
                [] {
                  MoveFd(::open("/proc/self/stat", O_RDONLY), 3);
                  char text[16];
                  (void)!::read(3, text, 16);
                  ::dup3(3, 20, O_CLOEXEC);
                  MoveFd(::open("/proc/self/fd", O_RDONLY | O_DIRECTORY), 12);
                  MoveFd(::open("/proc/self/task", O_RDONLY | O_DIRECTORY), 13);
                  MoveFd(::open("/proc/self/mounts", O_RDONLY), 14);
                  MoveFd(::epoll_create1(0), 15);
                  Watch(15, 14, EPOLLPRI | EPOLLET, 1);
                },
                []() -> std::string {
                  REQUIRE(::lseek(20, 0, SEEK_CUR) == 16);
                  char text[4096] = {};
                  REQUIRE(::pread(3, text, sizeof text, 0) > 0);
                  REQUIRE(std::atoi(text) == ::getpid());
                  REQUIRE(::fcntl(3, F_GETFD) == 0 && ::fcntl(20, F_GETFD) == FD_CLOEXEC);
                  REQUIRE(::faccessat(12, "20", F_OK, AT_SYMLINK_NOFOLLOW) == 0);
                  REQUIRE(::faccessat(13, std::to_string(::getpid()).c_str(), F_OK, 0) == 0);
                  REQUIRE(::epoll_ctl(15, EPOLL_CTL_DEL, 14, nullptr) == 0);
                  REQUIRE(OpenFdCount() == 3 + 6);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, PipesWithContentCapacityAndFlags) {
  EXPECT_EQ(RoundTrip(
                [] {
                  Pipe(10, 11, O_NONBLOCK);
                  ::fcntl(10, F_SETPIPE_SZ, 1 << 18);
                  const std::string block(200'000, 'x');
                  (void)!::write(11, block.data(), block.size());
                  (void)!::write(11, "last", 4);
                  Pipe(20, 21);
                  (void)!::write(21, "abc", 3);
                  ::dup2(21, 1);  // an inside pipe on a standard descriptor stays one
                  Pipe(30, 31, O_DIRECT);
                  (void)!::write(31, "one", 3);
                  (void)!::write(31, "three", 5);
                },
                []() -> std::string {
                  REQUIRE(::fcntl(10, F_GETPIPE_SZ) == 1 << 18);
                  std::string text(300'000, '\0');
                  REQUIRE(::read(10, text.data(), text.size()) == 200'004);
                  REQUIRE(text.substr(199'999, 5) == "xlast");
                  REQUIRE(::read(10, text.data(), 1) == -1 && errno == EAGAIN);
                  REQUIRE(::write(1, "d", 1) == 1);
                  REQUIRE(ReadText(20) == "abcd");
                  REQUIRE((::fcntl(20, F_GETFL) & O_NONBLOCK) == 0);
                  REQUIRE(ReadText(30) == "one");
                  REQUIRE(ReadText(30) == "three");
                  REQUIRE((::fcntl(31, F_GETFL) & O_DIRECT) != 0);
                  ::close(1);
                  ::close(21);
                  REQUIRE(ReadText(20).empty());  // no other writer is left anywhere
                  ::close(30);
                  REQUIRE(::write(31, "x", 1) == -1 && errno == EPIPE);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, APipeEndOpenedTwiceStaysTwoOpenFiles) {
  EXPECT_EQ(RoundTrip(
                [] {
                  Pipe(10, 11);
                  MoveFd(::open("/proc/self/fd/11", O_WRONLY | O_NONBLOCK), 12);
                  MoveFd(::open("/proc/self/fd/11", O_RDWR), 13);
                  (void)!::write(12, "x", 1);
                },
                []() -> std::string {
                  REQUIRE(::write(11, "1", 1) == 1 && ::write(12, "2", 1) == 1);
                  REQUIRE(::write(13, "3", 1) == 1);
                  REQUIRE(ReadText(10) == "x123");
                  REQUIRE((::fcntl(11, F_GETFL) & O_NONBLOCK) == 0);
                  REQUIRE((::fcntl(12, F_GETFL) & O_NONBLOCK) != 0);
                  REQUIRE((::fcntl(13, F_GETFL) & O_ACCMODE) == O_RDWR);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, AnInheritedPipeIsClosedAtTheFarEndAndCanBeCheckpointedAgain) {
  int outside[2];
  ASSERT_EQ(::pipe2(outside, O_CLOEXEC), 0);
  MoveFd(outside[1], 251);
  const int reader = ::fcntl(outside[0], F_DUPFD_CLOEXEC, 300);
  ::close(outside[0]);
  const std::string path = absl::StrCat("/proc/", ::getpid(), "/fd/251");
  ForkedTarget holder = ForkedTarget::Inheriting(nullptr);  // keeps the reader, so that we need not
  ::close(reader);
  CaptureAndKill([&] { MoveFd(::open(path.c_str(), O_WRONLY), 251); });
  ASSERT_EQ(image_.open_files(1).kind(), pb::OpenFile::INHERITED_PIPE);
  const auto is_broken = []() -> std::string {
    REQUIRE(::write(251, "x", 1) == -1 && errno == EPIPE);
    return "";
  };
  EXPECT_EQ(Restore(is_broken), "");
  ::close(251);
  EXPECT_EQ(RoundTrip([] { Pipe(10, 251); ::close(10); }, is_broken), "");
  EXPECT_EQ(RoundTrip(
                [] {
                  Pipe(10, 11);
                  (void)!::write(11, "the rest", 8);
                  ::close(11);
                },
                []() -> std::string {
                  REQUIRE(ReadText(10) == "the rest");
                  REQUIRE(ReadText(10).empty());
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, EventfdCountsAndSemaphores) {
  EXPECT_EQ(RoundTrip(
                [] {
                  MoveFd(::eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK), 10);
                  MoveFd(::eventfd(0, EFD_NONBLOCK), 11);
                  const uint64_t big = 0xfffffffffffffffeULL;
                  (void)!::write(11, &big, 8);
                },
                []() -> std::string {
                  uint64_t value = 0;
                  for (int i = 0; i < 3; ++i) REQUIRE(::read(10, &value, 8) == 8 && value == 1);
                  REQUIRE(::read(10, &value, 8) == -1 && errno == EAGAIN);
                  REQUIRE(::read(11, &value, 8) == 8 && value == 0xfffffffffffffffeULL);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, TimersGoOn) {
  EXPECT_EQ(
      RoundTrip(
          [] {
            MoveFd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 10);  // far away
            itimerspec spec = {{0, 0}, {3600, 0}};
            ::timerfd_settime(10, 0, &spec, nullptr);
            MoveFd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 11);  // expired, unread
            spec = {{0, 0}, {0, 1}};
            ::timerfd_settime(11, 0, &spec, nullptr);
            MoveFd(::timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK), 12);  // a wall clock moment
            timespec now;
            ::clock_gettime(CLOCK_REALTIME, &now);
            spec = {{0, 0}, {now.tv_sec + 1000, 0}};
            ::timerfd_settime(12, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &spec, nullptr);
            MoveFd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 13);  // disarmed
            MoveFd(::timerfd_create(CLOCK_MONOTONIC, 0), 14);            // soon, and periodic
            spec = {{0, 3'000'000}, {0, 3'000'000}};
            ::timerfd_settime(14, 0, &spec, nullptr);
            MoveFd(::timerfd_create(CLOCK_MONOTONIC, 0), 15);  // a moment long past at restore
            ::clock_gettime(CLOCK_MONOTONIC, &now);
            spec = {{0, 0}, {now.tv_sec, now.tv_nsec + 20'000'000}};
            if (spec.it_value.tv_nsec >= 1'000'000'000) {
              spec.it_value.tv_nsec -= 1'000'000'000;
              ++spec.it_value.tv_sec;
            }
            ::timerfd_settime(15, TFD_TIMER_ABSTIME, &spec, nullptr);
            ::usleep(1000);
          },
          []() -> std::string {
            itimerspec left{};
            uint64_t ticks = 0;
            REQUIRE(::timerfd_gettime(10, &left) == 0);
            REQUIRE(left.it_value.tv_sec >= 3590 && left.it_value.tv_sec < 3600);
            REQUIRE(::read(10, &ticks, 8) == -1 && errno == EAGAIN);
            REQUIRE(::read(11, &ticks, 8) == 8 && ticks == 1);
            REQUIRE(::read(11, &ticks, 8) == -1 && errno == EAGAIN);
            REQUIRE(::timerfd_gettime(12, &left) == 0);
            REQUIRE(left.it_value.tv_sec >= 990 && left.it_value.tv_sec <= 1000);
            REQUIRE(::timerfd_gettime(13, &left) == 0 && left.it_value.tv_sec == 0 &&
                    left.it_value.tv_nsec == 0);
            for (int i = 0; i < 3; ++i) REQUIRE(::read(14, &ticks, 8) == 8 && ticks >= 1);
            REQUIRE(::timerfd_gettime(14, &left) == 0 && left.it_interval.tv_nsec == 3'000'000);
            REQUIRE(::read(15, &ticks, 8) == 8 && ticks == 1);
            return "";
          }),
      "");
}

TEST_F(OpenFilesTest, SignalfdTakesItsSignals) {
  EXPECT_EQ(RoundTrip(
                [] {
                  sigset_t mask;
                  sigemptyset(&mask);
                  sigaddset(&mask, SIGUSR1);
                  MoveFd(::signalfd(-1, &mask, SFD_NONBLOCK), 10);
                },
                []() -> std::string {
                  sigset_t mask;
                  sigemptyset(&mask);
                  sigaddset(&mask, SIGUSR1);
                  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
                  signalfd_siginfo info{};
                  REQUIRE(::read(10, &info, sizeof info) == -1 && errno == EAGAIN);
                  ::kill(::getpid(), SIGUSR1);
                  REQUIRE(::read(10, &info, sizeof info) == sizeof info);
                  REQUIRE(info.ssi_signo == SIGUSR1);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, EpollWatchesTheSameDescriptorsWithTheSameData) {
  EXPECT_EQ(RoundTrip(
                [] {
                  MoveFd(::epoll_create1(0), 5);
                  ::dup2(5, 6);
                  Pipe(10, 11);
                  MoveFd(::eventfd(0, 0), 12);
                  SocketPair(13, 14);
                  MoveFd(::epoll_create1(0), 7);
                  Watch(5, 10, EPOLLIN, 0xaaaabbbbccccddddULL);
                  Watch(5, 12, EPOLLIN | EPOLLET, 2);
                  Watch(5, 13, EPOLLIN | EPOLLOUT, 3);
                  Watch(7, 12, EPOLLIN, 4);
                  Watch(5, 7, EPOLLIN, 5);  // an epoll in an epoll
                },
                []() -> std::string {
                  epoll_event events[8];
                  REQUIRE(::epoll_wait(6, events, 8, 0) == 1);
                  REQUIRE(events[0].data.u64 == 3 && events[0].events == EPOLLOUT);
                  (void)!::write(11, "x", 1);
                  const uint64_t one = 1;
                  (void)!::write(12, &one, 8);
                  REQUIRE(::epoll_wait(5, events, 8, 1000) == 4);
                  uint64_t sum = 0;
                  for (int i = 0; i < 4; ++i) sum += events[i].data.u64;
                  REQUIRE(sum == 0xaaaabbbbccccddddULL + 2 + 3 + 5);
                  REQUIRE(::epoll_wait(5, events, 8, 0) == 3);  // the edge is reported once
                  REQUIRE(::epoll_ctl(5, EPOLL_CTL_DEL, 10, nullptr) == 0);
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, SocketPairsWithWhatWasUnread) {
  EXPECT_EQ(RoundTrip(
                [] {
                  SocketPair(10, 11);
                  (void)!::write(10, "to eleven", 9);
                  (void)!::write(11, "to ten", 6);
                  ::shutdown(11, SHUT_WR);
                  SocketPair(12, 13, SOCK_SEQPACKET);
                  (void)!::write(12, "packet", 6);
                  SocketPair(14, 15, SOCK_STREAM | SOCK_NONBLOCK);
                  const std::string block(1000, 'x');
                  while (::write(14, block.data(), block.size()) > 0) {
                  }
                  SocketPair(16, 17, SOCK_DGRAM);
                },
                []() -> std::string {
                  REQUIRE(ReadText(11) == "to eleven");
                  REQUIRE(ReadText(10) == "to ten");
                  REQUIRE(ReadText(10).empty());  // 11 has shut down writing
                  REQUIRE(::write(11, "x", 1) == -1 && errno == EPIPE);
                  REQUIRE(::write(10, "more", 4) == 4 && ReadText(11) == "more");
                  REQUIRE(ReadText(13) == "packet");
                  int queued = 0;
                  REQUIRE(::ioctl(15, FIONREAD, &queued) == 0 && queued > 50'000);
                  std::string text(queued, '\0');
                  REQUIRE(::recv(15, text.data(), text.size(), MSG_WAITALL) == queued);
                  REQUIRE(text == std::string(queued, 'x'));
                  REQUIRE((::fcntl(15, F_GETFL) & O_NONBLOCK) != 0);
                  REQUIRE(::write(16, "d", 1) == 1 && ReadText(17) == "d");
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, ListeningTcpAcceptsAgainWithItsOptions) {
  CaptureAndKill([] {
    MoveFd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), 10);
    const int on = 1, idle = 77, buffer = 100'000;
    ::setsockopt(10, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(10, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    ::setsockopt(10, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    ::setsockopt(10, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    const linger linger = {1, 7};
    ::setsockopt(10, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    ListenTcp(10);
    MoveFd(::socket(AF_INET6, SOCK_STREAM, 0), 11);
    ::setsockopt(11, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    ::bind(11, reinterpret_cast<sockaddr*>(&any), sizeof any);
    ::listen(11, 5);
  });
  EXPECT_EQ(Restore([]() -> std::string {
              const auto option = [](int fd, int level, int name) {
                int value = -1;
                socklen_t length = sizeof value;
                ::getsockopt(fd, level, name, &value, &length);
                return value;
              };
              REQUIRE(option(10, IPPROTO_TCP, TCP_NODELAY) == 1);
              REQUIRE(option(10, SOL_SOCKET, SO_KEEPALIVE) == 1);
              REQUIRE(option(10, IPPROTO_TCP, TCP_KEEPIDLE) == 77);
              REQUIRE(option(10, SOL_SOCKET, SO_RCVBUF) == 200'000);
              REQUIRE(option(10, SOL_SOCKET, SO_REUSEADDR) == 0);
              REQUIRE(option(11, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
              linger linger{};
              socklen_t length = sizeof linger;
              REQUIRE(::getsockopt(10, SOL_SOCKET, SO_LINGER, &linger, &length) == 0);
              REQUIRE(linger.l_onoff == 1 && linger.l_linger == 7);
              const int client = ::socket(AF_INET, SOCK_STREAM, 0);
              REQUIRE(ConnectTcp(client, PortOf(10)));
              const int accepted = ::accept(10, nullptr, nullptr);
              REQUIRE(accepted >= 0);
              REQUIRE(option(accepted, IPPROTO_TCP, TCP_NODELAY) == 1);
              REQUIRE(::write(client, "hi", 2) == 2 && ReadText(accepted) == "hi");
              tcp_info info{};
              length = sizeof info;
              REQUIRE(::getsockopt(11, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
              REQUIRE(info.tcpi_sacked == 5);
              return "";
            }),
            "");
}

TEST_F(OpenFilesTest, APortInUseIsNamed) {
  uint16_t* port = static_cast<uint16_t*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  CaptureAndKill([&] {
    MoveFd(::socket(AF_INET, SOCK_STREAM, 0), 10);
    ListenTcp(10);
    *port = PortOf(10);
  });
  const int rival = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(ListenTcp(rival, *port));
  const absl::Status status = Prepare();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("fd 10"));
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("127.0.0.1:", *port)));
  EXPECT_THAT(std::string(status.message()), HasSubstr("in use"));
  ::close(rival);
  EXPECT_TRUE(Prepare().ok());
  ::munmap(port, 4096);
}

// The server never set SO_REUSEADDR: what its death leaves behind would keep the port for a minute.
TEST_F(OpenFilesTest, APortOfAKilledServerWithAClientIsBoundAgain) {
  ForkedTarget target = ForkedTarget::Clean([&] {
    MoveFd(::socket(AF_INET, SOCK_STREAM, 0), 10);
    ListenTcp(10);
    MoveFd(::socket(AF_INET, SOCK_STREAM, 0), 11);
    ConnectTcp(11, PortOf(10));
    MoveFd(::accept(10, nullptr, nullptr), 12);
  });
  ASSERT_TRUE(CaptureFiles(target.handle(), false, image_.add_processes(), &image_).ok());
  target.Kill();
  sockaddr_in address{};
  std::memcpy(&address, image_.open_files(1).socket().local_address().data(), sizeof address);
  const int probe = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(::bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof address), -1)
      << "nothing was left behind: this test shows nothing";
  ::close(probe);
  EXPECT_EQ(Restore([]() -> std::string {
              const int client = ::socket(AF_INET, SOCK_STREAM, 0);
              REQUIRE(ConnectTcp(client, PortOf(10)));
              return "";
            }),
            "");
}

TEST_F(OpenFilesTest, ConnectionsThatALiveServerHasYetToAcceptAreLeftAlone) {
  const int rival = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(ListenTcp(rival));
  const int client = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(ConnectTcp(client, PortOf(rival)));
  const int half_closed = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(ConnectTcp(half_closed, PortOf(rival)));
  ASSERT_EQ(::write(half_closed, "bye", 3), 3);
  ::close(half_closed);
  pb::OpenFile file;
  file.set_kind(pb::OpenFile::LISTENING_SOCKET);
  file.mutable_socket()->set_family(AF_INET);
  file.mutable_socket()->set_type(SOCK_STREAM);
  const sockaddr_in address = Loopback(PortOf(rival));
  file.mutable_socket()->set_local_address(&address, sizeof address);
  image_.add_processes();
  file.set_id(1);
  *image_.add_open_files() = file;
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("in use"));
  const int accepted = ::accept(rival, nullptr, nullptr);
  ASSERT_EQ(::write(client, "x", 1), 1);
  EXPECT_EQ(ReadText(accepted), "x");
  EXPECT_EQ(ReadText(::accept(rival, nullptr, nullptr)), "bye");
  for (int fd : {rival, client, accepted}) ::close(fd);
}

TEST_F(OpenFilesTest, UnixListenersReplaceTheirStaleFile) {
  CaptureAndKill([&] {
    (void)!::chdir(directory_.c_str());
    MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), 10);
    BindUnix(10, Path("absolute"));
    ::chmod(Path("absolute").c_str(), 0612);
    ::listen(10, 9);
    MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), 11);
    BindUnix(11, "relative");
    ::listen(11, 9);
    MoveFd(::socket(AF_UNIX, SOCK_SEQPACKET, 0), 12);
    BindUnix(12, std::string("\0incr-test-", 11) + std::to_string(::getpid()));
    ::listen(12, 9);
  });
  EXPECT_EQ(Restore([&]() -> std::string {
              struct stat found{};
              REQUIRE(::stat(Path("absolute").c_str(), &found) == 0);
              REQUIRE((found.st_mode & 07777) == 0612);
              const int client = ::socket(AF_UNIX, SOCK_STREAM, 0);
              REQUIRE(ConnectUnix(client, Path("absolute")));
              REQUIRE(::accept(10, nullptr, nullptr) >= 0);
              const int other = ::socket(AF_UNIX, SOCK_STREAM, 0);
              REQUIRE(ConnectUnix(other, Path("relative")));
              REQUIRE(::accept(11, nullptr, nullptr) >= 0);
              sockaddr_un name{};
              socklen_t length = sizeof name;
              REQUIRE(::getsockname(11, reinterpret_cast<sockaddr*>(&name), &length) == 0);
              REQUIRE(std::string(name.sun_path) == "relative");
              length = sizeof name;
              REQUIRE(::getsockname(12, reinterpret_cast<sockaddr*>(&name), &length) == 0);
              REQUIRE(name.sun_path[0] == 0 && name.sun_path[1] == 'i');
              return "";
            }),
            "");
}

TEST_F(OpenFilesTest, ALiveUnixListenerIsNotReplaced) {
  CaptureAndKill([&] {
    MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), 10);
    BindUnix(10, Path("s"));
    ::listen(10, 9);
  });
  ::unlink(Path("s").c_str());
  const int rival = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(BindUnix(rival, Path("s")));
  ::listen(rival, 1);
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("another process serves"));
  ::close(rival);
  EXPECT_TRUE(Prepare().ok());
  ::unlink(Path("s").c_str());
  ::close(CreateFile(Path("s")));
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("not a socket"));
}

// The socket files in the folder, and their inodes.
std::map<std::string, ino_t> FilesIn(const std::string& directory) {
  std::map<std::string, ino_t> found;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    struct stat status{};
    ::lstat(entry.path().c_str(), &status);
    found[entry.path().filename()] = status.st_ino;
  }
  return found;
}

TEST_F(OpenFilesTest, ARestoreThatFailsLeavesSocketFilesAsTheyWere) {
  CaptureAndKill([&] {
    (void)!::chdir(directory_.c_str());
    int fd = 10;
    for (const std::string& name : {Path("stale"), Path("gone"), std::string("stale-too"),
                                    std::string("gone-too"), Path("taken")}) {
      MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), fd);
      BindUnix(fd, name);
      ::listen(fd++, 9);
    }
  });
  ::unlink(Path("gone").c_str());
  ::unlink(Path("gone-too").c_str());
  ::unlink(Path("taken").c_str());
  ASSERT_EQ(::mkdir(Path("taken").c_str(), 0700), 0);
  const auto before = FilesIn(directory_);
  ASSERT_EQ(before.size(), 3u);
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("taken"));
  EXPECT_EQ(FilesIn(directory_), before);

  ::rmdir(Path("taken").c_str());
  {
    auto files = PrepareFiles(image_, image_.processes(0));
    ASSERT_TRUE(files.ok()) << files.status();
    PreparedFiles moved = *std::move(files);
    EXPECT_TRUE(FilesIn(directory_).count("gone-too"));
    // Not ours any more, so not ours to remove.
    ::unlink(Path("gone").c_str());
    ::close(CreateFile(Path("gone")));
  }
  auto after = FilesIn(directory_);
  EXPECT_EQ(after.erase("gone"), 1u);
  EXPECT_EQ(after.size(), 2u);
  EXPECT_EQ(after["stale"], before.at("stale"));
  EXPECT_EQ(after["stale-too"], before.at("stale-too"));

  ::unlink(Path("gone").c_str());
  {
    auto files = PrepareFiles(image_, image_.processes(0));
    ASSERT_TRUE(files.ok()) << files.status();
    files->socket_files.Keep();
  }
  after = FilesIn(directory_);
  EXPECT_EQ(after.size(), 5u);  // nothing that was set aside
  EXPECT_NE(after["stale"], before.at("stale"));
}

TEST_F(OpenFilesTest, EstablishedTcpComesBackAsReset) {
  const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(ListenTcp(server));
  const uint16_t port = PortOf(server);
  CaptureAndKill([&] {
    MoveFd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), 10);
    ConnectTcp(10, port);
    pollfd connected = {10, POLLOUT, 0};
    ::poll(&connected, 1, 1000);
    const int on = 1;
    ::setsockopt(10, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    MoveFd(::socket(AF_INET6, SOCK_STREAM, 0), 12);
    sockaddr_in6 mapped{};
    mapped.sin6_family = AF_INET6;
    mapped.sin6_port = htons(port);
    mapped.sin6_addr.s6_addr[10] = mapped.sin6_addr.s6_addr[11] = 0xff;
    mapped.sin6_addr.s6_addr[12] = 127;
    mapped.sin6_addr.s6_addr[15] = 1;
    ::connect(12, reinterpret_cast<sockaddr*>(&mapped), sizeof mapped);
    MoveFd(::epoll_create1(0), 11);
    Watch(11, 10, EPOLLIN, 10);
  });
  EXPECT_EQ(Restore([]() -> std::string {
              epoll_event event{};
              REQUIRE(::epoll_wait(11, &event, 1, 1000) == 1);
              REQUIRE(event.data.u64 == 10);
              REQUIRE((event.events & (EPOLLIN | EPOLLHUP)) == (EPOLLIN | EPOLLHUP));
              int protocol = 0;
              socklen_t length = sizeof protocol;
              REQUIRE(::getsockopt(10, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0);
              REQUIRE(protocol == IPPROTO_TCP);
              char byte;
              REQUIRE(::read(10, &byte, 1) == -1 && errno == ECONNRESET);
              REQUIRE(::read(10, &byte, 1) == 0);
              REQUIRE(::write(10, &byte, 1) == -1 && errno == EPIPE);
              REQUIRE(::read(12, &byte, 1) == -1 && errno == ECONNRESET);
              return "";
            }),
            "");
  ::close(server);
}

TEST_F(OpenFilesTest, AUnixConnectionToOutsideComesBackAsClosed) {
  const int server = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(BindUnix(server, Path("s")));
  ::listen(server, 4);
  ForkedTarget target = ForkedTarget::Clean([&] {
    MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), 10);
    ConnectUnix(10, Path("s"));
  });
  const int accepted = ::accept(server, nullptr, nullptr);
  ASSERT_EQ(::write(accepted, "unread", 6), 6);
  ASSERT_TRUE(CaptureFiles(target.handle(), false, image_.add_processes(), &image_).ok());
  target.Kill();
  EXPECT_EQ(image_.warnings_size(), 1);
  EXPECT_EQ(Restore([]() -> std::string {
              REQUIRE(ReadText(10) == "unread");
              REQUIRE(ReadText(10).empty());
              REQUIRE(::write(10, "x", 1) == -1 && errno == EPIPE);
              return "";
            }),
            "");
  ::close(accepted);
  ::close(server);
}

TEST_F(OpenFilesTest, DatagramAndUnboundSockets) {
  EXPECT_EQ(RoundTrip(
                [&] {
                  const sockaddr_in any = Loopback();
                  MoveFd(::socket(AF_INET, SOCK_DGRAM, 0), 10);
                  ::bind(10, reinterpret_cast<const sockaddr*>(&any), sizeof any);
                  MoveFd(::socket(AF_INET, SOCK_DGRAM, 0), 11);
                  ConnectTcp(11, PortOf(10));
                  MoveFd(::socket(AF_INET, SOCK_DGRAM, 0), 12);
                  MoveFd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), 13);
                  MoveFd(::socket(AF_INET, SOCK_STREAM, 0), 14);
                  ::bind(14, reinterpret_cast<const sockaddr*>(&any), sizeof any);
                  MoveFd(::socket(AF_UNIX, SOCK_DGRAM, 0), 15);
                  BindUnix(15, Path("d"));
                  MoveFd(::socket(AF_UNIX, SOCK_DGRAM, 0), 16);
                  ConnectUnix(16, Path("d"));
                  MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), 17);
                },
                [&]() -> std::string {
                  REQUIRE(::send(11, "udp", 3, 0) == 3 && ReadText(10) == "udp");
                  REQUIRE(PortOf(12) == 0 && PortOf(13) == 0 && PortOf(14) != 0);
                  REQUIRE(::listen(14, 1) == 0);
                  REQUIRE((::fcntl(13, F_GETFL) & O_NONBLOCK) != 0);
                  REQUIRE(::send(16, "unix", 4, 0) == 4 && ReadText(15) == "unix");
                  REQUIRE(BindUnix(17, Path("later")));
                  return "";
                }),
            "");
}

TEST_F(OpenFilesTest, FifosAreReopenedWithTheirContent) {
  ASSERT_EQ(::mkfifo(Path("both").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo(Path("reader").c_str(), 0600), 0);
  EXPECT_EQ(RoundTrip(
                [&] {
                  MoveFd(::open(Path("both").c_str(), O_RDONLY | O_NONBLOCK), 10);
                  MoveFd(::open(Path("both").c_str(), O_WRONLY), 11);
                  (void)!::write(11, "fifo", 4);
                  MoveFd(::open(Path("reader").c_str(), O_RDONLY | O_NONBLOCK), 12);
                  ::fcntl(12, F_SETFL, 0);
                },
                [&]() -> std::string {
                  REQUIRE(ReadText(10) == "fifo");
                  REQUIRE(::write(11, "x", 1) == 1 && ReadText(10) == "x");
                  REQUIRE((::fcntl(12, F_GETFL) & O_NONBLOCK) == 0);
                  REQUIRE(ReadText(12).empty());  // nobody writes
                  const int writer = ::open(Path("reader").c_str(), O_WRONLY);
                  REQUIRE(::write(writer, "w", 1) == 1 && ReadText(12) == "w");
                  return "";
                }),
            "");
}

// Whether another process could lock the file now.
bool Lockable(const std::string& path, int command, struct flock request) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  const bool free = ::fcntl(fd, command, &request) == 0 && request.l_type == F_UNLCK;
  ::close(fd);
  return free;
}

TEST_F(OpenFilesTest, LocksAreHeldAgain) {
  CaptureAndKill([&] {
    MoveFd(CreateFile(Path("flock")), 10);
    ::flock(10, LOCK_EX);
    MoveFd(CreateFile(Path("posix")), 11);
    ::dup2(11, 13);
    struct flock lock = {F_WRLCK, SEEK_SET, 5, 10, 0};
    ::fcntl(11, F_SETLK, &lock);
    MoveFd(CreateFile(Path("ofd")), 12);
    lock = {F_WRLCK, SEEK_SET, 7, 0, 0};
    ::fcntl(12, F_OFD_SETLK, &lock);
  });
  auto files = PrepareFiles(image_, image_.processes(0));
  ASSERT_TRUE(files.ok()) << files.status();
  ForkedTarget child = ForkedTarget::Inheriting(nullptr);
  ASSERT_TRUE(InstallInto(child, image_, *files).ok());
  *files = PreparedFiles();
  const int other = ::open(Path("flock").c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(::flock(other, LOCK_EX | LOCK_NB), -1);
  EXPECT_FALSE(Lockable(Path("posix"), F_GETLK, {F_WRLCK, SEEK_SET, 14, 1, 0}));
  EXPECT_TRUE(Lockable(Path("posix"), F_GETLK, {F_WRLCK, SEEK_SET, 15, 1, 0}));
  EXPECT_FALSE(Lockable(Path("ofd"), F_OFD_GETLK, {F_WRLCK, SEEK_SET, 1000, 1, 0}));
  EXPECT_TRUE(Lockable(Path("ofd"), F_OFD_GETLK, {F_WRLCK, SEEK_SET, 6, 1, 0}));
  EXPECT_EQ(child.Finish(), "");
  EXPECT_EQ(::flock(other, LOCK_EX | LOCK_NB), 0);
  ::close(other);

  const int rival = ::open(Path("flock").c_str(), O_RDWR | O_CLOEXEC);
  ::flock(rival, LOCK_SH);
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("flock"));
  ::close(rival);
}

TEST_F(OpenFilesTest, HighDescriptorNumbersRaiseTheLimit) {
  rlimit limit;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_max < 6000) GTEST_SKIP() << "the hard limit of descriptors is " << limit.rlim_max;
  const rlimit before = limit;
  CaptureAndKill([&] {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    for (int fd = 5000; fd < 5200; ++fd) MoveFd(::eventfd(fd, 0), fd);
  });
  const rlimit low = {1024, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &low);
  EXPECT_EQ(Restore([]() -> std::string {
              for (uint64_t fd = 5000; fd < 5200; ++fd) {
                uint64_t value = 0;
                REQUIRE(::read(static_cast<int>(fd), &value, 8) == 8 && value == fd);
              }
              return "";
            }),
            "");
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(OpenFilesTest, MissingReplacedAndShrunkFilesAreNamed) {
  CaptureAndKill([&] {
    MoveFd(CreateFile(Path("f")), 10);
    (void)!::write(10, "0123456789", 10);
  });
  EXPECT_TRUE(Prepare().ok());
  ASSERT_EQ(::truncate(Path("f").c_str(), 12), 0);  // grown: fine
  EXPECT_TRUE(Prepare().ok());
  ASSERT_EQ(::truncate(Path("f").c_str(), 9), 0);
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("has shrunk"));
  ::unlink(Path("f").c_str());
  EXPECT_TRUE(absl::IsFailedPrecondition(Prepare()));
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("No such file"));
  // The file system may well give the new file the old inode number.
  const int fd = CreateFile(Path("f"));
  (void)!::write(fd, "0123456789", 10);
  ::close(fd);
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr("another file"));
  EXPECT_THAT(std::string(Prepare().message()), HasSubstr(Path("f")));
}

TEST_F(OpenFilesTest, StandardDescriptorsAreTheRestoresOwn) {
  // Captured: 0, 1 and 2 are outside pipes; 5 is 1 again.
  int outside[2];
  ASSERT_EQ(::pipe2(outside, O_CLOEXEC), 0);
  const std::string self = absl::StrCat("/proc/", ::getpid(), "/fd/");
  CaptureAndKill([&] {
    MoveFd(::open(absl::StrCat(self, outside[0]).c_str(), O_RDONLY | O_NONBLOCK), 0);
    MoveFd(::open(absl::StrCat(self, outside[1]).c_str(), O_WRONLY), 1);
    // Two different pipes, or both ends would be inside.
  });
  // Both ends of one pipe inside are no stdio.
  EXPECT_EQ(image_.open_files(0).kind(), pb::OpenFile::PIPE);

  int in[2], out[2];
  ASSERT_EQ(::pipe2(in, O_CLOEXEC) | ::pipe2(out, O_CLOEXEC), 0);
  CaptureAndKill([&] {
    MoveFd(::open(absl::StrCat(self, in[0]).c_str(), O_RDONLY | O_NONBLOCK), 0);
    MoveFd(::open(absl::StrCat(self, out[1]).c_str(), O_WRONLY), 1);
    ::dup2(1, 5);
  });

  // The restore command's own: others.
  int new_in[2], new_out[2];
  ASSERT_EQ(::pipe2(new_in, O_CLOEXEC) | ::pipe2(new_out, O_CLOEXEC), 0);
  const int saved[2] = {::fcntl(0, F_DUPFD_CLOEXEC, 100), ::fcntl(1, F_DUPFD_CLOEXEC, 100)};
  ::dup2(new_in[0], 0);
  ::fflush(stdout);
  ::dup2(new_out[1], 1);
  const std::string wrong = Restore([]() -> std::string {
    REQUIRE((::fcntl(0, F_GETFL) & O_NONBLOCK) != 0);
    char byte;
    REQUIRE(::read(0, &byte, 1) == -1 && errno == EAGAIN);
    REQUIRE(::write(1, "one ", 4) == 4 && ::write(5, "five", 4) == 4);
    return "";
  });
  const int shared_flags = ::fcntl(0, F_GETFL);
  ::dup2(saved[0], 0);
  ::dup2(saved[1], 1);
  EXPECT_EQ(wrong, "");
  EXPECT_EQ(ReadText(new_out[0]), "one five");
  EXPECT_EQ(shared_flags & O_NONBLOCK, 0) << "the shell's own descriptor must stay blocking";
  for (int* pair : {outside, in, out, new_in, new_out}) {
    ::close(pair[0]);
    ::close(pair[1]);
  }
  ::close(saved[0]);
  ::close(saved[1]);
}

TEST_F(OpenFilesTest, AClosedStandardDescriptorBecomesDevNullAndItsWatchIsLeftOut) {
  int in[2];
  ASSERT_EQ(::pipe2(in, O_CLOEXEC), 0);
  const std::string path = absl::StrCat("/proc/", ::getpid(), "/fd/", in[0]);
  CaptureAndKill([&] {
    MoveFd(::open(path.c_str(), O_RDONLY), 0);
    MoveFd(::epoll_create1(0), 10);
    Watch(10, 0, EPOLLIN, 1);
  });
  const int saved = ::fcntl(0, F_DUPFD_CLOEXEC, 100);
  ::close(0);
  const std::string wrong = Restore([]() -> std::string {
    REQUIRE(ReadText(0).empty());
    epoll_event event;
    REQUIRE(::epoll_wait(10, &event, 1, 0) == 0);
    return "";
  });
  ::dup2(saved, 0);
  ::close(saved);
  EXPECT_EQ(wrong, "");
  ::close(in[0]);
  ::close(in[1]);
}

TEST_F(OpenFilesTest, ATerminalsOwnFlagsAreLeftAlone) {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ::grantpt(master);
  ::unlockpt(master);
  const std::string name = ::ptsname(master);
  CaptureAndKill([&] {
    MoveFd(::open(name.c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK), 0);
    ::dup2(0, 7);
  });
  const int saved = ::fcntl(0, F_DUPFD_CLOEXEC, 100);
  MoveFd(::open(name.c_str(), O_RDWR | O_NOCTTY), 0);
  const std::string wrong = Restore([]() -> std::string {
    REQUIRE(::isatty(0) && ::isatty(7));
    char byte;
    REQUIRE(::read(0, &byte, 1) == -1 && errno == EAGAIN);
    REQUIRE((::fcntl(7, F_GETFL) & O_NONBLOCK) != 0);
    return "";
  });
  EXPECT_EQ(::fcntl(0, F_GETFL) & O_NONBLOCK, 0);
  ::dup2(saved, 0);
  ::close(saved);
  ::close(master);
  EXPECT_EQ(wrong, "");
}

TEST_F(OpenFilesTest, KeptDescriptorsStayAndMayNotCollide) {
  CaptureAndKill([] { MoveFd(::eventfd(1, 0), 10); });
  auto files = PrepareFiles(image_, image_.processes(0));
  ASSERT_TRUE(files.ok());
  EXPECT_EQ(files->first_free, 11);
  const int extra = ::fcntl(0, F_DUPFD, files->first_free);
  ForkedTarget child = ForkedTarget::Inheriting([extra]() -> std::string {
    REQUIRE(::fcntl(extra, F_GETFD) >= 0);
    REQUIRE(OpenFdCount() == 3 + 1 + 1);
    return "";
  });
  {
    auto frozen = FrozenProcess::Freeze(child.handle());
    auto memory = RemoteMemory::Open(child.handle(), true);
    auto syscalls =
        RemoteSyscalls::Begin(child.pid(), FindSyscallInstruction(child.handle()).value());
    ASSERT_TRUE(syscalls.ok());
    auto scratch = RemoteScratch::Map(&*syscalls, &*memory, 4096, PROT_READ | PROT_WRITE);
    ASSERT_TRUE(scratch.ok());
    EXPECT_TRUE(absl::IsInvalidArgument(InstallFiles(*syscalls, *memory, scratch->address(),
                                                     image_.processes(0), image_, *files, {10})));
    const absl::Status installed = InstallFiles(*syscalls, *memory, scratch->address(),
                                                image_.processes(0), image_, *files, {extra});
    EXPECT_TRUE(installed.ok()) << installed;
  }
  EXPECT_EQ(child.Finish(), "");
  ::close(extra);
}

// --- hostile images: an error, never a crash, never a hang ---------------------------------

pb::Image OneFile(pb::OpenFile file) {
  pb::Image image;
  pb::Process* process = image.add_processes();
  file.set_id(1);
  *image.add_open_files() = std::move(file);
  pb::FileDescriptor* descriptor = process->add_descriptors();
  descriptor->set_fd(10);
  descriptor->set_open_file(1);
  return image;
}

absl::Status PrepareOne(const pb::OpenFile& file) {
  const pb::Image image = OneFile(file);
  return PrepareFiles(image, image.processes(0)).status();
}

TEST(HostileImage, NonsenseIsAnError) {
  for (int kind = 0; kind <= 18; ++kind) {
    if (kind == pb::OpenFile::STDIO || kind == pb::OpenFile::INHERITED_PIPE ||
        kind == pb::OpenFile::PROC_SELF || kind == pb::OpenFile::EVENTFD ||
        kind == pb::OpenFile::EPOLL || kind == pb::OpenFile::PIPE ||
        kind == pb::OpenFile::TIMERFD || kind == pb::OpenFile::SIGNALFD) {
      continue;  // with nothing in them these are right
    }
    pb::OpenFile file;
    file.set_kind(static_cast<pb::OpenFile::Kind>(kind));
    EXPECT_FALSE(PrepareOne(file).ok()) << kind;
  }
  pb::OpenFile file;
  file.set_kind(pb::OpenFile::REGULAR);
  file.mutable_file()->set_path(std::string("/dev/nu\0ll", 10));
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));
  file.mutable_file()->set_path("relative");
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));

  file.Clear();
  file.set_kind(pb::OpenFile::PIPE);
  file.mutable_pipe()->set_capacity(~0u);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));
  file.mutable_pipe()->set_capacity(4096);
  file.mutable_pipe()->set_content(std::string(100'000, 'x'));
  EXPECT_TRUE(absl::IsFailedPrecondition(PrepareOne(file)));  // does not fit, and does not block
  file.mutable_pipe()->set_content("abc");
  file.mutable_pipe()->add_packet_sizes(4);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));

  file.Clear();
  file.set_kind(pb::OpenFile::LISTENING_SOCKET);
  file.mutable_socket()->set_family(AF_INET);
  file.mutable_socket()->set_type(SOCK_STREAM);
  file.mutable_socket()->set_local_address("xy");
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));
  file.mutable_socket()->set_local_address(std::string(1000, '\2'));
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));
  file.mutable_socket()->clear_local_address();
  auto* option = file.mutable_socket()->add_options();
  option->set_level(SOL_SOCKET);
  option->set_name(SO_ATTACH_FILTER);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));

  file.Clear();
  file.set_kind(pb::OpenFile::STDIO);
  file.set_stdio_fd(3);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));

  file.Clear();
  file.set_kind(pb::OpenFile::TIMERFD);
  file.mutable_timerfd()->set_clock(99);
  EXPECT_FALSE(PrepareOne(file).ok());
  file.mutable_timerfd()->set_clock(1);
  file.mutable_timerfd()->set_value_ns(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareOne(file)));
}

TEST(HostileImage, BrokenReferencesAreErrors) {
  pb::OpenFile eventfd;
  eventfd.set_kind(pb::OpenFile::EVENTFD);
  const pb::Image good = OneFile(eventfd);
  EXPECT_TRUE(PrepareFiles(good, good.processes(0)).ok());

  pb::Image image = good;
  image.mutable_processes(0)->mutable_descriptors(0)->set_open_file(2);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareFiles(image, image.processes(0)).status()));
  image = good;
  image.mutable_processes(0)->mutable_descriptors(0)->set_fd(0xffffffff);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareFiles(image, image.processes(0)).status()));
  image.mutable_processes(0)->mutable_descriptors(0)->set_fd((1 << 30) - 1);
  EXPECT_FALSE(PrepareFiles(image, image.processes(0)).ok());
  image = good;
  *image.add_open_files() = image.open_files(0);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareFiles(image, image.processes(0)).status()));
  image = good;
  *image.mutable_processes(0)->add_descriptors() = image.processes(0).descriptors(0);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareFiles(image, image.processes(0)).status()));
  image = good;
  image.mutable_open_files(0)->set_kind(pb::OpenFile::EPOLL);
  image.mutable_open_files(0)->add_epoll()->set_fd(77);
  EXPECT_TRUE(absl::IsInvalidArgument(PrepareFiles(image, image.processes(0)).status()));
  image = good;
  image.mutable_processes(0)->set_cwd("/no/such/directory");
  EXPECT_TRUE(absl::IsFailedPrecondition(PrepareFiles(image, image.processes(0)).status()));
}

// A real image with random bits turned: anything may come back but a crash or a hang.
TEST_F(OpenFilesTest, DamagedImagesNeverCrash) {
  CaptureAndKill([&] {
    MoveFd(CreateFile(Path("f")), 10);
    Pipe(11, 12);
    (void)!::write(12, "x", 1);
    SocketPair(13, 14);
    (void)!::write(13, "x", 1);
    MoveFd(::timerfd_create(CLOCK_MONOTONIC, 0), 15);
    MoveFd(::epoll_create1(0), 16);
    Watch(16, 11, EPOLLIN, 1);
    MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), 17);
    BindUnix(17, Path("s"));
    ::listen(17, 3);
    MoveFd(::socket(AF_INET, SOCK_STREAM, 0), 18);
    ListenTcp(18);
  });
  const std::string good = image_.SerializeAsString();
  std::mt19937 random(7);
  int parsed = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    const int flips = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < flips; ++i) bad[random() % bad.size()] ^= 1 << (random() % 8);
    pb::Image image;
    if (!image.ParseFromString(bad) || image.processes_size() == 0) continue;
    // No file of ours may be touched by a damaged path.
    bool elsewhere = false;
    for (const auto& file : image.open_files()) {
      elsewhere |= file.kind() == pb::OpenFile::STDIO;
    }
    if (elsewhere) continue;
    ++parsed;
    (void)PrepareFiles(image, image.processes(0)).status();
  }
  EXPECT_GT(parsed, 100);
}

}  // namespace
}  // namespace incr
