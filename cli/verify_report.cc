#include "cli/verify_report.h"

#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/page_range.h"
#include "cli/json.h"
#include "cli/text_table.h"

namespace incr {
namespace {

constexpr int kRowsForPeople = 20;  // ranges of one epoch, places of damage; JSON has more

std::string Hex(uint64_t value) { return absl::StrCat("0x", absl::Hex(value)); }

// JSON's numbers are doubles; StrCat would round them.
uint64_t Whole(double number) { return static_cast<uint64_t>(number); }

std::string Access(const pb::Mapping& mapping) {
  const bool shared = mapping.kind() == pb::Mapping::SHARED_FILE || mapping.kind() == pb::Mapping::SHARED_OBJECT;
  return {mapping.prot() & PROT_READ ? 'r' : '-', mapping.prot() & PROT_WRITE ? 'w' : '-',
          mapping.prot() & PROT_EXEC ? 'x' : '-', shared ? 's' : 'p'};
}

pb::VerifyRange Range(uint32_t space, uint64_t first_page, uint64_t end_page) {
  pb::VerifyRange range;
  range.set_start(Hex(first_page * kPageSize));
  range.set_end(Hex(end_page * kPageSize));
  range.set_pages(static_cast<uint32_t>(std::min<uint64_t>(end_page - first_page, UINT32_MAX)));
  range.set_space(space);
  return range;
}

// The mappings of `space`, and where they begin in it: an address, or an offset of the file.
void NameRun(const LostRun& run, const pb::Image& image, std::vector<pb::VerifyRange>* out) {
  uint64_t at = run.pages.first;
  for (const pb::Process& process : image.processes()) {
    for (const pb::Mapping& mapping : process.mappings()) {
      const bool of_file = mapping.file_space() != 0 && mapping.file_space() == run.space;
      if (!of_file && process.space() != run.space) continue;
      const uint64_t first = (of_file ? mapping.offset() : mapping.start()) / kPageSize;
      const uint64_t end = first + (mapping.end() - mapping.start()) / kPageSize;
      const uint64_t from = std::max(at, first), to = std::min(run.pages.end(), end);
      if (from >= to) continue;
      if (at < from) out->push_back(Range(run.space, at, from));
      out->push_back(Range(run.space, from, to));
      out->back().set_mapping(CleanText(mapping.has_file() ? mapping.file().path() : mapping.name()));
      out->back().set_access(Access(mapping));
      at = to;
    }
  }
  if (at < run.pages.end()) out->push_back(Range(run.space, at, run.pages.end()));
}

std::string FormatEpoch(const pb::VerifyEpoch& epoch) {
  std::string text = absl::StrCat("damaged: epoch ", epoch.epoch(), " of job ", epoch.job(), "\n");
  for (const std::string& problem : epoch.problems()) absl::StrAppend(&text, "  ", problem, "\n");
  if (epoch.lost_pages() == 0) return text;
  absl::StrAppend(&text, "  ", Whole(epoch.lost_pages()), " pages are lost:\n");
  int row = 0;
  for (const pb::VerifyRange& range : epoch.ranges()) {
    if (row++ == kRowsForPeople) {
      absl::StrAppend(&text, "    and more (--json lists them)\n");
      break;
    }
    absl::StrAppend(&text, "    ", range.start(), "-", range.end(), " ", range.pages(), " pages",
                    range.access().empty() ? "" : " ", range.access(), range.mapping().empty() ? "" : " ",
                    range.mapping(), "\n");
  }
  return text;
}

}  // namespace

std::vector<pb::VerifyRange> NameLostRuns(const std::vector<LostRun>& lost, const pb::Image& image) {
  std::vector<pb::VerifyRange> ranges;
  for (const LostRun& run : lost) NameRun(run, image, &ranges);
  return ranges;
}

pb::VerifyReply DescribeVerify(const VerifyReport& report) {
  pb::VerifyReply reply;
  reply.set_ok(report.ok());
  reply.set_jobs(report.jobs);
  reply.set_epochs(report.epochs);
  reply.set_packs(report.packs);
  reply.set_segments(report.segments);
  reply.set_pages(report.pages);
  reply.set_bytes_read(report.bytes);
  reply.set_damage_count(report.damage_count);
  for (const Damage& damage : report.damage) {
    pb::VerifyDamage* row = reply.add_damage();
    row->set_object(damage.object);
    row->set_offset(damage.offset);
    row->set_bytes(damage.bytes);
    row->set_problem(CleanText(damage.what));
  }
  for (const DamagedEpoch& epoch : report.damaged_epochs) {
    pb::VerifyEpoch* row = reply.add_damaged_epochs();
    row->set_job(CleanText(epoch.job));
    row->set_epoch(epoch.epoch);
    for (const std::string& problem : epoch.problems) row->add_problems(CleanText(problem));
    row->set_lost_pages(epoch.lost_pages);
  }
  return reply;
}

std::string FormatVerify(const pb::VerifyReply& reply) {
  std::string text;
  for (int i = 0; i < reply.damage_size() && i < kRowsForPeople; ++i) {
    const pb::VerifyDamage& damage = reply.damage(i);
    absl::StrAppend(&text, "damaged: ", damage.object());
    if (damage.bytes() > 0) absl::StrAppend(&text, " at offset ", Whole(damage.offset()), ", ", Whole(damage.bytes()), " bytes");
    absl::StrAppend(&text, ": ", damage.problem(), "\n");
  }
  if (reply.damage_count() > kRowsForPeople) {
    absl::StrAppend(&text, "and ", Whole(reply.damage_count()) - kRowsForPeople, " more places (--json lists them)\n");
  }
  for (const pb::VerifyEpoch& epoch : reply.damaged_epochs()) text += FormatEpoch(epoch);
  absl::StrAppend(&text, reply.epochs(), " epochs of ", reply.jobs(), " jobs, ", Whole(reply.pages()), " pages in ",
                  reply.packs(), " packs: ", FormatBytes(reply.bytes_read()), " read in ",
                  absl::StrFormat("%.1f s, ", reply.elapsed_s()), FormatBytes(reply.bytes_per_s()), "/s\n");
  if (reply.ok()) return text + "everything is whole\n";
  return absl::StrCat(text, reply.damaged_epochs_size(), " epochs are damaged. `incr-ckpt repair` mends what can be",
                      " mended; --dry-run shows what that is\n");
}

}  // namespace incr
