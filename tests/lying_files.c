/* A file system that lies as NFS does: for LD_PRELOAD. In paths that contain LIE_IN,
   STALE opens fail with ESTALE, HALF reads return nothing, and LAG listings have no entry. Each is a number of times. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int left(const char *name, int *count) {
    if (*count < 0) *count = getenv(name) ? atoi(getenv(name)) : 0;
    return *count > 0 ? (*count)-- : 0;
}

static int lies_about(const char *path) {
    const char *in = getenv("LIE_IN");
    return in && path && strstr(path, in);
}

static int lies_behind(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return lies_about(path);
}

static int stale = -1, half = -1, lag = -1;

#define OPEN(name, ...)                                                                  \
    if (lies_about(path) && left("STALE", &stale)) { errno = ESTALE; return -1; }        \
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);     \
    return ((int (*)())dlsym(RTLD_NEXT, name))(__VA_ARGS__, flags, mode);

int open(const char *path, int flags, ...) { OPEN("open", path) }
int open64(const char *path, int flags, ...) { OPEN("open64", path) }
int openat(int at, const char *path, int flags, ...) { OPEN("openat", at, path) }
int openat64(int at, const char *path, int flags, ...) { OPEN("openat64", at, path) }

ssize_t read(int file, void *data, size_t size) {
    if (lies_behind(file) && left("HALF", &half)) return 0;
    return ((ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read"))(file, data, size);
}

struct dirent *readdir(DIR *folder) {
    if (lies_behind(dirfd(folder)) && left("LAG", &lag)) return NULL;
    return ((struct dirent *(*)(DIR *))dlsym(RTLD_NEXT, "readdir"))(folder);
}

struct dirent64 *readdir64(DIR *folder) {
    if (lies_behind(dirfd(folder)) && left("LAG", &lag)) return NULL;
    return ((struct dirent64 *(*)(DIR *))dlsym(RTLD_NEXT, "readdir64"))(folder);
}
