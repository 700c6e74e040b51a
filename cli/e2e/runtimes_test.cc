// Programs whose runtimes do unusual things to memory: Go, Java, AddressSanitizer, and a reservation of 16
// TiB. They verify themselves. Each is tracked, checkpointed, killed, restored from every epoch, tracked
// again, and goes on computing right to its own end; the figures of its first epoch are printed.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "cli/e2e/harness.h"
#include "gtest/gtest.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

// A "VmPTE:   16504 kB" of /proc/<pid>/status.
uint64_t KibOf(pid_t pid, absl::string_view field) {
  for (absl::string_view line :
       absl::StrSplit(ReadAll(absl::StrCat("/proc/", pid, "/status")), '\n')) {
    if (absl::ConsumePrefix(&line, field)) return strtoull(std::string(line.substr(1)).c_str(), nullptr, 10);
  }
  return 0;
}

class Runtimes : public EndToEnd {
 protected:
  Program StartTarget(std::vector<std::string> argv) {
    argv.push_back(progress_);
    Program program = Program::Start(argv, {"/dev/null", folder_ + "/out", folder_ + "/err"});
    EXPECT_TRUE(Await([&] { return Progress() > 10; }, 60'000))
        << ReadAll(progress_) << ReadAll(folder_ + "/err") << ReadAll(folder_ + "/out");
    return program;
  }

  // Runs a compiler of the machine.
  void Compile(const std::string& compiler, const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {"/usr/bin/env", "HOME=" + folder_, "GOCACHE=" + folder_ + "/go",
                                     "GO111MODULE=off", compiler};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    Program program =
        Program::Start(argv, {"/dev/null", folder_ + "/compiler.out", folder_ + "/compiler.err"});
    ASSERT_EQ(program.Wait(120), 0) << ReadAll(folder_ + "/compiler.err");
  }

  struct Figures {
    uint64_t resident_kib, tables_before_kib, tables_after_kib;
    pb::EpochRow first;
  };

  // Starts tracking and takes the first epoch.
  Figures Track(pid_t pid, const std::string& what, const std::string& tracker = "") {
    Figures figures;
    figures.resident_kib = KibOf(pid, "VmRSS");
    figures.tables_before_kib = KibOf(pid, "VmPTE");
    std::vector<std::string> start = {"start", "--interval", "0", "--job", "job", absl::StrCat(pid)};
    if (!tracker.empty()) start.insert(start.begin() + 1, {"--tracker", tracker});
    const CommandResult started = Ckpt(start);
    EXPECT_EQ(started.status, 0) << started.err;
    figures.tables_after_kib = KibOf(pid, "VmPTE");
    const pb::ListReply list = List();
    if (list.epochs_size() == 0) return figures;
    figures.first = list.epochs(0);
    printf("FIGURES %s %s: VmSize %.1f GiB, VmRSS %.1f MiB, first epoch: %u pages, %.1f MiB stored, "
           "frozen %.0f us, total %.0f us, VmPTE %lu -> %lu KiB\n",
           what.c_str(), figures.first.tracker().c_str(), KibOf(pid, "VmSize") / 1048576.0,
           figures.resident_kib / 1024.0, figures.first.pages_written(),
           figures.first.bytes_stored() / 1048576.0, figures.first.frozen_us(),
           figures.first.total_us(), figures.tables_before_kib, figures.tables_after_kib);
    return figures;
  }

  // More epochs; kills it; restores each; tracks the last again, restores from the new chain, and lets
  // that one run to its end.
  void RoundTrip(Program* program, int epochs = 5) {
    for (int i = 1; i < epochs && !HasFailure(); ++i) {
      ExpectProgress(3, "while tracked");
      const CommandResult taken = Ckpt({"checkpoint", "job"});
      EXPECT_EQ(taken.status, 0) << taken.err;
    }
    if (HasFailure()) return;
    program->Kill();
    for (int epoch = 1; epoch < epochs && !HasFailure(); ++epoch) {
      KillAndReap(RestoreAndExpectProgress(epoch, 3));
    }
    if (HasFailure()) return;
    const pid_t tracked = RestoreAndExpectProgress(epochs, 3, {"--interval", "0.2"});
    EXPECT_TRUE(Await([&] { return List().epochs_size() >= epochs + 3; }, 30'000))
        << Status().DebugString();
    EXPECT_EQ(Ckpt({"stop", "job"}).status, 0);
    KillAndReap(tracked);
    if (HasFailure()) return;
    const int last = List().epochs_size();
    const pid_t pid = RestoreAndExpectProgress(last, 10);
    ASSERT_TRUE(WriteFileDurably(progress_ + ".stop", "", 0600).ok());
    EXPECT_EQ(WaitFor(pid, 30), 0) << ReadAll(progress_) << ReadAll(folder_ + "/err");
    EXPECT_NE(Progress(), -1) << ReadAll(progress_);
  }
};

TEST_F(Runtimes, GoWithGoroutinesMapsAndItsCollector) {
  if (!fs::exists("/usr/bin/go")) GTEST_SKIP() << "no Go compiler (Debian's package golang-go)";
  Compile("/usr/bin/go",
          {"build", "-o", folder_ + "/rt_churn", fs::absolute("testdata/targets/rt_churn.go")});
  if (HasFailure()) return;
  Program program = StartTarget({folder_ + "/rt_churn"});
  if (HasFailure()) return;
  Track(program.pid(), "Go");
  RoundTrip(&program);
}

TEST_F(Runtimes, JavaWithThreadsAndItsCollector) {
  if (!fs::exists("/usr/bin/javac")) GTEST_SKIP() << "no Java (Debian's openjdk-17-jdk-headless)";
  Compile("/usr/bin/javac", {"-d", folder_, fs::absolute("testdata/targets/RtChurn.java")});
  if (HasFailure()) return;
  Program program = StartTarget({"/usr/bin/java", "-Xmx256m", "-cp", folder_, "RtChurn"});
  if (HasFailure()) return;
  Track(program.pid(), "Java");
  RoundTrip(&program);
}

// Its hsperfdata file is mapped shared; another JVM takes away those of dead ones.
TEST_F(Runtimes, JavaWithoutItsPerformanceFileAndWithAnotherCollector) {
  if (!fs::exists("/usr/bin/javac")) GTEST_SKIP() << "no Java (Debian's openjdk-17-jdk-headless)";
  Compile("/usr/bin/javac", {"-d", folder_, fs::absolute("testdata/targets/RtChurn.java")});
  if (HasFailure()) return;
  Program program = StartTarget({"/usr/bin/java", "-XX:-UsePerfData", "-XX:+UseParallelGC", "-Xmx256m",
                                 "-cp", folder_, "RtChurn"});
  if (HasFailure()) return;
  Track(program.pid(), "Java, parallel collector");
  RoundTrip(&program);
}

TEST_F(Runtimes, AddressSanitizer) {
  Program program = StartTarget({fs::absolute("testdata/targets/rt_malloc_churn_asan")});
  if (HasFailure()) return;
  ASSERT_GT(KibOf(program.pid(), "VmSize"), uint64_t{10} << 30) << "not built with AddressSanitizer";
  const Figures figures = Track(program.pid(), "AddressSanitizer");
  // It allocates on; but of terabytes of shadow even a thousandth would show.
  EXPECT_LT(figures.tables_after_kib, figures.tables_before_kib + 1024);
  RoundTrip(&program);
}

class Reservation : public Runtimes, public testing::WithParamInterface<std::string> {};

TEST_P(Reservation, CostsWhatIsPopulated) {
  Program program = StartTarget({fs::absolute("testdata/targets/rt_reservation")});
  if (HasFailure()) return;
  ASSERT_GT(KibOf(program.pid(), "VmSize"), uint64_t{16} << 30);
  const Figures figures = Track(program.pid(), "reservation", GetParam());
  // A page table for each 4 KiB of entries: 8 GiB if the reservation were armed.
  EXPECT_LE(figures.tables_after_kib, figures.tables_before_kib + 32);
  // It would take minutes; a busy machine may need some of this second.
  EXPECT_LT(figures.first.frozen_us(), 1e6);
  EXPECT_LT(figures.first.total_us(), 3e6);
  EXPECT_LT(figures.first.pages_written(), 4000u);
  RoundTrip(&program);
}

INSTANTIATE_TEST_SUITE_P(Trackers, Reservation, testing::Values("uffd-wp-async", "compare"),
                         [](const auto& info) { return info.param == "compare" ? "compare" : "uffd"; });

}  // namespace
}  // namespace incr::e2e
