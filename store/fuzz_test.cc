// Mutations of well-formed inputs to every parser, the same ones in every run. scripts/fuzz.sh looks further, with
// libFuzzer and sanitizers; what it finds goes to testdata/fuzz and stays here.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "base/file.h"
#include "store/fuzz_parsers.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

constexpr int kMutations = 6000;  // of each parser

std::vector<std::string> Corpus(const FuzzParser& parser) {
  std::vector<std::string> inputs;
  std::vector<fs::path> files;
  for (const auto& file : fs::directory_iterator(std::string("testdata/fuzz/") + parser.name)) {
    files.push_back(file.path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) inputs.push_back(ReadWholeFile(file).value());
  return inputs;
}

void Mutate(std::mt19937_64& random, const std::string& other, std::string* bytes) {
  for (int n = 1 + random() % 4; n > 0 && !bytes->empty(); --n) {
    const size_t at = random() % bytes->size();
    const size_t length = std::min<size_t>(1 + random() % 32, bytes->size() - at);
    switch (random() % 7) {
      case 0:
        (*bytes)[at] ^= 1 << random() % 8;
        break;
      case 1:
        (*bytes)[at] = static_cast<char>(random());
        break;
      case 2:  // An interesting number.
        std::fill_n(bytes->begin() + at, std::min<size_t>(8, bytes->size() - at), random() % 2 ? '\xff' : '\0');
        break;
      case 3:
        bytes->erase(at, length);
        break;
      case 4:
        bytes->insert(at, bytes->substr(random() % bytes->size(), length));
        break;
      case 5:
        bytes->resize(at);
        break;
      case 6:
        bytes->replace(at, length, other.substr(std::min(at, other.size()), length));
        break;
    }
  }
}

class FuzzTest : public ::testing::TestWithParam<int> {
 protected:
  const FuzzParser& parser() const { return FuzzParsers()[GetParam()]; }
};

TEST_P(FuzzTest, TheCorpusIsWellFormedAndOurOwn) {
  const std::vector<std::string> corpus = Corpus(parser());
  for (int n = 0; !parser().seed(n).empty(); ++n) {
    EXPECT_TRUE(parser().run(parser().seed(n))) << parser().name << " seed " << n;
    EXPECT_NE(std::find(corpus.begin(), corpus.end(), parser().seed(n)), corpus.end())
        << "the bytes of a format changed: " << parser().name << " seed " << n;
  }
}

TEST_P(FuzzTest, NoMutationCrashesAParser) {
  const std::vector<std::string> corpus = Corpus(parser());
  ASSERT_FALSE(corpus.empty());
  std::mt19937_64 random(GetParam() + 1);
  int accepted = 0;
  for (int i = 0; i < kMutations; ++i) {
    std::string bytes = corpus[random() % corpus.size()];
    Mutate(random, corpus[random() % corpus.size()], &bytes);
    accepted += parser().run(bytes);
  }
  std::printf("%s: %d of %d mutations accepted\n", parser().name, accepted, kMutations);
  EXPECT_GT(accepted, 0) << "the checksums are made right: some get through to the parser";
  EXPECT_LT(accepted, kMutations);
}

INSTANTIATE_TEST_SUITE_P(Parsers, FuzzTest, ::testing::Range(0, 4),
                         [](const auto& info) { return std::string(FuzzParsers()[info.param].name); });

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--write-seeds") {
    for (const incr::FuzzParser& parser : incr::FuzzParsers()) {
      const std::string directory = std::string(argv[2]) + "/" + parser.name;
      std::filesystem::create_directories(directory);
      for (int n = 0; !parser.seed(n).empty(); ++n) {
        std::ofstream(directory + "/seed" + std::to_string(n), std::ios::binary) << parser.seed(n);
      }
    }
    return 0;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
