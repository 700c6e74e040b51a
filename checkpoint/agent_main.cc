// The agent as a program of its own, for tests and benchmarks; the product runs it as
// `incr-ckpt internal-agent`.
#include <cstdlib>

#include "checkpoint/agent.h"

int main(int argc, char** argv) { return argc == 2 ? incr::RunAgent(std::atoi(argv[1])) : 2; }
