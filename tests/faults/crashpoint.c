/* Copyright (c) The Sallyport authors
 * Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
 *
 * Stops a tree of processes right before or right after any one of its state-changing system calls.
 *
 * usage: crashpoint ROOT LOG MODE [ARGUMENT...] -- COMMAND...
 *   record                     run to the end, log every point
 *   kill ROLE N WHEN           SIGKILL the process that makes the call
 *   session ROLE N WHEN ROLES  SIGKILL every process whose role is in ROLES (comma separated): its session was cut
 *   fill ROLE N WHEN WHAT      from there on the file system has not one more of WHAT: blocks or inodes. What the program
 *                              frees is taken before its next call, as by a log that grows
 *   cut IMAGE FOLDER HOW       at every point store the block device's backing file IMAGE as FOLDER/<hash>, once each.
 *                              HOW: lazy (as it is), noise (another program has just fsynced a file of its own, so
 *                              the journal's metadata overtook data), eager (everything written has arrived)
 *
 * COMMAND runs with ROOT as its root. A point is (role, number, before|after). A process's role is the command word
 * behind ".../device" or behind "-s" on its command line; children inherit it until they exec something with a role of
 * their own. So numbers do not depend on how concurrent processes interleave. Calls count when they concern something
 * below ROOT/etc or ROOT/var, or flush. Each call is waited for before another may begin: the copy of the medium
 * then cannot be torn by a call that runs meanwhile.
 *
 * Every tracee dies with this process. Exit status: 0 done, 2 usage or a failing call, 3 no end within 60 seconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum shape { PATH1, PATH2, AT1, AT2, FD, FLUSH, OPEN, OPENAT, SENDFILE, AT_LINK, PATH_LINK };
static const struct call { long number; const char *name; enum shape shape; } calls[] = {
    {SYS_openat, "openat", OPENAT}, {SYS_write, "write", FD}, {SYS_pwrite64, "pwrite", FD},
    {SYS_writev, "writev", FD}, {SYS_sendfile, "sendfile", FD}, {SYS_copy_file_range, "copy_file_range", SENDFILE},
    {SYS_ftruncate, "ftruncate", FD}, {SYS_fallocate, "fallocate", FD}, {SYS_fchmod, "fchmod", FD},
    {SYS_fchown, "fchown", FD}, {SYS_truncate, "truncate", PATH1}, {SYS_ioctl, "ficlone", FD},
    {SYS_renameat, "renameat", AT2}, {SYS_renameat2, "renameat2", AT2}, {SYS_unlinkat, "unlinkat", AT1},
    {SYS_mkdirat, "mkdirat", AT1}, {SYS_linkat, "linkat", AT2}, {SYS_symlinkat, "symlinkat", AT_LINK},
    {SYS_mknodat, "mknodat", AT1}, {SYS_fchmodat, "fchmodat", AT1}, {SYS_fchownat, "fchownat", AT1},
    {SYS_utimensat, "utimensat", AT1}, {SYS_setxattr, "setxattr", PATH1}, {SYS_fsetxattr, "fsetxattr", FD},
    {SYS_sync, "sync", FLUSH}, {SYS_syncfs, "syncfs", FLUSH}, {SYS_fsync, "fsync", FLUSH},
    {SYS_fdatasync, "fdatasync", FLUSH},
#ifdef SYS_open
    {SYS_open, "open", OPEN}, {SYS_creat, "creat", PATH1}, {SYS_rename, "rename", PATH2}, {SYS_unlink, "unlink", PATH1},
    {SYS_rmdir, "rmdir", PATH1}, {SYS_mkdir, "mkdir", PATH1}, {SYS_link, "link", PATH2},
    {SYS_symlink, "symlink", PATH_LINK}, {SYS_mknod, "mknod", PATH1}, {SYS_chmod, "chmod", PATH1},
    {SYS_chown, "chown", PATH1}, {SYS_lchown, "lchown", PATH1}, {SYS_utimes, "utimes", PATH1},
    {SYS_futimesat, "futimesat", AT1},
#endif
};
#define CALLS (sizeof calls / sizeof *calls)
#define FICLONE_REQUEST 0x40049409 /* the one ioctl that writes: cp tries it first */

struct tracee { pid_t pid; char role[32]; int stopped_new; };
static struct tracee tracees[4096];
static int used;
static struct { char role[32]; int count; } roles[64];
static const char *root, *mode, *image, *folder, *how, *want_role, *want_when, *session_roles, *scarce;
static int want_number, injected, root_fd, log_fd, changed = 1;

static void die(const char *what) {
    fprintf(stderr, "crashpoint: %s: %s\n", what, strerror(errno));
    exit(2);
}

static struct tracee *find(pid_t pid, int add) {
    struct tracee *free_slot = NULL;
    for (int i = 0; i < used; i++) {
        if (tracees[i].pid == pid) return &tracees[i];
        if (!tracees[i].pid) free_slot = &tracees[i];
    }
    if (!add) return NULL;
    if (!free_slot) {
        if (used == sizeof tracees / sizeof *tracees) { errno = ENOMEM; die("processes"); }
        free_slot = &tracees[used++];
    }
    memset(free_slot, 0, sizeof *free_slot);
    free_slot->pid = pid;
    return free_slot;
}

static void set_role(struct tracee *tracee) {
    char path[PATH_MAX], text[4096];
    snprintf(path, sizeof path, "%s/proc/%d/cmdline", root, tracee->pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0) return;
    text[size] = 0;
    char *word = text + strlen(text) + 1; /* "sh -s ROLE" or "sh .../device ROLE" */
    if (word < text + size) {
        size_t length = strlen(word);
        if (strlen(text) < 2 || strcmp(text + strlen(text) - 2, "sh")) return;
        if (strcmp(word, "-s") && (length < 7 || strcmp(word + length - 7, "/device"))) return;
        char *name = word + length + 1;
        if (name >= text + size || !*name) return;
        snprintf(tracee->role, sizeof tracee->role, "%.30s", name);
        return;
    }
}

static int counted_path(pid_t pid, int dirfd, uint64_t address, char *out) {
    char text[PATH_MAX], link[PATH_MAX];
    size_t got = 0;
    out[0] = 0;
    while (got < sizeof text - 1) { /* page by page: the string may end right before an unmapped page */
        size_t chunk = 4096 - ((address + got) & 4095);
        if (chunk > sizeof text - 1 - got) chunk = sizeof text - 1 - got;
        struct iovec here = {text + got, chunk}, there = {(void *)(uintptr_t)(address + got), chunk};
        ssize_t size = process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (size <= 0) break;
        got += size;
        if (memchr(text, 0, got)) break;
    }
    text[got] = 0;
    if (text[0] == '/') {
        snprintf(out, PATH_MAX, "%s", text);
    } else {
        if (dirfd == AT_FDCWD) snprintf(link, sizeof link, "%s/proc/%d/cwd", root, pid);
        else snprintf(link, sizeof link, "%s/proc/%d/fd/%d", root, pid, dirfd);
        char where[PATH_MAX];
        ssize_t size = readlink(link, where, sizeof where - 1);
        if (size < 0) return 0;
        where[size] = 0;
        if (strncmp(where, root, strlen(root))) return 0;
        if (snprintf(out, PATH_MAX, "%s/%s", where + strlen(root), text) >= PATH_MAX) return 0;
    }
    return !strncmp(out, "/etc", 4) || !strncmp(out, "/var", 4);
}

static int counted_fd(pid_t pid, int fd, char *out) {
    char link[PATH_MAX], where[PATH_MAX];
    snprintf(link, sizeof link, "%s/proc/%d/fd/%d", root, pid, fd);
    ssize_t size = readlink(link, where, sizeof where - 1);
    out[0] = 0;
    if (size < 0) return 0;
    where[size] = 0;
    if (strncmp(where, root, strlen(root))) return 0;
    snprintf(out, PATH_MAX, "%s", where + strlen(root));
    return !strncmp(out, "/etc", 4) || !strncmp(out, "/var", 4);
}

/* Does the call change what is on the medium? Fills in what it names. */
static int counted(pid_t pid, const struct call *call, const uint64_t *args, char *what) {
    char first[PATH_MAX], second[PATH_MAX];
    int yes, writes;
    what[0] = 0;
    switch (call->shape) {
    case FLUSH:
        if (call->number != SYS_sync) counted_fd(pid, (int)args[0], what);
        return 1;
    case PATH1: return counted_path(pid, AT_FDCWD, args[0], what);
    case AT1: return counted_path(pid, (int)args[0], args[1], what);
    case AT_LINK: return counted_path(pid, (int)args[1], args[2], what);
    case PATH_LINK: return counted_path(pid, AT_FDCWD, args[1], what);
    case FD:
        if (call->number == SYS_ioctl && (unsigned)args[1] != FICLONE_REQUEST) return 0;
        return counted_fd(pid, (int)args[0], what);
    case SENDFILE: return counted_fd(pid, (int)args[2], what);
    case OPEN:
    case OPENAT:
        writes = (int)args[call->shape == OPEN ? 1 : 2] & (O_CREAT | O_TRUNC);
        if (!writes) return 0;
        return call->shape == OPEN ? counted_path(pid, AT_FDCWD, args[0], what)
                                   : counted_path(pid, (int)args[0], args[1], what);
    case PATH2:
        yes = counted_path(pid, AT_FDCWD, args[0], first);
        yes |= counted_path(pid, AT_FDCWD, args[1], second);
        break;
    case AT2:
        yes = counted_path(pid, (int)args[0], args[1], first);
        yes |= counted_path(pid, (int)args[2], args[3], second);
        break;
    default: return 0;
    }
    snprintf(what, PATH_MAX, "%.2000s %.2000s", first, second);
    return yes;
}

static void store(char *name) {
    static unsigned char *buffer;
    static size_t size;
    static char last[20];
    if (!changed) { /* no call since the last copy */
        strcpy(name, last);
        return;
    }
    changed = 0;
    if (!strcmp(how, "eager")) {
        if (syncfs(root_fd)) die("syncfs");
    } else if (!strcmp(how, "noise")) {
        int fd = openat(root_fd, "noise", O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (fd < 0 || write(fd, "n", 1) != 1 || fsync(fd)) die("noise");
        close(fd);
    }
    int fd = open(image, O_RDONLY);
    struct stat status;
    if (fd < 0 || fstat(fd, &status)) die(image);
    if (!buffer) buffer = malloc(size = status.st_size);
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(fd, buffer + done, size - done, done);
        if (got <= 0) die("read the medium");
        done += got;
    }
    close(fd);
    uint64_t hash = 1469598103934665603ull, word;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        memcpy(&word, buffer + i, 8);
        hash = (hash ^ word) * 1099511628211ull;
        hash ^= hash >> 29;
    }
    snprintf(name, 20, "%016llx", (unsigned long long)hash);
    strcpy(last, name);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0) {
        if (errno == EEXIST) return;
        die(path);
    }
    for (size_t done = 0; done < size; done += 4096) { /* holes stay holes */
        size_t part = size - done < 4096 ? size - done : 4096;
        int empty = !buffer[done] && !memcmp(buffer + done, buffer + done + 1, part - 1);
        if (!empty && pwrite(fd, buffer + done, part, done) != (ssize_t)part) die(path);
    }
    if (ftruncate(fd, size)) die(path);
    close(fd);
}

/* Takes what is left of the file system; ROOT/fill and ROOT/fill.<n> give it back. */
static void fill(void) {
    static char zeros[65536];
    static int fd = -1, names;
    if (fd < 0 && (fd = openat(root_fd, "fill", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0) die("fill");
    if (!strcmp(scarce, "inodes")) {
        char name[32];
        for (;;) {
            snprintf(name, sizeof name, "fill.%d", names++);
            int made = openat(root_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
            if (made < 0) break;
            close(made);
        }
        if (errno != ENOSPC) die("fill");
        return;
    }
    for (size_t part = sizeof zeros; part; part /= 2) {
        while (write(fd, zeros, part) == (ssize_t)part) ;
        if (errno != ENOSPC) die("fill");
    }
}

static int in_list(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || !at[length])) return 1;
    return 0;
}

/* The process that started it, or 0. */
static pid_t parent_of(pid_t pid) {
    char path[PATH_MAX], text[1024];
    snprintf(path, sizeof path, "%s/proc/%d/stat", root, pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC), parent = 0;
    if (fd < 0) return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0) return 0;
    text[size] = 0;
    char *name_end = strrchr(text, ')');
    if (!name_end || sscanf(name_end + 1, " %*c %d", &parent) != 1) return 0;
    return parent;
}

/* A newborn waits for its parent's report, which tells its role. A parent that was killed in fork() never reports: the
 * newborn of a session that was cut dies with it, any other one goes on. */
static void end_waiting_for_the_dead(void) {
    for (int i = 0; i < used; i++) {
        struct tracee *born = &tracees[i];
        if (!born->pid || born->stopped_new != 1) continue;
        pid_t parent = parent_of(born->pid);
        if (parent > 0 && find(parent, 0)) continue;
        born->stopped_new = 0;
        if (!strcmp(mode, "session")) kill(born->pid, SIGKILL);
        else ptrace(PTRACE_CONT, born->pid, 0, 0);
    }
}

/* One side of one call. Returns 1 when the process that made the call is dead now. */
static int point(struct tracee *tracee, int number, const char *when, const char *name, const char *what) {
    char hash[20] = "-";
    int is_wanted = !injected && want_role && !strcmp(want_role, tracee->role) && want_number == number && !strcmp(want_when, when);
    if (!strcmp(mode, "cut")) store(hash);
    if (!injected) dprintf(log_fd, "%s %d %s %s %s %s\n", tracee->role, number, when, hash, name, what);
    if (!is_wanted) return 0;
    injected = 1;
    dprintf(log_fd, "injected %s at %s %d %s %s %s\n", mode, tracee->role, number, when, name, what);
    if (scarce) {
        fill();
        return 0;
    }
    if (!strcmp(mode, "kill")) {
        kill(tracee->pid, SIGKILL);
        return 1;
    }
    int dead = 0;
    for (int i = 0; i < used; i++)
        if (tracees[i].pid && in_list(session_roles, tracees[i].role)) {
            kill(tracees[i].pid, SIGKILL);
            dead |= tracees[i].pid == tracee->pid;
        }
    return dead;
}

static void handle_call(struct tracee *tracee) {
    struct __ptrace_syscall_info info;
    pid_t pid = tracee->pid;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) < 0) return;
    const struct call *call = NULL;
    for (size_t i = 0; i < CALLS; i++)
        if (calls[i].number == (long)info.seccomp.nr) call = &calls[i];
    char what[2 * PATH_MAX];
    if ((injected && !scarce) || !call || !tracee->role[0] || !counted(pid, call, info.seccomp.args, what)) {
        ptrace(PTRACE_CONT, pid, 0, 0);
        return;
    }
    if (injected) {
        fill();
        ptrace(PTRACE_CONT, pid, 0, 0);
        return;
    }
    int number = 0;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!roles[i].role[0] || !strcmp(roles[i].role, tracee->role)) {
            strcpy(roles[i].role, tracee->role);
            number = ++roles[i].count;
            break;
        }
    if (point(tracee, number, "before", call->name, what)) {
        ptrace(PTRACE_CONT, pid, 0, 0);
        return;
    }
    ptrace(PTRACE_SYSCALL, pid, 0, 0);
    for (;;) {
        int status;
        if (waitpid(pid, &status, __WALL) < 0) return;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            tracee->pid = 0;
            return;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) break;
        ptrace(PTRACE_SYSCALL, pid, 0, status >> 16 ? 0 : WSTOPSIG(status));
    }
    changed = 1;
    point(tracee, number, "after", call->name, what);
    ptrace(PTRACE_CONT, pid, 0, 0);
}

static void child(char **command) {
    struct sock_filter filter[3 + 2 * CALLS + 1];
    int n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < CALLS; i++) {
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i].number, 0, 1);
        filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, filter};
    if (chroot(root) || chdir("/")) die(root);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) die("seccomp");
    execv(command[0], command);
    die(command[0]);
}

static void expired(int signal_number) {
    (void)signal_number;
    static const char text[] = "crashpoint: no end within 60 seconds\n";
    if (write(2, text, sizeof text - 1) < 0) _exit(4);
    _exit(3);
}

int main(int argc, char **argv) {
    int dashes = 1;
    while (dashes < argc && strcmp(argv[dashes], "--")) dashes++;
    if (argc < 6 || dashes >= argc - 1) { fprintf(stderr, "usage: see crashpoint.c\n"); return 2; }
    root = argv[1], mode = argv[3];
    char **more = argv + 4;
    int extra = dashes - 4;
    if (!strcmp(mode, "kill") && extra == 3) want_role = more[0], want_number = atoi(more[1]), want_when = more[2];
    else if (!strcmp(mode, "session") && extra == 4) want_role = more[0], want_number = atoi(more[1]), want_when = more[2], session_roles = more[3];
    else if (!strcmp(mode, "fill") && extra == 4) want_role = more[0], want_number = atoi(more[1]), want_when = more[2], scarce = more[3];
    else if (!strcmp(mode, "cut") && extra == 3) image = more[0], folder = more[1], how = more[2];
    else if (strcmp(mode, "record") || extra) { fprintf(stderr, "usage: see crashpoint.c\n"); return 2; }
    if ((root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) die(root);
    if ((log_fd = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0) die(argv[2]);
    pid_t first = fork();
    if (!first) child(argv + dashes + 1);
    int status;
    waitpid(first, &status, 0);
    find(first, 1);
    long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
                   PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SETOPTIONS, first, 0, options)) die("ptrace");
    ptrace(PTRACE_CONT, first, 0, 0);
    signal(SIGALRM, expired);
    alarm(60);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0) break;
        struct tracee *tracee = find(pid, 0);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (tracee) tracee->pid = 0;
            if (injected) end_waiting_for_the_dead();
            continue;
        }
        int event = status >> 16, signal_number = WSTOPSIG(status);
        if (!tracee) { /* a child whose parent's report is still on its way: its role comes with that */
            find(pid, 1)->stopped_new = 1;
            if (injected) end_waiting_for_the_dead();
            continue;
        }
        if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
            unsigned long born;
            ptrace(PTRACE_GETEVENTMSG, pid, 0, &born);
            struct tracee *new = find(born, 0);
            int waiting = new && new->stopped_new;
            if (!new) { new = find(born, 1); new->stopped_new = 2; }
            memcpy(new->role, find(pid, 0)->role, sizeof new->role);
            if (waiting) { new->stopped_new = 0; ptrace(PTRACE_CONT, born, 0, 0); }
            ptrace(PTRACE_CONT, pid, 0, 0);
        } else if (event == PTRACE_EVENT_EXEC) {
            set_role(tracee);
            ptrace(PTRACE_CONT, pid, 0, 0);
        } else if (event == PTRACE_EVENT_SECCOMP) {
            handle_call(tracee);
        } else if (signal_number == SIGSTOP && tracee->stopped_new) {
            tracee->stopped_new = 0;
            ptrace(PTRACE_CONT, pid, 0, 0);
        } else {
            ptrace(PTRACE_CONT, pid, 0, event || signal_number == SIGTRAP ? 0 : signal_number);
        }
    }
    return 0;
}
