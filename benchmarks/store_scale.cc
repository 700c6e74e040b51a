// What a store's size costs: long chains (epoch 10,000 beside epoch 10), and large indexes (up to 20 million pages, synthetic
// ids; packs are empty files of the right length). Every figure is of a process of its own.
//
//   store_scale --out DIR [--cli PATH] [--epochs 10,100,1000,10000] [--millions 1,5,10,20] [--work DIR]
//
// Writes DIR/store_scale.md and .json. --cli times `incr-ckpt list`, `show` and `diff` on the chains too.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/image.pb.h"
#include "store/known_pages.h"
#include "store/kv_db.h"
#include "store/pack_format.h"
#include "store/page_index.h"
#include "store/store.h"

namespace incr {
namespace {

namespace fs = std::filesystem;
using Figures = std::map<std::string, double>;

constexpr uint64_t kChainTablePages = 262'144;  // 1 GiB
constexpr uint64_t kChangedPages = 20;
constexpr size_t kLookups = 13'107;  // 5 % of 1 GiB

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) std::fprintf(stderr, "store_scale: %s\n", value.status().ToString().c_str());
  if (!value.ok()) std::exit(1);
  return *std::move(value);
}
void Must(const absl::Status& status) {
  if (!status.ok()) std::fprintf(stderr, "store_scale: %s\n", status.ToString().c_str());
  if (!status.ok()) std::exit(1);
}

uint64_t ResidentBytes() {
  std::ifstream in("/proc/self/statm");
  uint64_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * 4096;
}

uint64_t BytesUnder(const std::string& path) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) bytes += entry.file_size();
  }
  return bytes;
}

// `measure` in a child of its own: what is in memory is its alone.
Figures InAChild(const std::function<Figures()>& measure) {
  int ends[2];
  if (::pipe(ends) != 0) std::exit(1);
  if (::fork() == 0) {
    std::string text;
    for (const auto& [name, value] : measure()) absl::StrAppend(&text, name, " ", value, "\n");
    (void)!::write(ends[1], text.data(), text.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, n);
  ::close(ends[0]);
  int status = 0;
  ::wait(&status);
  if (status != 0) std::exit(1);
  Figures figures;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    (void)absl::SimpleAtod(words[1], &figures[words[0]]);
  }
  return figures;
}

double Milliseconds(const std::function<void()>& action, int times = 5) {
  std::vector<double> took;
  for (int i = 0; i < times; ++i) {
    const Stopwatch time;
    action();
    took.push_back(time.elapsed_us() / 1000.0);
  }
  std::sort(took.begin(), took.end());
  return took[took.size() / 2];
}

// ---- long chains ----

std::string SmallImage() {
  pb::Image image;
  image.set_version(1);
  pb::Process* process = image.add_processes();
  process->set_pid(71);
  process->set_comm("synthetic");
  return image.SerializeAsString();
}

void WriteChain(const std::string& path, uint64_t epochs) {
  StoreOptions options;
  options.create_if_missing = true;
  std::unique_ptr<Store> store = Must(Store::Open(path, options));
  std::vector<uint8_t> page(kPageSize);
  std::mt19937_64 random(1);
  const std::string image = SmallImage();
  for (uint64_t epoch = 1; epoch <= epochs; ++epoch) {
    std::unique_ptr<EpochWriter> writer = Must(store->BeginEpoch("job", epoch - 1));
    const uint64_t count = epoch == 1 ? kChainTablePages : kChangedPages;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t content = random();
      std::memcpy(page.data(), &content, sizeof content);
      Must(writer->AddPages(0, {epoch == 1 ? i : content % kChainTablePages, 1}, page.data()));
    }
    Must(writer->Commit({}, image).status());
  }
}

double CliMilliseconds(const std::string& cli, const std::string& store, const std::string& verb) {
  const std::string command = absl::StrCat(cli, " --store ", store, " ", verb, " >/dev/null 2>&1");
  return Milliseconds([&] {
    if (std::system(command.c_str()) != 0) {
      std::fprintf(stderr, "store_scale: failed: %s\n", command.c_str());
      std::exit(1);
    }
  });
}

Figures MeasureChain(const std::string& path, uint64_t epochs, const std::string& cli) {
  Figures figures;
  figures["epochs"] = epochs;
  figures["open_ms"] = Milliseconds([&] { Must(StoreReader::Open(path).status()); });
  std::unique_ptr<StoreReader> reader = Must(StoreReader::Open(path));
  figures["list_ms"] = Milliseconds([&] { Must(reader->ListEpochs("job").status()); });
  figures["latest_ms"] = Milliseconds([&] { Must(reader->LatestEpoch("job").status()); });
  figures["table_ms"] = Milliseconds([&] { Must(reader->LoadPageTable("job", epochs).status()); });
  figures["diff_ms"] =
      Milliseconds([&] { Must(reader->ComparePages("job", epochs - 1, epochs).status()); });
  if (!cli.empty()) {
    figures["cli_list_ms"] = CliMilliseconds(cli, path, "list");
    figures["cli_show_ms"] = CliMilliseconds(cli, path, "show --epoch latest");
    figures["cli_diff_ms"] =
        CliMilliseconds(cli, path, absl::StrCat("diff ", epochs - 1, " ", epochs));
  }
  figures["store_mib"] = BytesUnder(path) / 1048576.0;
  figures["db_mib"] = BytesUnder(path + "/db") / 1048576.0;
  return figures;
}

// ---- large indexes ----

PageId IdOf(uint64_t n) {
  const uint64_t a = (n + 1) * 0x9e3779b97f4a7c15u, b = (n + 1) * 0xc2b2ae3d27d4eb4fu;
  return {a ^ (b >> 29), b ^ (a << 13) ^ (a >> 31)};
}

void WriteIndexOf(const std::string& path, uint64_t pages) {
  StoreOptions options;
  options.create_if_missing = true;
  Must(Store::Open(path, options).status());
  std::unique_ptr<KvDb> db = Must(KvDb::Open(path + "/db", KvDb::Mode::kReadWrite));
  constexpr uint64_t kBatch = 262'144, kBody = 600;
  for (uint64_t first = 0, pack = 1; first < pages; first += kBatch, ++pack) {
    std::vector<IndexEntry> entries;
    for (uint64_t i = first; i < std::min(first + kBatch, pages); ++i) {
      entries.push_back({IdOf(i), {static_cast<uint32_t>(pack), 4096 + (i - first) * kBody, kBody,
                                   PageEncoding::kLz4}});
    }
    const uint64_t length = 4096 + (kBatch * kBody + 4095) / 4096 * 4096;
    const std::string file = path + "/packs/" + PackName(pack);
    std::ofstream(file).close();
    fs::resize_file(file, length);
    const PackLength whole{static_cast<uint32_t>(pack), length};
    Must(WriteIndex(*db, {&whole, 1}, entries));
  }
  Must(db->Sync());
}

// Milliseconds to look up so many ids in blocks of 64, as an epoch does.
double LookUp(const KnownPages& known, uint64_t from) {
  std::mt19937_64 random(7);
  return Milliseconds(
      [&] {
        for (size_t n = 0; n < kLookups; n += 64) {
          std::vector<PageId> ids;
          for (int i = 0; i < 64; ++i) ids.push_back(IdOf(from + random() % (uint64_t{1} << 20)));
          std::vector<bool> found;
          HitList hits;
          Must(known.Find(ids, &found, &hits));
        }
      },
      3);
}

Figures MeasureIndex(const std::string& path, uint64_t pages, uint64_t limit) {
  Figures figures;
  figures["pages"] = pages;
  figures["limit_mib"] = limit >> 20;
  const uint64_t before = ResidentBytes();
  StoreOptions options;
  if (limit != 0) Must(LimitMemory(limit, &options));
  const Stopwatch time;
  {
    std::unique_ptr<Store> store = Must(Store::Open(path, options));
    figures["open_ms"] = time.elapsed_us() / 1000.0;
    figures["resident_mib"] = (ResidentBytes() - before) / 1048576.0;
  }
  // The same, look-ups only.
  KvOptions kv;
  kv.cache_bytes = options.cache_bytes;
  kv.bounded_index = options.bounded_index;
  std::unique_ptr<KvDb> db = Must(KvDb::Open(path + "/db", KvDb::Mode::kReadOnly, kv));
  const auto lengths = Must(ReadPackLengths(*db));
  const auto packs = Must(PackSet::Recover(path + "/packs", 0, 256u << 20, lengths));
  KnownPages known(db.get(), packs.get(), options.max_known_pages);
  Must(known.Load());
  figures["known_in_memory"] = known.in_memory();
  figures["find_known_ms"] = LookUp(known, 0);
  figures["find_new_ms"] = LookUp(known, uint64_t{1} << 40);
  return figures;
}

// ---- the report ----

std::string Json(const std::vector<Figures>& rows) {
  std::string text = "[";
  for (const Figures& row : rows) {
    absl::StrAppend(&text, &row == &rows[0] ? "" : ",", "\n    {");
    bool first = true;
    for (const auto& [name, value] : row) {
      absl::StrAppendFormat(&text, "%s\"%s\": %.3f", first ? "" : ", ", name, value);
      first = false;
    }
    text += "}";
  }
  return text + "\n  ]";
}

std::string ChainTable(const std::vector<Figures>& rows) {
  std::string text = "| epochs | reader opens | list | latest | last epoch's table | diff of the last two | "
                     "`list` | `show` | `diff` | store | database |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  const auto with_ratio = [&](const Figures& row, const char* name) {
    if (row.count(name) == 0) return std::string("-");
    return absl::StrFormat("%.1f ms (%.1fx)", row.at(name), row.at(name) / rows[0].at(name));
  };
  for (const Figures& row : rows) {
    absl::StrAppendFormat(&text, "| %.0f |", row.at("epochs"));
    for (const char* name : {"open_ms", "list_ms", "latest_ms", "table_ms", "diff_ms",
                             "cli_list_ms", "cli_show_ms", "cli_diff_ms"}) {
      absl::StrAppend(&text, " ", with_ratio(row, name), " |");
    }
    absl::StrAppendFormat(&text, " %.0f MiB | %.0f MiB |\n", row.at("store_mib"), row.at("db_mib"));
  }
  return text;
}

std::string IndexTable(const std::vector<Figures>& rows) {
  std::string text =
      "| pages | memory limit | index | bytes a page | writer opens | resident | MiB a million pages | ids in "
      "memory | 13,107 known | 13,107 new |\n|---|---|---|---|---|---|---|---|---|---|\n";
  for (const Figures& row : rows) {
    const double millions = row.at("pages") / 1e6;
    absl::StrAppendFormat(
        &text, "| %.0f M | %s | %.0f MiB | %.1f | %.0f ms | %.0f MiB | %.1f | %.1f M | %.1f ms | %.1f ms |\n",
        millions, row.at("limit_mib") == 0 ? "-" : absl::StrFormat("%.0f MiB", row.at("limit_mib")),
        row.at("db_mib"), row.at("db_mib") * 1048576 / row.at("pages"), row.at("open_ms"),
        row.at("resident_mib"), row.at("resident_mib") / millions, row.at("known_in_memory") / 1e6,
        row.at("find_known_ms"), row.at("find_new_ms"));
  }
  return text;
}

std::vector<uint64_t> Numbers(const std::string& text) {
  std::vector<uint64_t> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    uint64_t number = 0;
    if (!absl::SimpleAtoi(part, &number)) std::exit(2);
    numbers.push_back(number);
  }
  return numbers;
}

int Main(int argc, char** argv) {
  std::map<std::string, std::string> options = {
      {"--epochs", "10,100,1000,10000"}, {"--millions", "1,5,10,20"}, {"--work", "/tmp"}};
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  if (options["--out"].empty()) {
    std::fprintf(stderr, "usage: store_scale --out DIR [--cli PATH] [--epochs N,..] [--millions N,..] [--work DIR]\n");
    return 2;
  }
  const std::string work = options["--work"] + "/store_scale.tmp";
  std::vector<Figures> chains, indexes;
  for (const uint64_t epochs : Numbers(options["--epochs"])) {
    fs::remove_all(work);
    std::fprintf(stderr, "a chain of %lu epochs\n", epochs);
    (void)InAChild([&] { return WriteChain(work, epochs), Figures(); });
    chains.push_back(InAChild([&] { return MeasureChain(work, epochs, options["--cli"]); }));
  }
  for (const uint64_t millions : Numbers(options["--millions"])) {
    fs::remove_all(work);
    std::fprintf(stderr, "an index of %lu million pages\n", millions);
    (void)InAChild([&] { return WriteIndexOf(work, millions * 1'000'000), Figures(); });
    for (const uint64_t limit : {uint64_t{0}, uint64_t{256} << 20}) {
      indexes.push_back(InAChild([&] { return MeasureIndex(work, millions * 1'000'000, limit); }));
      indexes.back()["db_mib"] = BytesUnder(work + "/db") / 1048576.0;
    }
  }
  fs::remove_all(work);
  const std::string markdown = absl::StrCat(
      "# Store: what its size costs\n\n`benchmarks/store_scale`, medians; see its source for what is measured.\n\n"
      "## Long chains\n\n1 GiB of pages, 20 changed an epoch; in brackets beside the first row.\n\n",
      ChainTable(chains), "\n## Large indexes\n\nSynthetic ids, a page each; page cache warm.\n\n", IndexTable(indexes));
  fs::create_directories(options["--out"]);
  std::ofstream(options["--out"] + "/store_scale.md") << markdown;
  std::ofstream(options["--out"] + "/store_scale.json")
      << "{\n  \"chains\": " << Json(chains) << ",\n  \"indexes\": " << Json(indexes) << "\n}\n";
  std::fputs(markdown.c_str(), stdout);
  return 0;
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) { return incr::Main(argc, argv); }
