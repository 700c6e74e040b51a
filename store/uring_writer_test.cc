#include "store/uring_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/fault_point.h"
#include "base/file.h"
#include "store/test_pages.h"

namespace incr {
namespace {

class UringWriterTest : public ::testing::Test {
 protected:
  ~UringWriterTest() override { ArmFaultPoints(""); }

  // Forty buffers to one file; which way they went.
  std::string WriteForty(const std::string& path, int open_flags) {
    auto writer = UringWriter::Create();
    EXPECT_TRUE(writer.ok());
    auto fd = OpenFile(path, O_RDWR | O_CREAT | open_flags, 0600);
    EXPECT_TRUE(fd.ok()) << fd.status();
    constexpr size_t kBytes = 128 << 10;
    for (int i = 0; i < 40; ++i) {
      uint8_t* buffer = (*writer)->TakeBuffer();
      std::memset(buffer, 'A' + i, kBytes);
      (*writer)->Start(fd->get(), buffer, kBytes, i * kBytes, path);
    }
    const absl::Status drained = (*writer)->Drain();
    EXPECT_TRUE(drained.ok()) << drained;
    const std::string content = ReadWholeFile(path).value();
    EXPECT_EQ(content.size(), 40 * kBytes);
    for (int i = 0; i < 40; ++i) {
      EXPECT_EQ(content[i * kBytes], 'A' + i);
      EXPECT_EQ(content[(i + 1) * kBytes - 1], 'A' + i);
    }
    return (*writer)->method();
  }

  TempDirectory directory_;
};

TEST_F(UringWriterTest, TakesTheBestWayThatWorks) {
  EXPECT_EQ(WriteForty(directory_ / "a", O_DIRECT), "io_uring, registered buffers");
  ArmFaultPoints("store.no_registered_buffers=error");
  EXPECT_EQ(WriteForty(directory_ / "b", O_DIRECT), "io_uring");
  ArmFaultPoints("store.no_uring=error");
  EXPECT_EQ(WriteForty(directory_ / "c", O_DIRECT), "pwrite");
  EXPECT_EQ(WriteForty(directory_ / "d", 0), "pwrite");
}

TEST_F(UringWriterTest, TmpfsWorks) {
  const std::string path = "/dev/shm/uring_writer_test." + std::to_string(::getpid());
  WriteForty(path, 0);
  ::unlink(path.c_str());
}

TEST_F(UringWriterTest, AFailedWriteComesBackFromDrainOnce) {
  auto writer = UringWriter::Create();
  ASSERT_TRUE(writer.ok());
  auto read_only = OpenFile(directory_ / "f", O_RDONLY | O_CREAT, 0600);
  for (int i = 0; i < 20; ++i) {
    (*writer)->Start(read_only->get(), (*writer)->TakeBuffer(), 4096, 0, "the file");
  }
  const absl::Status failed = (*writer)->Drain();
  EXPECT_FALSE(failed.ok());
  EXPECT_NE(failed.message().find("the file"), absl::string_view::npos);
  EXPECT_TRUE((*writer)->Drain().ok());
}

// RLIMIT_FSIZE cuts a write short, then refuses.
TEST_F(UringWriterTest, AFileSizeLimitIsAnErrorNotALoss) {
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit old, limit;
  ::getrlimit(RLIMIT_FSIZE, &old);
  limit = old;
  limit.rlim_cur = 100'000;
  auto writer = UringWriter::Create();
  auto fd = OpenFile(directory_ / "f", O_RDWR | O_CREAT, 0600);
  ::setrlimit(RLIMIT_FSIZE, &limit);
  (*writer)->Start(fd->get(), (*writer)->TakeBuffer(), 1u << 20, 0, "f");
  const absl::Status failed = (*writer)->Drain();
  ::setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_FALSE(failed.ok());
}

}  // namespace
}  // namespace incr
