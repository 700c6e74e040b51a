// The bytes of packs, manifests and epoch records: golden values, and any bytes as input.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "store/byte_order.h"
#include "store/catalog.h"
#include "store/checksum.h"
#include "store/commit_count.h"
#include "store/lz4_page.h"
#include "store/manifest.h"
#include "store/pack_format.h"
#include "store/page_delta.h"
#include "store/page_id.h"
#include "store/test_pages.h"

namespace incr {
namespace {

std::string Hex(const void* data, size_t size) {
  return absl::BytesToHexString(absl::string_view(static_cast<const char*>(data), size));
}
template <size_t N>
std::string Hex(const char (&bytes)[N]) {
  return Hex(bytes, N);
}

std::string GoldenSecret() {
  std::string secret;
  for (int i = 0; i < 192; ++i) secret.push_back(static_cast<char>(i * 37 + 11));
  return secret;
}

TEST(FormatTest, PageIdsAreGolden) {
  const PageHasher hasher(GoldenSecret());
  const uint8_t zeros[kPageSize] = {};
  EXPECT_EQ(PageIdText(hasher.Hash(MakePage(1).data())), "0af039b6eeb45c877184ada6a6a823a5");
  EXPECT_EQ(PageIdText(hasher.Hash(zeros)), "8bfbb99653229064caa08bb62ead069e");
  EXPECT_EQ(Checksum64("incr-ckpt"), 12207470890440224037u);
}

TEST(FormatTest, LocationsAreGolden) {
  char bytes[kLocationBytes];
  EncodeLocation({0x01020304, 0x1122334455, 0x0708, PageEncoding::kLz4}, bytes);
  EXPECT_EQ(Hex(bytes), "04030201080701005544332211000000");
  EXPECT_EQ(DecodeLocation(absl::string_view(bytes, sizeof bytes)).value(),
            (PageLocation{0x01020304, 0x1122334455, 0x0708, PageEncoding::kLz4}));
  char key[kPageIdBytes];
  EncodePageId({0x0102030405060708, 0x090a0b0c0d0e0f10}, key);
  EXPECT_EQ(Hex(key), "0102030405060708090a0b0c0d0e0f10");
  EXPECT_EQ(PackName(7), "00000007.pack");
  EXPECT_EQ(PackIdOf("00000007.pack"), 7u);
  for (const char* not_one : {"7.pack", "00000000.pack", "00000007.pac", "x0000007.pack", ""}) {
    EXPECT_EQ(PackIdOf(not_one), 0u) << not_one;
  }
}

TEST(FormatTest, SegmentsAreGoldenAndRefuseAnyOtherPlace) {
  std::vector<uint8_t> segment(kSegmentMaxBytes, 0xee);
  std::memcpy(segment.data() + kSegmentHeaderBytes, "bodybodybody", 12);
  const std::vector<SegmentEntry> entries = {{{1, 2}, 64, 5, PageEncoding::kLz4},
                                             {{3, 4}, 69, 7, PageEncoding::kLz4}};
  const size_t bytes = SealSegment(9, 8192, 0xabcd, 12, entries, segment.data());
  EXPECT_EQ(bytes, 4096u);
  EXPECT_EQ(Hex(segment.data(), 48),
            "53454731"  // SEG1
            "09000000"
            "0020000000000000"
            "0c000000"
            "02000000"
            "00100000"
            "00000000"
            "cdab000000000000"
            "0000000000000000");
  EXPECT_EQ(Hex(segment.data() + 64 + 12, 24), "0100000000000000" "0200000000000000" "40000000" "0500" "01" "00");
  auto header = DecodeSegmentHeader(segment.data(), 9, 8192, 0xabcd);
  ASSERT_TRUE(header.ok());
  auto table = DecodeSegmentTable(*header, segment.data());
  ASSERT_TRUE(table.ok());
  ASSERT_EQ(table->size(), 2u);
  EXPECT_EQ((*table)[1].id, (PageId{3, 4}));
  EXPECT_EQ((*table)[1].offset, 69u);
  EXPECT_FALSE(DecodeSegmentHeader(segment.data(), 8, 8192, 0xabcd).ok());
  EXPECT_FALSE(DecodeSegmentHeader(segment.data(), 9, 4096, 0xabcd).ok());
  EXPECT_FALSE(DecodeSegmentHeader(segment.data(), 9, 8192, 0xabce).ok());
  for (size_t at = 0; at < kSegmentHeaderBytes; ++at) {
    segment[at] ^= 0x10;
    EXPECT_FALSE(DecodeSegmentHeader(segment.data(), 9, 8192, 0xabcd).ok()) << at;
    segment[at] ^= 0x10;
  }
}

TEST(FormatTest, PackHeadersSayWhoseTheyAre) {
  uint8_t header[kPackHeaderBytes];
  EncodePackHeader(3, 77, header);
  EXPECT_EQ(Hex(header, 24), "49434b5041434b0a" "01000000" "03000000" "4d00000000000000");
  EXPECT_TRUE(CheckPackHeader(header, 3, 77).ok());
  EXPECT_FALSE(CheckPackHeader(header, 4, 77).ok());
  EXPECT_FALSE(CheckPackHeader(header, 3, 78).ok());
  header[8] = 2;
  EXPECT_THAT(CheckPackHeader(header, 3, 77).message(), ::testing::HasSubstr("version 2"));
}

PageDelta SomeDelta() {
  PageDelta delta;
  delta.gone = {{0, {5, 2}}, {0, {9, 1}}, {2, {0, 1000000}}};
  delta.written = {{0, 1, {7, 8}}, {0, 2, {9, 10}},  {0, 3, kZeroPageId},
                   {0, 4, kZeroPageId}, {1, 0, {1, 1}}, {3, uint64_t{1} << 51, kZeroPageId}};
  return delta;
}

TEST(FormatTest, ManifestsAreGolden) {
  const std::string bytes = EncodeManifest(SomeDelta());
  EXPECT_EQ(absl::BytesToHexString(bytes),
            "4d414e31" "01000000" "0600000000000000" "0300000000000000"
            "0a0005" "060002" "8292f40102" "00"
            "080001" "07000000000000000800000000000000" "09000000000000000a00000000000000"
            "090000"
            "040100" "01000000000000000100000000000000"
            "0502" "8080808080808004");
  auto again = DecodeManifest(bytes, 100);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, SomeDelta());
  EXPECT_EQ(DecodeManifest(bytes, 5).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(FormatTest, AManifestCannotClaimMoreRunsThanItHasBytesFor) {
  PageDelta delta;
  for (uint64_t i = 0; i < 1000; ++i) delta.gone.push_back({0, {2 * i, 1}});
  std::string bytes = EncodeManifest(delta);
  EXPECT_EQ(bytes.size(), kManifestHeaderBytes + 3000) << "the smallest runs there are";
  EXPECT_TRUE(DecodeManifest(bytes, 0).ok());
  bytes[16]++;
  EXPECT_THAT(DecodeManifest(bytes, 0).status().message(), ::testing::HasSubstr("too many runs"));
}

TEST(FormatTest, NoBytesCrashAManifestDecoder) {
  const std::string golden = EncodeManifest(SomeDelta());
  for (size_t size = 0; size < golden.size(); ++size) {
    EXPECT_FALSE(DecodeManifest(golden.substr(0, size), 1000).ok()) << size;
  }
  std::mt19937_64 random(3);
  for (int round = 0; round < 200'000; ++round) {
    std::string bytes = golden;
    for (int edits = 1 + random() % 6; edits > 0; --edits) {
      switch (random() % 4) {
        case 0: bytes[random() % bytes.size()] = random(); break;
        case 1: bytes[kManifestHeaderBytes + random() % (bytes.size() - kManifestHeaderBytes)] =
                    random() % 2 ? '\xff' : '\x80'; break;
        case 2: bytes.insert(bytes.begin() + random() % bytes.size(), char(random())); break;
        case 3: bytes.erase(bytes.begin() + kManifestHeaderBytes +
                            random() % (bytes.size() - kManifestHeaderBytes)); break;
      }
    }
    auto delta = DecodeManifest(bytes, 1000);
    if (!delta.ok()) continue;
    // Whatever it accepts is a table in order.
    ASSERT_LE(delta->written.size(), 1000u);
    for (size_t i = 1; i < delta->written.size(); ++i) {
      const PageTableEntry &a = delta->written[i - 1], &b = delta->written[i];
      ASSERT_TRUE(a.space < b.space || (a.space == b.space && a.page < b.page));
    }
  }
}

TEST(FormatTest, NoBytesCrashAnEnvelopeDecoder) {
  EpochEnvelope envelope;
  envelope.depth = 3;
  envelope.record.set_job("job");
  const std::string golden = EncodeEnvelope(envelope);
  EXPECT_EQ(DecodeEnvelope(golden)->depth, 3u);
  std::mt19937 random(4);
  for (int round = 0; round < 50'000; ++round) {
    std::string bytes = golden.substr(0, random() % 4 ? golden.size() : random() % golden.size());
    if (!bytes.empty()) bytes[random() % bytes.size()] ^= 1 + random() % 255;
    EXPECT_FALSE(DecodeEnvelope(bytes).ok());
  }
  // Sealed again, so that more than the checksum has to hold.
  int accepted = 0, sizes = 0, records = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::string bytes = golden.substr(0, golden.size() - 8);
    for (int edits = 1 + random() % 3; edits > 0; --edits) {
      // Not the version: that is one more refusal before the sizes.
      bytes[4 + random() % (bytes.size() - 4)] = random();
    }
    AppendLittle<uint64_t>(&bytes, Checksum64(bytes));
    auto decoded = DecodeEnvelope(bytes);
    if (decoded.ok()) {
      ++accepted;
      ASSERT_LE(decoded->manifest_bytes, kMaxManifestBytes);
      ASSERT_LE(decoded->image_bytes, kMaxImageBytes);
      continue;
    }
    const std::string message(decoded.status().message());
    sizes += message == "epoch record with sizes out of bounds";
    records += message == "epoch record is no EpochRecord";
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(sizes, 1000);
  EXPECT_GT(records, 1000);
}

TEST(FormatTest, WhatGcWritesHasItsOwnNumbers) {
  // Bodies of zstd.
  char bytes[kLocationBytes];
  EncodeLocation({1, 4160, 0x0708, PageEncoding::kZstd}, bytes);
  EXPECT_EQ(Hex(bytes), "01000000080702004010000000000000");
  EXPECT_EQ(DecodeLocation(absl::string_view(bytes, sizeof bytes))->encoding, PageEncoding::kZstd);
  bytes[6] = 3;
  EXPECT_FALSE(DecodeLocation(absl::string_view(bytes, sizeof bytes)).ok());
  // Records whose manifest has moved: version 2. All others stay readable by older programs.
  EpochEnvelope envelope;
  envelope.record.set_job("job");
  EXPECT_EQ(Hex(EncodeEnvelope(envelope).data(), 4), "01000000");
  envelope.first_chunk = kOtherFirstChunk;
  std::string moved = EncodeEnvelope(envelope);
  EXPECT_EQ(Hex(moved.data(), 4), "02000000");
  EXPECT_EQ(Hex(moved.data() + 48, 8), "00000100" "00000000");
  EXPECT_EQ(DecodeEnvelope(moved)->first_chunk, kOtherFirstChunk);
  EXPECT_EQ(DecodeEnvelope(moved)->record.job(), "job");
  const auto seal = [](std::string text) {
    text.resize(text.size() - 8);
    AppendLittle<uint64_t>(&text, Checksum64(text));
    return text;
  };
  moved[50] = 2;
  EXPECT_TRUE(absl::IsDataLoss(DecodeEnvelope(seal(moved)).status()));
  moved[0] = 3;
  EXPECT_TRUE(absl::IsFailedPrecondition(DecodeEnvelope(seal(moved)).status()));
}

TEST(FormatTest, CommitFilesAreGolden) {
  TempDirectory directory;
  const std::string path = directory / "commits";
  EXPECT_EQ(ReadCommitFile(path).value(), std::nullopt);
  auto file = CommitFile::Open(path, 0x0102);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Write(0x0103).ok());
  const std::string bytes = ReadWholeFile(path).value();
  ASSERT_EQ(bytes.size(), 8192u);
  EXPECT_EQ(Hex(bytes.data(), 24), "49434b434d54530a" "01000000" "00000000" "0201000000000000");
  EXPECT_EQ(Hex(bytes.data() + 4096, 24),
            "49434b434d54530a" "01000000" "00000000" "0301000000000000");
  EXPECT_EQ(GetLittle<uint64_t>(bytes.data() + 24), Checksum64(bytes.data(), 24));
  EXPECT_EQ(ReadCommitFile(path).value(), 0x0103u);
}

TEST(FormatTest, PagesSurviveCompressionAndJunkDoesNotCrashIt) {
  uint8_t body[kMaxCompressedPage], page[kPageSize];
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const PageBytes original = MakePage(seed);
    const size_t size = CompressPage(original.data(), body);
    EXPECT_EQ(size == 0, seed % 4 == 0 && seed != 0) << seed;
    if (size == 0) continue;
    ASSERT_TRUE(DecompressPage(body, size, page));
    EXPECT_EQ(std::memcmp(page, original.data(), kPageSize), 0);
    EXPECT_FALSE(DecompressPage(body, size - 1, page));
  }
  std::mt19937 random(9);
  for (int round = 0; round < 20'000; ++round) {
    for (uint8_t& byte : body) byte = random();
    (void)DecompressPage(body, random() % sizeof body, page);
  }
}

// Random tables and deltas against a map.
TEST(PageDeltaTest, CombinedDeltasAreTheirSequence) {
  std::mt19937 random(8);
  auto random_delta = [&] {
    std::map<std::pair<uint32_t, uint64_t>, PageId> written;
    for (int n = random() % 20; n > 0; --n) {
      written[{uint32_t(random() % 2), random() % 50}] = {random(), random()};
    }
    PageDelta delta;
    for (const auto& [place, id] : written) delta.written.push_back({place.first, place.second, id});
    uint64_t at = 0;
    for (int n = random() % 4; n > 0; --n) {
      const PageRange range{at + random() % 20, 1 + random() % 10};
      delta.gone.push_back({0, range});
      at = range.end() + 1;
    }
    return delta;
  };
  for (int round = 0; round < 5000; ++round) {
    const PageDelta base = random_delta(), older = random_delta(), newer = random_delta();
    const PageTable step = Overlay(base.written, older);
    EXPECT_EQ(Overlay(step, newer), Overlay(base.written, Combine(older, newer)));
    std::map<std::pair<uint32_t, uint64_t>, PageId> map;
    for (const auto& e : base.written) map[{e.space, e.page}] = e.id;
    for (const auto& g : older.gone) {
      map.erase(map.lower_bound({g.space, g.range.first}), map.lower_bound({g.space, g.range.end()}));
    }
    for (const auto& e : older.written) map[{e.space, e.page}] = e.id;
    ASSERT_EQ(step.size(), map.size());
    PageTable in_place = base.written;
    if (OverlayInPlace(in_place, older)) {
      EXPECT_EQ(in_place, step);
    }
    size_t hint = random() % (step.size() + 1);
    for (int look = 0; look < 20; ++look) {
      const uint32_t space = random() % 2;
      const uint64_t page = random() % 50;
      const PageTableEntry* found = FindEntry(step, space, page, &hint);
      ASSERT_EQ(found != nullptr, map.count({space, page}) == 1);
      if (found) {
        EXPECT_EQ(found->id, (map[{space, page}]));
      }
    }
  }
}

}  // namespace
}  // namespace incr
