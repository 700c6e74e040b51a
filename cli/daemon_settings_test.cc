#include "cli/daemon_settings.h"

#include <gtest/gtest.h>

namespace incr {
namespace {

TEST(DaemonSettingsTest, SurviveTheCommandLine) {
  for (const DaemonSettings& settings :
       {DaemonSettings{}, DaemonSettings{1u << 30, false}, DaemonSettings{0, true},
        DaemonSettings{12345, true}}) {
    EXPECT_EQ(FromArguments(ToArguments(settings)), settings);
  }
  EXPECT_EQ(FromArguments({"memory-limit=x"}), std::nullopt);
  EXPECT_EQ(FromArguments({"something"}), std::nullopt);
}

TEST(DaemonSettingsTest, WhatWasNotAskedForMayBeAsItIs) {
  const DaemonSettings running{1u << 30, true};
  EXPECT_TRUE(CheckAsAsked(running, {}).ok());
  EXPECT_TRUE(CheckAsAsked(running, running).ok());
  EXPECT_TRUE(CheckAsAsked(running, {0, true}).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckAsAsked(running, {1u << 29, false})));
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckAsAsked({}, {0, true})));
}

TEST(DaemonSettingsTest, Sizes) {
  EXPECT_EQ(ParseSize("67108864"), 67108864);
  EXPECT_EQ(ParseSize("64M"), 64u << 20);
  EXPECT_EQ(ParseSize("64MiB"), 64u << 20);
  EXPECT_EQ(ParseSize("64mb"), 64u << 20);
  EXPECT_EQ(ParseSize("2G"), uint64_t{2} << 30);
  EXPECT_EQ(ParseSize("1024K"), 1u << 20);
  EXPECT_EQ(ParseSize("100B"), 100);
  for (const char* wrong : {"", "M", "-1", "1.5G", "64X", "5iB", "99999999999T"}) {
    EXPECT_EQ(ParseSize(wrong), std::nullopt) << wrong;
  }
}

}  // namespace
}  // namespace incr
