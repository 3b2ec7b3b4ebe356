/* Preloaded, it makes a disk of exFAT, Google Drive or a shared folder of any: no symbolic links,
   no locks, and folders that cannot be flushed. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int number) { errno = number; return -1; }

int symlink(const char *target, const char *path) { return fails(EPERM); }
int symlinkat(const char *target, int folder, const char *path) { return fails(EPERM); }
int flock(int file, int how) { return fails(ENOLCK); }

int fsync(int file) {
    struct stat found;
    if (!fstat(file, &found) && S_ISDIR(found.st_mode)) return fails(EINVAL);
    return syscall(SYS_fsync, file);
}
