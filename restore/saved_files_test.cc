#include "restore/saved_files.h"

#include <sys/mman.h>

#include "gtest/gtest.h"
#include "restore/plan.h"
#include "restore/test_image.h"

namespace incr {
namespace {

constexpr PageId kOwn{1, 1}, kFile0{2, 0}, kFile1{2, 1}, kFile2{2, 2}, kOther{3, 3};
constexpr uint32_t kSpace = kFirstFileSpace + 1;

// The program's text, 400000-402000, shows pages 1 and 2 of a file whose pages were saved.
pb::Image ImageWithSavedFile() {
  pb::Image image = TestImage();
  pb::Mapping* text = image.mutable_processes(0)->mutable_mappings(0);
  text->set_offset(0x1000);
  text->mutable_file()->set_ino(7);
  image.mutable_processes(0)->mutable_exe()->set_ino(7);
  text->set_file_space(kSpace);
  EXPECT_TRUE(ValidateImage(image).ok()) << ValidateImage(image);
  return image;
}

PageTable SavedTable() {
  return {{0, 0x401, kOwn}, {0, 0x500, kOwn}, {kSpace, 0, kFile0}, {kSpace, 1, kFile1},
          {kSpace, 2, kFile2}, {kSpace + 1, 1, kOther}};
}

TEST(SavedFiles, AChangedFilesMappingBecomesMemoryWithItsPagesUnderTheProcesssOwn) {
  pb::Image image = ImageWithSavedFile();
  PageTable table = SavedTable();
  EXPECT_TRUE(ProgramIsMapped(image.processes(0)));
  ASSERT_TRUE(RebuildFromSavedPages({{kSpace, "/bin/program is missing"}}, &image,
                                    image.mutable_processes(0), &table)
                  .ok());
  EXPECT_FALSE(ProgramIsMapped(image.processes(0)));
  ASSERT_EQ(image.warnings_size(), 1);
  EXPECT_NE(image.warnings(0).find("/bin/program is missing"), std::string::npos);
  ASSERT_TRUE(ValidateImage(image).ok()) << ValidateImage(image);
  const auto plan = PlanRestore(image, image.processes(0), table);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->maps[0].source, -1);
  EXPECT_EQ(plan->maps[0].flags & MAP_ANONYMOUS, MAP_ANONYMOUS);
  EXPECT_EQ(plan->private_pages.offsets, (std::vector<uint64_t>{0x400000, 0x401000, 0x500000}));
  EXPECT_EQ(plan->private_pages.ids, (std::vector<PageId>{kFile1, kOwn, kOwn}));
  // Code again in the end.
  ASSERT_FALSE(plan->protects.empty());
  EXPECT_EQ(plan->protects[0].prot, PROT_READ | PROT_EXEC);
}

// The program wrote zeros over the file's bytes: they must not come back.
TEST(SavedFiles, AZeroPageOfTheProcesssOwnHidesTheFiles) {
  pb::Image image = ImageWithSavedFile();
  PageTable table = SavedTable();
  table[0].id = PageId();
  ASSERT_TRUE(RebuildFromSavedPages({{kSpace, "gone"}}, &image, image.mutable_processes(0), &table)
                  .ok());
  const auto plan = PlanRestore(image, image.processes(0), table);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->private_pages.offsets, (std::vector<uint64_t>{0x400000, 0x500000}));
}

TEST(SavedFiles, AFileThatIsStillTheSameIsMapped) {
  pb::Image image = ImageWithSavedFile();
  PageTable table = SavedTable();
  ASSERT_TRUE(RebuildFromSavedPages({}, &image, image.mutable_processes(0), &table).ok());
  EXPECT_EQ(image.warnings_size(), 0);
  EXPECT_EQ(table, SavedTable());
  const auto plan = PlanRestore(image, image.processes(0), table);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_GE(plan->maps[0].source, 0);
  EXPECT_EQ(plan->private_pages.offsets, (std::vector<uint64_t>{0x401000, 0x500000}));
}

TEST(SavedFiles, AMissingFileIsChangedOnlyIfItsPagesWereSaved) {
  pb::Image image = ImageWithSavedFile();
  image.mutable_processes(0)->mutable_mappings(0)->mutable_file()->set_path("/no/such/file");
  const auto changed = FindChangedFiles(image.processes(0));
  ASSERT_EQ(changed.size(), 1u);
  EXPECT_EQ(changed.begin()->first, kSpace);
  EXPECT_NE(changed.begin()->second.find("/no/such/file"), std::string::npos);
  image.mutable_processes(0)->mutable_mappings(0)->clear_file_space();
  EXPECT_TRUE(FindChangedFiles(image.processes(0)).empty());
}

TEST(SavedFiles, AFileSpaceThatIsAProcesssIsRefused) {
  pb::Image image = ImageWithSavedFile();
  image.mutable_processes(0)->mutable_mappings(0)->set_file_space(1);
  EXPECT_FALSE(ValidateImage(image).ok());
  image = ImageWithSavedFile();
  image.mutable_processes(0)->mutable_mappings(1)->set_file_space(kSpace);  // anonymous memory
  EXPECT_FALSE(ValidateImage(image).ok());
  image = ImageWithSavedFile();
  image.mutable_processes(0)->set_space(kSpace);
  EXPECT_FALSE(ValidateImage(image).ok());
}

}  // namespace
}  // namespace incr
