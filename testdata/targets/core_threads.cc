// core_threads — threads that wait in calls of several kinds, and variables that a debugger can be asked for.
// Usage: core_threads. Prints "ready" when all of them wait.
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

struct Node {
  int value;
  Node* next;
};

Node* list = nullptr;
int table[1000];
char* sparse = nullptr;  // 32 MiB, of which a page in seven has something
double fraction = 0.0;
__thread int number = 0;

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

void Leaf(int kind, const char* text) {
  char local[64];
  snprintf(local, sizeof local, "%s", text);
  number = kind * 11;
  if (kind == 1) {
    pthread_mutex_lock(&mutex);
    pthread_cond_wait(&condition, &mutex);
  } else if (kind == 2) {
    poll(nullptr, 0, -1);
  } else {
    int ends[2];
    if (pipe(ends) != 0) _exit(1);
    char byte;
    if (read(ends[0], &byte, 1) < 0) _exit(1);
  }
  puts(local);
}

void Middle(int kind) {
  char text[32];
  snprintf(text, sizeof text, "thread number %d", kind);
  Leaf(kind, text);
}

void* Start(void* kind) {
  Middle(static_cast<int>(reinterpret_cast<long>(kind)));
  return nullptr;
}

// All threads but this one are in system calls, and not on the way there.
bool AllWait() {
  bool all = true;
  DIR* tasks = opendir("/proc/self/task");
  while (const dirent* task = readdir(tasks)) {
    const int tid = atoi(task->d_name);
    if (tid == 0 || tid == getpid()) continue;
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE* file = fopen(path, "r");
    all = file != nullptr && fscanf(file, "%*d %*s %c", &state) == 1 && state == 'S' && all;
    if (file != nullptr) fclose(file);
  }
  closedir(tasks);
  return all;
}

int main() {
  sparse = static_cast<char*>(malloc(32 << 20));
  for (int i = 0; i < 1000; ++i) sparse[i * 4096 * 7] = static_cast<char>(i);
  for (int i = 0; i < 5; ++i) list = new Node{i * i, list};
  for (int i = 0; i < 1000; ++i) table[i] = i * 3;
  fraction = 0.625;
  pthread_t threads[3];
  for (long kind = 1; kind <= 3; ++kind) pthread_create(&threads[kind - 1], nullptr, Start, reinterpret_cast<void*>(kind));
  do {
    usleep(100'000);
  } while (!AllWait());
  puts("ready");
  fflush(stdout);
  for (;;) pause();
}
