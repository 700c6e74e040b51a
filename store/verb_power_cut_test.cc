// The power fails at a write of epochs, gc (with rewriting and zstd), repair, export or import: what was not synced is
// lost, in whole, in part, in pieces. What must be there is, and the command can be run again.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "store/power_cut_disk.h"
#include "store/verb_fixture.h"

namespace incr {
namespace {

struct Case {
  Verb verb;
  int stride;  // of the writes, every so manyth is a moment for the power to fail
};

class VerbPowerCutTest : public VerbFixture, public ::testing::WithParamInterface<Case> {
 protected:
  struct Picture {
    std::string root;
    uint64_t call, last;  // the last acknowledged epoch of alpha
    PowerCutDisk::Loss loss;
  };
};

TEST_P(VerbPowerCutTest, WhatMustBeThereIs) {
  const char* all = std::getenv("INCR_CKPT_POWER_CUTS");  // "all", or how many rounds of all
  const int rounds = all == nullptr ? 1 : std::max(1, std::atoi(all));
  const int stride = all == nullptr ? GetParam().stride : 1;
  const Verb verb = GetParam().verb;
  const std::string root = directory_ / "live";
  uint64_t calls = 0, checked = 0;
  for (int round = 0; round < rounds; ++round) {
    std::vector<Picture> pictures;
    Prepare(verb, root);
    PowerCutDisk disk(root, 77 + round, [&](PowerCutDisk& of) {
      if (++calls % stride != 0) return;
      const auto loss = static_cast<PowerCutDisk::Loss>((calls / stride) % 3);
      pictures.push_back({directory_ / ("picture" + std::to_string(calls)), calls, last_["alpha"], loss});
      of.TakePicture(pictures.back().root, loss);
    });
    const absl::Status done = Run(verb, root, &disk);
    ASSERT_TRUE(done.ok()) << done;
    const auto models = models_;
    const auto must = must_;
    for (const Picture& picture : pictures) {
      SCOPED_TRACE(absl::StrCat(VerbName(verb), ", call ", picture.call, ", loss ", static_cast<int>(picture.loss)));
      models_ = models;
      must_ = must;
      if (verb == Verb::kEpochs) {
        for (uint64_t n = 1; n <= picture.last; ++n) must_.insert({"alpha", n});
      }
      const std::string file = picture.root + "/out";
      if (std::filesystem::exists(file)) {
        EXPECT_TRUE(ReadWholeFile(file).value() == ReadWholeFile(directory_ / "in").value()) << "half an export";
      }
      ExpectWhole(picture.root);
      if (HasFailure()) return;
      ExpectDoneAgain(verb, picture.root);
      if (HasFailure()) return;
      std::filesystem::remove_all(picture.root);
      ++checked;
    }
  }
  std::printf("%s: %llu writes, power failed at %llu\n", VerbName(verb), static_cast<unsigned long long>(calls),
              static_cast<unsigned long long>(checked));
  EXPECT_GT(checked, 5u);
}

INSTANTIATE_TEST_SUITE_P(Verbs, VerbPowerCutTest,
                         ::testing::Values(Case{Verb::kEpochs, 3}, Case{Verb::kGc, 9}, Case{Verb::kRepair, 9},
                                           Case{Verb::kExport, 1}, Case{Verb::kImport, 2}),
                         [](const auto& info) { return std::string(VerbName(info.param.verb)); });

}  // namespace
}  // namespace incr
