#include "process/features.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <set>

#include "base/clock.h"
#include "gtest/gtest.h"

namespace incr {
namespace {

TEST(FeaturesTest, EveryFeatureHasANameAReasonAndAUse) {
  ProbeFeatures();  // Warm.
  const Stopwatch watch;
  const std::vector<Feature> features = ProbeFeatures();
  std::printf("%zu features in %ld us\n", features.size(), static_cast<long>(watch.elapsed_us()));
  std::set<std::string> names;
  for (const Feature& f : features) {
    std::printf("%-22s %-3s %s (%s)\n", f.name.c_str(), f.works ? "yes" : "no", f.detail.c_str(),
                f.used_for.c_str());
    EXPECT_TRUE(names.insert(f.name).second) << f.name;
    EXPECT_FALSE(f.detail.empty()) << f.name;
    EXPECT_FALSE(f.used_for.empty()) << f.name;
  }
  for (const char* name : {"uffd_wp_async", "pagemap_scan", "soft_dirty", "clone3_set_tid",
                           "io_uring", "kcmp", "map_files", "pidfd_getfd"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
  EXPECT_FALSE(FeatureWorks(features, "no such feature"));
  EXPECT_TRUE(FeatureWorks(features, "ptrace"));  // Nothing here could be tested without.
}

TEST(FeaturesTest, ProbingLeavesNoChildrenAndNoDescriptorsBehind) {
  const int before = dup(0);
  close(before);
  ProbeFeatures();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  const int after = dup(0);
  close(after);
  EXPECT_EQ(before, after);
}

TEST(FeaturesTest, WithoutPrivilegesProbesSayNoAndDoNotCrash) {
  if (geteuid() != 0) GTEST_SKIP() << "not root, nothing to give up";
  const pid_t child = fork();
  if (child == 0) {
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) _exit(10);
    const std::vector<Feature> features = ProbeFeatures();
    for (const Feature& f : features) {
      if (f.detail.empty()) _exit(11);
    }
    if (FeatureWorks(features, "clone3_set_tid")) _exit(12);
    if (FeatureWorks(features, "suspend_seccomp")) _exit(13);
    if (FeatureWorks(features, "pagemap_frames")) _exit(14);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace incr
