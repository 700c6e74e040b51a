// On memory of this process, which is its own target.
#include "tracker/uffd_fault_server.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "base/fault_point.h"
#include "gtest/gtest.h"
#include "process/kernel_abi.h"
#include "process/userfaultfd.h"

namespace incr {
namespace {

constexpr size_t kPages = 2048;  // 4 huge pages

class UffdFaultServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto uffd = NewUserfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    if (!uffd.ok()) GTEST_SKIP() << uffd.status();
    void* p = mmap(nullptr, kPages * kPageSize + kHuge, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(p, MAP_FAILED);
    memory_ = reinterpret_cast<volatile char*>((reinterpret_cast<uint64_t>(p) + kHuge - 1) / kHuge * kHuge);
    Fill();
    const absl::Status registered = RegisterWriteProtect(uffd->get(), All());
    if (!registered.ok()) GTEST_SKIP() << registered;
    auto server = UffdFaultServer::Start(*std::move(uffd));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    ArmFaultPoints("");
    server_.reset();
    if (memory_ != nullptr) munmap(const_cast<char*>(memory_), kPages * kPageSize);
  }

  void Fill() {
    for (size_t i = 0; i < kPages; ++i) memory_[i * kPageSize] = 1;
  }
  void Arm() { ASSERT_TRUE(WriteProtect(server_->uffd(), All(), true).ok()); }
  PageRange Page(size_t n) const { return {All().first + n, 1}; }
  PageRange All() const { return {reinterpret_cast<uint64_t>(memory_) / kPageSize, kPages}; }
  void Write(size_t page) { memory_[page * kPageSize + 5] = 7; }
  static PageSet Set(std::initializer_list<PageRange> ranges) {
    PageSet set;
    for (PageRange range : ranges) set.Add(range);
    return set;
  }

  static constexpr uint64_t kHuge = 2 << 20;
  volatile char* memory_ = nullptr;
  std::unique_ptr<UffdFaultServer> server_;
};

TEST_F(UffdFaultServerTest, EveryPageThatIsWrittenIsOnTheListOnce) {
  Arm();
  for (size_t page : {40, 3, 40, 4, 2047}) Write(page);
  EXPECT_EQ(server_->TakeDirty(), Set({Page(3), Page(4), Page(40), Page(2047)}));
  Write(3);  // Not armed any more.
  EXPECT_TRUE(server_->TakeDirty().empty());
  ASSERT_TRUE(WriteProtect(server_->uffd(), Page(3), true).ok());
  Write(3);
  EXPECT_EQ(server_->TakeDirty(), Set({Page(3)}));
  EXPECT_TRUE(server_->status().ok());
}

TEST_F(UffdFaultServerTest, OfAHugePageOnlyWhatWasWrittenIsListedAndTheRestStaysArmed) {
  void* const start = const_cast<char*>(memory_);
  if (madvise(start, kPages * kPageSize, MADV_DONTNEED) != 0 ||
      madvise(start, kPages * kPageSize, MADV_HUGEPAGE) != 0) {
    GTEST_SKIP() << "no huge pages here";
  }
  Fill();
  Arm();
  Write(700);
  EXPECT_EQ(server_->TakeDirty(), Set({Page(700)}));
  Write(701);
  Write(1500);
  EXPECT_EQ(server_->TakeDirty(), Set({Page(701), Page(1500)}));
}

TEST_F(UffdFaultServerTest, TheKernelsOwnWritesAreServedInFull) {
  Arm();
  const ScopedFd zeros(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(read(zeros.get(), const_cast<char*>(memory_) + 100, 8 * kPageSize),
            static_cast<ssize_t>(8 * kPageSize));
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  ASSERT_EQ(write(ends[1], "hello", 5), 5);
  EXPECT_EQ(read(ends[0], const_cast<char*>(memory_) + 20 * kPageSize, 5), 5);
  close(ends[0]);
  close(ends[1]);
  EXPECT_EQ(server_->TakeDirty(), Set({{All().first, 9}, Page(20)}));
}

TEST_F(UffdFaultServerTest, AChildIsNotProtectedAndAVforkChildIs) {
  Arm();
  const pid_t child = fork();
  if (child == 0) {
    Write(3);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(server_->TakeDirty().empty());
  const pid_t sharing = vfork();
  if (sharing == 0) {
    memory_[4 * kPageSize] = 7;
    _exit(0);
  }
  ASSERT_EQ(waitpid(sharing, &status, 0), sharing);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(server_->TakeDirty(), Set({Page(4)}));
}

TEST_F(UffdFaultServerTest, ManyThreadsOnTheSameFewPagesAllGoOnAndNoWriteIsMissed) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::atomic<uint64_t> writes{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (uint64_t n = 0; !stop; ++n, ++writes) memory_[(n + i) % 4 * kPageSize + i] = 1;
    });
  }
  for (int round = 0; round < 100; ++round) {
    Arm();
    (void)server_->TakeDirty();
    const uint64_t before = writes;
    while (writes < before + 64) std::this_thread::yield();  // Or the test runs into its time limit.
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  // Quiet now. What is armed and written from here on is on the list.
  Arm();
  (void)server_->TakeDirty();
  Write(1);
  EXPECT_EQ(server_->TakeDirty(), Set({Page(1)}));
}

TEST_F(UffdFaultServerTest, AWriterWhosePageIsUnmappedMeanwhileGoesOn) {
  Arm();
  ArmFaultPoints("tracker.serve_fault=sleep:1");  // The answer takes 200 ms.
  std::thread writer([&] { Write(9); });
  usleep(50'000);
  // Another mapping in its place, which is not registered.
  ASSERT_NE(mmap(const_cast<char*>(memory_) + 9 * kPageSize, kPageSize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
  writer.join();
  EXPECT_EQ(memory_[9 * kPageSize + 5], 7);
  EXPECT_TRUE(server_->status().ok());
  Write(10);
  EXPECT_TRUE(server_->TakeDirty().Contains(Page(10).first));
}

TEST_F(UffdFaultServerTest, EndsWhileWritersWaitAndTheyGoOn) {
  Arm();
  ArmFaultPoints("tracker.serve_fault=sleep");
  std::atomic<int> done{0};
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i) {
    writers.emplace_back([&, i] {
      Write(i);       // Waits when the server ends,
      Write(i + 100);  // or does so now.
      ++done;
    });
  }
  usleep(50'000);
  EXPECT_LT(done, 8);
  server_.reset();
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(done, 8);
}

TEST_F(UffdFaultServerTest, AServerThatFailsLetsAllGoOnAndSaysSo) {
  Arm();
  ArmFaultPoints("tracker.serve_fault=error:2");
  Write(1);
  EXPECT_TRUE(server_->status().ok());
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i) writers.emplace_back([&, i] { Write(10 + i); });
  for (std::thread& writer : writers) writer.join();
  Write(20);
  EXPECT_FALSE(server_->status().ok());
  EXPECT_FALSE(WriteProtect(server_->uffd(), Page(1), true).ok());
  Write(1);  // Not armed: nobody would answer.
}

}  // namespace
}  // namespace incr
