// help_text.h — what --help says.
#ifndef INCR_CKPT_CLI_HELP_TEXT_H_
#define INCR_CKPT_CLI_HELP_TEXT_H_

namespace incr {

inline constexpr char kCollapseHelp[] =
    "When tracking stops, make huge pages that it split whole again";

struct CommandHelp {
  const char* summary;
  const char* footer;
};

inline constexpr char kRootDescription[] =
    "incr-ckpt keeps incremental checkpoints (epochs) of a running Linux process and brings\n"
    "it back to any of them.";

inline constexpr char kRootFooter[] = R"(A first session:
  incr-ckpt start --interval 1 $(pidof redis-server)   track it, an epoch a second
  incr-ckpt list                                       what each epoch cost
  kill -9 $(pidof redis-server)                        the worst happens
  incr-ckpt restore --epoch latest --detach            and it is back

The store is --store DIR, or $INCR_CKPT_STORE, or /var/lib/incr-ckpt (root), or
$XDG_STATE_HOME/incr-ckpt, or ~/.local/state/incr-ckpt. It holds the memory of your
processes: keep it as secret as they are. `incr-ckpt help COMMAND` explains a command.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 no such process, job, epoch or store;
4 refused (in use, not permitted, cannot be tracked or restored). run and a restore in
the foreground exit with the status of the process, 128+N if signal N killed it; run with
125 if tracking cannot start, 126 or 127 if the command cannot be executed or found.)";

inline constexpr char kIntervalHelp[] =
    "Seconds between epochs, from start to start (default 10; 0: only on request)";

inline constexpr CommandHelp kStartHelp = {
    "Track a running process; returns when its first epoch is durable",
    R"(Example:
  incr-ckpt start --interval 1 --job web 71

The first epoch holds all of the process's memory, later ones what was written since.
The process runs on, stopped for about a millisecond per epoch. Tracking outlives this
command: a daemon, one per store, goes on until `incr-ckpt stop` or the end of the
process. A job name that the store already has continues with a new full epoch.

Memory that the program marked MADV_DONTDUMP is not saved; restored, it reads as zeros.
With --save-file-pages an epoch can be restored although its program or libraries have
been upgraded or deleted since. --memory-limit and --paranoid are settled by the command
that starts the store's daemon.)"};

inline constexpr CommandHelp kRunHelp = {
    "Launch a command and track it from its first moment; exits with its status",
    R"(The command follows: incr-ckpt run [OPTIONS] -- COMMAND [ARGUMENTS...]

Example:
  incr-ckpt run --interval 5 --job nightly -- python3 compute.py --input data

The first epoch is taken before the command's first instruction. Signals that this
command gets go on to it. If tracking cannot start, the command is not run.)"};

inline constexpr CommandHelp kCheckpointHelp = {
    "Take one epoch now; prints its number when it is durable",
    R"(Example:
  epoch=$(incr-ckpt checkpoint web)

The process must be tracked (start, run). The number alone goes to stdout.)"};

inline constexpr CommandHelp kStopHelp = {
    "Stop tracking; the process runs on, its epochs are kept",
    R"(Examples:
  incr-ckpt stop web
  incr-ckpt stop 71
  incr-ckpt stop --all

An epoch in progress is finished first. With its last job the store's daemon ends.
The first write to a huge page after an epoch splits it: the program then runs a little
slower. How many did is reported; --collapse-on-stop mends them, about 0.3 ms each.)"};

inline constexpr CommandHelp kStatusHelp = {
    "What is tracked: jobs, pids, tracker, next epoch, last error",
    R"(Example:
  incr-ckpt status --json

Works without a daemon too: daemon_pid is then 0 and jobs is empty.)"};

inline constexpr CommandHelp kListHelp = {
    "A row per epoch: when, how many pages and bytes, how long it stood still",
    R"(Example:
  incr-ckpt list --job web

WRITTEN pages were dirty; of them ZERO were all zeros, DEDUP were in the store already
and STORED went to disk as BYTES. GONE pages were dropped by the process. FROZEN is how
long it stood still, TOTAL from the request until the epoch was durable.)"};

inline constexpr CommandHelp kShowHelp = {
    "What an epoch holds: mappings, threads, files",
    R"(Examples:
  incr-ckpt show --epoch latest
  incr-ckpt show --epoch 3 --job web --json)"};

inline constexpr CommandHelp kDiffHelp = {
    "What changed between two epochs: regions, mappings, threads, files, bytes",
    R"(Examples:
  incr-ckpt diff 3 4
  incr-ckpt diff 3 latest --job web --json
  incr-ckpt diff 3 4 --bytes [heap]
  incr-ckpt diff 3 4 --bytes 0x7f3a12345000+64

CHANGED pages have other content, ADDED ones have content of their own which they had
not, GONE ones no more; a page counts with the mapping that it lies in. The sizes are those
of whole pages; --bytes looks into them, eight bytes a line, lines that differ only.
Exit status: 0, whether they differ or not; 3 if there is no such epoch.)"};

inline constexpr CommandHelp kRestoreHelp = {
    "Bring a process back to an epoch",
    R"(Examples:
  incr-ckpt restore --epoch 12
  incr-ckpt restore --epoch latest --job web --detach --interval 1

It comes back under its old pid, which must be free. In the foreground this command
waits, passes signals on and exits with the process's status; its stdin, stdout and
stderr take the place of a terminal or pipe that the process had. With --detach it
returns at once, printing the pid; a terminal or pipe of this command is then replaced by
/dev/null, a redirection to a file is kept. With --interval it is tracked again before
its first instruction, and its next epoch holds only what it then writes.)"};

inline constexpr CommandHelp kGcHelp = {
    "Drop old epochs and give their space back",
    R"(Examples:
  incr-ckpt gc --keep-last 100 --dry-run
  incr-ckpt gc --keep-within 2h --keep-hourly 24 --keep-daily 7 --job web
  incr-ckpt gc --keep 12 --keep-last 10 --recompress zstd

An epoch stays if any rule keeps it, in each job by itself; a job's newest epoch and one that
a tracked process goes on from always stay. What stays is whole, whatever interrupts gc: stop
it with Ctrl-C and run it again. It runs while processes are tracked and restored. Space
that a running restore still reads is freed by a later gc. start and run take the same
rules and then apply them by themselves, now and then.)"};

inline constexpr CommandHelp kDoctorHelp = {
    "What this kernel can do, and which tracker would be chosen and why",
    R"(Example:
  incr-ckpt doctor

Every feature is tried, not looked up by version. Exit status 0 if processes can be
tracked and restored here.)"};

inline constexpr CommandHelp kVerifyHelp = {
    "Read everything in the store, check every checksum and hash, name what is damaged",
    R"(Examples:
  incr-ckpt verify
  incr-ckpt verify --epoch latest --job web --json

Works while a daemon writes. Exit status 0 if all is whole, 1 if something is damaged:
then it says which pack and where, which epochs of which jobs, which addresses. With
--epoch or --job only those epochs and their pages are read.)"};

inline constexpr CommandHelp kRepairHelp = {
    "Mend a damaged store: rebuild its index, drop what cannot be saved, say what",
    R"(Examples:
  incr-ckpt repair --dry-run
  incr-ckpt repair

A store without damage is left as it is. The old database and damaged packs are not
deleted but moved to before-repair-N in the store. Refused while a daemon runs on the
store. Interrupted at any point it can be run again; one that fails leaves nothing
behind. It warns where epochs may be missing and nothing is left that could tell.)"};

inline constexpr CommandHelp kExportHelp = {
    "Write epochs to one self-contained file",
    R"(Examples:
  incr-ckpt export --epoch latest --job web -o web.incr
  incr-ckpt export --epoch 3 --epoch 7 -o - | ssh other incr-ckpt import -

Each page is in the file once. The file is as secret as the memory of the process.)"};

inline constexpr CommandHelp kCoreHelp = {
    "Write an epoch as an ELF core file, for a debugger",
    R"(Examples:
  incr-ckpt core --epoch latest -o core
  incr-ckpt core --epoch 12 --job web -o - | ssh other 'cat > core.12'
  gdb /usr/bin/redis-server core

The core has all threads as they were at the epoch, and what the process had of its own
in memory; a debugger reads the rest from the program and its libraries, which must be
those of then. The file is sparse, and as secret as the memory of the process.)"};

inline constexpr CommandHelp kDumpMemoryHelp = {
    "Write a range of an epoch's memory to a file, as it was",
    R"(Examples:
  incr-ckpt dump-memory --epoch 12 --range 7f31c0000000-7f31c0021000 -o part
  incr-ckpt dump-memory --epoch 12 --range 7f31c0000000+4096 -o - | xxd
  incr-ckpt dump-memory --epoch latest --range '[heap]' -o heap

All of the range must have been mapped. Pages of a file that the process had not changed
are read from the file, which must be the same still.)"};

inline constexpr CommandHelp kImportHelp = {
    "Take the epochs of an exported file into this store",
    R"(Examples:
  incr-ckpt import web.incr
  incr-ckpt import --job web-copy - < web.incr

They get the job's next numbers, which are printed. Pages that the store has already
are not stored again. A file that is cut short or altered is refused whole. Makes the
store if there is none; works while a daemon runs on it. Ctrl-C stops it (130), also
while a pipe gives nothing; the store is then as it was.)"};

inline constexpr CommandHelp kHelpHelp = {"Explain a command", ""};

}  // namespace incr

#endif  // INCR_CKPT_CLI_HELP_TEXT_H_
