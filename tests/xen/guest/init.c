/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's only program: reports what its kernel made of the PCI devices, then obeys one-line commands from its console.
 * It is a static program instead of a shell with tools because the firmware loads the initramfs byte by byte.
 *
 * A report is what a recording keeps as guest.log: the kernel's log, /proc/iomem, /proc/mtrr, and each function's
 * sysfs resources and configuration header.
 *
 * Commands (numbers in any notation of C), each answered by its output and a line "TAG done" or "TAG failed":
 *   TAG report                    the report again
 *   TAG function BDF              one function's part of the report
 *   TAG dmesg                     the kernel's lines since the last time they were printed
 *   TAG read ADDRESS COUNT        COUNT 32-bit words of physical memory, through /dev/mem
 *   TAG write8 ADDRESS VALUE      one byte to physical memory
 *   TAG memory BDF                sets the function's memory enable bit
 *   TAG config BDF OFFSET VALUE   a 32-bit write to the function's configuration space: moves a BAR, switches decode off
 *   TAG rescan                    has the kernel look at every slot of every bus again
 *   TAG store read|write|remove PATH [VALUE]   a request to xenstore; prints the value, or the error that came back
 *   TAG await BDF present|absent SECONDS   waits for hot-plug, then until the kernel's log is quiet
 *   TAG poweroff
 *   TAG reboot
 *   TAG kexec                     starts /kernel with /initrd in this kernel's place: for Xen, a soft reset
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

/* xen/io/xs_wire.h */
enum { XS_READ = 2, XS_WRITE = 11, XS_RM = 13, XS_ERROR = 16 };
struct xsd_sockmsg {
    uint32_t type, req_id, tx_id, len;
};

#define DEVICES "/sys/bus/pci/devices"
#define KLOG_READ_ALL 3
#define KLOG_SIZE_BUFFER 10

static void copy_file(const char *path)
{
    char buffer[4096];
    size_t got;
    FILE *file = fopen(path, "r");

    if (!file) {
        printf("(no %s: %s)\n", path, strerror(errno));
        return;
    }
    while ((got = fread(buffer, 1, sizeof(buffer), file)) > 0)
        fwrite(buffer, 1, got, stdout);
    fclose(file);
}

/* One word of a one-line sysfs file. */
static void print_word(const char *bdf, const char *name)
{
    char path[320], word[32] = "?";
    FILE *file;

    snprintf(path, sizeof(path), DEVICES "/%s/%s", bdf, name);
    file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%31s", word) != 1)
            strcpy(word, "?");
        fclose(file);
    }
    printf(" %s", word);
}

static int open_config(const char *bdf, int flags)
{
    char path[320];

    snprintf(path, sizeof(path), DEVICES "/%s/config", bdf);
    return open(path, flags);
}

static void report_function(const char *bdf)
{
    unsigned char config[64];
    char path[320];
    ssize_t got = 0;
    int fd;

    printf("=== res %s", bdf);
    print_word(bdf, "vendor");
    print_word(bdf, "device");
    print_word(bdf, "class");
    printf("\n");
    snprintf(path, sizeof(path), DEVICES "/%s/resource", bdf);
    copy_file(path);

    fd = open_config(bdf, O_RDONLY);
    if (fd >= 0) {
        got = pread(fd, config, sizeof(config), 0);
        close(fd);
    }
    printf("=== cfg %s\n", bdf);
    for (ssize_t i = 0; i < got; i++)
        printf("%02x%s", config[i], i % 16 == 15 ? "\n" : " ");
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Prints the kernel's log from *seen on, and moves *seen to its end. */
static void report_dmesg(size_t *seen)
{
    int size = klogctl(KLOG_SIZE_BUFFER, NULL, 0), got;
    char *log = size > 0 ? malloc((size_t)size) : NULL;

    if (!log)
        return;
    got = klogctl(KLOG_READ_ALL, log, size - 1);
    if (got > 0 && (size_t)got > *seen) {
        log[got] = '\0';
        /* Each line begins with its level, "<6>", which is not part of what the kernel says. */
        for (char *line = strtok(log + *seen, "\n"); line; line = strtok(NULL, "\n"))
            printf("%s\n", line[0] == '<' && line[2] == '>' ? line + 3 : line);
        *seen = (size_t)got;
    }
    free(log);
}

static void report(size_t *seen)
{
    struct dirent **list;
    int count;

    printf("=== dmesg\n");
    *seen = 0;
    report_dmesg(seen);
    printf("=== iomem\n");
    copy_file("/proc/iomem");
    printf("=== mtrr\n");
    copy_file("/proc/mtrr");
    count = scandir(DEVICES, &list, not_hidden, alphasort);
    for (int i = 0; i < count; i++) {
        report_function(list[i]->d_name);
        free(list[i]);
    }
    if (count >= 0)
        free(list);
}

/* The page of physical memory that holds address, or NULL. */
static volatile unsigned char *map_page(uint64_t address, int protection)
{
    int fd = open("/dev/mem", O_RDWR | O_SYNC);
    void *page;

    if (fd < 0)
        return NULL;
    page = mmap(NULL, 4096, protection, MAP_SHARED, fd, (off_t)(address & ~UINT64_C(4095)));
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

static int read_words(uint64_t address, unsigned long count)
{
    for (; count > 0; count--, address += 4) {
        volatile unsigned char *page = map_page(address, PROT_READ);

        if (!page)
            return -1;
        printf("0x%" PRIx64 " = 0x%08" PRIx32 "\n", address, *(volatile uint32_t *)(page + (address & 4092)));
        munmap((void *)page, 4096);
    }
    return 0;
}

static int write_byte(uint64_t address, unsigned long value)
{
    volatile unsigned char *page = map_page(address, PROT_READ | PROT_WRITE);

    if (!page)
        return -1;
    page[address & 4095] = (unsigned char)value;
    munmap((void *)page, 4096);
    return 0;
}

static int enable_memory(const char *bdf)
{
    uint16_t command;
    int fd = open_config(bdf, O_RDWR), result = -1;

    if (fd < 0)
        return -1;
    if (pread(fd, &command, 2, 4) == 2) {
        command |= 2;
        result = pwrite(fd, &command, 2, 4) == 2 ? 0 : -1;
    }
    close(fd);
    return result;
}

static int write_config(const char *bdf, unsigned long offset, unsigned long value)
{
    uint32_t word = (uint32_t)value;
    int fd = open_config(bdf, O_RDWR), result;

    if (fd < 0)
        return -1;
    result = pwrite(fd, &word, 4, (off_t)offset) == 4 ? 0 : -1;
    close(fd);
    return result;
}

static int rescan(void)
{
    int fd = open("/sys/bus/pci/rescan", O_WRONLY), result;

    if (fd < 0)
        return -1;
    result = write(fd, "1", 1) == 1 ? 0 : -1;
    close(fd);
    return result;
}

/* One request on a connection of its own.  A refusal is an answer, too: it is printed. */
static int ask_store(uint32_t type, const char *path, const char *value)
{
    char message[1024], body[512];
    struct xsd_sockmsg header = { .type = type, .req_id = 1 };
    size_t length = strlen(path) + 1;
    int fd = open("/dev/xen/xenbus", O_RDWR);
    ssize_t got;

    if (fd < 0 || sizeof(header) + length + strlen(value) > sizeof(message))
        return -1;
    header.len = (uint32_t)(length + strlen(value));
    memcpy(message, &header, sizeof(header));
    memcpy(message + sizeof(header), path, length);
    memcpy(message + sizeof(header) + length, value, strlen(value));
    if (write(fd, message, sizeof(header) + header.len) < 0 || read(fd, &header, sizeof(header)) != sizeof(header) ||
        header.len >= sizeof(body)) {
        close(fd);
        return -1;
    }
    got = header.len ? read(fd, body, header.len) : 0;
    close(fd);
    if (got != (ssize_t)header.len)
        return -1;
    body[got] = '\0';
    printf("%s %s %s\n", path, header.type == XS_ERROR ? "refused" : "=", body);
    return 0;
}

static int await(const char *bdf, int present, long seconds)
{
    char path[320];
    int quiet = 0, before = -1;

    snprintf(path, sizeof(path), DEVICES "/%s", bdf);
    for (long tick = 0; tick < seconds * 4; tick++) {
        int now = klogctl(9, NULL, 0);

        if ((access(path, F_OK) == 0) == present) {
            quiet = now == before ? quiet + 1 : 0;
            if (quiet == 4)
                return 0;
        }
        before = now;
        usleep(250000);
    }
    return -1;
}

/* The file, in memory that starts a page; its size is rounded up to pages. */
static void *read_file(const char *path, size_t *size)
{
    struct stat status;
    int fd = open(path, O_RDONLY);
    char *memory = MAP_FAILED;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &status) == 0) {
        *size = ((size_t)status.st_size + 4095) & ~(size_t)4095;
        memory = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    for (size_t at = 0; memory != MAP_FAILED && at < (size_t)status.st_size;) {
        ssize_t got = read(fd, memory + at, (size_t)status.st_size - at);

        if (got <= 0)
            memory = MAP_FAILED;
        else
            at += (size_t)got;
    }
    close(fd);
    return memory == MAP_FAILED ? NULL : memory;
}

/*
 * Documentation/x86/boot.rst, the 64-bit protocol: the new kernel finds the boot parameters that this one was given, but for
 * the initrd and the command line. Numbers are offsets in those parameters and in the kernel's file.
 */
static int start_kernel(void)
{
    enum { KERNEL = 0x1000000, START = 0x4000000, PARAMETERS = 0x4001000, COMMAND_LINE = 0x4002000, INITRD = 0x5000000 };
    static unsigned char start[4096] = { 0x48, 0xbe, [10] = 0x48, 0xb8, [20] = 0xff, 0xe0 }; /* mov rsi; mov rax; jmp rax */
    static unsigned char parameters[4096], command_line[4096];
    const uint64_t at = PARAMETERS, entry = KERNEL + 0x200;
    const uint32_t initrd_at = INITRD, command_line_at = COMMAND_LINE;
    uint32_t initrd_size, kernel_room;
    size_t kernel_size, initrd_room, setup;
    unsigned char *kernel = read_file("/kernel", &kernel_size), *initrd = read_file("/initrd", &initrd_room);
    int fd = open("/sys/kernel/boot_params/data", O_RDONLY), text = open("/proc/cmdline", O_RDONLY);

    if (!kernel || !initrd || read(fd, parameters, 4096) != 4096 || read(text, command_line, 4095) <= 0)
        return -1;
    command_line[strcspn((char *)command_line, "\n")] = 0;
    setup = (kernel[0x1f1] + 1u) * 512;
    initrd_size = (uint32_t)initrd_room;
    /* What it unpacks itself into: the page tables that it starts with must lie elsewhere. */
    memcpy(&kernel_room, kernel + 0x260, 4);
    memcpy(parameters + 0x218, &initrd_at, 4);
    memcpy(parameters + 0x21c, &initrd_size, 4);
    memcpy(parameters + 0x228, &command_line_at, 4);
    memcpy(start + 2, &at, 8);
    memcpy(start + 12, &entry, 8);

    const struct { void *from; size_t size; uintptr_t to; size_t room; } segments[] = {
        { kernel + setup, kernel_size - setup, KERNEL, (kernel_room + 4095u) & ~4095u },
        { start, sizeof(start), START, sizeof(start) },
        { parameters, sizeof(parameters), PARAMETERS, sizeof(parameters) },
        { command_line, sizeof(command_line), COMMAND_LINE, sizeof(command_line) },
        { initrd, initrd_room, INITRD, initrd_room },
    };
    if (syscall(SYS_kexec_load, (unsigned long)START, sizeof(segments) / sizeof(*segments), segments, 0ul))
        return -1;
    return (int)syscall(SYS_reboot, 0xfee1dead, 672274793, 0x45584543, NULL);
}

static int obey(char **word, int words, size_t *seen)
{
    if (!strcmp(word[1], "report"))
        return report(seen), 0;
    if (!strcmp(word[1], "function") && words == 3)
        return report_function(word[2]), 0;
    if (!strcmp(word[1], "dmesg"))
        return report_dmesg(seen), 0;
    if (!strcmp(word[1], "read") && words == 4)
        return read_words(strtoull(word[2], NULL, 0), strtoul(word[3], NULL, 0));
    if (!strcmp(word[1], "write8") && words == 4)
        return write_byte(strtoull(word[2], NULL, 0), strtoul(word[3], NULL, 0));
    if (!strcmp(word[1], "memory") && words == 3)
        return enable_memory(word[2]);
    if (!strcmp(word[1], "config") && words == 5)
        return write_config(word[2], strtoul(word[3], NULL, 0), strtoul(word[4], NULL, 0));
    if (!strcmp(word[1], "rescan"))
        return rescan();
    if (!strcmp(word[1], "store") && words == 4)
        return ask_store(!strcmp(word[2], "read") ? XS_READ : XS_RM, word[3], "");
    if (!strcmp(word[1], "store") && words == 5 && !strcmp(word[2], "write"))
        return ask_store(XS_WRITE, word[3], word[4]);
    if (!strcmp(word[1], "await") && words == 5)
        return await(word[2], !strcmp(word[3], "present"), strtol(word[4], NULL, 0));
    if (!strcmp(word[1], "poweroff"))
        return reboot(RB_POWER_OFF);
    if (!strcmp(word[1], "reboot"))
        return reboot(RB_AUTOBOOT);
    if (!strcmp(word[1], "kexec"))
        return start_kernel();
    return -1;
}

static void open_console(void)
{
    struct termios raw;
    int fd = open("/dev/hvc0", O_RDWR);

    if (fd < 0)
        return;
    for (int to = 0; to < 3; to++)
        dup2(fd, to);
    if (fd > 2)
        close(fd);
    if (tcgetattr(0, &raw) == 0) {
        raw.c_lflag &= (tcflag_t)~(ECHO | ISIG);
        raw.c_oflag &= (tcflag_t)~OPOST;
        tcsetattr(0, TCSANOW, &raw);
    }
}

int main(void)
{
    static char output[2048];
    char line[256];
    size_t seen = 0;

    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    open_console();
    setvbuf(stdout, output, _IOFBF, sizeof(output));

    printf("GUEST-UP\n");
    report(&seen);
    printf("GUEST-READY\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        char *word[8];
        int words = 0;

        for (char *at = strtok(line, " \r\n"); at && words < 8; at = strtok(NULL, " \r\n"))
            word[words++] = at;
        if (words < 2)
            continue;
        printf("%s %s\n", word[0], obey(word, words, &seen) == 0 ? "done" : "failed");
        fflush(stdout);
    }
    return 1;
}
