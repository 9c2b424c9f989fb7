/* Loaded into a process (LD_PRELOAD), it keeps what the disk would hold if the power went now.

   POWER_FILE  the database; kept are it and the files whose names begin with its name
   POWER_KEPT  the folder to keep them in: each file as of its last sync, under a key of its own,
               and in "names" which names the files' folder had, with their keys, as of its last sync
   POWER_DEAF  optional: folders that a library of this name syncs are not (SQLite can be built so)

   What a sync covers was written before it began: that is copied first, and counts at its end, some
   time later, so that who does not wait for it is found out. No other disk is asked. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAKES = 2000 }; /* microseconds of a sync */

typedef int (*Sync)(int);

static void must(int good, const char *what)
{
    if (good) return;
    perror(what);
    abort(); /* a test that keeps too little is no test */
}

/* The number of an inode is given again soon; with the time of its birth it is not. */
static int key(int folder, const char *name, char *out)
{
    struct statx is;
    if (statx(folder, name, AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &is)) return 0;
    sprintf(out, "%llu-%lld-%u", (unsigned long long)is.stx_ino,
            (long long)is.stx_btime.tv_sec, is.stx_btime.tv_nsec);
    return 1;
}

static void list(const char *path, const char *beginning, int out)
{
    char its[80];
    DIR *folder = opendir(path);
    must(folder != NULL, path);
    for (struct dirent *entry; (entry = readdir(folder));)
        if (!strncmp(entry->d_name, beginning, strlen(beginning)))
            if (key(dirfd(folder), entry->d_name, its)) /* or it went meanwhile */
                must(dprintf(out, "%s %s\n", its, entry->d_name) > 0, "names");
    closedir(folder);
}

/* From the process's own descriptor: to close another one would end its locks on the file. */
static void copy(int fd, int out)
{
    off_t at = 0;
    ssize_t some;
    while ((some = sendfile(out, fd, &at, 1 << 30)) > 0) {}
    must(some == 0, "sendfile");
}

static int asked_by(const void *caller, const char *library)
{
    Dl_info its;
    if (!library || !dladdr(caller, &its)) return 0;
    const char *name = strrchr(its.dli_fname, '/');
    return strstr(name ? name : its.dli_fname, library) != NULL;
}

static int keep(int fd, Sync real, const void *caller)
{
    const char *file = getenv("POWER_FILE"), *kept = getenv("POWER_KEPT");
    char path[PATH_MAX] = "", draft[PATH_MAX], final[PATH_MAX], its[80] = "names";
    struct stat is;
    must(file && kept && strrchr(file, '/'), "POWER_FILE, POWER_KEPT");
    snprintf(draft, sizeof draft, "/proc/self/fd/%d", fd);
    if (fstat(fd, &is) || readlink(draft, path, sizeof path - 1) < 0) return real(fd);
    size_t length = strrchr(file, '/') - file;
    int folder = S_ISDIR(is.st_mode);
    if (folder ? strlen(path) != length || strncmp(path, file, length)
                     || asked_by(caller, getenv("POWER_DEAF"))
               : strncmp(path, file, strlen(file)) != 0)
        return real(fd);

    snprintf(draft, sizeof draft, "%s/draft-XXXXXX", kept);
    int out = mkostemp(draft, O_CLOEXEC);
    must(out >= 0, draft);
    if (folder) {
        list(path, file + length + 1, out);
    } else {
        copy(fd, out);
        must(key(fd, "", its), "statx");
    }
    close(out);

    usleep(TAKES);
    snprintf(final, sizeof final, "%s/lock", kept); /* who takes an image holds it meanwhile */
    int lock = open(final, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(lock >= 0 && flock(lock, LOCK_EX) == 0, final);
    snprintf(final, sizeof final, "%s/%s", kept, its);
    must(rename(draft, final) == 0, final);
    close(lock);
    return 0;
}

int fsync(int fd)
{
    return keep(fd, (Sync)dlsym(RTLD_NEXT, "fsync"), __builtin_return_address(0));
}

int fdatasync(int fd)
{
    return keep(fd, (Sync)dlsym(RTLD_NEXT, "fdatasync"), __builtin_return_address(0));
}
