#include "cli/store_location.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>

namespace incr {
namespace {

std::string Locate(const std::string& option, std::map<std::string, std::string> variables,
                   bool is_root = false, const std::string& directory = "/home/me") {
  const StoreEnvironment environment{[&](const char* name) -> const char* {
                                       const auto found = variables.find(name);
                                       return found == variables.end() ? nullptr
                                                                       : found->second.c_str();
                                     },
                                     is_root, directory};
  const auto store = LocateStore(option, environment);
  return store.ok() ? *store : "error";
}

TEST(StoreLocationTest, InThisOrder) {
  const std::map<std::string, std::string> all = {
      {"INCR_CKPT_STORE", "/env"}, {"XDG_STATE_HOME", "/xdg"}, {"HOME", "/home/me"}};
  EXPECT_EQ(Locate("/option", all, true), "/option");
  EXPECT_EQ(Locate("", all, true), "/env");
  EXPECT_EQ(Locate("", {{"HOME", "/root"}}, true), "/var/lib/incr-ckpt");
  EXPECT_EQ(Locate("", {{"XDG_STATE_HOME", "/xdg"}, {"HOME", "/home/me"}}), "/xdg/incr-ckpt");
  EXPECT_EQ(Locate("", {{"XDG_STATE_HOME", "relative"}, {"HOME", "/home/me"}}),
            "/home/me/.local/state/incr-ckpt");
  EXPECT_EQ(Locate("", {}), "error");
}

TEST(StoreLocationTest, TheResultIsAbsolute) {
  EXPECT_EQ(Locate("store", {}), "/home/me/store");
  EXPECT_EQ(Locate("./a/../store/", {}), "/home/me/store");
  EXPECT_EQ(Locate("", {{"INCR_CKPT_STORE", "s"}}), "/home/me/s");
  EXPECT_EQ(Locate("/", {}), "/");
  EXPECT_EQ(Locate("store", {}, false, ""), "error");
}

TEST(StoreLocationTest, ANewDirectoryIsItsOwnersAlone) {
  std::string base = std::string(::testing::TempDir()) + "/storeXXXXXX";
  ASSERT_NE(::mkdtemp(base.data()), nullptr);
  const std::string store = base + "/a/b/store";
  auto made = MakeStoreDirectory(store);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(*made);
  struct stat stat;
  ASSERT_EQ(::stat(store.c_str(), &stat), 0);
  EXPECT_EQ(stat.st_mode & 07777, 0700u);
  EXPECT_FALSE(*MakeStoreDirectory(store));
  EXPECT_FALSE(MakeStoreDirectory("/dev/null/store").ok());
  std::filesystem::remove_all(base);
}

}  // namespace
}  // namespace incr
