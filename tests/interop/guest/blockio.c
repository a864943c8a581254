/* blockio: exact block I/O for the test guest; nothing is cached, merged or read ahead.
 *
 *   blockio read DEVICE          the whole device to standard output
 *   blockio copy SOURCE DEVICE   copies sectors of SOURCE to the same place on DEVICE
 *   blockio discard DEVICE
 *   blockio zero DEVICE
 *
 * All but read take lines "SECTOR COUNT" (of 512 bytes) from standard input.
 *
 * No read or copy request reaches past a 4 KiB page, because the ubd driver of UML 6.1 answers a
 * larger read wrong when COW and backing sectors mix in it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { sector_size = 512, page_size = 4096, sectors_per_page = page_size / sector_size };

static _Alignas(page_size) char page[page_size];

static void die(const char* what) {
  perror(what);
  exit(1);
}

static int open_or_die(const char* path, int flags) {
  const int fd = open(path, flags);
  if (fd < 0) die(path);
  return fd;
}

static void read_device(const char* path) {
  const int fd = open_or_die(path, O_RDONLY | O_DIRECT);
  ssize_t length;
  while ((length = read(fd, page, sizeof page)) > 0)
    if (fwrite(page, 1, (size_t)length, stdout) != (size_t)length) die("standard output");
  if (length < 0) die(path);
  if (fflush(stdout) != 0) die("standard output");
}

static void copy_sectors(int source, int device, uint64_t sector, uint64_t count) {
  while (count > 0) {
    uint64_t step = sectors_per_page - sector % sectors_per_page;
    if (step > count) step = count;
    const size_t length = (size_t)step * sector_size;
    const off_t offset = (off_t)(sector * sector_size);
    if (pread(source, page, length, offset) != (ssize_t)length) die("read of the source");
    if (pwrite(device, page, length, offset) != (ssize_t)length) die("write to the device");
    sector += step;
    count -= step;
  }
}

static void zap_sectors(int device, unsigned long request, uint64_t sector, uint64_t count) {
  uint64_t range[2] = {sector * sector_size, count * sector_size};
  if (ioctl(device, request, range) != 0) die(request == BLKDISCARD ? "BLKDISCARD" : "BLKZEROOUT");
}

int main(int argc, char** argv) {
  const char* verb = argc > 1 ? argv[1] : "";
  if (strcmp(verb, "read") == 0 && argc == 3) {
    read_device(argv[2]);
    return 0;
  }
  const int copying = strcmp(verb, "copy") == 0 && argc == 4;
  const int discarding = strcmp(verb, "discard") == 0 && argc == 3;
  const int zeroing = strcmp(verb, "zero") == 0 && argc == 3;
  if (!copying && !discarding && !zeroing) {
    fputs("usage: blockio read DEVICE | copy SOURCE DEVICE | discard DEVICE | zero DEVICE\n",
          stderr);
    return 2;
  }
  const int source = copying ? open_or_die(argv[2], O_RDONLY) : -1;
  const int device = open_or_die(argv[argc - 1], O_RDWR | O_DIRECT);
  unsigned long long sector, count;
  int fields;
  while ((fields = scanf("%llu %llu", &sector, &count)) == 2) {
    if (copying)
      copy_sectors(source, device, sector, count);
    else
      zap_sectors(device, discarding ? BLKDISCARD : BLKZEROOUT, sector, count);
  }
  if (fields != EOF) {
    fputs("blockio: standard input: a line is not SECTOR COUNT\n", stderr);
    return 2;
  }
  return 0;
}
