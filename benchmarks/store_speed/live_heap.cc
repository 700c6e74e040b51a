#include "benchmarks/store_speed/live_heap.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "benchmarks/store_speed/target_process.h"

namespace incr::store_speed {
namespace {

// ---- redis ----

class RedisClient {
 public:
  static absl::StatusOr<RedisClient> Connect(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return absl::InvalidArgumentError("socket's path too long");
    std::memcpy(address.sun_path, path.data(), path.size());
    for (int i = 0; i < 500; ++i, ::usleep(10'000)) {
      ScopedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return RedisClient(std::move(fd));
    }
    return ErrnoStatus(absl::StrCat("connect(", path, ")"));
  }

  // Many at once; the answers ("+OK") are awaited together.
  absl::Status Set(const std::vector<std::pair<std::string, std::string>>& pairs) {
    std::string text;
    for (const auto& [key, value] : pairs) {
      absl::StrAppend(&text, "*3\r\n$3\r\nSET\r\n$", key.size(), "\r\n", key, "\r\n$", value.size(), "\r\n", value, "\r\n");
    }
    for (size_t done = 0; done < text.size();) {
      const ssize_t n = ::write(fd_.get(), text.data() + done, text.size() - done);
      if (n <= 0) return ErrnoStatus("write to redis");
      done += n;
    }
    std::string answer(pairs.size() * 5, '\0');
    for (size_t done = 0; done < answer.size();) {
      const ssize_t n = ::read(fd_.get(), answer.data() + done, answer.size() - done);
      if (n <= 0) return ErrnoStatus("read from redis");
      done += n;
    }
    return answer[0] == '+' ? absl::OkStatus() : absl::InternalError(absl::StrCat("redis: ", answer));
  }

 private:
  explicit RedisClient(ScopedFd fd) : fd_(std::move(fd)) {}
  ScopedFd fd_;
};

// What a web shop keeps of a visitor: some words over and over, some numbers and a token never.
std::string Session(uint64_t user, std::mt19937_64& random) {
  static const char* const kPages[] = {"/catalogue/lamps", "/catalogue/chairs", "/basket", "/account/orders", "/help/returns"};
  std::string text = absl::StrFormat("{\"user\":%u,\"token\":\"%016x%016x\",\"country\":\"%c%c\",\"visits\":[", user, random(),
                                     random(), 'A' + random() % 26, 'A' + random() % 26);
  for (uint64_t i = 0, n = 2 + random() % 12; i < n; ++i) {
    absl::StrAppendFormat(&text, "%s{\"at\":%u,\"page\":\"%s\",\"ms\":%u,\"ref\":\"%08x\"}", i == 0 ? "" : ",",
                          1764000000 + random() % 1000000, kPages[random() % 5], random() % 4000, random() & 0xffffffff);
  }
  return text + "]}";
}

absl::Status SetSessions(RedisClient& redis, const std::vector<uint64_t>& users, std::mt19937_64& random) {
  constexpr size_t kAtOnce = 64;  // The answers must fit into the socket while we write.
  for (size_t first = 0; first < users.size(); first += kAtOnce) {
    std::vector<std::pair<std::string, std::string>> pairs;
    for (size_t i = first; i < std::min(first + kAtOnce, users.size()); ++i) {
      pairs.emplace_back(absl::StrCat("session:", users[i]), Session(users[i], random));
    }
    INCR_RETURN_IF_ERROR(redis.Set(pairs));
  }
  return absl::OkStatus();
}

constexpr uint64_t kSessionBytes = 860;        // with redis' own beside it
constexpr uint64_t kChangedPerThousand = 9;    // sessions; an old and a new place each, some 4 to a page

// ---- python ----

constexpr uint64_t kObjectBytes = 1120;
const char* const kPythonProgram = R"(
import random, sys
r = random.Random(5)
words = ['north', 'south', 'lamp', 'chair', 'invoice', 'paid', 'open', 'returned', 'express']
def make(i):
    return {'id': i, 'name': '%s-%s-%d' % (r.choice(words), r.choice(words), r.randrange(1 << 40)),
            'scores': [r.random() for _ in range(8)], 'tags': {r.choice(words): r.randrange(1 << 20) for _ in range(3)},
            'text': ' '.join(r.choice(words) for _ in range(12))}
objects = [make(i) for i in range(int(sys.argv[1]))]
for line in sys.stdin:
    if line.startswith('change'):
        stretch = 64
        for _ in range(len(objects) // 20 // stretch):
            first = r.randrange(len(objects) - stretch)
            for i in range(first, first + stretch):
                objects[i] = make(i)
    print('ready', flush=True)
)";

}  // namespace

absl::StatusOr<Workload> RedisHeap(const std::string& directory, uint64_t mib, int changed) {
  const std::string socket = directory + "/redis.sock";
  INCR_ASSIGN_OR_RETURN(const TargetProcess target,
                        TargetProcess::Start({"redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm",
                                              "600", "--save", "", "--appendonly", "no", "--dir", directory,
                                              "--loglevel", "warning", "--logfile", "/dev/null"}));
  INCR_ASSIGN_OR_RETURN(RedisClient redis, RedisClient::Connect(socket));
  std::mt19937_64 random(11);
  std::vector<uint64_t> users((mib << 20) / kSessionBytes);
  for (size_t i = 0; i < users.size(); ++i) users[i] = i;
  INCR_RETURN_IF_ERROR(SetSessions(redis, users, random));
  ::sleep(5);  // It still moves its hash table to a larger one, a little ten times a second.
  Workload workload("redis");
  std::map<uint64_t, const uint8_t*> image;
  for (int epoch = 0; epoch <= changed; ++epoch) {
    if (epoch > 0) {
      std::vector<uint64_t> some(users.size() * kChangedPerThousand / 1000);
      for (uint64_t& user : some) user = random() % users.size();
      INCR_RETURN_IF_ERROR(SetSessions(redis, some, random));
    }
    INCR_ASSIGN_OR_RETURN(EpochPages pages, target.TakePages(&workload, &image));
    workload.Add(std::move(pages));
  }
  workload.Finish();
  return workload;
}

absl::StatusOr<Workload> PythonHeap(uint64_t mib, int changed) {
  INCR_ASSIGN_OR_RETURN(TargetProcess target,
                        TargetProcess::Start({"python3", "-c", kPythonProgram, absl::StrCat((mib << 20) / kObjectBytes)}));
  INCR_RETURN_IF_ERROR(target.Ask("begin"));
  Workload workload("python");
  std::map<uint64_t, const uint8_t*> image;
  for (int epoch = 0; epoch <= changed; ++epoch) {
    if (epoch > 0) INCR_RETURN_IF_ERROR(target.Ask("change"));
    INCR_ASSIGN_OR_RETURN(EpochPages pages, target.TakePages(&workload, &image));
    workload.Add(std::move(pages));
  }
  workload.Finish();
  return workload;
}

}  // namespace incr::store_speed
