// The shipped binary on targets with other rights or another view of the system than its own: each works,
// or is refused by name, and runs on in either case.
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/e2e/harness.h"
#include "gtest/gtest.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

class GuestTest : public EndToEnd {
 protected:
  // `wrapper` executes gst_guest in the end.
  Program StartGuest(std::vector<std::string> wrapper, const std::string& mode) {
    wrapper.insert(wrapper.end(), {binary_, mode, progress_});
    Program program = Program::Start(wrapper, {"/dev/null", folder_ + "/out", folder_ + "/err"});
    EXPECT_TRUE(Await([&] { return Progress() > 3; })) << ReadAll(progress_) << ReadAll(folder_ + "/err");
    return program;
  }

  static bool StateIsStopped(pid_t pid) {
    const std::string status = ReadAll(absl::StrCat("/proc/", pid, "/status"));
    return absl::StrContains(status, "State:\tT") || absl::StrContains(status, "State:\tt");
  }

  void ExpectRefused(pid_t pid, const std::string& why) {
    const CommandResult started = Ckpt({"start", "--interval", "0", "--job", "refused", absl::StrCat(pid)});
    EXPECT_EQ(started.status, 4) << started.err;
    EXPECT_TRUE(absl::StrContains(started.err, why)) << started.err;
    EXPECT_FALSE(StateIsStopped(pid));
    ExpectProgress(3, "after the refusal");
  }

  // Epochs of a tracked job, while it makes progress.
  void TakeEpochs(int count) {
    for (int i = 0; i < count && !HasFailure(); ++i) {
      ExpectProgress(3, "between epochs");
      const CommandResult taken = Ckpt({"checkpoint", "job"});
      EXPECT_EQ(taken.status, 0) << taken.err;
    }
  }

  void Track(pid_t pid, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"start", "--interval", "0", "--job", "job"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    arguments.push_back(absl::StrCat(pid));
    const CommandResult started = Ckpt(arguments);
    ASSERT_EQ(started.status, 0) << started.err;
    TakeEpochs(4);
  }

  const std::string binary_ = fs::absolute("testdata/targets/gst_guest");
};

TEST_F(GuestTest, WithoutCapabilitiesAndWithoutNewPrivileges) {
  Program guest = StartGuest(
      {"/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"}, "reader");
  if (HasFailure()) return;
  Track(guest.pid());
  if (HasFailure()) return;
  EXPECT_EQ(List().epochs(4).tracker(), "uffd-wp-async");
  guest.Kill();
  for (int epoch : {1, 3, 5}) KillAndReap(RestoreAndExpectProgress(epoch, 3));
}

TEST_F(GuestTest, WithAnotherRootDirectoryIsRefused) {
  Program guest = StartGuest({"/usr/bin/env"}, "chroot");
  if (HasFailure()) return;
  ExpectRefused(guest.pid(), absl::StrCat("root directory ", progress_, ".root is not ours"));
}

TEST_F(GuestTest, InAUserNamespaceIsRefusedOrTrackedIfAsked) {
  Program guest = StartGuest({"/usr/bin/unshare", "--user"}, "plain");
  if (HasFailure()) return;
  ExpectRefused(guest.pid(), "it is in a user namespace of its own");
  Track(guest.pid(), {"--allow-unsupported"});
  EXPECT_FALSE(StateIsStopped(guest.pid()));
}

TEST_F(GuestTest, InAPidNamespaceIsRefusedOrTrackedIfAsked) {
  Program outer = StartGuest({"/usr/bin/unshare", "--pid", "--fork", "--kill-child"}, "plain");
  if (HasFailure()) return;
  const pid_t inner =
      atoi(ReadAll(absl::StrCat("/proc/", outer.pid(), "/task/", outer.pid(), "/children")).c_str());
  ASSERT_GT(inner, 0);
  ExpectRefused(inner, "it is in a pid namespace of its own");
  Track(inner, {"--allow-unsupported"});
  EXPECT_FALSE(StateIsStopped(inner));
}

// What `status` and `list` say is the tracker that is really used.
TEST_F(GuestTest, AFallBackShowsInStatusAndList) {
  Program guest = StartGuest({"/usr/bin/env"}, "churn");
  if (HasFailure()) return;
  ASSERT_EQ(setenv("INCR_CKPT_FAULTS", "tracker.attach=error", 1), 0);
  const CommandResult started =
      Ckpt({"start", "--interval", "0", "--job", "job", absl::StrCat(guest.pid())});
  unsetenv("INCR_CKPT_FAULTS");
  ASSERT_EQ(started.status, 0) << started.err;
  EXPECT_TRUE(absl::StrContains(started.err, "uffd-wp-async has failed")) << started.err;
  TakeEpochs(2);
  EXPECT_EQ(Status().jobs(0).tracker(), "compare");
  const pb::ListReply list = List();
  for (const pb::EpochRow& row : list.epochs()) EXPECT_EQ(row.tracker(), "compare");
  guest.Kill();
  KillAndReap(RestoreAndExpectProgress(3, 3));
}

// An ordinary user's own process: his userfaultfd is for faults from user mode only, and yet what read(2)
// writes into memory is noticed.
TEST_F(GuestTest, OfAnOrdinaryUserByHimself) {
  const std::vector<std::string> as_user = {"/usr/bin/setpriv", "--reuid=1000", "--regid=1000",
                                            "--clear-groups"};
  // He cannot look into the folders that the test runs from.
  const std::string ckpt = folder_ + "/incr-ckpt", guest_binary = folder_ + "/gst_guest";
  fs::copy_file(CkptBinary(), ckpt);
  fs::copy_file(binary_, guest_binary);
  for (const std::string& path : {folder_, ckpt, guest_binary}) {
    fs::permissions(path, fs::perms(path == folder_ ? 0777 : 0755));
  }
  const auto run = [&](std::vector<std::string> arguments, std::vector<std::string> argv) {
    static int count = 0;
    const std::string base = absl::StrCat(folder_, "/user-", ++count);
    argv.insert(argv.end(), {ckpt, "--store", store_});
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    Program program = Program::Start(argv, {"/dev/null", base + ".out", base + ".err"});
    CommandResult result{program.Wait(), ReadAll(base + ".out"), ReadAll(base + ".err")};
    EXPECT_EQ(result.status, 0) << absl::StrJoin(arguments, " ") << ": " << result.err;
    return result;
  };
  std::vector<std::string> argv = as_user;
  argv.insert(argv.end(), {"/usr/bin/env", "--chdir=/", guest_binary, "reader", progress_});
  Program guest = Program::Start(argv, {});
  ASSERT_TRUE(Await([&] { return Progress() > 3; })) << ReadAll(progress_);
  run({"start", "--interval", "0", "--job", "job", absl::StrCat(guest.pid())}, as_user);
  for (int i = 0; i < 5 && !HasFailure(); ++i) {
    ExpectProgress(5, "between epochs");
    run({"checkpoint", "job"}, as_user);
  }
  if (HasFailure()) return;
  pb::ListReply listed;  // As him: others are refused, root too.
  ASSERT_TRUE(ParseJson(run({"list", "--json"}, as_user).out, &listed));
  EXPECT_EQ(listed.epochs(5).tracker(), "uffd-wp-async");
  EXPECT_LT(listed.epochs(5).pages_written(), listed.epochs(0).pages_written());
  run({"stop", "job"}, as_user);
  const pid_t pid = guest.pid();
  guest.Kill();
  // To choose the pid takes one capability. It then compares all that it ever read with its copy.
  std::vector<std::string> as_restorer = as_user;
  for (const char* set : {"--inh-caps=+checkpoint_restore", "--ambient-caps=+checkpoint_restore"}) {
    as_restorer.push_back(set);
  }
  for (const char* epoch : {"1", "4", "6"}) {
    ClearProgress();
    run({"restore", "--epoch", epoch, "--detach"}, as_restorer);
    if (HasFailure()) return;
    EXPECT_TRUE(Await([&] { return Progress() != 0; })) << "epoch " << epoch;
    ExpectProgress(100, absl::StrCat("after the restore of epoch ", epoch));
    KillAndReap(pid);
  }
}

}  // namespace
}  // namespace incr::e2e
