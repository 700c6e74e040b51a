#include "checkpoint/capture_files.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "checkpoint/forked_target.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "process/fd_table.h"

namespace incr {
namespace {

using ::testing::HasSubstr;

class CaptureFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/capture_files_XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override { (void)!std::system(("rm -rf " + directory_).c_str()); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  absl::Status Capture(const ForkedTarget& target, bool allow_unsupported = false) {
    image_.Clear();
    process_ = image_.add_processes();
    return CaptureFiles(target.handle(), allow_unsupported, process_, &image_);
  }

  // Captured without error.
  void CaptureOf(ForkedTarget::Setup setup) {
    const ForkedTarget target = ForkedTarget::Clean(std::move(setup));
    const absl::Status captured = Capture(target);
    ASSERT_TRUE(captured.ok()) << captured;
  }

  const pb::FileDescriptor* Descriptor(uint32_t fd) const {
    for (const auto& descriptor : process_->descriptors()) {
      if (descriptor.fd() == fd) return &descriptor;
    }
    return nullptr;
  }
  const pb::OpenFile& File(uint32_t fd) const {
    static const pb::OpenFile kNone;
    const pb::FileDescriptor* descriptor = Descriptor(fd);
    if (descriptor == nullptr) return kNone;
    return image_.open_files(static_cast<int>(descriptor->open_file()) - 1);
  }

  std::string directory_;
  pb::Image image_;
  pb::Process* process_ = nullptr;
};

int CreateFile(const std::string& path, int flags = O_RDWR) {
  return ::open(path.c_str(), flags | O_CREAT, 0644);
}

TEST_F(CaptureFilesTest, RegularFileWithPositionFlagsAndIdentity) {
  CaptureOf([&] {
    const int fd = MoveFd(CreateFile(Path("a"), O_RDWR | O_APPEND), 7);
    (void)!::write(fd, "0123456789", 10);
    ::lseek(fd, 4, SEEK_SET);
  });
  const pb::OpenFile& file = File(7);
  EXPECT_EQ(file.kind(), pb::OpenFile::REGULAR);
  EXPECT_EQ(file.position(), 4u);
  EXPECT_EQ(file.flags() & (O_ACCMODE | O_APPEND), uint32_t{O_RDWR | O_APPEND});
  EXPECT_EQ(file.file().path(), Path("a"));
  struct stat at_path;
  ASSERT_EQ(::stat(Path("a").c_str(), &at_path), 0);
  EXPECT_EQ(file.file().ino(), at_path.st_ino);
  EXPECT_EQ(file.file().dev(), at_path.st_dev);
  EXPECT_EQ(file.file().size(), 10u);
}

TEST_F(CaptureFilesTest, DuplicatesShareOneOpenFileAndSeparateOpensDoNot) {
  CaptureOf([&] {
    MoveFd(CreateFile(Path("a")), 5);
    ::dup2(5, 9);
    ::dup3(5, 12, O_CLOEXEC);
    MoveFd(CreateFile(Path("a")), 6);
    for (int fd = 20; fd < 30; ++fd) MoveFd(::eventfd(0, 0), fd);
    ::dup2(23, 31);
    for (int fd = 40; fd < 50; ++fd) MoveFd(::timerfd_create(CLOCK_MONOTONIC, 0), fd);
    ::dup2(44, 51);
  });
  EXPECT_EQ(Descriptor(5)->open_file(), Descriptor(9)->open_file());
  EXPECT_EQ(Descriptor(5)->open_file(), Descriptor(12)->open_file());
  EXPECT_NE(Descriptor(5)->open_file(), Descriptor(6)->open_file());
  EXPECT_TRUE(Descriptor(12)->close_on_exec());
  EXPECT_FALSE(Descriptor(5)->close_on_exec());
  EXPECT_EQ(Descriptor(23)->open_file(), Descriptor(31)->open_file());
  EXPECT_NE(Descriptor(24)->open_file(), Descriptor(31)->open_file());
  EXPECT_EQ(Descriptor(44)->open_file(), Descriptor(51)->open_file());
  EXPECT_EQ(image_.open_files_size(), 1 + 2 + 10 + 10);  // 0..2 are one open /dev/null
}

TEST_F(CaptureFilesTest, DeletedAndReplacedFilesAreNamed) {
  const ForkedTarget target = ForkedTarget::Clean([&] {
    MoveFd(CreateFile(Path("gone")), 5);
    ::unlink(Path("gone").c_str());
    MoveFd(CreateFile(Path("moved")), 6);
    ::unlink(Path("moved").c_str());
    ::close(CreateFile(Path("moved")));
  });
  const absl::Status status = Capture(target);
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("fd 5 (" + Path("gone")));
  EXPECT_THAT(std::string(status.message()), HasSubstr("deleted"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("fd 6 (" + Path("moved")));
}

TEST_F(CaptureFilesTest, ARenamedFileIsFoundUnderItsNewName) {
  CaptureOf([&] {
    MoveFd(CreateFile(Path("old")), 5);
    ::rename(Path("old").c_str(), Path("new").c_str());
  });
  EXPECT_EQ(File(5).file().path(), Path("new"));
}

TEST_F(CaptureFilesTest, AFileReallyNamedDeletedIsNoDeletedFile) {
  CaptureOf([&] { MoveFd(CreateFile(Path("x (deleted)")), 5); });
  EXPECT_EQ(File(5).file().path(), Path("x (deleted)"));
}

struct UnsupportedCase {
  const char* word;
  int (*open)();
};

int OpenPidfd() { return static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)); }
int OpenIoUring() {
  unsigned char parameters[120] = {};
  return static_cast<int>(::syscall(SYS_io_uring_setup, 4, parameters));
}
int OpenUserfaultfd() { return static_cast<int>(::syscall(SYS_userfaultfd, 1 /* user only */)); }
// Its other end is held by a child that dies with the target.
int OpenOutsidePipe() {
  int ends[2];
  (void)!::pipe(ends);
  if (::fork() == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(ends[0]);
    ::pause();
    ::_exit(0);
  }
  ::close(ends[1]);
  return ends[0];
}
int OpenAsync() {
  int ends[2];
  (void)!::pipe(ends);
  MoveFd(ends[1], 60);
  ::fcntl(ends[0], F_SETFL, O_ASYNC);
  return ends[0];
}
int OpenLease() {
  const int fd = ::open("/tmp/capture_files_lease", O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
  ::fcntl(fd, F_SETLEASE, F_RDLCK);
  return fd;
}

TEST_F(CaptureFilesTest, WhatCannotBeRestoredIsNamedWithItsDescriptor) {
  const UnsupportedCase cases[] = {
      {"inotify", [] { return ::inotify_init1(0); }},
      {"fanotify", [] { return ::fanotify_init(FAN_CLASS_NOTIF, O_RDONLY); }},
      {"io_uring", OpenIoUring},
      {"pidfd", OpenPidfd},
      {"memfd", [] { return ::memfd_create("x", 0); }},
      {"userfaultfd", OpenUserfaultfd},
      {"netlink", [] { return ::socket(AF_NETLINK, SOCK_RAW, 0); }},
      {"socket", [] { return ::socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }},
      {"packet", [] { return ::socket(AF_PACKET, SOCK_RAW, 0); }},
      {"another process", OpenOutsidePipe},
      {"O_ASYNC", OpenAsync},
      {"LEASE", OpenLease},
      {"pseudo-terminal", [] { return ::posix_openpt(O_RDWR | O_NOCTTY); }},
      {"net:", [] { return ::open("/proc/self/ns/net", O_RDONLY); }},
      {"another process", [] { return ::open("/proc/1/status", O_RDONLY); }},
  };
  for (const UnsupportedCase& c : cases) {
    SCOPED_TRACE(c.word);
    const ForkedTarget target = ForkedTarget::Clean([&] {
      const int fd = c.open();
      if (fd >= 0) MoveFd(fd, 47);
    });
    struct stat ignored;
    if (::lstat(target.handle().ProcPath("fd/47").c_str(), &ignored) != 0) {
      std::printf("skipped: this machine cannot open %s\n", c.word);
      continue;
    }
    const absl::Status status = Capture(target);
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("fd 47"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.word));

    EXPECT_TRUE(Capture(target, true).ok());
    EXPECT_EQ(Descriptor(47), nullptr);
    ASSERT_GE(image_.warnings_size(), 1);
    EXPECT_THAT(image_.warnings(0), HasSubstr("fd 47"));
  }
}

TEST_F(CaptureFilesTest, AFileOfItsOwnUnderProcIsNothingUnusual) {
  CaptureOf([] {
    MoveFd(::open("/proc/self/stat", O_RDONLY), 5);
    char text[16];
    (void)!::read(5, text, sizeof text);
  });
  EXPECT_EQ(File(5).kind(), pb::OpenFile::PROC_SELF);
  EXPECT_EQ(File(5).position(), 16u);
}

TEST_F(CaptureFilesTest, AllUnsupportedThingsAreInOneError) {
  const ForkedTarget target = ForkedTarget::Clean([] {
    MoveFd(::inotify_init1(0), 5);
    MoveFd(::memfd_create("x", 0), 6);
  });
  const absl::Status status = Capture(target);
  EXPECT_THAT(std::string(status.message()), HasSubstr("fd 5"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("fd 6"));
}

TEST_F(CaptureFilesTest, PipeContentIsCopiedAndNotConsumed) {
  ForkedTarget target = ForkedTarget::Clean(
      [] {
        int ends[2];
        (void)!::pipe(ends);
        MoveFd(ends[0], 10);
        MoveFd(ends[1], 11);
        (void)!::write(11, "still here", 10);
      },
      []() -> std::string {
        char text[32] = {};
        (void)!::read(10, text, sizeof text);
        return std::string(text) == "still here" ? "" : text;
      });
  ASSERT_TRUE(Capture(target).ok());
  EXPECT_EQ(File(10).kind(), pb::OpenFile::PIPE);
  EXPECT_EQ(File(10).pipe().content(), "still here");
  EXPECT_FALSE(File(10).pipe().write_end());
  EXPECT_TRUE(File(11).pipe().write_end());
  EXPECT_EQ(File(10).pipe().pipe_id(), File(11).pipe().pipe_id());
  EXPECT_EQ(File(10).pipe().capacity(), 65536u);
  EXPECT_EQ(target.Finish(), "");
}

TEST_F(CaptureFilesTest, APipeOfManySmallWritesIsCopiedWhole) {
  CaptureOf([] {
    int ends[2];
    (void)!::pipe2(ends, O_NONBLOCK | O_DIRECT);  // every write a packet, a slot of its own
    MoveFd(ends[0], 10);
    MoveFd(ends[1], 11);
    while (::write(11, "abc", 3) == 3) {
    }
  });
  EXPECT_EQ(File(10).pipe().content().size(), 16u * 3);
  EXPECT_EQ(File(10).pipe().packet_sizes_size(), 16);
}

TEST_F(CaptureFilesTest, OutsidePipesOnStandardDescriptorsKeepTheirNumbers) {
  int outside[2];
  ASSERT_EQ(::pipe(outside), 0);
  int inherited = ::fcntl(outside[1], F_DUPFD, 500);
  const ForkedTarget target = ForkedTarget::Clean([&] {
    // The clean table has closed ours: open the same pipe again through the parent.
    const std::string path =
        "/proc/" + std::to_string(::getppid()) + "/fd/" + std::to_string(inherited);
    const int fd = ::open(path.c_str(), O_WRONLY);
    ::dup2(fd, 1);
    ::dup2(fd, 2);
    MoveFd(fd, 15);
  });
  ASSERT_TRUE(Capture(target).ok());
  EXPECT_EQ(File(1).kind(), pb::OpenFile::STDIO);
  EXPECT_EQ(File(1).stdio_fd(), 1u);
  EXPECT_EQ(File(2).stdio_fd(), 2u);
  EXPECT_EQ(File(15).kind(), pb::OpenFile::STDIO);
  EXPECT_EQ(File(15).stdio_fd(), 1u);
  EXPECT_EQ(File(0).kind(), pb::OpenFile::CHAR_DEVICE);
  for (int fd : {outside[0], outside[1], inherited}) ::close(fd);
}

// As it is after a restore, or after a reader has died: nothing to warn of, nothing lost.
TEST_F(CaptureFilesTest, APipeWhoseOtherEndNobodyHoldsComesBackSo) {
  CaptureOf([] {
    int written[2], drained[2];
    EXPECT_EQ(::pipe(written), 0);
    EXPECT_EQ(::pipe(drained), 0);
    EXPECT_EQ(::write(written[1], "left over", 9), 9);
    ::dup2(written[0], 40);
    ::dup2(drained[1], 41);
    for (int fd : {written[0], written[1], drained[0], drained[1]}) ::close(fd);
  });
  EXPECT_EQ(File(40).kind(), pb::OpenFile::PIPE);
  EXPECT_EQ(File(40).pipe().content(), "left over");
  EXPECT_EQ(File(41).kind(), pb::OpenFile::PIPE);
  EXPECT_TRUE(File(41).pipe().write_end());
  EXPECT_EQ(image_.warnings_size(), 0);
}

TEST_F(CaptureFilesTest, APipeEndThatEveryChildInheritsIsAWarning) {
  int outside[2];
  ASSERT_EQ(::pipe(outside), 0);
  const int number = ::fcntl(outside[1], F_DUPFD, 251);
  const std::string path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(number);
  const auto setup = [&] { MoveFd(::open(path.c_str(), O_WRONLY), number); };
  const ForkedTarget target = ForkedTarget::Clean(setup);
  // We hold the reader too: then it is a channel between us and it.
  EXPECT_TRUE(absl::IsUnimplemented(Capture(target)));
  const pid_t reader = ::fork();
  if (reader == 0) {
    ::close(outside[1]);
    ::close(number);
    ::pause();
  }
  ::close(outside[0]);
  const absl::Status status = Capture(target);
  ::kill(reader, SIGKILL);
  ::waitpid(reader, nullptr, 0);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(File(static_cast<uint32_t>(number)).kind(), pb::OpenFile::INHERITED_PIPE);
  ASSERT_EQ(image_.warnings_size(), 1);
  EXPECT_THAT(image_.warnings(0), HasSubstr("fd " + std::to_string(number)));
  ::close(outside[1]);
  ::close(number);
}

TEST_F(CaptureFilesTest, TerminalOnStandardDescriptorsIsStdio) {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(master, 0);
  ::grantpt(master);
  ::unlockpt(master);
  const std::string name = ::ptsname(master);
  CaptureOf([&] {
    ::setsid();
    const int fd = ::open(name.c_str(), O_RDWR);  // becomes the controlling terminal
    for (int i = 0; i < 3; ++i) ::dup2(fd, i);
    MoveFd(fd, 15);
    MoveFd(::open("/dev/tty", O_RDWR), 16);
  });
  for (uint32_t fd : {0u, 1u, 2u}) {
    EXPECT_EQ(File(fd).kind(), pb::OpenFile::STDIO);
    EXPECT_EQ(File(fd).stdio_fd(), fd);
  }
  EXPECT_EQ(File(15).stdio_fd(), 0u);
  EXPECT_EQ(File(16).kind(), pb::OpenFile::STDIO);
  ::close(master);
}

TEST_F(CaptureFilesTest, OutsideSocketOnStandardDescriptorsIsStdio) {
  const int server = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, Path("journal").c_str());
  ASSERT_EQ(::bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::listen(server, 1);
  CaptureOf([&] {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::dup2(fd, 1);
    ::dup2(fd, 2);
    MoveFd(fd, 9);
  });
  EXPECT_EQ(File(1).kind(), pb::OpenFile::STDIO);
  EXPECT_EQ(File(2).stdio_fd(), 2u);
  EXPECT_EQ(File(9).stdio_fd(), 1u);
  EXPECT_FALSE(File(1).has_socket());
  EXPECT_EQ(image_.warnings_size(), 0);
  ::close(server);
}

TEST_F(CaptureFilesTest, EventfdEpollTimerfdSignalfd) {
  CaptureOf([] {
    MoveFd(::eventfd(0x1234, EFD_SEMAPHORE | EFD_NONBLOCK), 10);
    MoveFd(::epoll_create1(0), 11);
    ::fcntl(11, F_SETFD, FD_CLOEXEC);
    epoll_event event = {EPOLLIN | EPOLLET, {.u64 = 0xfeedfacecafebeef}};
    ::epoll_ctl(11, EPOLL_CTL_ADD, 10, &event);
    MoveFd(::timerfd_create(CLOCK_BOOTTIME, 0), 12);
    const itimerspec spec = {{3, 5}, {1000, 7}};
    ::timerfd_settime(12, 0, &spec, nullptr);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGTERM);
    MoveFd(::signalfd(-1, &mask, 0), 13);
  });
  EXPECT_EQ(File(10).eventfd_count(), 0x1234u);
  EXPECT_TRUE(File(10).eventfd_semaphore());
  ASSERT_EQ(File(11).epoll_size(), 1);
  EXPECT_EQ(File(11).epoll(0).fd(), 10u);
  EXPECT_EQ(File(11).epoll(0).data(), 0xfeedfacecafebeefu);
  EXPECT_EQ(File(11).epoll(0).events() & (EPOLLIN | EPOLLET), uint32_t{EPOLLIN} | EPOLLET);
  EXPECT_TRUE(Descriptor(11)->close_on_exec());
  EXPECT_EQ(File(12).timerfd().clock(), CLOCK_BOOTTIME);
  EXPECT_EQ(File(12).timerfd().interval_ns(), 3'000'000'005);
  EXPECT_GT(File(12).timerfd().value_ns(), 990'000'000'000);
  EXPECT_LE(File(12).timerfd().value_ns(), 1000'000'000'007);
  EXPECT_EQ(File(13).signalfd_mask(), (1u << (SIGUSR1 - 1)) | (1u << (SIGTERM - 1)));
}

TEST_F(CaptureFilesTest, AnExpiredPeriodicTimerKeepsItsTicksAndPhase) {
  CaptureOf([] {
    MoveFd(::timerfd_create(CLOCK_MONOTONIC, 0), 12);
    const itimerspec spec = {{0, 2'000'000}, {0, 1}};
    ::timerfd_settime(12, 0, &spec, nullptr);
    ::usleep(10'000);
  });
  EXPECT_GE(File(12).timerfd().ticks(), 5u);
  EXPECT_GT(File(12).timerfd().value_ns(), 0);
  EXPECT_LE(File(12).timerfd().value_ns(), 2'000'000);
}

TEST_F(CaptureFilesTest, AWatchOfAClosedDescriptorIsAWarning) {
  CaptureOf([] {
    MoveFd(::eventfd(0, 0), 10);
    ::dup2(10, 20);
    MoveFd(::epoll_create1(0), 11);
    epoll_event event = {EPOLLIN, {.u64 = 1}};
    ::epoll_ctl(11, EPOLL_CTL_ADD, 10, &event);
    ::epoll_ctl(11, EPOLL_CTL_ADD, 20, &event);
    ::close(10);
    MoveFd(::eventfd(0, 0), 10);  // the number lives again, as another file
  });
  ASSERT_EQ(File(11).epoll_size(), 1);
  EXPECT_EQ(File(11).epoll(0).fd(), 20u);
  ASSERT_EQ(image_.warnings_size(), 1);
  EXPECT_THAT(image_.warnings(0), HasSubstr("fd 10"));
}

TEST_F(CaptureFilesTest, ListeningTcpSocketWithAddressBacklogAndOptions) {
  CaptureOf([] {
    const int fd = MoveFd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), 10);
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockaddr_in address = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
    ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::listen(fd, 37);
  });
  EXPECT_EQ(File(10).kind(), pb::OpenFile::LISTENING_SOCKET);
  EXPECT_EQ(File(10).socket().backlog(), 37u);
  EXPECT_EQ(File(10).socket().local_address().size(), sizeof(sockaddr_in));
  EXPECT_NE(File(10).flags() & O_NONBLOCK, 0u);
  bool nodelay = false;
  for (const auto& option : File(10).socket().options()) {
    int value = 0;
    if (option.level() == IPPROTO_TCP && option.name() == TCP_NODELAY) {
      std::memcpy(&value, option.value().data(), sizeof value);
      nodelay = value != 0;
    }
  }
  EXPECT_TRUE(nodelay);
}

TEST_F(CaptureFilesTest, ListeningUnixSocketWithBacklogAndMode) {
  CaptureOf([&] {
    const int fd = MoveFd(::socket(AF_UNIX, SOCK_STREAM, 0), 10);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, Path("s").c_str());
    ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::chmod(Path("s").c_str(), 0640);
    ::listen(fd, 11);
  });
  EXPECT_EQ(File(10).kind(), pb::OpenFile::LISTENING_SOCKET);
  EXPECT_EQ(File(10).socket().backlog(), 11u);
  EXPECT_EQ(File(10).socket().socket_mode() & 07777, 0640u);
}

TEST_F(CaptureFilesTest, EstablishedTcpIsAWarningThatNamesThePeer) {
  const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
  socklen_t length = sizeof address;
  ::bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address);
  ::listen(server, 1);
  ::getsockname(server, reinterpret_cast<sockaddr*>(&address), &length);
  CaptureOf([&] {
    MoveFd(::socket(AF_INET, SOCK_STREAM, 0), 10);
    ::connect(10, reinterpret_cast<sockaddr*>(&address), sizeof address);
  });
  EXPECT_EQ(File(10).kind(), pb::OpenFile::DROPPED_CONNECTION);
  ASSERT_EQ(image_.warnings_size(), 1);
  EXPECT_THAT(image_.warnings(0), HasSubstr("fd 10"));
  EXPECT_THAT(image_.warnings(0), HasSubstr("established"));
  EXPECT_THAT(image_.warnings(0),
              HasSubstr("127.0.0.1:" + std::to_string(ntohs(address.sin_port))));
  ::close(server);
}

TEST_F(CaptureFilesTest, ManyLostConnectionsAreFewWarningsAndQuick) {
  const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
  socklen_t length = sizeof address;
  ::bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address);
  ::listen(server, 600);
  ::getsockname(server, reinterpret_cast<sockaddr*>(&address), &length);
  const ForkedTarget target = ForkedTarget::Clean([&] {
    for (int fd = 100; fd < 600; ++fd) {
      MoveFd(::socket(AF_INET, SOCK_STREAM, 0), fd);
      ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
    }
  });
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(Capture(target).ok());
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  std::printf("500 connections: %.0f us\n", took.count());
  EXPECT_EQ(File(599).kind(), pb::OpenFile::DROPPED_CONNECTION);
  ASSERT_EQ(image_.warnings_size(), 9);
  EXPECT_THAT(image_.warnings(8), HasSubstr("492 more"));
  EXPECT_THAT(image_.warnings(8), HasSubstr("108-599"));
  ::close(server);
}

TEST_F(CaptureFilesTest, SocketPairWithUnreadDataInBothDirections) {
  ForkedTarget target = ForkedTarget::Clean(
      [] {
        int ends[2];
        ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
        MoveFd(ends[0], 10);
        MoveFd(ends[1], 11);
        (void)!::write(11, "to ", 3);
        (void)!::write(11, "ten", 3);
        (void)!::write(10, "to eleven", 9);
        ::shutdown(11, SHUT_WR);
      },
      []() -> std::string {
        char text[32] = {};
        (void)!::read(10, text, sizeof text);
        return std::string(text) == "to ten" ? "" : text;
      });
  ASSERT_TRUE(Capture(target).ok());
  EXPECT_EQ(File(10).kind(), pb::OpenFile::SOCKET_PAIR);
  EXPECT_EQ(File(10).socket().unread(), "to ten");
  EXPECT_EQ(File(11).socket().unread(), "to eleven");
  EXPECT_EQ(File(10).socket().pair_id(), File(11).socket().pair_id());
  EXPECT_TRUE(File(11).socket().write_shutdown());
  EXPECT_FALSE(File(11).socket().read_shutdown());
  EXPECT_TRUE(File(10).socket().read_shutdown());
  EXPECT_EQ(target.Finish(), "");
}

TEST_F(CaptureFilesTest, DescriptorsInFlightAreUnsupported) {
  const ForkedTarget target = ForkedTarget::Clean([] {
    int ends[2];
    ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    MoveFd(ends[0], 10);
    MoveFd(ends[1], 11);
    char byte = 'x';
    iovec vector = {&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = 0;
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ::sendmsg(10, &message, 0);
  });
  const absl::Status status = Capture(target);
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("fd 11"));
}

TEST_F(CaptureFilesTest, LocksOfEachKind) {
  CaptureOf([&] {
    MoveFd(CreateFile(Path("flock")), 10);
    ::flock(10, LOCK_EX);
    MoveFd(CreateFile(Path("posix")), 11);
    struct flock lock = {F_RDLCK, SEEK_SET, 5, 10, 0};
    ::fcntl(11, F_SETLK, &lock);
    MoveFd(CreateFile(Path("ofd")), 12);
    lock = {F_WRLCK, SEEK_SET, 7, 0, 0};
    ::fcntl(12, F_OFD_SETLK, &lock);
  });
  ASSERT_EQ(File(10).locks_size(), 1);
  EXPECT_EQ(File(10).locks(0).kind(), pb::FileLock::FLOCK);
  EXPECT_TRUE(File(10).locks(0).exclusive());
  ASSERT_EQ(File(11).locks_size(), 1);
  EXPECT_EQ(File(11).locks(0).kind(), pb::FileLock::POSIX);
  EXPECT_FALSE(File(11).locks(0).exclusive());
  EXPECT_EQ(File(11).locks(0).start(), 5u);
  EXPECT_EQ(File(11).locks(0).length(), 10u);
  ASSERT_EQ(File(12).locks_size(), 1);
  EXPECT_EQ(File(12).locks(0).kind(), pb::FileLock::OPEN_FILE);
  EXPECT_EQ(File(12).locks(0).start(), 7u);
  EXPECT_EQ(File(12).locks(0).length(), 0u);
}

TEST_F(CaptureFilesTest, WorkingDirectoryRootAndUmask) {
  CaptureOf([&] {
    ::umask(0137);
    (void)!::chdir(directory_.c_str());
  });
  EXPECT_EQ(process_->cwd(), directory_);
  EXPECT_EQ(process_->root(), "/");
  EXPECT_EQ(process_->umask(), 0137u);

  const ForkedTarget gone = ForkedTarget::Clean([&] {
    ::mkdir(Path("d").c_str(), 0755);
    (void)!::chdir(Path("d").c_str());
    ::rmdir(Path("d").c_str());
  });
  EXPECT_THAT(std::string(Capture(gone).message()), HasSubstr("working directory"));

  const ForkedTarget jailed = ForkedTarget::Clean([&] { (void)!::chroot(directory_.c_str()); });
  EXPECT_THAT(std::string(Capture(jailed).message()), HasSubstr("root directory"));
}

TEST_F(CaptureFilesTest, TwentyDescriptorsAreQuick) {
  const ForkedTarget target = ForkedTarget::Clean([&] {
    for (int fd = 10; fd < 16; ++fd) MoveFd(CreateFile(Path(std::to_string(fd))), fd);
    for (int fd = 20; fd < 24; ++fd) MoveFd(::eventfd(0, 0), fd);
    MoveFd(::epoll_create1(0), 30);
    int ends[2];
    (void)!::pipe(ends);
    ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    MoveFd(::socket(AF_INET, SOCK_STREAM, 0), 31);
    ::listen(31, 5);
  });
  double best_us = 1e9;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const absl::Status status = Capture(target);
    const std::chrono::duration<double, std::micro> took =
        std::chrono::steady_clock::now() - start;
    ASSERT_TRUE(status.ok()) << status;
    best_us = std::min(best_us, took.count());
  }
  std::printf("%d descriptors: %.0f us at best\n", process_->descriptors_size(), best_us);
  EXPECT_LT(best_us, 3000);
}

}  // namespace
}  // namespace incr
