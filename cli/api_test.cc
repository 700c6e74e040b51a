#include "cli/api.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/daemon_client.h"
#include "cli/fakes.h"
#include "cli/http_client.h"
#include "cli/http_server.h"
#include "cli/json.h"
#include "cli/unix_socket.h"

namespace incr {
namespace {

// A store's directory with the API on its socket, as a daemon has it.
class ApiTest : public ::testing::Test {
 protected:
  ApiTest() {
    std::string pattern = absl::StrCat(::testing::TempDir(), "/apiXXXXXX");
    INCR_CHECK(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    world_.AddProcess(71, "redis-server");
  }
  ~ApiTest() override { std::system(absl::StrCat("rm -rf ", directory_).c_str()); }

  void Serve() {
    auto address = SocketAddress::In(directory_);
    ASSERT_TRUE(address.ok()) << address.status();
    auto socket = ListenOn(*address);
    ASSERT_TRUE(socket.ok()) << socket.status();
    auto server = HttpServer::Serve(*std::move(socket),
                                    [this](const HttpRequest& r) { return api_.Handle(r); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  HttpReply Call(const std::string& path) {
    return *HttpCall(*SocketAddress::In(directory_), path, nullptr);
  }
  HttpReply Post(const std::string& path, const std::string& body) {
    return *HttpCall(*SocketAddress::In(directory_), path, &body);
  }
  DaemonClient Client() { return *DaemonClient::ForStore(directory_, {"/bin/false"}); }

  std::string directory_;
  FakeWorld world_;
  FakeSessionFactory factory_{&world_};
  FakeStore store_;
  JobTable table_{&factory_, [](const std::string&) {}};
  Api api_{&table_, &store_, "/the/store"};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(ApiTest, RoundTrip) {
  Serve();
  DaemonClient client = Client();
  pb::StartRequest start;
  start.set_pid(71);
  start.set_job("web");
  auto started = client.Start(start, nullptr);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->job(), "web");
  EXPECT_EQ(started->epoch(), 1u);

  pb::CheckpointRequest checkpoint;
  checkpoint.set_target("71");
  EXPECT_EQ(client.Checkpoint(checkpoint)->epoch(), 2u);

  auto status = client.Status();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->daemon_pid(), static_cast<uint32_t>(::getpid()));
  EXPECT_EQ(status->store(), "/the/store");
  ASSERT_EQ(status->jobs_size(), 1);
  EXPECT_EQ(status->jobs(0).last_epoch(), 2u);

  pb::StopRequest stop;
  stop.set_all(true);
  auto stopped = client.Stop(stop);
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->stopped(0), "web");
  EXPECT_EQ(stopped->daemon_pid(), static_cast<uint32_t>(::getpid()));
}

TEST_F(ApiTest, ErrorsKeepTheirCodeAndWords) {
  Serve();
  pb::CheckpointRequest checkpoint;
  checkpoint.set_target("nobody");
  const auto reply = Client().Checkpoint(checkpoint);
  EXPECT_TRUE(absl::IsNotFound(reply.status()));
  EXPECT_NE(reply.status().message().find("nobody"), std::string::npos) << reply.status();
  EXPECT_EQ(Post("/v1/checkpoint", "{\"target\":\"nobody\"}").status, 404);
}

TEST_F(ApiTest, EveryFieldOfAnEpochIsAJsonNumberEvenWhenZero) {
  Serve();
  store_.Add("web", 1, 71);
  const std::string body = Call("/v1/epochs?job=web").body;
  for (const char* field :
       {"\"job\":\"web\"", "\"epoch\":1", "\"pid\":71", "\"pages_scanned\":0",
        "\"pages_written\":0", "\"pages_gone\":0", "\"pages_zero\":0", "\"pages_deduplicated\":0",
        "\"pages_stored\":0", "\"bytes_stored\":5000000000", "\"frozen_us\":0", "\"total_us\":0",
        "\"tracker\":\"fake\"", "\"time\":\"2023-11-14T22:13:20.123456Z\""}) {
    EXPECT_NE(body.find(field), std::string::npos) << field << " in " << body;
  }
  EXPECT_EQ(Call("/v1/epochs?job=other").status, 404);
  EXPECT_NE(Call("/v1/status").body.find("\"jobs\":[]"), std::string::npos);
}

TEST_F(ApiTest, NonsenseIsAnErrorNotACrash) {
  Serve();
  EXPECT_EQ(Call("/").status, 404);
  EXPECT_EQ(Call("/v1/start").status, 404);
  EXPECT_EQ(Post("/v1/start", "{").status, 400);
  EXPECT_EQ(Post("/v1/start", "\xff\xfe").status, 400);
  EXPECT_EQ(Post("/v1/start", "[1]").status, 400);
  EXPECT_EQ(Post("/v1/start", "{\"pid\":-1}").status, 400);
  EXPECT_EQ(Post("/v1/start", "").status, 400);
  EXPECT_EQ(Post("/v1/start", "{\"pid\":71,\"job\":\"a\xc3\xa4\"}").status, 400);
  EXPECT_EQ(Post("/v1/start", "{\"pid\":99}").status, 404);
  EXPECT_EQ(Post("/v1/start", "{\"pid\":71,\"a_field_of_the_future\":1}").status, 200);
}

TEST_F(ApiTest, LargeRequestsAreCutOff) {
  Serve();
  EXPECT_EQ(Post("/v1/start", std::string(kMaxRequestBytes + 1, 'x')).status, 413);
}

TEST_F(ApiTest, AStatusIsAnsweredWhileAnEpochIsTaken) {
  Serve();
  world_.HoldEpochs(true);
  std::thread starter([&] { EXPECT_EQ(Post("/v1/start", "{\"pid\":71}").status, 200); });
  world_.AwaitEpochsBegun(1);
  EXPECT_EQ(Client().Status()->jobs(0).state(), "starting");
  world_.HoldEpochs(false);
  starter.join();
}

TEST_F(ApiTest, TheSocketIsItsOwnersAlone) {
  Serve();
  struct stat stat;
  ASSERT_EQ(::stat(absl::StrCat(directory_, "/daemon.sock").c_str(), &stat), 0);
  EXPECT_EQ(stat.st_mode & 07777, 0600u);
  ASSERT_EQ(::geteuid(), 0u) << "must run as root to become somebody else";
  const pid_t child = ::fork();
  if (child == 0) {
    // Through an open descriptor of the directory the file's mode is no obstacle to a test as root;
    // the daemon's own look at the peer must be.
    ::chmod(directory_.c_str(), 0755);
    ::chmod(absl::StrCat(directory_, "/daemon.sock").c_str(), 0666);
    if (::setuid(65534) != 0) ::_exit(2);
    auto reply = HttpCall(*SocketAddress::In(directory_), "/v1/status", nullptr);
    ::_exit(reply.ok() && reply->status == 403 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(ApiTest, AStorePathLongerThanASocketAddress) {
  for (int i = 0; i < 4; ++i) {
    directory_ += "/" + std::string(60, 'd');
    ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  }
  Serve();
  EXPECT_TRUE(Client().Status().ok());
  server_.reset();
  directory_.resize(directory_.size() - 4 * 61);
}

TEST_F(ApiTest, AStaleSocketIsNoDaemon) {
  EXPECT_TRUE(absl::IsUnavailable(Client().Status().status()));  // No file.
  {
    auto listening = ListenOn(*SocketAddress::In(directory_));
    ASSERT_TRUE(listening.ok());
  }
  EXPECT_TRUE(absl::IsUnavailable(Client().Status().status()));  // A file, nobody listens.
  Serve();                                                       // Replaced.
  EXPECT_TRUE(Client().Status().ok());
}

TEST_F(ApiTest, ADaemonThatDiesInMidRequestIsAClearError) {
  auto listening = ListenOn(*SocketAddress::In(directory_));
  ASSERT_TRUE(listening.ok());
  std::thread dying([&] {
    ScopedFd connection(::accept(listening->get(), nullptr, nullptr));
    char buffer[64];
    (void)!::read(connection.get(), buffer, sizeof buffer);
  });
  pb::CheckpointRequest request;
  request.set_target("71");
  const auto reply = Client().Checkpoint(request);
  dying.join();
  EXPECT_TRUE(absl::IsAborted(reply.status()));
  EXPECT_NE(reply.status().message().find("daemon.log"), std::string::npos) << reply.status();
}

TEST_F(ApiTest, ACallerWhoGivesUpIsNotHeld) {
  Serve();
  world_.HoldEpochs(true);
  pb::StartRequest start;
  start.set_pid(71);
  const auto reply = Client().Start(start, [] { return false; });
  EXPECT_TRUE(absl::IsCancelled(reply.status())) << reply.status();
  world_.HoldEpochs(false);
}

TEST(JsonTest, TextThatIsNoUtf8IsMadePresentable) {
  EXPECT_EQ(CleanText("a\xff" "b\xc3\xa4\xc3"), "a?b\xc3\xa4?");
  EXPECT_EQ(CleanText("\xed\xa0\x80\xf5\x80"), "?????");
  EXPECT_EQ(CleanText("a\nb\x1b[31m"), "a b [31m");
}

}  // namespace
}  // namespace incr
