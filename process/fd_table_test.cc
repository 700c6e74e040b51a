#include "process/fd_table.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "process/process_handle.h"
#include "process/socket_options.h"
#include "process/unix_diag.h"

namespace incr {
namespace {

ProcessHandle Self() { return ProcessHandle::Open(::getpid()).value(); }

const FdEntry* Find(const std::vector<FdEntry>& table, int fd) {
  for (const FdEntry& entry : table) {
    if (entry.fd == fd) return &entry;
  }
  return nullptr;
}

TEST(FdTable, ShowsLinkPositionFlagsAndStat) {
  char name[] = "/tmp/fd_table_XXXXXX";
  const int fd = ::mkostemp(name, O_APPEND | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::write(fd, "12345", 5), 5);
  const auto table = ReadFdTable(Self());
  ASSERT_TRUE(table.ok()) << table.status();
  const FdEntry* entry = Find(*table, fd);
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->link, name);
  EXPECT_EQ(entry->position, 5u);
  EXPECT_EQ(entry->flags & (O_ACCMODE | O_APPEND | O_CLOEXEC),
            uint32_t{O_RDWR | O_APPEND | O_CLOEXEC});
  EXPECT_TRUE(S_ISREG(entry->stat.st_mode));
  for (size_t i = 1; i < table->size(); ++i) EXPECT_LT((*table)[i - 1].fd, (*table)[i].fd);
  ::unlink(name);
  ::close(fd);
}

TEST(FdTable, AnEpollOfManyWatchesIsReadWhole) {
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  std::vector<int> fds;
  for (int i = 0; i < 500; ++i) {
    fds.push_back(::eventfd(0, EFD_CLOEXEC));
    epoll_event event = {EPOLLIN, {.u64 = 0x1234567890abcdef}};
    ASSERT_EQ(::epoll_ctl(epoll, EPOLL_CTL_ADD, fds.back(), &event), 0);
  }
  const auto table = ReadFdTable(Self());
  ASSERT_TRUE(table.ok());
  const std::string& text = Find(*table, epoll)->fdinfo;
  EXPECT_GT(text.size(), 20'000u);
  size_t watches = 0;
  for (size_t at = 0; (at = text.find("tfd:", at)) != std::string::npos; ++at) ++watches;
  EXPECT_EQ(watches, 500u);
  EXPECT_EQ(text.back(), '\n');
  for (int fd : fds) ::close(fd);
  ::close(epoll);
}

TEST(FdTable, OrderOfOpenFilesIsTotalAndKnowsDuplicates) {
  const ProcessHandle self = Self();
  const int a = ::eventfd(0, EFD_CLOEXEC), b = ::eventfd(0, EFD_CLOEXEC), a2 = ::dup(a);
  EXPECT_TRUE(SameOpenFile(self, a, a2).value());
  EXPECT_FALSE(SameOpenFile(self, a, b).value());
  EXPECT_EQ(CompareOpenFiles(self, a, b).value(), -CompareOpenFiles(self, b, a).value());
  EXPECT_NE(CompareOpenFiles(self, a, b).value(), 0);
  EXPECT_FALSE(SameOpenFile(self, a, 9999).ok());
  for (int fd : {a, b, a2}) ::close(fd);
}

TEST(FdTable, FieldsAreFoundAtLineStartsOnly) {
  const absl::string_view text = "xpos: 1\npos:\t42\nflags:\t02\nlast: x";
  EXPECT_EQ(FdinfoField(text, "pos"), "42");
  EXPECT_EQ(FdinfoField(text, "flags"), "02");
  EXPECT_EQ(FdinfoField(text, "last"), "x");
  EXPECT_EQ(FdinfoField(text, "none"), "");
  EXPECT_EQ(FdinfoField("", "pos"), "");
}

TEST(FdTable, AProcessThatIsGoneIsAnError) {
  const pid_t child = ::fork();
  if (child == 0) ::pause();
  const ProcessHandle handle = ProcessHandle::Open(child).value();
  EXPECT_TRUE(ReadFdTable(handle).ok());
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(ReadFdTable(handle).ok());
  EXPECT_FALSE(ReadFsContext(handle).ok());
}

TEST(FsContext, IsThatOfTheProcess) {
  const mode_t before = ::umask(0123);
  const auto context = ReadFsContext(Self());
  ::umask(before);
  ASSERT_TRUE(context.ok()) << context.status();
  char cwd[4096];
  EXPECT_EQ(context->cwd, ::getcwd(cwd, sizeof cwd));
  EXPECT_EQ(context->root, "/");
  EXPECT_EQ(context->umask, 0123u);
  EXPECT_TRUE(context->same_network);
}

uint64_t InodeOf(int fd) {
  struct stat found{};
  ::fstat(fd, &found);
  return found.st_ino;
}

TEST(UnixDiag, KnowsPeersAndShutdowns) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  auto diag = UnixDiag::Open();
  ASSERT_TRUE(diag.ok()) << diag.status();
  ASSERT_EQ(::write(pair[1], "abc", 3), 3);
  ::shutdown(pair[0], SHUT_WR);
  auto facts = diag->Query(InodeOf(pair[0]));
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_EQ(facts->peer_inode, InodeOf(pair[1]));
  EXPECT_EQ(facts->shutdown, 2u);
  EXPECT_EQ(facts->pending, 3u);
  const uint64_t gone = InodeOf(pair[1]);
  ::close(pair[1]);
  EXPECT_EQ(diag->Query(InodeOf(pair[0]))->peer_inode, 0u);
  EXPECT_TRUE(absl::IsNotFound(diag->Query(gone).status()));
  EXPECT_TRUE(diag->Query(InodeOf(pair[0])).ok());  // an error leaves the socket usable
  ::close(pair[0]);
}

TEST(SocketOptions, OnlyThoseOfTheTableCanBeSet) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  const auto values = ReadSocketOptions(fd, AF_INET, SOCK_STREAM, IPPROTO_TCP);
  EXPECT_GT(values.size(), 20u);
  const int copy = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  for (const SocketOptionValue& value : values) {
    const absl::Status set = ApplySocketOption(copy, value);
    EXPECT_TRUE(set.ok()) << set;
  }
  EXPECT_EQ(GetSocketInt(copy, SOL_SOCKET, SO_KEEPALIVE, "").value(), 1);
  EXPECT_TRUE(absl::IsInvalidArgument(ApplySocketOption(copy, {SOL_SOCKET, SO_ATTACH_FILTER, "x"})));
  EXPECT_TRUE(absl::IsInvalidArgument(ApplySocketOption(copy, {SOL_SOCKET, SO_RCVBUF, "x"})));
  EXPECT_FALSE(ApplySocketOption(copy, {SOL_SOCKET, SO_KEEPALIVE, std::string(65, 'x')}).ok());
  ::close(fd);
  ::close(copy);
}

TEST(SocketOptions, AddressesInWordsTakeAnyBytes) {
  EXPECT_EQ(DescribeAddress(""), "(unnamed)");
  EXPECT_EQ(DescribeAddress("x"), "(address family 0)");
  EXPECT_EQ(DescribeAddress(std::string("\1\0/run/x", 8)), "/run/x");
  EXPECT_EQ(DescribeAddress(std::string("\1\0\0ab\xff", 6)), "@ab\\xff");
  EXPECT_EQ(DescribeAddress(std::string("\1\0", 2)), "(unnamed)");
  EXPECT_EQ(DescribeAddress(std::string("\2\0\0", 3)), "(address family 2)");
  EXPECT_EQ(DescribeAddress(std::string("\2\0\x18\xeb\x7f\0\0\1\0\0\0\0\0\0\0\0", 16)),
            "127.0.0.1:6379");
}

}  // namespace
}  // namespace incr
