// Holds one of nearly every kind of descriptor, through any number of restores; on SIGTERM looks
// at each, after at least one restore. Argument: a directory to work in.
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <string>

#include "rst_common.h"

static std::string directory;

static int At(int fd, int number) {
  EXPECT(fd >= 0);
  if (fd != number) {
    EXPECT(dup2(fd, number) == number);
    close(fd);
  }
  return number;
}

static std::string Read(int fd) {
  char text[256];
  const ssize_t n = read(fd, text, sizeof text);
  return n < 0 ? "errno " + std::to_string(errno) : std::string(text, n);
}

static void Watch(int epoll, int fd, uint32_t events, uint64_t data) {
  epoll_event event = {events, {.u64 = data}};
  EXPECT(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

static sockaddr_un UnixName(const char* name) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, name);
  return address;
}

static void OpenFiles() {
  At(open("regular", O_RDWR | O_CREAT | O_TRUNC, 0600), 10);
  EXPECT(write(10, "0123456789", 10) == 10);
  lseek(10, 3, SEEK_SET);
  dup3(10, 11, O_CLOEXEC);
  At(open("regular", O_RDONLY), 12);
  At(open(".", O_RDONLY | O_DIRECTORY), 13);
  At(open("/dev/zero", O_RDWR), 14);
  // Mapped as well: whoever maps it for us must not cost us the lock.
  At(open("locked", O_RDWR | O_CREAT, 0600), 15);
  EXPECT(ftruncate(15, 4096) == 0);
  EXPECT(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 15, 0) != MAP_FAILED);
  struct flock lock = {F_WRLCK, SEEK_SET, 5, 10, 0};
  EXPECT(fcntl(15, F_SETLK, &lock) == 0);
  At(open("/proc/self/maps", O_RDONLY), 17);
  char line[8];
  EXPECT(read(17, line, 8) == 8);
  At(open("flocked", O_RDWR | O_CREAT, 0600), 16);
  EXPECT(flock(16, LOCK_EX) == 0);
}

static void CheckFiles() {
  EXPECT(lseek(11, 0, SEEK_CUR) == 3);
  EXPECT(write(10, "ABC", 3) == 3 && lseek(11, 0, SEEK_CUR) == 6);
  EXPECT(fcntl(11, F_GETFD) == FD_CLOEXEC && fcntl(10, F_GETFD) == 0);
  EXPECT(Read(12) == "012ABC6789");
  EXPECT(openat(13, "regular", O_RDONLY) >= 0);
  char zero = 1;
  EXPECT(read(14, &zero, 1) == 1 && zero == 0);
  EXPECT(lseek(17, 0, SEEK_CUR) == 8);
  char maps[4096];
  EXPECT(pread(17, maps, sizeof maps, 0) > 500 && memmem(maps, sizeof maps, "fil_everything", 14));
  const pid_t child = fork();
  if (child == 0) {  // another process sees our locks
    struct flock lock = {F_WRLCK, SEEK_SET, 14, 1, 0};
    EXPECT(fcntl(15, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK && lock.l_pid == getppid());
    const int other = open("flocked", O_RDWR);
    EXPECT(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
    _exit(0);
  }
  int status = 0;
  EXPECT(waitpid(child, &status, 0) == child && status == 0);
}

static void OpenPipes() {
  int ends[2];
  EXPECT(pipe2(ends, O_NONBLOCK) == 0);
  At(ends[0], 20);
  At(ends[1], 21);
  fcntl(20, F_SETPIPE_SZ, 1 << 17);
  EXPECT(write(21, "in the pipe", 11) == 11);
  EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  At(ends[0], 22);
  At(ends[1], 23);
  EXPECT(write(22, "in the ", 7) == 7 && write(22, "socket", 6) == 6);
  EXPECT(mkfifo("fifo", 0600) == 0);
  At(open("fifo", O_RDONLY | O_NONBLOCK), 24);
  At(open("fifo", O_WRONLY), 25);
  EXPECT(write(25, "in the fifo", 11) == 11);
}

static void CheckPipes() {
  EXPECT(fcntl(20, F_GETPIPE_SZ) == 1 << 17);
  EXPECT(Read(20) == "in the pipe");
  char byte;
  EXPECT(read(20, &byte, 1) == -1 && errno == EAGAIN);
  EXPECT(Read(23) == "in the socket");
  EXPECT(write(23, "back", 4) == 4 && Read(22) == "back");
  EXPECT(Read(24) == "in the fifo");
  close(21);
  EXPECT(Read(20).empty());  // nobody else has kept the writer
  close(23);
  EXPECT(Read(22).empty());
  close(25);
  EXPECT(Read(24).empty());
}

static void OpenCounters() {
  At(eventfd(7, EFD_NONBLOCK), 30);
  At(eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE), 31);
  At(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 32);
  itimerspec spec = {{0, 0}, {7200, 0}};
  EXPECT(timerfd_settime(32, 0, &spec, nullptr) == 0);
  At(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 33);
  spec = {{7200, 0}, {0, 1}};
  EXPECT(timerfd_settime(33, 0, &spec, nullptr) == 0);  // one tick, unread, for ever
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  sigprocmask(SIG_BLOCK, &mask, nullptr);
  At(signalfd(-1, &mask, SFD_NONBLOCK), 34);
  raise(SIGUSR1);
  At(epoll_create1(EPOLL_CLOEXEC), 35);
  fcntl(35, F_SETFD, FD_CLOEXEC);
  Watch(35, 30, EPOLLIN, 0xdeadbeefcafef00d);
  Watch(35, 20, EPOLLIN | EPOLLET, 2);
  Watch(35, 34, EPOLLIN, 4);
  Watch(35, 32, EPOLLIN, 8);
}

static void CheckCounters() {
  epoll_event events[8];
  EXPECT(epoll_wait(35, events, 8, 0) == 4);  // and the lost connection reports itself
  uint64_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += events[i].data.u64;
  EXPECT(sum == 0xdeadbeefcafef00d + 2 + 4 + 16);
  uint64_t value = 0;
  EXPECT(read(30, &value, 8) == 8 && value == 7);
  EXPECT(read(31, &value, 8) == 8 && value == 1);
  EXPECT(read(31, &value, 8) == 8 && value == 1);
  EXPECT(read(31, &value, 8) == -1 && errno == EAGAIN);
  itimerspec left;
  EXPECT(timerfd_gettime(32, &left) == 0 && left.it_value.tv_sec > 7100);
  EXPECT(read(33, &value, 8) == 8 && value == 1);
  EXPECT(timerfd_gettime(33, &left) == 0 && left.it_interval.tv_sec == 7200);
  signalfd_siginfo info;
  EXPECT(read(34, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1);
}

static uint16_t Port(int fd) {
  sockaddr_in address = {};
  socklen_t length = sizeof address;
  EXPECT(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  return address.sin_port;
}

static int Connect(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {AF_INET, port, {htonl(INADDR_LOOPBACK)}, {}};
  EXPECT(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

static uint16_t listening_port;

static void OpenSockets() {
  At(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), 40);
  const int on = 1;
  EXPECT(setsockopt(40, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
  sockaddr_in any = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
  EXPECT(bind(40, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0 && listen(40, 33) == 0);
  listening_port = Port(40);
  At(Connect(Port(40)), 41);
  At(accept(40, nullptr, nullptr), 42);
  Watch(35, 42, EPOLLRDHUP, 16);
  const sockaddr_un name = UnixName("socket");
  At(socket(AF_UNIX, SOCK_STREAM, 0), 43);
  EXPECT(bind(43, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
  EXPECT(listen(43, 5) == 0);
  At(socket(AF_INET, SOCK_DGRAM, 0), 44);
  EXPECT(bind(44, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0);
}

static void CheckSockets() {
  char byte = 0;
  EXPECT(read(41, &byte, 1) == -1 && errno == ECONNRESET);
  EXPECT(read(42, &byte, 1) == -1 && errno == ECONNRESET);
  EXPECT(read(42, &byte, 1) == 0);
  EXPECT(Port(40) == listening_port);
  const int client = Connect(listening_port);
  const int accepted = accept(40, nullptr, nullptr);
  EXPECT(accepted >= 0 && write(client, "hello", 5) == 5 && Read(accepted) == "hello");
  const sockaddr_un name = UnixName("socket");
  const int local = socket(AF_UNIX, SOCK_STREAM, 0);
  EXPECT(connect(local, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
  EXPECT(accept(43, nullptr, nullptr) >= 0);
  const int udp = socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in to = {AF_INET, Port(44), {htonl(INADDR_LOOPBACK)}, {}};
  EXPECT(sendto(udp, "udp", 3, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) == 3);
  EXPECT(Read(44) == "udp");
}

int main(int argc, char** argv) {
  EXPECT(argc == 2 && chdir(argv[1]) == 0);
  GoOn(SIGTERM);
  umask(0137);
  OpenFiles();
  OpenPipes();
  OpenCounters();
  OpenSockets();
  Say("ready");
  for (int tick = 0; !go; ++tick) {
    Say("tick %d", tick);
    SleepMs(5);
  }
  char cwd[PATH_MAX];
  EXPECT(getcwd(cwd, sizeof cwd) == std::string(argv[1]));
  EXPECT(umask(0) == 0137);
  int open_fds = 0;
  for (int fd = 0; fd < 1024; ++fd) open_fds += fcntl(fd, F_GETFD) >= 0;
  EXPECT(open_fds == 3 + 8 + 6 + 6 + 5);
  CheckCounters();  // first: its epoll watches others
  CheckFiles();
  CheckPipes();
  CheckSockets();
  Say("done");
  return 0;
}
