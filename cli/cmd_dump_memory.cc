#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/page_range.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/diff_bytes.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "cli/json.h"
#include "cli/output_file.h"
#include "cli/progress_line.h"
#include "cli/text_table.h"
#include "dump/epoch_memory.h"
#include "dump/sparse_writer.h"
#include "store/store.h"

namespace incr {
namespace {

std::string Hex(uint64_t address) { return absl::StrCat("0x", absl::Hex(address)); }

absl::StatusOr<AddressRange> ChooseRange(const std::string& text, const pb::Process& process) {
  if (const std::optional<AddressRange> range = ParseAddressRange(text)) {
    if (range->start < range->end) return *range;
    return absl::InvalidArgumentError(absl::StrCat("--range ", CleanText(text), ": ends before it begins"));
  }
  std::optional<AddressRange> found;
  for (const pb::Mapping& mapping : process.mappings()) {
    const std::string& name = mapping.has_file() ? mapping.file().path() : mapping.name();
    if (name.empty() || name != text) continue;
    if (found && found->end != mapping.start()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--range ", CleanText(text), ": there are several mappings of that name; give addresses, as show prints them"));
    }
    found = AddressRange{found ? found->start : mapping.start(), mapping.end()};
  }
  if (found) return *found;
  return absl::InvalidArgumentError(absl::StrCat(
      "--range ", CleanText(text),
      ": must be START-END or START+LENGTH (addresses in hexadecimal), or a mapping's name as show prints it"));
}

// Before anything is written.
absl::Status CheckMapped(const EpochMemory& memory, const AddressRange& range) {
  uint64_t at = range.start;
  for (const pb::Mapping& mapping : memory.process().mappings()) {
    if (mapping.end() <= at) continue;
    if (mapping.start() > at || at >= range.end) break;
    for (const MemoryRun& run : memory.Runs(mapping)) {
      if (run.from != MemoryRun::From::kNowhere || run.end <= range.start || run.start >= range.end) continue;
      return absl::FailedPreconditionError(absl::StrCat("the memory at ", Hex(std::max(run.start, range.start)),
                                                        " is not to be had: ", CleanText(run.why)));
    }
    at = mapping.end();
  }
  if (at >= range.end) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("nothing was mapped at ", Hex(at), " in that epoch; show prints what was"));
}

absl::Status WriteRange(const EpochMemory& memory, const AddressRange& range, SparseWriter* writer,
                        absl::FunctionRef<void(uint64_t)> progress) {
  for (const pb::Mapping& mapping : memory.process().mappings()) {
    if (mapping.end() <= range.start || mapping.start() >= range.end) continue;
    for (const MemoryRun& run : memory.Runs(mapping)) {
      const uint64_t start = std::max(run.start, range.start / kPageSize * kPageSize);
      const uint64_t end = std::min(run.end, (range.end + kPageSize - 1) / kPageSize * kPageSize);
      if (start >= end) continue;
      INCR_RETURN_IF_ERROR(memory.Read(mapping, run, start, end, [&](uint64_t address, absl::string_view bytes) {
        const uint64_t from = std::max(address, range.start), to = std::min(address + bytes.size(), range.end);
        INCR_RETURN_IF_ERROR(writer->PadTo(from - range.start));
        INCR_RETURN_IF_ERROR(writer->Append(bytes.substr(from - address, to - from)));
        progress(writer->offset());
        return absl::OkStatus();
      }));
    }
  }
  INCR_RETURN_IF_ERROR(writer->PadTo(range.end - range.start));
  return writer->Finish();
}

std::string FormatDump(const pb::DumpMemoryReply& reply) {
  return absl::StrCat("wrote ", reply.start(), "-", reply.end(), " of epoch ", reply.epoch(), " of job ", reply.job(),
                      " to ", reply.file(), ": ", FormatBytes(reply.bytes()),
                      absl::StrFormat(" in %.1f s\n", reply.elapsed_s()));
}

}  // namespace

absl::StatusOr<int> RunDumpMemory(const CommandContext& context, const DumpMemoryArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(const std::string job, ChooseJob(*reader, args.job));
  INCR_ASSIGN_OR_RETURN(const pb::EpochRecord record, ChooseEpoch(*reader, job, args.epoch));
  INCR_ASSIGN_OR_RETURN(const EpochMemory memory, EpochMemory::Open(*reader, job, record.epoch()));
  INCR_ASSIGN_OR_RETURN(const AddressRange range, ChooseRange(args.range, memory.process()));
  INCR_RETURN_IF_ERROR(CheckMapped(memory, range));
  INCR_ASSIGN_OR_RETURN(OutputFile output, OutputFile::Open(args.file));
  pb::DumpMemoryReply reply;
  const double bytes = static_cast<double>(range.end - range.start);
  {
    ProgressLine line("dump-memory");
    SparseWriter writer(output.fd(), output.name());
    INCR_RETURN_IF_ERROR(WriteRange(memory, range, &writer,
                                    [&](uint64_t so_far) { line.Show(static_cast<double>(so_far), bytes, ""); }));
    INCR_RETURN_IF_ERROR(output.Finish());
    reply.set_elapsed_s(line.elapsed_s());
  }
  reply.set_job(job);
  reply.set_epoch(static_cast<uint32_t>(record.epoch()));
  reply.set_file(CleanText(args.file));
  reply.set_start(Hex(range.start));
  reply.set_end(Hex(range.end));
  reply.set_bytes(bytes);
  INCR_RETURN_IF_ERROR(PrintBeside(args.file, context, reply, FormatDump(reply)));
  return kExitOk;
}

}  // namespace incr
