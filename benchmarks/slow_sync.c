/* Makes each sync of a file take 2 ms longer: for LD_PRELOAD. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

typedef int (*Sync)(int);

static int slowly(const char *name, int file) {
  const struct timespec longer = {.tv_nsec = 2000000};
  nanosleep(&longer, NULL);
  return ((Sync)dlsym(RTLD_NEXT, name))(file);
}

int fsync(int file) { return slowly("fsync", file); }

int fdatasync(int file) { return slowly("fdatasync", file); }
